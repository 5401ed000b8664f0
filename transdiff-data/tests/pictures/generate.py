"""Writes the pictures of this folder, and what Pillow makes of them, from the photographs of tests/golden/images.
Needs Pillow 13 and NumPy.  generate.py"""
import io
import json
import os
import struct
import zlib

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
PHOTOGRAPHS = os.path.join(HERE, "../../../tests/golden/images")
random = np.random.RandomState(0)
photograph = Image.open(os.path.join(PHOTOGRAPHS, "china_97x131.png")).convert("RGB")
picture = photograph.crop((20, 50, 84, 98))
small = picture.resize((21, 13))
grey = small.convert("L")
transparent = small.copy()
transparent.putalpha(grey)
cases = []


def add(name, data):
    """Writes a file and its pixels as Pillow decodes them."""
    path = os.path.join(HERE, name)
    with open(path, "wb") as file:
        file.write(data)
    rgb = Image.open(path).convert("RGB")
    rgb.info.clear()
    rgb.save(os.path.join(HERE, name.rsplit(".", 1)[0] + "_rgb.png"), optimize=True)
    cases.append({"file": name, "size": list(rgb.size)})


def encode(image, format, **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def adobe(data):
    """Position and length of the Adobe segment."""
    start = data.find(b"\xff\xee")
    return start, 2 + struct.unpack(">H", data[start + 2 : start + 4])[0]


def with_transform(data, transform):
    start, _ = adobe(data)
    return data[: start + 15] + bytes([transform]) + data[start + 16 :]


def numbered(data):
    """Components 1, 2, 3 in place of R, G, B."""
    data = bytearray(data)
    frame, scan = data.find(b"\xff\xc0"), data.find(b"\xff\xda")
    for i in range(3):
        data[frame + 10 + 3 * i] = data[scan + 5 + 2 * i] = i + 1
    return bytes(data)


def png(width, height, depth, color, rows, chunks=b"", interlaced=False):
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def rows(width, height, bits, interlaced=False):
    """Random rows; of an interlaced picture, those of its seven passes."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    for x, y, dx, dy in passes if interlaced else [(0, 0, 1, 1)]:
        columns, count = (width - x + dx - 1) // dx, (height - y + dy - 1) // dy
        for _ in range(count if columns else 0):
            yield random.bytes((columns * bits + 7) // 8)


for name, options in {
    "progressive": {"progressive": True},
    "sampling_422": {"subsampling": "4:2:2"},
    "restart_blocks": {"restart_marker_blocks": 3},
    "restart_rows": {"restart_marker_rows": 1, "subsampling": "4:2:2"},
    "restart_progressive": {"restart_marker_blocks": 2, "progressive": True},
    "rgb": {"keep_rgb": True},
    "profile": {"icc_profile": bytes(3000)},
    "comment_with_end_marker": {"comment": b"\xff\xd9"},
}.items():
    # tests/golden/jpeg has 4:2:0, which decoders interpolate differently.
    add(name + ".jpg", encode(picture, "JPEG", **{"quality": 85, "subsampling": "4:4:4", **options}))
add("grey_progressive.JPG", encode(picture.convert("L"), "JPEG", progressive=True))
add("rgb_numbered.jpg", numbered(encode(picture, "JPEG", keep_rgb=True)))
cmyk = encode(picture.convert("CMYK"), "JPEG", quality=90)
start, length = adobe(cmyk)
add("cmyk.jpg", cmyk)
add("cmyk_without_marker.jpg", cmyk[:start] + cmyk[start + length :])
add("ycck.jpg", with_transform(cmyk, 2))
add("ycck_unknown.jpg", with_transform(cmyk, 1))
plain = encode(picture, "JPEG", subsampling="4:4:4")
add("bytes_after_end.jpg", plain + b"\0" * 40 + b"\xff\xd8")
add("bytes_between_segments.jpg", plain[:20] + b"\0" * 8 + plain[20:])
add("fill_bytes.jpg", plain[:20] + b"\xff\xff\xff" + plain[20:])

for color, channels in {"grey": (0, 1), "grey_alpha": (4, 2), "rgb": (2, 3), "rgba": (6, 4)}.items():
    index, count = channels
    for depth in (8, 16):
        for interlaced in (False, True):
            name = f"{color}_{depth}{'_interlaced' if interlaced else ''}.png"
            bits = depth * count
            add(name, png(21, 13, depth, index, rows(21, 13, bits, interlaced), interlaced=interlaced))
palette = chunk(b"PLTE", random.bytes(3 * 12))
for depth in (1, 2, 4):
    add(f"grey_{depth}.png", png(21, 13, depth, 0, rows(21, 13, depth)))
    add(f"palette_{depth}.png", png(21, 13, depth, 3, rows(21, 13, depth, True), palette, True))
add("palette_8_out_of_range.png", png(21, 13, 8, 3, rows(21, 13, 8), palette + chunk(b"tRNS", bytes(5))))
add("grey_16_transparent.png", png(21, 13, 16, 0, rows(21, 13, 16), chunk(b"tRNS", b"\0\1")))
add("rgb_transparent.png", encode(small, "PNG", transparency=(1, 2, 3)))
frames = {"save_all": True, "append_images": [transparent.rotate(180)], "duration": 100}
add("animated.png", encode(transparent, "PNG", **frames))

add("lossless.webp", encode(small, "WEBP", lossless=True))
add("lossless_alpha.webp", encode(transparent, "WEBP", lossless=True, exact=True))
add("lossless_animated.webp", encode(small, "WEBP", lossless=True, save_all=True, append_images=[small.rotate(180)]))
add("lossy.webp", encode(picture, "WEBP", quality=80))
for name, image in {"rgb": small, "palette": small.quantize(30), "grey": grey, "one_bit": grey.convert("1")}.items():
    add(f"bmp_{name}.bmp", encode(image, "BMP"))
samples = np.array(grey).astype(np.uint16) * 3
for name, image in {"rgb": small, "rgba": transparent, "grey": grey, "grey_16": Image.fromarray(samples)}.items():
    add(f"tiff_{name}.tif", encode(image, "TIFF"))
for name in ("tiff_lzw", "packbits", "tiff_adobe_deflate"):
    add(f"tiff_{name}.tiff", encode(small, "TIFF", compression=name))

add("pnm_rgb.ppm", encode(small, "PPM"))
add("pnm_grey.pgm", encode(grey, "PPM"))
add("pnm_bitmap.ppm", encode(grey.convert("1"), "PPM"))
add("pnm_bitmap_plain.ppm", b"P1 5 2 #x\n1 0 1 01\n00110")
for kind, channels in ((b"5", 1), (b"6", 3)):
    for most in (100, 1000, 65535):
        data = random.randint(0, most + 1, 21 * 13 * channels).astype(">u2" if most > 255 else "u1").tobytes()
        add(f"pnm_{channels}_{most}.ppm", b"P%s\n# text\n21 13\n%d\n" % (kind, most) + data)
for kind, channels in ((b"2", 1), (b"3", 3)):
    for most in (200, 1000):
        data = b" ".join(b"%d" % value for value in random.randint(0, most + 1, 21 * 13 * channels))
        add(f"pnm_{channels}_{most}_plain.ppm", b"P%s 21 13 %d\n" % (kind, most) + data + b"\n")

with open(os.path.join(HERE, "cases.json"), "w") as file:
    json.dump(cases, file, indent=1)
