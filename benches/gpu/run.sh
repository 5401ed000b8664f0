#!/usr/bin/env bash
# Tests and measures the CUDA backend on this machine, from the folder that `cargo xtask gpu-bundle` creates. Requires an
# NVIDIA driver and cuBLASLt; the parts that compare, sanitize or profile also require the programs in brackets.
#
#     run.sh [PART]...       (default: first)
#
# first      the tests that use the device, then our passes and PyTorch plain; at most 330 s  [Python with PyTorch]
# second     our passes and PyTorch strong in alternation; at most 300 s                      [Python with PyTorch]
# profile    kernels of one decoder step and of one training step; as root                    [ncu, Python]
# sanitize   memcheck and racecheck with few cases, and a planted race     [compute-sanitizer, nvcc]
# initcheck  initcheck with few cases, for information: it reports reads by cuBLASLt that are intended [compute-sanitizer]
# tests      all tests of the programs, also those on the CPU
# bench      ceilings, then passes of ours, PyTorch plain and strong, in rounds  [Python with PyTorch and safetensors]
#
# A failure does not stop what follows. The last lines list each failure with the command that repeats it alone, and the
# seconds of each part; the exit code is 0 only if nothing failed. The folder OUT (default: logs, beside this file) receives
# the output as PARTS.log, measurements as PART.jsonl, failures as `failed`, and kernels as kernels-PASS.csv. table.md, the table of
# all measurements in OUT, is rewritten after each one, so that a run that is cut off leaves what it measured. A part replaces
# its own earlier measurements; other sizes belong in another OUT.
#
# PYTHON   Python with PyTorch (python3)
# DEADLINE seconds of `first` (330) or `second` (300); what does not fit is skipped and listed
# LIMIT    seconds of one command (100 for the tests of `first`, 180 in `second`, otherwise 600)
# WHAT     passes: words of comma-separated names; each word is one process per implementation (and round)
# ROUNDS   rounds of `bench` (2)
# DEVICE PRESET DTYPE RES BATCH STEPS TRAIN_BATCH REPEAT
#          options of `measure` (cuda large bf16 256 64 100 64 3)
# PEER_DEVICE  device of PyTorch (DEVICE)
# CASES    cases per operation under compute-sanitizer (7: no large shapes)
# LAUNCHES maximum number of kernels that `profile` measures per pass (6000)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")" || exit

python=${PYTHON:-python3}
out=${OUT:-logs}
mkdir -p "$out" || exit
out=$(cd "$out" && pwd)
# Output of the last command.
last=$(mktemp) || exit
trap 'rm -f "$last"' EXIT
export TRANSDIFF_GOLDEN=$PWD/golden PYTHONUNBUFFERED=1
# Compiled code of torch.compile, which later processes use again.
export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$PWD/inductor} TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-$PWD/triton}
export TORCHINDUCTOR_FX_GRAPH_CACHE=1
# Variables that a failed command may need when it is repeated.
needed=(LD_LIBRARY_PATH TRANSDIFF_GOLDEN TRANSDIFF_CASES TRANSDIFF_TRAINING_STEPS)
# Names of our kernels, which end in a type or a width, unlike those of libraries.
ours='^[a-z0-9_]+_(f32|f64|bf16|wide|[0-9]+)$'
# Options of both implementations.
same=(--preset "${PRESET:-large}" --dtype "${DTYPE:-bf16}" --res "${RES:-256}" --batch "${BATCH:-64}"
    --steps "${STEPS:-100}" --train-batch "${TRAIN_BATCH:-64}" --repeat "${REPEAT:-3}")
device=${DEVICE:-cuda}

# Records the failure of a command for a reason.
fail() {
    local reason=$1 name
    shift
    {
        printf 'FAILED (%s): %s\n    repeat: ' "$reason" "$*"
        for name in "${needed[@]}"; do
            [[ -z ${!name-} ]] || printf '%s=%q ' "$name" "${!name}"
        done
        printf '%q ' "$@"
        printf '\n'
    } | tee -a "$out/failed"
}

