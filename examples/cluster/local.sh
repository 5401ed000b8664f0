#!/usr/bin/env bash
# Trains on the quickstart's digits in two processes of this machine, with the same samples per step as in one:
#   examples/cluster/local.sh [DIRECTORY]      (default: out/cluster)
# Variables: RANKS (a power of two up to 64, 2), STEPS (1500), PROFILE (release) of Cargo, TRANSDIFF (path of a
# program that was built with MPI, from the root of the repository; by default it is built). Needs an MPI library, see docs/cluster.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
out=${1:-out/cluster}
ranks=${RANKS:-2}
profile=${PROFILE:-release}
target=${CARGO_TARGET_DIR:-target}/$profile
[[ $profile != dev ]] || target=${CARGO_TARGET_DIR:-target}/debug

if [[ -z ${TRANSDIFF-} ]]; then
    cargo build --profile "$profile" --package transdiff-cli --features mpi
    TRANSDIFF=$target/transdiff
fi
if [[ ! -d $out/quickstart/cache ]]; then
    cargo run --profile "$profile" --example quickstart -- --out "$out/quickstart" --steps 1 --samples 10 --sampling-steps 1
fi

# More ranks than cores are for trying out. Root is the usual user in containers.
export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
if [[ -f $out/run/config.toml ]]; then
    arguments=(--resume "$out/run")
else
    arguments=(--preset small --data "$out/quickstart/cache" --out "$out/run")
fi
# 64 samples per step, whatever the number of processes.
arguments+=(--steps "${STEPS:-1500}" --set train.batch=$((64 / ranks)) --set train.accumulate=1)
examples/cluster/launch.sh -np "$ranks" "$TRANSDIFF" train "${arguments[@]}" --device cpu --threads 1
