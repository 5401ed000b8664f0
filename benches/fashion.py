#!/usr/bin/env python3
"""Trains on Fashion-MNIST with `transdiff train` and with PyTorch, in alternation, and compares pictures and seconds.

  cargo build --release -p transdiff -p transdiff-cli --bin transdiff --example fashion
  FILE benches/fashion.py --out FOLDER [--seeds 0,1,2] [--side both]
  FILE benches/fashion.py --out FOLDER --seeds 0 --side example     the recipe of examples/fashion/train.toml, alone

FILE is a Python interpreter with torch, scikit-learn, scipy and pillow. The data, the recipe, the model and the measures
are those in the head of peer/peer_fashion.py. Both sides start each seed in turn, with the same number of threads. Results
are added to FOLDER/results.jsonl; a seed and side that is there already is not trained again, so that the same command
goes on after an interruption. The last output is a table, with means and standard deviations over the seeds.

Differences that remain: ours draws each epoch in a random order (PyTorch: with replacement); in the warm-up, step s from 0
has s/50 of the learning rate (PyTorch: (s+1)/50); weights and noise come from other generators.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEER = ROOT / "benches/peer/peer_fashion.py"
PER_CLASS = 100
# Guidance scales and number of steps for sampling.
SAMPLING = {"ours": ([1.0, 1.3], 25), "pytorch": ([1.0, 1.3], 25), "example": ([1.0, 1.1], 100)}
EXAMPLE = ROOT / "examples/fashion/train.toml"
# Every key of the comparison's recipe, whatever the preset has.
RECIPE = {
    "model.width": 96, "model.heads": 4, "model.encoder_blocks": 4, "model.decoder_blocks": 3, "model.mlp_ratio": 4,
    "model.buffer_size": 4, "model.feature_tokens": 64, "model.groups": 1,
    "data.flip": "false", "data.val": 0.0, "data.shuffle": "samples",
    "train.batch": 64, "train.accumulate": 1, "train.batch_mul": 2, "train.lr": 2e-3, "train.warmup": 50,
    "train.decay": "linear", "train.decay_from": 0.6, "train.betas": [0.9, 0.95], "train.eps": 1e-8,
    "train.weight_decay": 0.0, "train.max_grad_norm": 3.0, "train.label_drop": 0.1, "train.dropout": 0.0,
    "train.diversity": 0.0, "train.ema_decay": 0.995, "train.ema_warmup": "true", "train.trainable": [],
    "train.compute": "f32", "train.gradient_checkpointing": "false",
    "train.report_every": 200, "train.sample_every": 0,
}


def run(*command):
    """Runs a command, whose messages go to the terminal. Returns its output and its seconds."""
    begin = time.perf_counter()
    output = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True, check=True).stdout
    return output, time.perf_counter() - begin


def json_lines(text):
    return [json.loads(line) for line in text.splitlines()]


def prepare(options):
    """The cache that ours trains on. Returns its folder."""
    pictures, cache = options.out / "pictures", options.out / "cache"
    if not cache.exists():
        shutil.rmtree(pictures, ignore_errors=True)
        run(options.bin / "examples/fashion", "--data", options.data, "--out", pictures)
    # Goes on with a cache that is not complete.
    _, seconds = run(options.bin / "transdiff", "cache", "--data", pictures, "--codec", "patch:4", "--size", 32,
                     "--channels", 1, "--fit", "pad", "--no-flip", "--device", "cpu", "--out", cache)
    print(f"cache: {seconds:.1f} s", file=sys.stderr)
    return cache


def train_ours(options, seed, cache, side):
    folder = options.out / f"{side}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    if side == "ours":
        settings = RECIPE | {"train.steps": options.steps, "train.checkpoint_every": options.steps}
        recipe = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    else:
        recipe = ["--config", EXAMPLE]
    device = ("--device", "cpu", *(("--threads", options.threads) if options.threads else ()))
    _, train_seconds = run(options.bin / "transdiff", "train", "--preset", "small", "--data", cache,
                           "--out", folder / "run", *recipe, "--set", f"train.seed={seed}", *device)
    guidance_scales, sampling_steps = SAMPLING[side]
    results = []
    for guidance in guidance_scales:
        samples, sample_seconds = folder / f"guidance-{guidance}", 0
        # An image's noise follows from its seed alone: each class has seeds of its own.
        for label in range(10):
            _, seconds = run(
                options.bin / "transdiff", "sample", "--model", folder / "run/model.safetensors", "--class", label,
                "--count", PER_CLASS, "--seed", 1000 * seed + PER_CLASS * label, "--steps", sampling_steps,
                "--guidance", guidance, "--batch", PER_CLASS, "--out", samples, "--force", *device)
            sample_seconds += seconds
        results.append({"guidance": guidance, "train_seconds": train_seconds, "sample_seconds": sample_seconds})
    output, _ = run(sys.executable, PEER, "--data", options.data, "--judge",
                    *(folder / f"guidance-{guidance}" for guidance in guidance_scales))
    return [result | judged for result, judged in zip(results, json_lines(output), strict=True)]


def train_pytorch(options, seed):
    threads = ("env", f"OMP_NUM_THREADS={options.threads}") if options.threads else ()
    output, _ = run(*threads, sys.executable, PEER, "--data", options.data, "--seed", seed, "--steps", options.steps,
                    "--out", options.out / f"pytorch-{seed}")
    return json_lines(output)


def table(results):
    """Means and standard deviations over the seeds, in Markdown."""
    def cell(values):
        deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        return f"{statistics.mean(values):.3f}{deviation}"

    measures = ["accuracy", "frechet", "nearest", "train_seconds", "sample_seconds"]
    lines = [f"| side | guidance | seeds | {' | '.join(measures)} |", "|---" * (len(measures) + 3) + "|"]
    for guidance, side in sorted({(result["guidance"], result["side"]) for result in results}):
        rows = [result for result in results if (result["side"], result["guidance"]) == (side, guidance)]
        cells = " | ".join(cell([row[name] for row in rows]) for name in measures)
        lines.append(f"| {side} | {guidance} | {len(rows)} | {cells} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of pictures, runs and results")
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist", help="folder of the idx.gz files")
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "target/release", help="folder of our programs")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=2000, help="training steps of the comparison")
    parser.add_argument("--threads", type=int, help="threads of each side; default: one per core")
    parser.add_argument("--side", choices=["both", *SAMPLING], default="both")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / "results.jsonl"
    results = json_lines(log.read_text()) if log.exists() else []
    results = [result for result in results if result["side"] == "example" or result["steps"] == options.steps]
    done = {(result["side"], result["seed"]) for result in results}
    cache = prepare(options) if options.side != "pytorch" else None
    order = ["ours", "pytorch"] if options.side == "both" else [options.side]
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for turn, seed in enumerate(seeds):
        for side in order if turn % 2 == 0 else reversed(order):
            if (side, seed) in done:
                continue
            print(f"{side}, seed {seed}", file=sys.stderr, flush=True)
            made = train_pytorch(options, seed) if side == "pytorch" else train_ours(options, seed, cache, side)
            common = {"side": side, "seed": seed} | ({} if side == "example" else {"steps": options.steps})
            made = [result | common for result in made]
            results += made
            with log.open("a") as file:
                file.writelines(json.dumps(result) + "\n" for result in made)
    print(table([result for result in results if result["seed"] in seeds and result["side"] in order]))


if __name__ == "__main__":
    main()
