"""Generates images of classes and writes them as a grid to a PNG file, with the C ABI and the standard library."""

import argparse, math, os, signal, struct, sys, zlib
from ctypes import CDLL, CFUNCTYPE, POINTER, Structure, addressof, byref, c_char_p, c_double
from ctypes import c_float, c_int32, c_size_t, c_ubyte, c_uint32, c_uint64, c_void_p, sizeof


def struct_of(**fields):
    """Prefix of a struct of transcdiff.h, up to the last field used here; its size marks the end."""
    return type("Struct", (Structure,), {"_fields_": [("size", c_size_t), *fields.items()]})


Load = struct_of(model_path=c_char_p, model_data_and_size=c_size_t * 2, codec_path=c_char_p)
Info = struct_of(before=c_size_t * 5, channels=c_size_t, latent=c_size_t * 2, image=c_size_t * 2,
                 between=c_size_t * 3, image_channels=c_size_t)
Progress = struct_of(before=c_size_t * 7, fraction=c_double)
OnProgress = CFUNCTYPE(c_int32, POINTER(Progress), c_void_p)
Options = struct_of(
    images=c_size_t, classes=POINTER(c_uint32), seeds=POINTER(c_uint64), steps=c_uint32,
    solver=c_uint32, guidance=c_double, between=c_size_t * 15, progress=OnProgress)
Outputs = struct_of(pixel_format=c_size_t, images=c_size_t * 2, latents=c_size_t * 2)
CANCELLED, GRAY8 = 13, 4


def call(function, *arguments):  # Exits with the message of the error.
    error = c_void_p()
    status = function(*arguments, byref(error))
    if status != 0:
        sys.exit(130 if status == CANCELLED else library.transcdiff_error_message(error).decode())


@OnProgress
def on_progress(progress, _):
    print(f"{100 * progress.contents.fraction:3.0f} %", end="\r", file=sys.stderr)
    return len(interrupts)  # Not 0: cancel.


def integer(low, bits):
    def parse(text):
        if not text.isdecimal() or not low <= int(text) < 2**bits:
            raise argparse.ArgumentTypeError(f"expected an integer from {low} to {2**bits - 1}, got '{text}'")
        return int(text)
    return parse


integers = lambda bits: lambda text: [integer(0, bits)(item) for item in text.split(",")]
parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("model")
parser.add_argument("--codec", "--vae", help="file of a KL-VAE, patch:N, or none (default: as the model file says); "
                    "without one, the k*k channels of a latent become k*k grey pixels")
parser.add_argument("--classes", type=lambda text: text.split(","), help="names or numbers (default: 0 to 9)",
                    default=[str(i) for i in range(10)])
parser.add_argument("--seeds", type=integers(64), help="one seed per class (default: i for image i)")
parser.add_argument("--steps", type=integer(1, 32))
parser.add_argument("--guidance", type=float)
parser.add_argument("--out", default="grid.png")
parser.add_argument("--columns", type=integer(1, 32), default=10)
parser.add_argument("--library", default="libtranscdiff.so.0")
a = parser.parse_args()
n, seeds = len(a.classes), a.seeds or range(len(a.classes))
if len(seeds) != n:
    parser.error("--seeds: expected one seed per class")

library = CDLL(a.library)
library.transcdiff_error_message.restype = c_char_p
load, model, session, info = Load(), c_void_p(), c_void_p(), Info(sizeof(Info))
library.transcdiff_load_options_init(byref(load), c_size_t(sizeof(load)))
load.model_path, load.codec_path = os.fsencode(a.model), a.codec and os.fsencode(a.codec)
call(library.transcdiff_model_load, byref(load), byref(model))
call(library.transcdiff_model_get_info, model, byref(info))
call(library.transcdiff_session_new, model, byref(session))

options, outputs, interrupts = Options(), Outputs(), []
classes = (c_uint32 * n)()
for i, name in enumerate(a.classes):
    call(library.transcdiff_model_find_class, model, os.fsencode(name), byref(classes, i * sizeof(c_uint32)))
library.transcdiff_generate_options_init(model, byref(options), c_size_t(sizeof(options)))
options.images, options.progress = n, on_progress
options.classes, options.seeds = classes, (c_uint64 * n)(*seeds)
options.steps, options.guidance = a.steps or options.steps, a.guidance or options.guidance
codec = info.image_channels != 0
(height, width), channels = (info.image, info.image_channels) if codec else (info.latent, info.channels)
images = ((c_ubyte if codec else c_float) * (height * width * channels) * n)()
library.transcdiff_outputs_init(byref(outputs), c_size_t(sizeof(outputs)))
outputs.pixel_format = GRAY8 if channels == 1 and codec else outputs.pixel_format
(outputs.images if codec else outputs.latents)[:] = addressof(images), sizeof(images)
if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # As shells start programs in the background.
    signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
call(library.transcdiff_session_generate, session, byref(options), byref(outputs))
library.transcdiff_session_free(session)
library.transcdiff_model_free(model)

if not codec:  # Channel k*dy + dx holds the pixels (k*y + dy, k*x + dx), -1 (black) to 1 (white).
    k = math.isqrt(channels)
    if k * k != channels:
        sys.exit("--codec: required unless the latents have 1, 4, 9, 16, ... channels")
    places = [((y % k * k + x % k) * height + y // k) * width + x // k
              for y in range(k * height) for x in range(k * width)]
    grey = lambda value: round(min(max((value + 1) * 127.5, 0), 255))
    images = [[grey(latent[place]) for place in places] for latent in images]
    height, width, channels = k * height, k * width, 1

columns, line, rows = min(a.columns, n), width * channels, bytearray()
grid = [bytes(image) for image in images] + [bytes(height * line)] * (-n % columns)
for first in range(0, n, columns):
    for y in range(0, height * line, line):
        rows += b"\0" + b"".join(image[y:y + line] for image in grid[first:first + columns])
size, colour = (columns * width, len(grid) // columns * height), 2 if channels == 3 else 0
with open(a.out, "wb") as file:
    file.write(b"\x89PNG\r\n\x1a\n")
    header = struct.pack(">IIBBBBB", *size, 8, colour, 0, 0, 0)
    for kind, data in (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""):
        file.write(struct.pack(">I", len(data)) + kind + data)
        file.write(struct.pack(">I", zlib.crc32(kind + data)))
