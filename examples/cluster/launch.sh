#!/usr/bin/env bash
# Runs mpirun with the arguments of this script, so that training ends with a checkpoint. mpirun kills the ranks on SIGTERM and
# Ctrl-C, but passes SIGUSR1 on to them: transdiff then writes a checkpoint and exits with 85.
#   launch.sh -np 16 --hostfile HOSTS transdiff train ..
set -u

# In the background, so that the shell gets signals meanwhile, and in a process group of its own, away from Ctrl-C.
set -m
mpirun "$@" &
job=$!
trap 'kill -USR1 $job' TERM INT HUP USR1
# wait returns early for a signal.
while wait "$job"; status=$?; kill -0 "$job" 2>/dev/null; do :; done
exit "$status"