# Copies lines; adds measurements to those of the part, with the round, and rewrites the table.
record() {
    local line
    while IFS= read -r line || [[ -n $line ]]; do
        printf '%s\n' "$line"
        # Times under a profiler are no measurements.
        [[ $part != profile && $line == '{'*'"what"'*'}' ]] || continue
        printf '{"round": "%s", %s\n' "$round" "${line#\{}" >>"$out/$part.jsonl"
        "$python" table.py "$out"/*.jsonl >"$out/table.new" && mv "$out/table.new" "$out/table.md"
    done
}

# Runs a command for at most so many seconds, and not past the deadline of the part. Its output is kept in the file `last`.
# Returns the exit code; sets `reason` to the reason of a failure.
run() {
    local limit=$1 begun=$SECONDS code
    shift
    ((deadline - SECONDS >= limit)) || limit=$((deadline - SECONDS))
    : >"$last"
    if ((limit < 5)); then
        reason="skipped, no time left"
        return 125
    fi
    printf '\n--- %s\n' "$*"
    timeout -k 5 "$limit" "$@" 2>&1 | tee "$last" | record
    code=${PIPESTATUS[0]}
    local seconds=$((SECONDS - begun))
    printf -- '--- %d s\n' $seconds
    reason="exit code $code, $seconds s"
    ((code == 124 || code == 137 && seconds >= limit)) && reason="time limit, $seconds s"
    return "$code"
}

# Runs a command and records its failure.
check() {
    run "$@" && return
    fail "$reason" "${@:2}"
    return 1
}

# Like check, for tests: they may neither be skipped nor run nothing. Each test that failed is listed on its own.
check_tests() {
    local limit=$1 failures test
    shift
    if run "$limit" "$@"; then
        if grep -q SKIPPED "$last"; then
            fail "SKIPPED" "$@"
        elif ! grep -q '^test result: ok. [1-9]' "$last"; then
            fail "no test ran" "$@"
        fi
        return
    fi
    mapfile -t failures < <(sed -n '/^failures:$/,$ s/^    \([A-Za-z0-9_:]*\)$/\1/p' "$last")
    if [[ $1 != tests/* ]] || ((${#failures[@]} == 0)); then
        fail "$reason" "$@"
    fi
    for test in "${failures[@]}"; do
        [[ $1 != tests/* ]] || fail "$reason" "$1" "$test" --exact --nocapture
    done
}

# Measures passes in one process. If it fails, each pass that it has not measured gets a process of its own, the one that it
# failed in last.
measure() {
    local limit=$1 what=$2 pass missing=()
    shift 2
    run "$limit" "$@" --what "$what" && return
    fail "$reason" "$@" --what "$what"
    [[ $what == *,* ]] || return
    for pass in ${what//,/ }; do
        grep -q "\"what\": *\"$pass\"" "$last" || missing+=("$pass")
    done
    for pass in "${missing[@]:1}" "${missing[@]:0:1}"; do
        check "$limit" "$@" --what "$pass"
    done
}

measure_ours() {
    measure "$1" "$2" ./measure --device "$device" "${same[@]}"
}

measure_peer() {
    measure "$1" "$2" "$python" peer_pytorch.py --impl "$3" --device "${PEER_DEVICE:-$device}" "${same[@]}"
}

first() {
    local total=${DEADLINE:-330} start=$begun test what
    # At most half of the time, so that tests that hang leave time for measurements.
    deadline=$((start + total / 2))
    # Of the programs named cuda all tests use the device, of others those with cuda in their names.
    for test in tests/transdiff/* tests/transdiff-ffi/*; do
        if [[ $test == */cuda ]]; then
            check_tests "${LIMIT:-100}" "$test" --nocapture
        else
            check_tests "${LIMIT:-100}" "$test" cuda --nocapture
        fi
    done
    # A command that does not end on time takes 5 s more.
    deadline=$((start + total - 5))
    for what in ${WHAT:-ar,step,sample,vae,train}; do
        measure_ours "${LIMIT:-600}" "$what"
    done
    check "${LIMIT:-60}" "$python" ceilings.py
    for what in ${WHAT:-ar,step,sample,vae,train}; do
        measure_peer "${LIMIT:-600}" "$what" plain
    done
}

second() {
    local what
    deadline=$((begun + ${DEADLINE:-300} - 5))
    for what in ${WHAT:-step,sample train}; do
        measure_ours "${LIMIT:-180}" "$what"
        measure_peer "${LIMIT:-180}" "$what" strong
    done
}

# Path of a program of the CUDA toolkit.
toolkit() {
    command -v "$1" || ls "${CUDA_PATH:-/usr/local/cuda}/bin/$1" 2>/dev/null || printf '%s\n' "$1"
}

profile() {
    local ncu listed metric metrics='' pass csv
    ncu=$(toolkit ncu)
    # Each kernel runs again for each group of counters that do not fit together, so few are read. Names differ between GPUs.
    listed=$("$ncu" --query-metrics 2>/dev/null)
    for metric in gpu__time_duration.sum dram__bytes_read.sum dram__bytes_write.sum \
        sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed sm__throughput.avg.pct_of_peak_sustained_elapsed; do
        # The last one replaces the one before.
        [[ $metric == sm__throughput* && $metrics == *sm__* ]] && continue
        [[ -z $listed || $listed == *"${metric%%.*} "* ]] && metrics+=${metrics:+,}$metric
    done
    for pass in ${WHAT:-step train}; do
        csv=$out/kernels-$pass.csv
        local command=("$ncu" --clock-control none --cache-control none --profile-from-start off
            --launch-count "${LAUNCHES:-6000}" --metrics "$metrics" --csv --page raw --print-units base
            --log-file "$csv" ./measure --device "$device" "${same[@]}" --profile --what "$pass")
        rm -f "$csv"
        if run "${LIMIT:-600}" "${command[@]}" && run 60 "$python" kernels.py "$csv"; then
            continue
        fi
        ! grep -qs ERR_NVGPUCTRPERM "$last" "$csv" ||
            reason+=", ERR_NVGPUCTRPERM: only root may read the counters"
        command -v "$ncu" >/dev/null || reason='Nsight Compute (ncu) is not installed'
        fail "$reason" "${command[@]}"
    done
}

