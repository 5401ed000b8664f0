"""Generates images of classes and writes them, side by side, to a PNG: the C ABI from Python's standard library alone.

With the library installed (`cargo xtask install --prefix DIR`):

    python3 generate.py --library DIR/lib/libtranscdiff.so model.safetensors --classes 0,1,2 --out grid.png
"""

import argparse
import math
import os
import signal
import struct
import sys
import zlib
from ctypes import CDLL, CFUNCTYPE, POINTER, Structure, addressof, byref, c_char_p, c_double, c_float, c_int32
from ctypes import c_size_t, c_uint8, c_uint32, c_uint64, c_void_p, sizeof

RGB8_HWC, CANCELLED = 0, 13


class Progress(Structure):
    _fields_ = [(name, c_size_t) for name in (
        "struct_size", "first_image", "images", "trajectory", "trajectories", "step", "steps")]
    _fields_ += [("t", c_double), ("fraction", c_double)]


OnProgress = CFUNCTYPE(c_int32, POINTER(Progress), c_void_p)


class LoadOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("model_path", c_char_p), ("model_data", c_void_p), ("model_size", c_size_t),
        ("vae_path", c_char_p), ("vae_data", c_void_p), ("vae_size", c_size_t), ("device", c_char_p),
        ("dtype", c_uint32), ("threads", c_uint32), ("weights", c_uint32), ("heads", c_uint32),
        ("map_files", c_uint32), ("reserved", c_uint32), ("log", c_void_p), ("user_data", c_void_p)]


class ModelInfo(Structure):
    _fields_ = [("struct_size", c_size_t), ("classes", c_size_t), ("mode", c_uint32), ("dtype", c_uint32)]
    _fields_ += [(name, c_size_t) for name in (
        "groups", "feature_count", "feature_width", "latent_channels", "latent_height", "latent_width",
        "image_height", "image_width", "downsampling")]
    _fields_ += [("parameters", c_uint64), ("vae_parameters", c_uint64)]


class GenerateOptions(Structure):
    _fields_ = [
        ("struct_size", c_size_t), ("images", c_size_t), ("classes", POINTER(c_uint32)),
        ("seeds", POINTER(c_uint64)), ("steps", c_uint32), ("solver", c_uint32), ("guidance", c_double),
        ("step_guidance", POINTER(c_double)), ("step_guidance_count", c_size_t), ("guidance_low", c_double),
        ("guidance_high", c_double), ("drift_scale", c_double), ("noise_scale", c_double), ("batch", c_size_t),
        ("features", c_void_p), ("feature_count", c_size_t), ("unconditional", c_void_p),
        ("unconditional_images", c_size_t), ("references", c_void_p), ("reference_count", c_size_t),
        ("starting", c_void_p), ("cancellation", c_void_p), ("progress", OnProgress), ("preview", c_void_p),
        ("preview_interval", c_size_t), ("log", c_void_p), ("user_data", c_void_p)]


class Outputs(Structure):
    _fields_ = [("struct_size", c_size_t), ("pixel_format", c_uint32), ("reserved", c_uint32)]
    _fields_ += [(name, kind) for buffer in ("images", "latents", "references", "features")
                 for name, kind in ((buffer, c_void_p), (buffer + "_size", c_size_t))]


def open_library(path):
    library = CDLL(path)
    library.transcdiff_error_message.restype = c_char_p
    library.transcdiff_cancellation_new.restype = c_void_p
    library.transcdiff_pixel_bytes.restype = c_size_t
    return library


def call(library, name, *arguments):
    """Calls a function that takes an error argument, and exits with what it says."""
    error = c_void_p()
    status = getattr(library, name)(*arguments, byref(error))
    if status != 0:
        print(f"\n{library.transcdiff_error_message(error).decode()}", file=sys.stderr)
        library.transcdiff_error_free(error)
        sys.exit(130 if status == CANCELLED else 1)


