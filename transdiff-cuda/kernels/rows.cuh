// Rows of D channels in the registers of a team of threads: a warp, or a block.
#pragma once
#include "common.cuh"

// Channels that a thread has, in vectors of V that lie a team apart.
constexpr int ROW_NUMBERS = 8;
// Threads of a block whose warps are teams.
constexpr int ROW_THREADS = 256;

template <bool block>
struct Team {
    float *scratch;

    DEVICE int member() const { return block ? int(threadIdx.x) : int(threadIdx.x) % WARP; }
    DEVICE int size() const { return block ? int(blockDim.x) : WARP; }
    // Its number among all teams of the grid.
    DEVICE uint64_t number() const {
        return block ? blockIdx.x : uint64_t(blockIdx.x) * (ROW_THREADS / WARP) + threadIdx.x / WARP;
    }

    template <int N>
    DEVICE void sums(float (&values)[N]) const {
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
DEVICE uint32_t row_column(int member, int size, int i) {
    return uint32_t(i * size + member) * V;
}

// A thread's part of a row; zeros past its end.
template <typename T, int V>
DEVICE void load_row(float (&to)[ROW_NUMBERS / V][V], const T *row, uint32_t width, int member, int size) {
#pragma unroll
    for (int i = 0; i < ROW_NUMBERS / V; i++) {
        const uint32_t column = row_column<V>(member, size, i);
        if (column < width) {
            load_floats<V>(to[i], row + column);
        } else {
#pragma unroll
            for (int j = 0; j < V; j++) to[i][j] = 0.0f;
        }
    }
}

// x ← (1 + scale) · x + shift or weight · x + bias: `one` is 1 or 0.
template <int V, typename T>
DEVICE void apply_affine(float (&x)[V], const T *factor, const T *summand, float one) {
    float f[V], s[V];
    load_floats<V>(f, factor);
    load_floats<V>(s, summand);
#pragma unroll
    for (int j = 0; j < V; j++) x[j] = fmaf(x[j], one + f[j], s[j]);
}
