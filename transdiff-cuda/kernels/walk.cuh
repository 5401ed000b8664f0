// Walks over tensors of any strides: what elementwise operations and copies share.
#pragma once
#include "common.cuh"

constexpr int WALK_AXES = 6;
// Threads of a block, and vectors that each of them reads before it writes the first.
constexpr int WALK_THREADS = 256;
constexpr int WALK_UNROLL = 2;

// Common axes of N tensors, the last tensor being the output. The elements of the innermost axis are vectors; strides
// count numbers.
template <int N>
struct Walk {
    uint64_t address[N];
    uint64_t strides[N][WALK_AXES];
    uint64_t shape[WALK_AXES];
    // Vectors in all.
    uint64_t count;
    uint32_t axes;
    // Bit i: the numbers of a vector of tensor i are one number, repeated.
    uint32_t repeats;
};

// a / b: the short division where it is enough.
DEVICE uint64_t divide(uint64_t a, uint64_t b) {
    return (a | b) >> 32 == 0 ? uint32_t(a) / uint32_t(b) : a / b;
}

// Number of the vector that this thread handles as its `turn`th.
DEVICE uint64_t walk_index(int turn) {
    return uint64_t(blockIdx.x) * (WALK_THREADS * WALK_UNROLL) + turn * WALK_THREADS + threadIdx.x;
}

// Where in each tensor vector `index` begins.
template <int N>
DEVICE void walk_positions(const Walk<N> &walk, uint64_t index, uint64_t (&at)[N]) {
#pragma unroll
    for (int t = 0; t < N; t++) at[t] = 0;
#pragma unroll
    for (int axis = WALK_AXES - 1; axis > 0; axis--) {
        if (axis >= int(walk.axes)) continue;
        const uint64_t outer = divide(index, walk.shape[axis]), here = index - outer * walk.shape[axis];
#pragma unroll
        for (int t = 0; t < N; t++) at[t] += here * walk.strides[t][axis];
        index = outer;
    }
#pragma unroll
    for (int t = 0; t < N; t++) at[t] += index * walk.strides[t][0];
}

// A vector of tensor `t`, as floats.
template <typename T, int V, int N>
DEVICE void walk_load(const Walk<N> &walk, int t, uint64_t at, float (&to)[V]) {
    const T *const address = reinterpret_cast<const T *>(walk.address[t]) + at;
    if (walk.repeats >> t & 1) {
        const float value = to_float(*address);
#pragma unroll
        for (int i = 0; i < V; i++) to[i] = value;
    } else {
        load_floats<V>(to, address);
    }
}
