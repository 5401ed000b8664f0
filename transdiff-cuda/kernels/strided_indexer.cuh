// Strided iteration, shared by elementwise operations and copies.
#pragma once
#include "common.cuh"

constexpr int STRIDED_AXES = 6;
// Threads per block, and vectors that each thread loads before it stores the first.
constexpr int STRIDED_THREADS = 256;
constexpr int STRIDED_UNROLL = 2;

// Maps a linear index to the offsets of N tensors with common axes, of which the last is the output. The innermost axis
// counts vectors; strides count elements. Grid: ceil(count / (STRIDED_THREADS · STRIDED_UNROLL)) blocks.
template <int N>
struct StridedIndexer {
    uint64_t address[N];
    uint64_t strides[N][STRIDED_AXES];
    uint64_t shape[STRIDED_AXES];
    // Total number of vectors.
    uint64_t count;
    uint32_t axes;
    // Bit i: tensor i has stride 0 along the innermost axis, so a vector of it repeats one element.
    uint32_t repeats;
};

// a / b, by a 32-bit division if both fit.
DEVICE uint64_t divide(uint64_t a, uint64_t b) {
    return (a | b) >> 32 == 0 ? uint32_t(a) / uint32_t(b) : a / b;
}

// Index of this thread's vector number `step`.
DEVICE uint64_t strided_index(int step) {
    return uint64_t(blockIdx.x) * (STRIDED_THREADS * STRIDED_UNROLL) + step * STRIDED_THREADS + threadIdx.x;
}

// Offset of vector `index` in each tensor.
template <int N>
DEVICE void strided_offsets(const StridedIndexer<N> &indexer, uint64_t index, uint64_t (&at)[N]) {
#pragma unroll
    for (int t = 0; t < N; t++) at[t] = 0;
#pragma unroll
    for (int axis = STRIDED_AXES - 1; axis > 0; axis--) {
        if (axis >= int(indexer.axes)) continue;
        const uint64_t outer = divide(index, indexer.shape[axis]), here = index - outer * indexer.shape[axis];
#pragma unroll
        for (int t = 0; t < N; t++) at[t] += here * indexer.strides[t][axis];
        index = outer;
    }
#pragma unroll
    for (int t = 0; t < N; t++) at[t] += index * indexer.strides[t][0];
}

// Loads a vector of tensor `t` as floats.
template <typename T, int V, int N>
DEVICE void strided_load(const StridedIndexer<N> &indexer, int t, uint64_t at, float (&to)[V]) {
    const T *const address = reinterpret_cast<const T *>(indexer.address[t]) + at;
    if (indexer.repeats >> t & 1) {
        const float value = to_float(*address);
#pragma unroll
        for (int i = 0; i < V; i++) to[i] = value;
    } else {
        load_floats<V>(to, address);
    }
}
