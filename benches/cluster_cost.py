#!/usr/bin/env python3
"""Time per training step on many GPUs, computed from data-sheet rates. A computation and no measurement.

  cluster_cost.py [OPTIONS]    prints the table; with the defaults, that of docs/cluster.md
  cluster_cost.py --self-test  checks the arithmetic, and the table in docs/cluster.md

A step has a fixed number of samples, which the GPUs share equally, in passes of at most 32 samples. Its time is

  T(W) = compute - backward + max(backward, all buckets but the last) + last bucket + update

  compute   operations of the step / W / (peak rate · share reached)
  backward  two thirds of the compute of the last pass, during which gradients are reduced
  bucket    a sum over all GPUs: reduce-scatter and all-gather in rings within each node, and an all-reduce in rings between
            nodes, in which each GPU sends its eighth over its own adapter:
            2(g-1)/g · bytes / node link + 2(n-1)/n · bytes/g / network link + (2(g-1) + 2(n-1)) · latency
            for n nodes of g GPUs. The gradients of the first layers come last: their sum is never hidden.
  update    AdamW and EMA, which read weights, gradients, two moments and EMA, and write all but the gradients, in f32
"""
import argparse
import math
import pathlib
import sys

DOC = pathlib.Path(__file__).resolve().parent.parent / "docs" / "cluster.md"
# Trained parameters, and TFLOP per sample without gradient checkpointing: counted by `transdiff train --estimate`.
MODELS = {"large": (682_519_568, 2.437), "huge": (1_327_891_216, 4.693)}
GPUS = [8, 64, 512]
# Bytes per gradient, as train.gradient_type sends them.
GRADIENTS = {"f32": 4, "bf16": 2}
# Pictures of ImageNet times epochs.
SAMPLES = 1_281_167 * 800
# Floats that the update reads and writes per parameter.
UPDATE_FLOATS = 9
HEAD = ["model", "gradients", "GPUs", "samples per GPU", "compute, ms", "communication, ms", "of it not hidden, ms", "update, ms", "step, ms", "efficiency", "800 epochs, days"]


def options(arguments):
    parser = argparse.ArgumentParser(description="Computed time per training step on many GPUs")
    parser.add_argument("--self-test", action="store_true", help="check the arithmetic, and the table in docs/cluster.md")
    parser.add_argument("--peak", type=float, default=989, metavar="TFLOP/S", help="bf16 products per GPU [default: 989, H100 and H200 SXM]")
    parser.add_argument("--peak-share", type=float, default=0.48, metavar="SHARE", help="share of that rate that training reaches [default: 0.48, 474 TFLOP/s as in docs/training.md]")
    parser.add_argument("--node-link", type=float, default=450, metavar="GB/S", help="NVLink per GPU and direction [default: 450]")
    parser.add_argument("--network-link", type=float, default=50, metavar="GB/S", help="network per GPU and direction [default: 50, InfiniBand NDR]")
    parser.add_argument("--memory", type=float, default=4800, metavar="GB/S", help="memory of a GPU [default: 4800, H200]")
    parser.add_argument("--link-share", type=float, default=0.8, metavar="SHARE", help="share of links and memory that is reached [default: 0.8]")
    parser.add_argument("--latency", type=float, default=5, metavar="US", help="latency per hop of a ring in microseconds [default: 5]")
    parser.add_argument("--node", type=int, default=8, metavar="GPUS", help="GPUs per node [default: 8]")
    parser.add_argument("--bucket", type=float, default=32, metavar="MIB", help="bytes that are summed at a time [default: 32]")
    parser.add_argument("--samples", type=int, default=2048, help="samples per step [default: 2048]")
    parser.add_argument("--pass-samples", type=int, default=32, help="largest number of samples per pass and GPU [default: 32]")
    return parser.parse_args(arguments)