# Runs the tests of operations with few cases under a tool of compute-sanitizer.
sanitized=("$(toolkit compute-sanitizer)" --error-exitcode 9 --tool)
operations=(tests/transdiff/backend_equivalence cuda --nocapture --test-threads 1)

sanitize() {
    local -x TRANSDIFF_CASES=${CASES:-7}
    # racecheck covers only our kernels: cuBLASLt's have intended races.
    local race=("${sanitized[@]}" racecheck --kernel-name "regex=$ours")
    check_tests "${LIMIT:-600}" "${sanitized[@]}" memcheck "${operations[@]}"
    check_tests "${LIMIT:-600}" "${race[@]}" "${operations[@]}"

    # Shows that the names of our kernels match: otherwise racecheck would pass without checking any.
    local nvcc planted=$PWD/planted_race
    nvcc=$(toolkit nvcc)
    if ! check 60 "$nvcc" -fatbin -arch=native -o "$planted.fatbin" planted_race.cu ||
        ! check 60 "$nvcc" -o "$planted" planted_race.cu -ldl; then
        printf 'NOT CHECKED: racecheck reports a planted race\n'
        return
    fi
    run 60 "${race[@]}" "$planted" "$planted.fatbin"
    if (($? != 9)) || ! grep -q 'Race reported' "$last" || ! grep -q planted_race_f32 "$last"; then
        fail "racecheck does not report the planted race, so its filter may match none of our kernels" \
            "${race[@]}" "$planted" "$planted.fatbin"
    fi
}

initcheck() {
    local -x TRANSDIFF_CASES=${CASES:-7}
    # All kernels, or it would report reads of what cuBLASLt wrote.
    run "${LIMIT:-600}" "${sanitized[@]}" initcheck "${operations[@]}" || printf 'for information: %s\n' "$reason"
}

tests() {
    local test
    for test in tests/*/*; do
        check_tests "${LIMIT:-600}" "$test" --nocapture
    done
}

bench() {
    local limit=${LIMIT:-600} number word
    check "$limit" "$python" peer_pytorch.py --check golden
    check "$limit" "$python" ceilings.py
    for number in $(seq "${ROUNDS:-2}"); do
        round="bench $number"
        for word in ${WHAT:-ar,step,sample vae train mrar}; do
            measure_ours "$limit" "$word"
            # The peer has no multi-reference autoregression.
            [[ $word == mrar ]] && continue
            measure_peer "$limit" "$word" plain
            measure_peer "$limit" "$word" strong
        done
    done
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

# Unpacks the programs, and prints what is measured, on what.
prepare() {
    if [[ programs.tar.xz -nt measure ]]; then
        # Python unpacks where the system has no xz.
        tar -xJmf programs.tar.xz || "$python" -m tarfile -e programs.tar.xz . || return
    fi
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || echo 'no nvidia-smi'
    ldd --version | head -1
    sha256sum measure tests/*/*
    find_cublaslt
}

main() {
    local part round deadline reason begun=0 times=''
    : >"$out/failed"
    prepare || fail 'the programs cannot be unpacked' tar -xJmf programs.tar.xz
    for part in "$@"; do
        printf '\n=== %s ===\n' "$part"
        rm -f "$out/$part.jsonl"
        round=$part
        deadline=$((begun + 86400))
        "$part"
        times+="$part $((SECONDS - begun)) s, "
        begun=$SECONDS
    done
    printf '\n'
    [[ ! -e $out/table.md ]] || cat "$out/table.md"
    printf '\n%sin all %d s\n' "$times" $SECONDS
    if [[ -s $out/failed ]]; then
        printf '\nin %s:\n' "$PWD"
        cat "$out/failed"
        return 1
    fi
    printf 'all passed: %s\n' "$*"
}

(($#)) || set -- first
for part in "$@"; do
    case $part in
        first | second | profile | sanitize | initcheck | tests | bench) ;;
        *)
            printf 'usage: run.sh [first|second|profile|sanitize|initcheck|tests|bench]...\n' >&2
            exit 2
            ;;
    esac
done
log=$*
main "$@" 2>&1 | tee "$out/${log// /-}.log"
exit "${PIPESTATUS[0]}"
