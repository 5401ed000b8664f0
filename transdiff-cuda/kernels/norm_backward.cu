// Backward pass of the layer norm with affine and modulation.
//
// With x̂ = (x − mean)·rstd and g = dy·(1 + scale)·weight: dx = rstd·(g − mean g − x̂·mean(g·x̂)). The other gradients
// are made of Σ dy and Σ dy·x̂ over rows, which are summed for each chunk of rows first.
#include "rows.cuh"

// The largest team, and the threads of a row that is too long for one: a thread needs more than the 64 registers that
// 1024 of them would have each.
constexpr int NORM_BACKWARD_THREADS = 512;

struct NormBackwardParams {
    // `weight`, `scale`, `dx` and `sums` [chunks, 2, D], which are f32, may be 0.
    uint64_t x, dy, stats, weight, scale, dx, sums;
    uint64_t scale_stride;
    // Rows of a group.
    uint64_t rows;
    uint32_t width;
    // Rows of a chunk, chunks of a group, chunks in all.
    uint32_t per_chunk, per_group, chunks;
};

// The rows of a chunk.
struct NormChunk {
    uint64_t group, row;
    int rows;
};

DEVICE NormChunk norm_chunk(const NormBackwardParams &p, uint32_t chunk) {
    const uint64_t group = chunk / p.per_group, from = uint64_t(chunk % p.per_group) * p.per_chunk;
    const uint64_t rows = p.rows - from < p.per_chunk ? p.rows - from : p.per_chunk;
    return NormChunk{group, group * p.rows + from, int(rows)};
}

// (1 + scale)·weight of V channels.
template <typename T, int V>
DEVICE void norm_factors(const NormBackwardParams &p, uint64_t group, uint32_t column, float (&factor)[V]) {
    float scale[V];
#pragma unroll
    for (int j = 0; j < V; j++) factor[j] = 1.0f;
    if (p.weight != 0) load_floats<V>(factor, reinterpret_cast<const T *>(p.weight) + column);
    if (p.scale == 0) return;
    load_floats<V>(scale, reinterpret_cast<const T *>(p.scale) + group * p.scale_stride + column);
#pragma unroll
    for (int j = 0; j < V; j++) factor[j] *= 1.0f + scale[j];
}

// A thread's part of a row as it lies in memory: it is fetched while the row before is worked on.
template <typename T, int V>
struct Fetched {
    Vec<T, V> x[ROW_NUMBERS / V], dy[ROW_NUMBERS / V];

    DEVICE void fetch(const NormBackwardParams &p, uint64_t row, int member, int size) {
#pragma unroll
        for (int i = 0; i < ROW_NUMBERS / V; i++) {
            const uint32_t column = row_column<V>(member, size, i);
            if (column >= p.width) break;
            x[i] = load<V>(reinterpret_cast<const T *>(p.x) + row * p.width + column);
            dy[i] = load<V>(reinterpret_cast<const T *>(p.dy) + row * p.width + column);
        }
    }
};

// A chunk of rows for a team, a row in its registers at a time.
template <typename T, int V, bool block>
DEVICE void norm_backward(const NormBackwardParams &p) {
    constexpr int VECTORS = ROW_NUMBERS / V;
    __shared__ float scratch[2 * WARP];
    const Team<block> team{scratch};
    if (team.number() >= p.chunks) return;
    const NormChunk chunk = norm_chunk(p, uint32_t(team.number()));
    const int member = team.member(), size = team.size();
    const float over = 1.0f / float(p.width);
    float factor[VECTORS][V] = {}, plain[VECTORS][V] = {}, with_x[VECTORS][V] = {};
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const uint32_t column = row_column<V>(member, size, i);
        if (column < p.width) norm_factors<T, V>(p, chunk.group, column, factor[i]);
    }
    Fetched<T, V> next = {};
    next.fetch(p, chunk.row, member, size);
    for (int r = 0; r < chunk.rows; r++) {
        const uint64_t row = chunk.row + r;
        const float *const stats = reinterpret_cast<const float *>(p.stats) + 2 * row;
        const float mean = stats[0], rstd = stats[1];
        const Fetched<T, V> now = next;
        if (r + 1 < chunk.rows) next.fetch(p, row + 1, member, size);
        float x[VECTORS][V], g[VECTORS][V], sums[2] = {};
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            if (row_column<V>(member, size, i) >= p.width) break;
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float dy = to_float(now.dy[i].at[j]);
                x[i][j] = (to_float(now.x[i].at[j]) - mean) * rstd;
                g[i][j] = dy * factor[i][j];
                plain[i][j] += dy;
                with_x[i][j] = fmaf(dy, x[i][j], with_x[i][j]);
                sums[0] += g[i][j];
                sums[1] = fmaf(g[i][j], x[i][j], sums[1]);
            }
        }
        if (p.dx == 0) continue;
        team.sums(sums);
        const float mean_g = sums[0] * over, mean_gx = sums[1] * over;
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            const uint32_t column = row_column<V>(member, size, i);
            if (column >= p.width) break;
            float dx[V];
#pragma unroll
            for (int j = 0; j < V; j++) dx[j] = rstd * (g[i][j] - mean_g - x[i][j] * mean_gx);
            store_floats(reinterpret_cast<T *>(p.dx) + row * p.width + column, dx);
        }
    }
    if (p.sums == 0) return;
    float *const to = reinterpret_cast<float *>(p.sums) + 2 * team.number() * p.width;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const uint32_t column = row_column<V>(member, size, i);
        if (column >= p.width) break;
        store_floats(to + column, plain[i]);
        store_floats(to + p.width + column, with_x[i]);
    }
}

