#!/usr/bin/env bash
# Tests and measures the CUDA backend on this machine: the folder that `cargo xtask gpu-bundle` makes has everything that
# is ours. Needs an NVIDIA driver and cuBLASLt; for `sanitize` compute-sanitizer, for `bench` a Python with PyTorch.
#
#     run.sh [tests|sanitize|bench]...       (all, if none is named)
#
# A part that fails does not stop the others; the exit code is 0 only if every part passed. Everything printed is also
# in run.log, and the measurements in lines.jsonl and table.md, in the folder OUT (logs, beside this file).
#
# PYTHON   the Python with PyTorch (python3)
# ROUNDS   turns of ours, PyTorch plain, PyTorch strong (2)
# WHAT     what is measured: words of names with commas between; each word is a process a side a turn
# DEVICE PRESET DTYPE RES BATCH STEPS TRAIN_BATCH REPEAT
#          as the options of `measure` (cuda large bf16 256 64 100 64 3)
# CASES    cases of an operation under compute-sanitizer (7: no large shapes)
# LIMIT    seconds that a test, a tool of the sanitizer or a process of the benchmark may take (600)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit

python=${PYTHON:-python3}
limit=${LIMIT:-600}
out=${OUT:-logs}
mkdir -p "$out" || exit
out=$(cd "$out" && pwd)
export TRANSDIFF_GOLDEN=$PWD/golden PYTHONUNBUFFERED=1
# What torch.compile has made in one process serves the next.
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$PWD/inductor}
failed=()
# Our kernels, whose names end in a type or a width: those of libraries are called otherwise.
ours='^[a-z0-9_]+_(f32|f64|bf16|wide|[0-9]+)$'

fail() {
    printf 'FAILED: %s\n' "$*"
    failed+=("$*")
}

# Runs a command with a limit of time, notes a failure, and appends what it prints to a file.
run() {
    local file=$1 begun=$SECONDS
    shift
    printf '\n--- %s\n' "$*"
    timeout "$limit" "$@" | tee -a "$file"
    local code=${PIPESTATUS[0]}
    printf -- '--- %d s\n' $((SECONDS - begun))
    ((code == 0)) || fail "$* (exit code $code)"
    return "$code"
}

# The folder with cuBLASLt goes to LD_LIBRARY_PATH where the loader has none of its own: PyTorch's packages bring one.
find_cublaslt() {
    local found
    found=$(ldconfig -p 2>/dev/null | sed -n 's/.*\(libcublasLt\.so\.1[23]\) .*=> //p' | head -1)
    if [[ -z $found ]]; then
        found=$("$python" - <<'PYTHON'
import glob, itertools, site, sys
folders = [*site.getsitepackages(), site.getusersitepackages(), *sys.path]
packages = ["nvidia/cu13/lib", "nvidia/cublas/lib"]
found = (glob.glob(f"{folder}/{package}/libcublasLt.so.1[23]") for folder, package in itertools.product(folders, packages))
print(next(itertools.chain.from_iterable(found), ""))
PYTHON
        )
        [[ -z $found ]] || export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(dirname "$found")
    fi
    printf 'cuBLASLt: %s\n' "${found:-none but for what LD_LIBRARY_PATH has}"
}

# As run, for tests: they have to test something, on a GPU.
run_tests() {
    local log
    log=$(mktemp)
    if run "$log" "$@"; then
        if grep -q SKIPPED "$log"; then
            fail "$* (SKIPPED)"
        elif ! grep -q '^test result: ok. [1-9]' "$log"; then
            fail "$* (no test ran)"
        fi
    fi
    rm -f "$log"
}

versions() {
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo 'no nvidia-smi'
    { command -v nvcc >/dev/null && nvcc --version | tail -2; } || echo 'no nvcc'
    "$python" -c 'import torch; print("torch", torch.__version__)' || echo 'no PyTorch'
    ldd --version | head -1
    sha256sum measure tests/*/*
    find_cublaslt
}

tests() {
    local test
    for test in tests/*/*; do
        run_tests "$test" --nocapture
    done
}

sanitize() {
    local tool sanitizer
    sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
    for tool in memcheck racecheck initcheck; do
        local which=()
        # cuBLASLt's kernels have races that are meant. What they write initcheck has to see, or ours would read what
        # nobody has written.
        [[ $tool == racecheck ]] && which=(--kernel-name "regex=$ours")
        TRANSDIFF_CASES=${CASES:-7} run_tests "$sanitizer" --tool "$tool" --error-exitcode 9 "${which[@]}" \
            tests/transdiff/backend_equivalence cuda --nocapture --test-threads 1
    done
}

# As run, for the benchmark: the lines that are kept say in which turn they were measured.
run_turn() {
    local turn=$1 code
    shift
    : >"$out/turn"
    run "$out/turn" "$@"
    code=$?
    sed "s/^{\(.*\)}$/{\"turn\": $turn, \1}/" "$out/turn" >>"$lines"
    rm "$out/turn"
    return "$code"
}

bench() {
    local lines=$out/lines.jsonl round word
    : >"$lines"
    # Both sides take these.
    local same=(--device "${DEVICE:-cuda}" --preset "${PRESET:-large}" --dtype "${DTYPE:-bf16}" --res "${RES:-256}"
        --batch "${BATCH:-64}" --steps "${STEPS:-100}" --train-batch "${TRAIN_BATCH:-64}" --repeat "${REPEAT:-3}")
    run "$out/check.json" "$python" peer_pytorch.py --check golden
    run "$lines" "$python" ceilings.py
    for round in $(seq "${ROUNDS:-2}"); do
        printf '\nturn %d\n' "$round"
        for word in ${WHAT:-ar,step,sample vae train mrar}; do
            run_turn "$round" ./measure "${same[@]}" --what "$word"
            # The peer has no multi-reference autoregression.
            [[ $word == mrar ]] && continue
            run_turn "$round" "$python" peer_pytorch.py "${same[@]}" --what "$word" --impl plain
            run_turn "$round" "$python" peer_pytorch.py "${same[@]}" --what "$word" --impl strong
        done
    done
    printf '\n'
    rm -f "$out/table.md"
    run "$out/table.md" "$python" table.py "$lines"
}

main() {
    versions
    local part
    for part in "$@"; do
        printf '\n=== %s ===\n' "$part"
        "$part"
    done
    printf '\n'
    if ((${#failed[@]})); then
        printf 'FAILED: %s\n' "${failed[@]}"
        return 1
    fi
    printf 'all passed: %s\n' "$*"
}

(($#)) || set -- tests sanitize bench
for part in "$@"; do
    case $part in
        tests | sanitize | bench) ;;
        *)
            printf 'usage: run.sh [tests|sanitize|bench]...\n' >&2
            exit 2
            ;;
    esac
done
main "$@" 2>&1 | tee "$out/run.log"
exit "${PIPESTATUS[0]}"
