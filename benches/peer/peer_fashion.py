#!/usr/bin/env python3
"""Fashion-MNIST with TransDiff in PyTorch, and the judge of generated pictures; ../fashion.py compares both sides with it.

  peer_fashion.py [--seed 0] [--steps 2000] [--out FOLDER]    train, sample at both guidance scales, judge
  peer_fashion.py --judge FOLDER...                           judge pictures that `transdiff sample` has written

Needs torch, scikit-learn, scipy and pillow, and the Debian package dataset-fashion-mnist, or --data FOLDER with its four
idx.gz files. Prints one JSON line per set of pictures.

Data: the first 600 pictures of each class are trained on (6,000), the first 200 of each class of the test file are held
out (2,000). 28x28 pixels are padded to 32x32 with zeros and scaled to [-1, 1] (x/127.5 - 1); space-to-depth by 4 gives a
latent of 16 channels and 8x8 positions (channel = row in patch * 4 + column in patch).
Model: width 96, 4 heads, 4 AR blocks, 3 decoder blocks, 4 class tokens, 64 features, 10 classes.
Training: AdamW, batch 64, batch_mul 2, learning rate 2e-3 (rises over 50 steps, constant to 60 % of the steps, then linear
to 0), gradient norm at most 3, no weight decay, EMA decay min(0.995, (1+s)/(10+s)), label drop 0.1, no dropout, no flips.
Sampling: 25 steps of Euler-Maruyama with both scales 1, 100 pictures per class.

Measures, of the 28x28 centre in 8-bit pixels:
  accuracy  of an SVC (C=10) fitted on the training pictures: share of generated pictures that it gives their class
  frechet   Frechet distance to the held-out pictures, of 64 principal components fitted on the training pictures
  nearest   mean distance of every fifth generated picture to its nearest training picture
"""
import argparse
import gzip
import json
import os
import pathlib
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import linalg
from sklearn.decomposition import PCA
from sklearn.svm import SVC

from peer_pytorch import TransDiff, sample

# By label, with the names of examples/fashion.
CLASSES = ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"]
GUIDANCE_SCALES = [1.0, 1.3]
PER_CLASS = 100
PEAK, WARMUP, BATCH = 2e-3, 50, 64


def idx(path):
    raw = gzip.open(path).read()
    rank = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i:8 + 4 * i], "big") for i in range(rank)]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def load(folder, name, per_class):
    images = idx(f"{folder}/{name}-images-idx3-ubyte.gz")
    labels = idx(f"{folder}/{name}-labels-idx1-ubyte.gz")
    keep = np.sort(np.concatenate([np.where(labels == label)[0][:per_class] for label in range(len(CLASSES))]))
    return images[keep], labels[keep].astype(int)


class Judge:
    """Measures of generated pictures, [n, 28, 28] in bytes. Real held-out pictures have an accuracy of 0.868, the training
    pictures a Frechet distance of 0.23."""

    def __init__(self, images, labels, held_out):
        self.real = images.reshape(len(images), -1) / 255
        self.classifier = SVC(C=10).fit(self.real, labels)
        self.components = PCA(64, random_state=0).fit(self.real)
        self.reference = self.moments(held_out.reshape(len(held_out), -1) / 255)

    def moments(self, images):
        components = self.components.transform(images)
        return components.mean(0), np.cov(components.T)

    def frechet(self, images):
        (mean, cov), (mean_real, cov_real) = self.moments(images), self.reference
        root = linalg.sqrtm(cov @ cov_real).real
        return ((mean - mean_real) ** 2).sum() + np.trace(cov + cov_real - 2 * root)

    def nearest(self, images):
        return np.mean([np.sqrt(((self.real - image) ** 2).sum(1).min()) for image in images[::5]])

    def __call__(self, images, labels):
        images = images.reshape(len(images), -1) / 255
        measures = {"accuracy": self.classifier.score(images, labels), "frechet": self.frechet(images),
                    "nearest": self.nearest(images)}
        return {"pictures": len(images), **{name: float(value) for name, value in measures.items()}}


