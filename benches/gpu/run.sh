#!/usr/bin/env bash
# Tests and benchmarks the CUDA backend on this machine, from the folder that `cargo xtask gpu-bundle` creates. Requires an
# NVIDIA driver and cuBLASLt; compute-sanitizer for `sanitize`, and a Python with PyTorch for `bench`.
#
#     run.sh [tests|sanitize|bench]...       (default: all)
#
# A failing part does not stop the others; the exit code is 0 only if all passed. The output is also written to run.log, and
# the measurements to lines.jsonl and table.md, in the folder OUT (default: logs, beside this file).
#
# PYTHON   Python with PyTorch (python3)
# ROUNDS   rounds of ours, PyTorch plain, PyTorch strong (2)
# WHAT     benchmarks: words of comma-separated names; each word is one process per implementation and round
# DEVICE PRESET DTYPE RES BATCH STEPS TRAIN_BATCH REPEAT
#          options of `measure` (cuda large bf16 256 64 100 64 3)
# CASES    cases per operation under compute-sanitizer (7: no large shapes)
# LIMIT    time limit in seconds of a test, a sanitizer tool or a benchmark process (600)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit

python=${PYTHON:-python3}
limit=${LIMIT:-600}
out=${OUT:-logs}
mkdir -p "$out" || exit
out=$(cd "$out" && pwd)
export TRANSDIFF_GOLDEN=$PWD/golden PYTHONUNBUFFERED=1
# Shares the cache of torch.compile between processes.
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$PWD/inductor}
failed=()
# Names of our kernels, which end in a type or a width, unlike those of libraries.
ours='^[a-z0-9_]+_(f32|f64|bf16|wide|[0-9]+)$'

fail() {
    printf 'FAILED: %s\n' "$*"
    failed+=("$*")
}

# Runs a command with the time limit, records a failure, and appends the output to a file.
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

# Adds the folder of cuBLASLt in PyTorch's packages to LD_LIBRARY_PATH if the loader does not find the library.
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
    printf 'cuBLASLt: %s\n' "${found:-not found, except in LD_LIBRARY_PATH}"
}

# Like run, for tests: fails if they are skipped or run nothing.
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
        # racecheck covers only our kernels: cuBLASLt's have intended races. initcheck has to see all kernels, or it would
        # report reads of what cuBLASLt wrote.
        [[ $tool == racecheck ]] && which=(--kernel-name "regex=$ours")
        TRANSDIFF_CASES=${CASES:-7} run_tests "$sanitizer" --tool "$tool" --error-exitcode 9 "${which[@]}" \
            tests/transdiff/backend_equivalence cuda --nocapture --test-threads 1
    done
}

# Like run, for the benchmark: adds the round to the JSON lines.
run_round() {
    local round=$1 code
    shift
    : >"$out/round"
    run "$out/round" "$@"
    code=$?
    sed "s/^{\(.*\)}$/{\"round\": $round, \1}/" "$out/round" >>"$lines"
    rm "$out/round"
    return "$code"
}

bench() {
    local lines=$out/lines.jsonl round word
    : >"$lines"
    # Options of both implementations.
    local same=(--device "${DEVICE:-cuda}" --preset "${PRESET:-large}" --dtype "${DTYPE:-bf16}" --res "${RES:-256}"
        --batch "${BATCH:-64}" --steps "${STEPS:-100}" --train-batch "${TRAIN_BATCH:-64}" --repeat "${REPEAT:-3}")
    run "$out/check.json" "$python" peer_pytorch.py --check golden
    run "$lines" "$python" ceilings.py
    for round in $(seq "${ROUNDS:-2}"); do
        printf '\nround %d\n' "$round"
        for word in ${WHAT:-ar,step,sample vae train mrar}; do
            run_round "$round" ./measure "${same[@]}" --what "$word"
            # The peer has no multi-reference autoregression.
            [[ $word == mrar ]] && continue
            run_round "$round" "$python" peer_pytorch.py "${same[@]}" --what "$word" --impl plain
            run_round "$round" "$python" peer_pytorch.py "${same[@]}" --what "$word" --impl strong
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
