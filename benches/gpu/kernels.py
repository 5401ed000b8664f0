#!/usr/bin/env python3
"""Summary by kernel of a profile, from the CSV of `ncu --csv --page raw --print-units base`.

  kernels.py FILE         prints the table
  kernels.py --self-test  checks the arithmetic

Time is the sum over a kernel's launches, and its share of all. TB/s are the bytes of device memory read and written, divided
by the time. The last column is the use of the tensor cores, or of the multiprocessors on GPUs without that counter, in percent
of their peak, weighted by time. Families are the first words of our kernels' names; kernels of libraries are one family.
"""
import csv
import re
import sys

# Names of our kernels, as in run.sh.
OURS = re.compile(r"^[a-z0-9_]+_(f32|f64|bf16|wide|[0-9]+)$")
# Start of the part of a name that tells the kernels of a family apart.
VARIANT = re.compile(r"_(?=f32|f64|bf16|wide|stream|small|narrow|block|warp|long|queries|keys|sums|finish|\d)")
TIME, BYTES, USE = "gpu__time_duration", ("dram__bytes_read", "dram__bytes_write"), "sm__"


def family(kernel):
    return VARIANT.split(kernel)[0] if OURS.match(kernel) else "libraries"


def number(text):
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def read(lines):
    """Returns (kernel, ns, bytes, use) of each launch; bytes and use are None if not measured."""
    rows = csv.reader(lines)
    head = next((row for row in rows if "Kernel Name" in row), [])
    column = lambda prefix: next((i for i, name in enumerate(head) if name.startswith(prefix)), None)
    columns = [column(prefix) for prefix in (TIME, *BYTES, USE)]
    launches = []
    for row in rows:
        # Lines of units and messages have no time.
        if len(row) != len(head) or columns[0] is None or number(row[columns[0]]) is None:
            continue
        time, read, written, use = (None if i is None else number(row[i]) for i in columns)
        moved = None if read is None or written is None else read + written
        launches.append((re.sub(r"[<(].*", "", row[head.index("Kernel Name")]), time, moved, use))
    return launches


def sums(launches):
    """Yields (name, launches, ms, share, TB/s, use) by descending time."""
    total = sum(time for _, time, _, _ in launches)
    groups = {}
    for launch in launches:
        groups.setdefault(launch[0], []).append(launch)
    for name, group in sorted(groups.items(), key=lambda item: -sum(launch[1] for launch in item[1])):
        time = sum(launch[1] for launch in group)
        known = all(launch[2] is not None for launch in group)
        rate = sum(launch[2] for launch in group) / time / 1e3 if known and time else None
        known = all(launch[3] is not None for launch in group)
        use = sum(launch[1] * launch[3] for launch in group) / time if known and time else None
        yield name, len(group), time / 1e6, time / total, rate, use


FORMS = ["{}", "{}", "{:.3f}", "{:.1%}", "{:.2f}", "{:.0f} %"]


def table(title, launches):
    head = [title, "launches", "ms", "share", "TB/s", "use"]
    cells = [head, ["---"] * len(head)]
    cells += [["-" if value is None else form.format(value) for form, value in zip(FORMS, row)] for row in sums(launches)]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def report(launches):
    """Returns the totals, the table by family and the table by kernel."""
    families = [(family(launch[0]), *launch[1:]) for launch in launches]
    total = sum(launch[1] for launch in launches) / 1e6
    return "\n\n".join([f"{len(launches)} launches, {total:.3f} ms", table("family", families), table("kernel", launches)])


def self_test():
    tensor = "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed"
    lines = f'''==PROF== Connected to process 1
"ID","Kernel Name","Grid Size","dram__bytes_read.sum","dram__bytes_write.sum","gpu__time_duration.sum","{tensor}"
"","","","byte","byte","ns","%"
"0","attention_64_bf16(AttentionParams)","(1, 1, 1)","1,000","1,000","2,000","40"
"1","attention_64_bf16(AttentionParams)","(1, 1, 1)","3,000","1,000","1,000","10"
"2","void nvjet_tst<int>(float, int)","(1, 1, 1)","1,000","0","1,000","90"
"3","norm_block_wide_bf16","(1, 1, 1)","n/a","0","1,000","0"
==PROF== Disconnected
'''.splitlines()
    attention, *others = sums(read(lines))
    assert attention == ("attention_64_bf16", 2, 0.003, 0.6, 0.002, 30.0), attention
    assert others[0] == ("void nvjet_tst", 1, 0.001, 0.2, 0.001, 90.0), others
    assert others[1] == ("norm_block_wide_bf16", 1, 0.001, 0.2, None, 0.0), others
    names = {"attention_backward_queries_64_bf16": "attention_backward", "copy_16": "copy", "gemm_f32_kernel": "libraries"}
    names |= {"norm_warp_bf16": "norm", "conv_wide_bf16": "conv", "bias_activation_wide_f32": "bias_activation"}
    assert {name: family(name) for name in names} == names
    printed = report(read(lines)).splitlines()
    assert printed[0] == "4 launches, 0.005 ms"
    assert printed[4] == "| attention | 2 | 0.003 | 60.0% | 0.00 | 30 % |", printed[4]
    assert read(["==ERROR== ERR_NVGPUCTRPERM"]) == []


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        print("kernels.py: self-test passed")
        return
    with open(sys.argv[1], encoding="utf-8", errors="replace") as lines:
        launches = read(lines)
    if not launches:
        raise SystemExit(f"{sys.argv[1]}: expected times of kernels, got none")
    print(report(launches))


if __name__ == "__main__":
    main()
