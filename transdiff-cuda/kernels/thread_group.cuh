// Thread groups (a warp or a block) that hold one row of D channels in registers.
#pragma once
#include "common.cuh"

// Channels per thread of a block that holds a row, in vectors of V; consecutive vectors of a thread are one thread group apart.
constexpr int CHANNELS_PER_THREAD = 8;
// Threads per block if its warps are the thread groups: few, so that a small batch occupies all multiprocessors.
constexpr int ROW_THREADS = 128;

template <bool block>
struct ThreadGroup {
    float *scratch;

    DEVICE int rank() const { return block ? int(threadIdx.x) : int(threadIdx.x) % WARP; }
    DEVICE int size() const { return block ? int(blockDim.x) : WARP; }
    // Index among all thread groups of the grid.
    DEVICE uint64_t index() const {
        return block ? blockIdx.x : uint64_t(blockIdx.x) * (ROW_THREADS / WARP) + threadIdx.x / WARP;
    }

    // Sums over the threads of the group, in every thread.
    template <int N>
    DEVICE void all_sum(float (&values)[N]) const {
        if constexpr (block) {
            block_sums(values, scratch);
        } else {
#pragma unroll
            for (int i = 0; i < N; i++) values[i] = warp_sum(values[i]);
        }
    }
};

// The first channel of this thread's vector `i`.
template <int V>
DEVICE uint32_t row_column(int rank, int size, int i) {
    return uint32_t(i * size + rank) * V;
}

// Loads a thread's part of a row, N vectors; zeros past its end.
template <typename T, int V, int N>
DEVICE void load_row(float (&to)[N][V], const T *row, uint32_t width, int rank, int size) {
#pragma unroll
    for (int i = 0; i < N; i++) {
        const uint32_t column = row_column<V>(rank, size, i);
        if (column < width) {
            load_floats<V>(to[i], row + column);
        } else {
#pragma unroll
            for (int j = 0; j < V; j++) to[i][j] = 0.0f;
        }
    }
}

// x ← (one + factor) · x + bias: (1 + scale) · x + shift with `one` = 1, weight · x + bias with `one` = 0.
template <int V, typename T>
DEVICE void apply_affine(float (&x)[V], const T *factor, const T *bias, float one) {
    float f[V], s[V];
    load_floats<V>(f, factor);
    load_floats<V>(s, bias);
#pragma unroll
    for (int j = 0; j < V; j++) x[j] = fmaf(x[j], one + f[j], s[j]);
}