def all_reduce(nbytes, gpus, o):
    """Seconds of a sum of nbytes bytes over all GPUs."""
    inner = min(gpus, o.node)
    nodes = gpus // inner
    within = 2 * (inner - 1) / inner * nbytes / (o.node_link * 1e9 * o.link_share)
    between = 2 * (nodes - 1) / nodes * nbytes / inner / (o.network_link * 1e9 * o.link_share)
    return within + between + (2 * (inner - 1) + 2 * (nodes - 1)) * o.latency * 1e-6


def step(parameters, tflop_per_sample, gradient_bytes, gpus, o):
    """Returns compute, communication, its part that is not hidden, update, and the whole step, in seconds."""
    share = o.samples / gpus
    compute = tflop_per_sample * share / (o.peak * o.peak_share)
    passes = math.ceil(share / o.pass_samples)
    backward = compute / passes * 2 / 3
    nbytes = parameters * gradient_bytes
    buckets = math.ceil(nbytes / (o.bucket * 2**20))
    last = all_reduce(nbytes / buckets, gpus, o)
    exposed = max(0, (buckets - 1) * last - backward) + last
    update = UPDATE_FLOATS * 4 * parameters / (o.memory * 1e9 * o.link_share)
    return compute, buckets * last, exposed, update, compute + exposed + update


def rows(o):
    for model, (parameters, tflop) in MODELS.items():
        for gradients, size in GRADIENTS.items():
            alone = step(parameters, tflop, size, 1, o)[-1]
            for gpus in GPUS:
                *parts, whole = step(parameters, tflop, size, gpus, o)
                days = whole * SAMPLES / o.samples / 86400
                times = [f"{1e3 * part:.1f}" for part in [*parts, whole]]
                yield [model, gradients, str(gpus), f"{o.samples / gpus:g}", *times, f"{100 * alone / whole / gpus:.0f} %", f"{days:.1f}"]


def table(o):
    head, *body = ["| " + " | ".join(line) + " |" for line in [HEAD, *rows(o)]]
    return "\n".join([head, "|---" * len(HEAD) + "|", *body])


def self_test():
    o = options(["--node-link", "10", "--network-link", "1", "--link-share", "1", "--latency", "0", "--peak", "1", "--peak-share", "1", "--memory", "9", "--samples", "64", "--bucket", "500"])
    near = lambda got, expected: abs(got - expected) <= 1e-9 * max(1, abs(expected))
    # Two GPUs of a node exchange their halves; 16 also send an eighth each between two nodes.
    assert all_reduce(1e9, 1, o) == 0
    assert near(all_reduce(1e9, 2, o), 0.1)
    assert near(all_reduce(8e9, 16, o), 2 * 7 / 8 * 0.8 + 1)
    o.latency = 1e6
    assert near(all_reduce(0, 16, o), 2 * 7 + 2)
    o.latency = 0
    # 10⁹ parameters in f32: 8 buckets of 0.05 s on two GPUs. 32 samples each of 1 TFLOP hide 7 of them, and of 1 GFLOP almost none.
    compute, communication, exposed, update, whole = step(1e9, 1, 4, 2, o)
    assert [compute, update] == [32, 4] and near(communication, 0.4) and near(exposed, 0.05)
    assert near(whole, 32 + 0.05 + 4)
    compute, communication, exposed, _, _ = step(1e9, 0.003, 4, 2, o)
    assert near(exposed, 0.4 - 2 / 3 * 0.096)
    # Only the last of four passes hides communication.
    o.pass_samples = 8
    assert near(step(1e9, 0.003, 4, 2, o)[2], 0.4 - 2 / 3 * 0.024)
    # A single GPU has nothing to send.
    assert step(1e9, 1, 4, 1, o)[1:3] == (0, 0)
    for line in rows(options([])):
        assert len(line) == len(HEAD), line
    assert table(options([])) in DOC.read_text(encoding="utf-8"), f"{DOC}: expected the table that this script prints"
    print("self-test passed")


if __name__ == "__main__":
    chosen = options(sys.argv[1:])
    self_test() if chosen.self_test else print(table(chosen))
