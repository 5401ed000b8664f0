#!/usr/bin/env bash
# Trains on machines that a file lists, by ssh: one process per GPU. The command, MPI, the data and the run's directory have the
# same paths on all of them, and ssh asks for no password.
#   ssh.sh HOSTS DATA RUN [OPTIONS OF transdiff train]     with lines such as "node1 slots=8" in HOSTS
# Variables: PRESET (paper-large-1step). With more GPUs than passes in a step of the preset, set train.batch and train.accumulate.
set -euo pipefail
if (($# < 3)); then
    printf 'expected HOSTS DATA RUN, got %d arguments\n' $# >&2
    exit 2
fi
hosts=$1 data=$2 run=$3
shift 3

if [[ -f $run/config.toml ]]; then
    arguments=(--resume "$run")
else
    arguments=(--preset "${PRESET:-paper-large-1step}" --data "$data" --out "$run")
fi
# Without -np, mpirun starts a process per slot. A process per GPU needs more than the one core that mpirun would bind it to.
"$(dirname "${BASH_SOURCE[0]}")/launch.sh" --hostfile "$hosts" --bind-to none transdiff train "${arguments[@]}" --device cuda "$@"
