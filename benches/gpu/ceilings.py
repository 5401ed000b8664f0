#!/usr/bin/env python3
"""Peak throughput of this GPU, measured through PyTorch: one JSON line each, the median of 20 runs.

  copy    a copy of 4 GiB in device memory: bytes read plus bytes written per second
  matmul  a product of two 8192 x 8192 matrices in bf16: floating-point operations per second
"""
import json
import statistics

import torch


def median_s(run, repeat=20):
    for _ in range(3):
        run()
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeat)]
    for start, end in events:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3


def report(what, **figures):
    device = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(json.dumps({"impl": "ceiling", "what": what, **device, **figures}), flush=True)


def main():
    source = torch.randint(256, (4 << 30,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    seconds = median_s(lambda: target.copy_(source))
    report("copy", median_s=seconds, tb_per_s=2 * source.numel() / seconds / 1e12)
    del source, target
    n = 8192
    # Random values: products of zeros are faster.
    a, b = (torch.randn(n, n, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    out = torch.empty_like(a)
    seconds = median_s(lambda: torch.mm(a, b, out=out))
    report("matmul", median_s=seconds, tflop=2 * n**3 / 1e12, tflop_per_s=2 * n**3 / seconds / 1e12)


if __name__ == "__main__":
    main()
