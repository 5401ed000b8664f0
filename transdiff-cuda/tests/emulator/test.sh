#!/bin/sh
# The emulator's own test: test.sh OUT_DIR builds it in OUT_DIR and runs it. The emulator's messages about intended errors go
# to OUT_DIR/stderr.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: test.sh OUT_DIR}
"$here/build.sh" "$out" "$here/test_kernels.cu"
"${CXX:-g++}" -std=c++17 -O1 -g1 -Wall -Wextra -I"$here" "$here/test.cpp" -o "$out/test" "$out/libcuda.so.1" \
    -Wl,-rpath,"$(cd "$out" && pwd)" -ldl
"$out/test" 2> "$out/stderr"
EMULATED_CUDA_FAIL=cuInit:1:100 "$out/test" no-device
HIDE="cuGraphLaunch cuFuncGetParamInfo" "$here/build.sh" "$out/hidden" "$here/test_kernels.cu"
for name in cuGraphLaunch cuFuncGetParamInfo; do
    ! nm -D --defined-only "$out/hidden/libcuda.so.1" | grep -qw "$name" || { echo "$name is not hidden"; exit 1; }
done
