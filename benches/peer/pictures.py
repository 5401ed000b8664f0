"""Reads a folder of pictures with torchvision's ImageFolder and DataLoader and prints pictures per second as a JSON line,
with the keys of benches/pictures.rs. With --ours BINARY, runs both in alternation and prints the ratio.
Needs torch and torchvision.  pictures.py FOLDER [--ours BINARY] [--rounds N]"""
import argparse
import json
import random
import statistics
import subprocess
import sys
import time

import torch
from PIL import Image
from torchvision import datasets, transforms


class SquareCrop:
    """The square of the short side at a random place, resized bicubically."""

    def __init__(self, size):
        self.size = size

    def __call__(self, picture):
        width, height = picture.size
        side = min(width, height)
        x, y = random.randint(0, width - side), random.randint(0, height - side)
        return picture.crop((x, y, x + side, y + side)).resize((self.size, self.size), Image.BICUBIC)


def measure(options):
    transform = transforms.Compose([
        SquareCrop(options.size), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
        transforms.Normalize([0.5] * 3, [0.5] * 3)])
    dataset = datasets.ImageFolder(options.folder, transform)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=64, shuffle=True, num_workers=options.threads, persistent_workers=True)
    count = sum(len(labels) for _, labels in loader)  # starts the workers, and fills the page cache
    begin = time.perf_counter()
    for _ in range(options.epochs):
        for images, _ in loader:
            assert images.shape[-1] == options.size
    seconds, count = time.perf_counter() - begin, count * options.epochs
    return {"what": "pictures", "side": "torchvision", "threads": options.threads, "pictures": count,
            "seconds": seconds, "per_second": count / seconds}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--ours", help="the benchmark's binary: runs both sides in alternation")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not options.ours:
        print(json.dumps(measure(options)))
        return
    common = [options.folder, f"--size={options.size}", f"--threads={options.threads}", f"--epochs={options.epochs}"]
    ratios = []
    for _ in range(options.rounds):
        lines = [subprocess.check_output(command + common, text=True).splitlines()[-1]
                 for command in ([options.ours], [sys.executable, __file__])]
        print("\n".join(lines), flush=True)
        ours, theirs = (json.loads(line)["per_second"] for line in lines)
        ratios.append(ours / theirs)
    print(f"ratio {statistics.median(ratios):.2f} (median of {options.rounds})")


if __name__ == "__main__":
    main()