// The sums of a chunk of rows of any length: a block has `blockDim.x` columns of it.
template <typename T>
DEVICE void norm_long_sums(const NormBackwardParams &p) {
    const uint32_t across = (p.width + blockDim.x - 1) / blockDim.x, number = blockIdx.x / across;
    const uint64_t column = uint64_t(blockIdx.x % across) * blockDim.x + threadIdx.x;
    if (column >= p.width) return;
    const NormChunk chunk = norm_chunk(p, number);
    float plain = 0.0f, with_x = 0.0f;
    for (int r = 0; r < chunk.rows; r++) {
        const uint64_t row = chunk.row + r, at = row * p.width + column;
        const float *const stats = reinterpret_cast<const float *>(p.stats) + 2 * row;
        const float x = to_float(reinterpret_cast<const T *>(p.x)[at]), dy = to_float(reinterpret_cast<const T *>(p.dy)[at]);
        plain += dy;
        with_x = fmaf(dy, (x - stats[0]) * stats[1], with_x);
    }
    float *const to = reinterpret_cast<float *>(p.sums) + 2 * uint64_t(number) * p.width + column;
    to[0] = plain;
    to[p.width] = with_x;
}

// dx of a row of any length, for a block: a chunk is a row.
template <typename T>
DEVICE void norm_long_dx(const NormBackwardParams &p) {
    __shared__ float scratch[2 * WARP];
    const NormChunk chunk = norm_chunk(p, blockIdx.x);
    const float *const stats = reinterpret_cast<const float *>(p.stats) + 2 * chunk.row;
    const float mean = stats[0], rstd = stats[1];
    const T *const x = reinterpret_cast<const T *>(p.x) + chunk.row * p.width;
    const T *const dy = reinterpret_cast<const T *>(p.dy) + chunk.row * p.width;
    float sums[2] = {}, factor[1];
    for (uint32_t column = threadIdx.x; column < p.width; column += blockDim.x) {
        norm_factors<T, 1>(p, chunk.group, column, factor);
        const float g = to_float(dy[column]) * factor[0];
        sums[0] += g;
        sums[1] = fmaf(g, (to_float(x[column]) - mean) * rstd, sums[1]);
    }
    block_sums(sums, scratch);
    const float over = 1.0f / float(p.width), mean_g = sums[0] * over, mean_gx = sums[1] * over;
    for (uint32_t column = threadIdx.x; column < p.width; column += blockDim.x) {
        norm_factors<T, 1>(p, chunk.group, column, factor);
        const float g = to_float(dy[column]) * factor[0], normed = (to_float(x[column]) - mean) * rstd;
        const float dx = rstd * (g - mean_g - normed * mean_gx);
        reinterpret_cast<T *>(p.dx)[chunk.row * p.width + column] = from_float<T>(dx);
    }
}

struct NormFinishParams {
    // `sums` [G, 2, D] are Σ dy and Σ dy·x̂ of each group, in f32. All but them may be 0.
    uint64_t sums, weight, bias, scale, dscale, dshift;
    uint64_t scale_stride;
    uint64_t groups, width;
};

// dscale ← Σ dy·(x̂·weight + bias), dshift ← Σ dy; and `sums` ← sums·(1 + scale), what a group adds to dbias and dweight.
template <typename T>
DEVICE void norm_finish(const NormFinishParams &p) {
    const uint64_t at = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= p.groups * p.width) return;
    const uint64_t group = at / p.width, column = at - group * p.width;
    float *const sums = reinterpret_cast<float *>(p.sums) + 2 * group * p.width + column;
    const float plain = sums[0], with_x = sums[p.width];
    if (p.dscale != 0) {
        float dscale = with_x;
        if (p.weight != 0) {
            const float weight = to_float(reinterpret_cast<const T *>(p.weight)[column]);
            dscale = fmaf(with_x, weight, plain * to_float(reinterpret_cast<const T *>(p.bias)[column]));
        }
        reinterpret_cast<T *>(p.dscale)[at] = from_float<T>(dscale);
        reinterpret_cast<T *>(p.dshift)[at] = from_float<T>(plain);
    }
    if (p.scale != 0) {
        const float factor = 1.0f + to_float(reinterpret_cast<const T *>(p.scale)[group * p.scale_stride + column]);
        sums[0] = plain * factor;
        sums[p.width] = with_x * factor;
    }
}

#define NORM_BACKWARD(type, T, V, suffix)                                                                     \
    KERNEL(norm_backward_warp##suffix##_##type, NormBackwardParams, p) { norm_backward<T, V, false>(p); }     \
    KERNEL_BOUNDED(norm_backward_block##suffix##_##type, NormBackwardParams, p, NORM_BACKWARD_THREADS, 1) {   \
        norm_backward<T, V, true>(p);                                                                         \
    }

#define NORM_LONG(type, T)                                                                              \
    KERNEL_BOUNDED(norm_long_sums_##type, NormBackwardParams, p, NORM_BACKWARD_THREADS, 1) {            \
        norm_long_sums<T>(p);                                                                           \
    }                                                                                                   \
    KERNEL_BOUNDED(norm_long_dx_##type, NormBackwardParams, p, NORM_BACKWARD_THREADS, 1) {              \
        norm_long_dx<T>(p);                                                                             \
    }

NORM_BACKWARD(f32, float, 1, )
NORM_BACKWARD(bf16, bf16, 1, )
NORM_BACKWARD(f32, float, LANES<float>, _wide)
NORM_BACKWARD(bf16, bf16, LANES<bf16>, _wide)
NORM_LONG(f32, float)
NORM_LONG(bf16, bf16)
KERNEL(norm_finish_f32, NormFinishParams, p) { norm_finish<float>(p); }
KERNEL(norm_finish_bf16, NormFinishParams, p) { norm_finish<bf16>(p); }
