// Layer norm with affine and modulation, rows [D] of x [G, R, D]:
// y ← (x̂·weight + bias)·(1 + scale) + shift with x̂ = (x − mean)·rstd; stats ← (mean, rstd).
#include "thread_group.cuh"

// Largest block that holds a row in registers, and threads per longer row.
constexpr int NORM_THREADS = 1024, NORM_LONG_THREADS = 512;

struct NormParams {
    // x and y [G, R, D], x of the type S of the residual stream, all others of type T; `stats` [G, R, 2] are f32. All but
    // x and y may be 0.
    uint64_t x, y, stats, weight, bias, scale, shift;
    uint64_t scale_stride, shift_stride;
    // Total rows, and rows per group.
    uint64_t rows, rows_per_group;
    uint32_t width;
    float eps;
};

// Addresses of a row's affine and modulation.
template <typename T>
struct NormRow {
    const T *weight, *bias, *scale, *shift;

    DEVICE NormRow(const NormParams &p, uint64_t row) {
        const uint64_t group = row / p.rows_per_group;
        weight = reinterpret_cast<const T *>(p.weight);
        bias = reinterpret_cast<const T *>(p.bias);
        scale = reinterpret_cast<const T *>(p.scale) + group * p.scale_stride;
        shift = reinterpret_cast<const T *>(p.shift) + group * p.shift_stride;
    }

    template <int V>
    DEVICE void finish(const NormParams &p, float (&x)[V], uint32_t column, float mean, float rstd) const {
#pragma unroll
        for (int j = 0; j < V; j++) x[j] = (x[j] - mean) * rstd;
        if (p.weight != 0) apply_affine<V>(x, weight + column, bias + column, 0.0f);
        if (p.scale != 0) apply_affine<V>(x, scale + column, shift + column, 1.0f);
    }
};

DEVICE void store_stats(const NormParams &p, uint64_t row, float mean, float rstd) {
    if (p.stats == 0) return;
    float *const stats = reinterpret_cast<float *>(p.stats) + 2 * row;
    stats[0] = mean;
    stats[1] = rstd;
}

// One row per thread group (warp or block), held in registers, C channels per thread.
template <typename S, typename T, int V, int C, bool block>
DEVICE void norm_modulate(const NormParams &p) {
    constexpr int VECTORS = C / V;
    __shared__ float scratch[WARP];
    const ThreadGroup<block> group{scratch};
    const uint64_t row = group.index();
    if (row >= p.rows) return;
    const S *const from = reinterpret_cast<const S *>(p.x) + row * p.width;
    T *const to = reinterpret_cast<T *>(p.y) + row * p.width;
    const int rank = group.rank(), size = group.size();
    float x[VECTORS][V], mean[1] = {}, variance[1] = {};
    load_row<S, V, VECTORS>(x, from, p.width, rank, size);
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
#pragma unroll
        for (int j = 0; j < V; j++) mean[0] += x[i][j];
    }
    group.all_sum(mean);
    mean[0] /= float(p.width);
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        if (row_column<V>(rank, size, i) >= p.width) break;
#pragma unroll
        for (int j = 0; j < V; j++) variance[0] = fmaf(x[i][j] - mean[0], x[i][j] - mean[0], variance[0]);
    }
    group.all_sum(variance);
    const float rstd = 1.0f / sqrtf(variance[0] / float(p.width) + p.eps);
    const NormRow<T> row_params(p, row);
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const uint32_t column = row_column<V>(rank, size, i);
        if (column >= p.width) break;
        row_params.finish(p, x[i], column, mean[0], rstd);
        store_floats(to + column, x[i]);
    }
    if (rank == 0) store_stats(p, row, mean[0], rstd);
}

// One row of any length per block, which reads it three times.
template <typename S, typename T, int V>
DEVICE void norm_modulate_long(const NormParams &p) {
    __shared__ float scratch[WARP];
    const uint64_t row = blockIdx.x;
    const S *const from = reinterpret_cast<const S *>(p.x) + row * p.width;
    T *const to = reinterpret_cast<T *>(p.y) + row * p.width;
    const uint64_t first = threadIdx.x * V, step = blockDim.x * V;
    float mean = 0.0f, variance = 0.0f, x[V];
    for (uint64_t column = first; column < p.width; column += step) {
        load_floats<V>(x, from + column);
#pragma unroll
        for (int j = 0; j < V; j++) mean += x[j];
    }
    mean = block_sum(mean, scratch) / float(p.width);
    for (uint64_t column = first; column < p.width; column += step) {
        load_floats<V>(x, from + column);
#pragma unroll
        for (int j = 0; j < V; j++) variance = fmaf(x[j] - mean, x[j] - mean, variance);
    }
    const float rstd = 1.0f / sqrtf(block_sum(variance, scratch) / float(p.width) + p.eps);
    const NormRow<T> row_params(p, row);
    for (uint64_t column = first; column < p.width; column += step) {
        load_floats<V>(x, from + column);
        row_params.finish(p, x, uint32_t(column), mean, rstd);
        store_floats(to + column, x);
    }
    if (threadIdx.x == 0) store_stats(p, row, mean, rstd);
}

#define NORM_WARP(type, S, T, V, suffix, C)                                             \
    KERNEL_BOUNDED(norm_warp_##C##suffix##_##type, NormParams, p, ROW_THREADS, 1) {   \
        norm_modulate<S, T, V, C, false>(p);                                          \
    }

// Warps for rows of up to 256, 1,024 and 1,280 channels.
#define NORM(type, S, T, V, suffix)                                                     \
    NORM_WARP(type, S, T, V, suffix, 8)                                               \
    NORM_WARP(type, S, T, V, suffix, 32)                                              \
    NORM_WARP(type, S, T, V, suffix, 40)                                              \
    KERNEL_BOUNDED(norm_block##suffix##_##type, NormParams, p, NORM_THREADS, 1) {     \
        norm_modulate<S, T, V, CHANNELS_PER_THREAD, true>(p);                         \
    }                                                                                 \
    KERNEL_BOUNDED(norm_long##suffix##_##type, NormParams, p, NORM_LONG_THREADS, 1) { norm_modulate_long<S, T, V>(p); }

NORM(f32, float, float, 1, )
NORM(bf16, bf16, bf16, 1, )
NORM(bf16, float, bf16, 1, _stream)
NORM(f32, float, float, LANES<float>, _wide)
NORM(bf16, bf16, bf16, LANES<bf16>, _wide)
NORM(bf16, float, bf16, LANES<bf16>, _stream_wide)
