#!/usr/bin/env python3
"""Measures two folders of pictures with torch-fidelity and with `transdiff evaluate`, in alternation, and prints figures,
relative differences and seconds.

  FILE benches/peer/fidelity.py --out FOLDER [--pictures 2000] [--rounds 1] [--statistics] [--bin target/release/transdiff]

With --statistics, only the seconds that decoding, network and covariance of one folder take, and their ratio.

FILE is a Python interpreter with torch, torchvision, torch-fidelity 0.4.0 and pillow. Pictures are drawn from a seed, and the
weights of the network are those of the formula in tests/golden_inception.rs: the figures mean nothing, but both sides must
have the same. Exits with an error if one differs by more than 1e-4 of its value.
"""
import argparse
import json
import pathlib
import re
import struct
import subprocess
import sys
import time

import numpy as np
import torch
from PIL import Image, ImageDraw

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SIDE = 64
LIMIT = 1e-4


def draw(folder, count, seed, shades):
    """Pictures of ellipses on noise, in `shades` colours."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        path = folder / f"{number:06}.png"
        noise = random.normal(128, 24, (SIDE, SIDE, 3)).clip(0, 255).astype(np.uint8)
        picture = Image.fromarray(noise)
        for _ in range(random.integers(1, 5)):
            x, y, w, h = random.integers(4, SIDE - 4, 4)
            color = tuple(int(value) * 255 // shades for value in random.integers(0, shades + 1, 3))
            ImageDraw.Draw(picture).ellipse([x - w // 3, y - h // 3, x + w // 3, y + h // 3], fill=color)
        if not path.exists():
            # Under its name only when it is whole.
            picture.save(path.with_suffix(".writing"), "PNG")
            path.with_suffix(".writing").rename(path)


def weights(path):
    """The network's weights by the formula of the golden file, as a PyTorch file."""
    with open(ROOT / "tests/golden/inception.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    tensors = {}
    for k, (name, shape) in enumerate(json.loads(header["__metadata__"]["names"])):
        x = (np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(k * 1_000_003)) * np.uint64(0x9E3779B97F4A7C15)
        x ^= x >> np.uint64(31)
        x *= np.uint64(0xBF58476D1CE4E5B9)
        x ^= x >> np.uint64(29)
        value = (x >> np.uint64(40)).astype(np.float64) / 2**23 - 1
        inputs = np.prod(shape[1:]) if len(shape) > 1 else 1
        if name.endswith(".conv.weight"):
            value *= np.sqrt(6 / inputs)
        elif name == "fc.weight":
            value *= np.sqrt(3 / inputs)
        elif name.endswith(".bn.weight"):
            value = 1 + 0.1 * value
        elif name.endswith(".running_var"):
            value = 1 + 0.5 * value
        else:
            value *= 0.1
        tensors[name] = torch.tensor(value.astype(np.float32).reshape(shape))
        if name.endswith(".running_var"):
            tensors[name.replace("running_var", "num_batches_tracked")] = torch.tensor(0)
    torch.save(tensors, path)


def peer(generated, real, network):
    from torch_fidelity import calculate_metrics

    begin = time.perf_counter()
    found = calculate_metrics(
        input1=str(generated), input2=str(real), cuda=False, isc=True, fid=True, prc=True, cache=False, verbose=False,
        feature_extractor="inception-v3-compat", feature_layer_prc="2048", feature_extractor_weights_path=str(network),
        datasets_num_workers=0, batch_size=16)
    names = {"frechet_inception_distance": "fid", "inception_score_mean": "is_mean", "inception_score_std": "is_std",
             "precision": "precision", "recall": "recall"}
    return {names[name]: value for name, value in found.items() if name in names}, time.perf_counter() - begin


def peer_statistics(folder, network):
    from torch_fidelity.metric_fid import fid_input_id_to_statistics
    from torch_fidelity.utils import create_feature_extractor

    options = dict(
        input1=str(folder), cuda=False, cache=False, verbose=False, feature_extractor_weights_path=str(network),
        datasets_num_workers=0, batch_size=16)
    begin = time.perf_counter()
    extractor = create_feature_extractor("inception-v3-compat", ["2048"], **options)
    fid_input_id_to_statistics(1, extractor, "2048", **options)
    return time.perf_counter() - begin


def our_statistics(program, folder, network, out):
    arguments = ["--statistics", folder, "--inception", network, "--out", out, "--force", "--device", "cpu"]
    begin = time.perf_counter()
    subprocess.run([program, "evaluate", *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin


def compare_statistics(options, folder, network):
    ratios = []
    for _ in range(options.rounds):
        mine = our_statistics(options.bin, folder, network, options.out / "statistics.npz")
        theirs = peer_statistics(folder, network)
        ratios.append(theirs / mine)
        print(f"seconds    ours {mine:.1f}  torch-fidelity {theirs:.1f}  ratio {ratios[-1]:.2f}")
    print(f"median of the ratios {np.median(ratios):.2f}")


def ours(program, generated, real, network):
    begin = time.perf_counter()
    text = subprocess.run(
        [program, "evaluate", "--images", generated, "--reference", real, "--inception", network, "--device", "cpu"],
        stdout=subprocess.PIPE, text=True, check=True).stdout
    seconds = time.perf_counter() - begin
    number = r"\s+(\d+\.\d+)"
    patterns = {"fid": "Fréchet Inception distance" + number, "is_mean": "Inception Score" + number,
                "is_std": "±" + number, "precision": "precision" + number, "recall": "recall" + number}
    return {name: float(re.search(pattern, text)[1]) for name, pattern in patterns.items()}, seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of pictures and weights")
    parser.add_argument("--pictures", type=int, default=2000, help="pictures per folder")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--statistics", action="store_true", help="only measure one folder")
    parser.add_argument("--bin", default=ROOT / "target/release/transdiff")
    options = parser.parse_args()
    generated, real = options.out / "generated", options.out / "real"
    draw(generated, options.pictures, 1, 3)
    draw(real, options.pictures, 2, 4)
    network = options.out / "inception.pth"
    weights(network)
    if options.statistics:
        return compare_statistics(options, generated, network)
    wrong = False
    for _ in range(options.rounds):
        (mine, my_seconds), (theirs, their_seconds) = ours(options.bin, generated, real, network), peer(generated, real, network)
        for name, value in theirs.items():
            difference = abs(mine[name] - value) / max(abs(value), 1e-12)
            wrong |= difference > LIMIT
            print(f"{name:10} ours {mine[name]:.6f}  torch-fidelity {value:.6f}  relative difference {difference:.1e}")
        print(f"seconds    ours {my_seconds:.1f}  torch-fidelity {their_seconds:.1f}  ratio {their_seconds / my_seconds:.2f}")
    sys.exit(wrong)


if __name__ == "__main__":
    main()