def read_samples(folder):
    """Pictures FOLDER/CLASS-SEED.png, as `transdiff sample` writes them, or FOLDER/CLASS/NAME.png."""
    images, labels = [], []
    for path in sorted(pathlib.Path(folder).rglob("*.png")):
        name = path.stem.rpartition("-")[0] if path.parent == pathlib.Path(folder) else path.parent.name
        if name not in CLASSES:
            if path.name == "grid.png":
                continue
            raise SystemExit(f"{path}: expected a picture of one of {', '.join(CLASSES)}")
        image = np.array(Image.open(path).convert("L"))
        if image.shape not in ((28, 28), (32, 32)):
            raise SystemExit(f"{path}: expected 28x28 or 32x32 pixels, got {image.shape[1]}x{image.shape[0]}")
        border = (image.shape[0] - 28) // 2
        images.append(image[border:border + 28, border:border + 28])
        labels.append(CLASSES.index(name))
    if not images:
        raise SystemExit(f"{folder}: expected PNG files, got none")
    return np.stack(images), np.array(labels)


def train(images, labels, steps, seed):
    """The EMA model after the recipe."""
    torch.manual_seed(seed)
    padded = torch.tensor(np.pad(images, ((0, 0), (2, 2), (2, 2)))).float()[:, None] / 127.5 - 1
    latents = F.pixel_unshuffle(padded, 4).flatten(2).transpose(1, 2).contiguous()
    labels = torch.tensor(labels)
    model = TransDiff(96, 4, 3, 4, c=16, buffer=4, seq=64, seq_d=64, classes=10, drop=0.0, mul=2).train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=PEAK, betas=(0.9, 0.95), weight_decay=0.0)
    ema = [parameter.detach().clone() for parameter in parameters]
    for step in range(steps):
        decay = 1 if step < steps * 0.6 else (steps - step) / (steps * 0.4)
        for group in optimizer.param_groups:
            group["lr"] = PEAK * min(1, (step + 1) / WARMUP) * decay
        batch = torch.randint(0, len(latents), (BATCH,))
        loss = model.loss(latents[batch], labels[batch])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 3.0)
        optimizer.step()
        rate = min(0.995, (1 + step) / (10 + step))
        torch._foreach_lerp_(ema, [parameter.detach() for parameter in parameters], 1 - rate)
        if step % 200 == 0 or step + 1 == steps:
            print(f"step {step}: loss {loss.item():.4f}", file=sys.stderr, flush=True)
    for parameter, average in zip(parameters, ema):
        parameter.data.copy_(average)
    return model.eval()


def generate(model, labels, guidance):
    with torch.no_grad():
        latents = sample(model, labels, 25, guidance, 1.0, 1.0, True, run=None)
    images = F.pixel_shuffle(latents.transpose(1, 2).reshape(-1, 16, 8, 8), 4)[:, 0, 2:30, 2:30]
    return ((images + 1) * 127.5).round().clamp(0, 255).numpy().astype(np.uint8)


def save(folder, images, labels):
    os.makedirs(folder, exist_ok=True)
    for number, (image, label) in enumerate(zip(images, labels)):
        Image.fromarray(image).save(f"{folder}/{CLASSES[label]}-{number % PER_CLASS}.png")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist", help="folder of the idx.gz files")
    parser.add_argument("--judge", nargs="+", metavar="FOLDER", help="judge these pictures and train nothing")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="FOLDER", help="write the pictures to FOLDER/guidance-SCALE")
    options = parser.parse_args()
    images, labels = load(options.data, "train", 600)
    held_out, _ = load(options.data, "t10k", 200)
    if options.judge:
        generated = [(folder, read_samples(folder)) for folder in options.judge]
        judge = Judge(images, labels, held_out)
        for folder, made in generated:
            print(json.dumps({"folder": folder, **judge(*made)}), flush=True)
        return
    begin = time.perf_counter()
    model = train(images, labels, options.steps, options.seed)
    train_seconds = time.perf_counter() - begin
    judge = Judge(images, labels, held_out)
    classes = torch.arange(len(CLASSES)).repeat_interleave(PER_CLASS)
    for guidance in GUIDANCE_SCALES:
        begin = time.perf_counter()
        made = generate(model, classes, guidance)
        sample_seconds = time.perf_counter() - begin
        if options.out:
            save(f"{options.out}/guidance-{guidance}", made, classes.tolist())
        measures = {"seed": options.seed, "guidance": guidance, **judge(made, classes.numpy()),
                    "train_seconds": train_seconds, "sample_seconds": sample_seconds}
        print(json.dumps(measures), flush=True)


if __name__ == "__main__":
    main()