def generate(library, a):
    """The images: height, width, channels, and the bytes of each."""
    options = LoadOptions()
    library.transcdiff_load_options_init(byref(options), c_size_t(sizeof(options)))
    options.model_path, options.vae_path = os.fsencode(a.model), a.vae and os.fsencode(a.vae)
    model, session, info = c_void_p(), c_void_p(), ModelInfo(sizeof(ModelInfo))
    call(library, "transcdiff_model_load", byref(options), byref(model))
    call(library, "transcdiff_model_get_info", model, byref(info))
    call(library, "transcdiff_session_new", model, byref(session))

    def on_progress(progress, _):
        # Python handles signals between its own instructions: here.
        print(f"\r{100 * progress.contents.fraction:3.0f} %", end="", file=sys.stderr)
        return 0

    n = len(a.classes)
    options, cancellation = GenerateOptions(), c_void_p(library.transcdiff_cancellation_new())
    library.transcdiff_generate_options_init(model, byref(options), c_size_t(sizeof(options)))
    options.images, options.progress, options.cancellation = n, OnProgress(on_progress), cancellation
    options.classes, options.seeds = (c_uint32 * n)(*a.classes), (c_uint64 * n)(*a.seeds)
    options.steps, options.guidance = a.steps or options.steps, a.guidance or options.guidance
    outputs, channels = Outputs(), info.latent_channels
    library.transcdiff_outputs_init(byref(outputs), c_size_t(sizeof(outputs)))
    if a.vae:
        size = library.transcdiff_pixel_bytes(RGB8_HWC, c_size_t(info.image_height), c_size_t(info.image_width))
        buffer = (c_uint8 * (n * size))()
        outputs.images, outputs.images_size = addressof(buffer), sizeof(buffer)
    else:
        size = channels * info.latent_height * info.latent_width
        buffer = (c_float * (n * size))()
        outputs.latents, outputs.latents_size = addressof(buffer), sizeof(buffer)
    signal.signal(signal.SIGINT, lambda *_: library.transcdiff_cancellation_cancel(cancellation))
    call(library, "transcdiff_session_generate", session, byref(options), byref(outputs))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(file=sys.stderr)
    library.transcdiff_session_free(session)
    library.transcdiff_model_free(model)
    library.transcdiff_cancellation_free(cancellation)
    each = [buffer[i * size:(i + 1) * size] for i in range(n)]
    if a.vae:
        return info.image_height, info.image_width, 3, [bytes(pixels) for pixels in each]
    k = math.isqrt(channels)
    if k * k != channels:
        sys.exit("--vae: without one, a latent has to have 1, 4, 9, 16, ... channels")
    height, width = info.latent_height, info.latent_width
    return k * height, k * width, 1, [unshuffled(latent, k, height, width) for latent in each]


def unshuffled(latent, k, height, width):
    """The image of a latent: channel k*dy + dx has the pixels (k*y + dy, k*x + dx), -1 black to 1 white."""
    pixel = lambda y, x: latent[((y % k * k + x % k) * height + y // k) * width + x // k]
    return bytes(round(min(max((pixel(y, x) + 1) * 127.5, 0), 255)) for y in range(k * height) for x in range(k * width))


def write_grid(path, images, columns):
    """Writes the images in rows of `columns`."""
    height, width, channels, each = images
    across, line = min(columns, len(each)), width * channels
    each += [bytes(height * line)] * (-len(each) % across)
    rows = [each[i:i + across] for i in range(0, len(each), across)]
    lines = (image[y * line:(y + 1) * line] for row in rows for y in range(height) for image in row)
    pixels = b"".join(line if i % across else b"\0" + line for i, line in enumerate(lines))
    header = struct.pack(">IIBBBBB", across * width, len(rows) * height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")):
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def arguments():
    numbers = lambda text: [int(number) for number in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--vae", metavar="FILE", help="without one, the k*k channels of a latent are k*k grey pixels")
    parser.add_argument("--classes", type=numbers, default=list(range(10)))
    parser.add_argument("--seeds", type=numbers, help="default: i for image i")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--out", default="grid.png")
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--library", default="libtranscdiff.so.0", help="default: %(default)s")
    a = parser.parse_args()
    a.seeds = list(range(len(a.classes))) if a.seeds is None else a.seeds
    if len(a.seeds) != len(a.classes):
        parser.error("--seeds: expected a seed for each class")
    return a


if __name__ == "__main__":
    asked = arguments()
    write_grid(asked.out, generate(open_library(asked.library), asked), asked.columns)
