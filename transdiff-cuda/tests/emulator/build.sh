#!/bin/sh
# Builds the emulator with the project's kernels, or the .cu files given:
#     build.sh OUT_DIR [FILE.cu...]
# creates OUT_DIR/libcuda.so.1, and OUT_DIR/libcublasLt.so.13 and OUT_DIR/libnccl.so.2, links to it.
#
# CXX       the compiler (g++)
# CXXFLAGS  additional compiler flags
# HIDE      names of driver functions that the library does not export, as with an older driver
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh OUT_DIR [FILE.cu...]}
shift
[ $# -gt 0 ] || set -- "$here"/../../kernels/*.cu
mkdir -p "$out/objects"
out=$(cd "$out" && pwd)
rm -f "$out"/objects/*.o

flags="-std=c++17 -O2 -g1 -fPIC -pthread -fvisibility=hidden -Wall -Wextra ${CXXFLAGS:-}"
# Kernels: unroll pragmas are for the device; device code has no type-based aliasing; every access is checked for alignment
# (checks.cpp).
kernel_flags="-x c++ '-I$here' '-I$here/../../kernels' -Wno-unknown-pragmas -fno-strict-aliasing -fsanitize=alignment"

# Prints a line of compiler arguments for xargs.
compile() {
    echo "$2 -c '$1' -o '$out/objects/$(basename "$1").o'"
}

{
    for file in "$here"/*.cpp; do
        [ "$(basename "$file")" = test.cpp ] || compile "$file" "$flags"
    done
    for file in "$@"; do
        [ -e "$file" ] || continue
        compile "$file" "$flags $kernel_flags"
    done
} | xargs -P "$(nproc)" -L 1 "${CXX:-g++}"

{
    printf '{ local: no_such_symbol;'
    for name in ${HIDE:-}; do printf ' %s;' "$name"; done
    printf ' };\n'
} > "$out/objects/hidden.map"
"${CXX:-g++}" -shared -pthread -Wl,-soname,libcuda.so.1 -Wl,-Bsymbolic -Wl,-z,defs \
    -Wl,--version-script="$out/objects/hidden.map" -o "$out/libcuda.so.1.new" "$out"/objects/*.o -ldl -lrt
mv "$out/libcuda.so.1.new" "$out/libcuda.so.1"
ln -sf libcuda.so.1 "$out/libcublasLt.so.13"
ln -sf libcuda.so.1 "$out/libnccl.so.2"
