#!/usr/bin/env python3
"""Table of measurements, from JSON lines of `measure`, `peer_pytorch.py` and `ceilings.py`.

  table.py FILE...      prints the table
  table.py --self-test  checks the arithmetic

Seconds are medians over rounds, which have numbers or names. A ratio is PyTorch's seconds divided by ours in the same round,
and the median of these over rounds. TFLOP/s are the operations of the model's definition divided by our seconds; the share is
relative to the measured peak of a matrix product.
"""
import json
import statistics
import sys

OURS, PLAIN, STRONG = "transdiff-rs", "plain", "strong"
ORDER = ["sample", "mrar", "step", "ar", "ar-conditional", "train", "vae", "vae-encode"]


def read(lines):
    """Returns the JSON lines by (what, implementation); skips other text."""
    found = {}
    for line in lines:
        try:
            line = json.loads(line)
            key = line["what"], line["impl"]
        except (ValueError, KeyError, TypeError):
            continue
        found.setdefault(key, []).append(line)
    return found


def median_of(lines, key):
    values = [line[key] for line in lines if line.get(key) is not None]
    return statistics.median(values) if values else None


def ratio(ours, theirs):
    seconds = {line["round"]: line["median_s"] for line in ours}
    rounds = [line["median_s"] / seconds[line["round"]] for line in theirs if line["round"] in seconds]
    return statistics.median(rounds) if rounds else None


def rows(found):
    """Yields (what, batch, rounds, three times, two ratios, TFLOP, TFLOP/s, share); None if not measured."""
    ceiling = median_of(found.get(("matmul", "ceiling"), []), "tflop_per_s")
    kinds = {what for what, impl in found if impl != "ceiling"}
    known = [what for what in ORDER if what in kinds]
    for what in known + sorted(kinds - set(known)):
        ours, plain, strong = (found.get((what, impl), []) for impl in (OURS, PLAIN, STRONG))
        seconds = [median_of(lines, "median_s") for lines in (ours, plain, strong)]
        tflop = median_of(ours, "tflop")
        rate = tflop / seconds[0] if tflop and seconds[0] else None
        share = rate / ceiling if rate and ceiling else None
        batch = (ours or plain or strong)[0].get("batch")
        ratios = [ratio(ours, plain), ratio(ours, strong)]
        yield (what, batch, len(ours), *seconds, *ratios, tflop, rate, share)


HEAD = ["what", "batch", "rounds", "ours, s", "plain, s", "strong, s", "plain/ours", "strong/ours", "TFLOP", "TFLOP/s", "share"]
FORMS = ["{}", "{}", "{}", "{:.4f}", "{:.4f}", "{:.4f}", "{:.2f}", "{:.2f}", "{:.3f}", "{:.1f}", "{:.0%}"]


def table(found):
    """Returns the table in Markdown, below a line with the peaks."""
    copy = median_of(found.get(("copy", "ceiling"), []), "tb_per_s")
    matmul = median_of(found.get(("matmul", "ceiling"), []), "tflop_per_s")
    text = lambda form, value: "-" if value is None else form.format(value)
    out = [f"ceilings: copy {text('{:.2f} TB/s', copy)}, bf16 product {text('{:.0f} TFLOP/s', matmul)}", ""]
    cells = [HEAD, ["---"] * len(HEAD)]
    cells += [[text(form, value) for form, value in zip(FORMS, row)] for row in rows(found)]
    return "\n".join(out + ["| " + " | ".join(row) + " |" for row in cells])


def self_test():
    line = lambda what, impl, **figures: json.dumps({"what": what, "impl": impl, **figures})
    lines = [
        "warning: not JSON",
        "3",
        line("copy", "ceiling", median_s=0.002, tb_per_s=4.0),
        line("matmul", "ceiling", median_s=0.001, tflop_per_s=800.0),
        # Rounds of 2, 4 and 3 s beside 3, 4 and 6 s: ratios 1.5, 1 and 2. Of two more rounds one side failed.
        *(line("sample", impl, round=round, batch=64, median_s=s, **more) for round, impl, s, more in [
            (0, PLAIN, 3.0, {}),
            (1, OURS, 2.0, {"tflop": 1200.0}), (1, PLAIN, 3.0, {}),
            (2, OURS, 4.0, {"tflop": 1200.0}), (2, PLAIN, 4.0, {}),
            (3, OURS, 3.0, {"tflop": 1200.0}), (3, PLAIN, 6.0, {}),
            (4, OURS, 3.0, {"tflop": 1200.0}),
        ]),
        line("mrar", OURS, round=1, batch=64, median_s=8.0, tflop=1600.0),
        # Ours failed.
        line("train", STRONG, round="second", batch=64, median_s=0.5, peak_gib=None),
    ]
    sample, mrar, train = rows(read(lines))
    assert sample == ("sample", 64, 4, 3.0, 3.5, None, 1.5, None, 1200.0, 400.0, 0.5), sample
    assert mrar == ("mrar", 64, 1, 8.0, None, None, None, None, 1600.0, 200.0, 0.25), mrar
    assert train == ("train", 64, 0, None, None, 0.5, None, None, None, None, None), train
    printed = table(read(lines)).splitlines()
    assert printed[0] == "ceilings: copy 4.00 TB/s, bf16 product 800 TFLOP/s", printed[0]
    assert printed[4] == "| sample | 64 | 4 | 3.0000 | 3.5000 | - | 1.50 | - | 1200.000 | 400.0 | 50% |", printed[4]
    assert len(printed) == 7 and len({row.count("|") for row in printed[2:]}) == 1
    assert table(read([])).splitlines()[0] == "ceilings: copy -, bf16 product -"


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        print("table.py: self-test passed")
        return
    lines = [line for name in sys.argv[1:] for line in open(name, encoding="utf-8")]
    print(table(read(lines)))


if __name__ == "__main__":
    main()
