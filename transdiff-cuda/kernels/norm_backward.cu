// Backward pass of layer norm with affine and modulation.
//
// With x̂ = (x − mean)·rstd and g = dy·(1 + scale)·weight: dx = rstd·(g − mean(g) − x̂·mean(g·x̂)). The other gradients
// follow from Σ dy and Σ dy·x̂ over rows, which are first summed per chunk of rows. x, dy, dx [G, R, D]. x and dx are of the
// type S of the residual stream, all others of type T.
#include "thread_group.cuh"

// Largest block that holds a row in registers, and threads per longer row: a thread needs more than the 64 registers
// that it would have in a block of 1024.
constexpr int NORM_BACKWARD_THREADS = 512;

struct NormBackwardParams {
    // `weight`, `scale`, `dx`, `residual` and `sums` may be 0. `residual` is added to dx, of its type. `sums` [chunks, 2, D] are
    // f32.
    uint64_t x, dy, stats, weight, scale, dx, residual, sums;
    uint64_t scale_stride;
    // Rows per group.
    uint64_t rows;
    uint32_t width;
    // Rows per chunk, chunks per group, total chunks.
    uint32_t rows_per_chunk, chunks_per_group, chunks;
};

// Rows of a chunk: group, first row over all groups, number of rows.
struct NormChunk {
    uint64_t group, row;
    int rows;
};

DEVICE NormChunk norm_chunk(const NormBackwardParams &p, uint32_t chunk) {
    const uint64_t group = chunk / p.chunks_per_group, from = uint64_t(chunk % p.chunks_per_group) * p.rows_per_chunk;
    const uint64_t rows = p.rows - from < p.rows_per_chunk ? p.rows - from : p.rows_per_chunk;
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

// A thread's part of a row, C channels.
template <typename S, typename T, int V, int C>
struct RowVectors {
    // V elements of x are several vectors if S is larger than T.
    static constexpr int P = PIECE<S, V>;
    Vec<S, P> x[C / P];
    Vec<T, V> dy[C / V];

    DEVICE float x_at(int i, int j) const { return to_float(x[(i * V + j) / P].at[j % P]); }
    DEVICE float dy_at(int i, int j) const { return to_float(dy[i].at[j]); }

    DEVICE void fetch(const NormBackwardParams &p, uint64_t row, int rank, int size) {
#pragma unroll
        for (int i = 0; i < C / V; i++) {
            const uint32_t column = row_column<V>(rank, size, i);
            if (column >= p.width) break;
#pragma unroll
            for (int j = 0; j < V; j += P) {
                x[(i * V + j) / P] = load<P>(reinterpret_cast<const S *>(p.x) + row * p.width + column + j);
            }
            dy[i] = load<V>(reinterpret_cast<const T *>(p.dy) + row * p.width + column);
        }
    }
};

// (1 + scale)·weight of a thread's part of a row.
template <typename T, int V, int N>
DEVICE void row_factors(const NormBackwardParams &p, uint64_t group, int rank, int size, float (&factor)[N][V]) {
#pragma unroll
    for (int i = 0; i < N; i++) {
        const uint32_t column = row_column<V>(rank, size, i);
        if (column < p.width) norm_factors<T, V>(p, group, column, factor[i]);
    }
}

// dx of V channels from `column` on ← dx + residual.
template <typename S, int V>
DEVICE void finish_dx(const NormBackwardParams &p, uint64_t row, uint32_t column, float (&dx)[V]) {
    if (p.residual != 0) {
        float residual[V];
        load_floats<V>(residual, reinterpret_cast<const S *>(p.residual) + row * p.width + column);
#pragma unroll
        for (int j = 0; j < V; j++) dx[j] += residual[j];
    }
    store_floats(reinterpret_cast<S *>(p.dx) + row * p.width + column, dx);
}

// One chunk of rows per warp, one row of C channels per lane in registers at a time. The sums over the rows are in shared
// memory, where each lane adds to its own: beside a row, registers for them would leave room for few warps.
template <typename S, typename T, int V, int C>
DEVICE void norm_backward_warp(const NormBackwardParams &p) {
    constexpr int VECTORS = C / V, P = V < 4 ? V : 4;
    // Of dy and dy·x̂. A lane's pieces are a warp apart, so that the lanes of an access are in different banks.
    __shared__ Vec<float, P> memory[2][ROW_THREADS / WARP][C / P * WARP];
    const ThreadGroup<false> group{nullptr};
    if (group.index() >= p.chunks) return;
    const NormChunk chunk = norm_chunk(p, uint32_t(group.index()));
    const int rank = group.rank(), warp = int(threadIdx.x) / WARP;
    Vec<float, P> *const sum_dy = memory[0][warp] + rank, *const sum_dy_x = memory[1][warp] + rank;
    const float inverse_width = 1.0f / float(p.width);
    float factor[VECTORS][V] = {};
    row_factors<T>(p, chunk.group, rank, WARP, factor);
#pragma unroll
    for (int k = 0; k < C / P; k++) sum_dy[k * WARP] = sum_dy_x[k * WARP] = {};
    for (int r = 0; r < chunk.rows; r++) {
        const uint64_t row = chunk.row + r;
        const float *const stats = reinterpret_cast<const float *>(p.stats) + 2 * row;
        const float mean = stats[0], rstd = stats[1];
        RowVectors<S, T, V, C> current = {};
        current.fetch(p, row, rank, WARP);
        float sums[2] = {};
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            if (row_column<V>(rank, WARP, i) >= p.width) break;
#pragma unroll
            for (int j = 0; j < V; j += P) {
                Vec<float, P> &to_dy = sum_dy[(i * V + j) / P * WARP], &to_dy_x = sum_dy_x[(i * V + j) / P * WARP];
                Vec<float, P> of_dy = to_dy, of_dy_x = to_dy_x;
#pragma unroll
                for (int k = 0; k < P; k++) {
                    const float dy = current.dy_at(i, j + k), x = (current.x_at(i, j + k) - mean) * rstd;
                    const float g = dy * factor[i][j + k];
                    of_dy.at[k] += dy;
                    of_dy_x.at[k] = fmaf(dy, x, of_dy_x.at[k]);
                    sums[0] += g;
                    sums[1] = fmaf(g, x, sums[1]);
                }
                to_dy = of_dy;
                to_dy_x = of_dy_x;
            }
        }
        if (p.dx == 0) continue;
        group.all_sum(sums);
        const float mean_g = sums[0] * inverse_width, mean_gx = sums[1] * inverse_width;
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            const uint32_t column = row_column<V>(rank, WARP, i);
            if (column >= p.width) break;
            float dx[V];
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float x = (current.x_at(i, j) - mean) * rstd;
                dx[j] = rstd * (current.dy_at(i, j) * factor[i][j] - mean_g - x * mean_gx);
            }
            finish_dx<S>(p, row, column, dx);
        }
    }
    if (p.sums == 0) return;
    float *const to = reinterpret_cast<float *>(p.sums) + 2 * group.index() * p.width;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const uint32_t column = row_column<V>(rank, WARP, i);
        if (column >= p.width) break;
#pragma unroll
        for (int j = 0; j < V; j += P) {
            store(to + column + j, sum_dy[(i * V + j) / P * WARP]);
            store(to + p.width + column + j, sum_dy_x[(i * V + j) / P * WARP]);
        }
    }
}

// One chunk of rows per block, one row in registers at a time; the next one is loaded meanwhile.
template <typename S, typename T, int V>
DEVICE void norm_backward_block(const NormBackwardParams &p) {
    constexpr int VECTORS = CHANNELS_PER_THREAD / V;
    __shared__ float scratch[2 * WARP];
    const ThreadGroup<true> group{scratch};
    const NormChunk chunk = norm_chunk(p, uint32_t(group.index()));
    const int rank = group.rank(), size = group.size();
    const float inverse_width = 1.0f / float(p.width);
    float factor[VECTORS][V] = {}, sum_dy[VECTORS][V] = {}, sum_dy_x[VECTORS][V] = {};
    row_factors<T>(p, chunk.group, rank, size, factor);
    RowVectors<S, T, V, CHANNELS_PER_THREAD> next = {};
    next.fetch(p, chunk.row, rank, size);
    for (int r = 0; r < chunk.rows; r++) {
        const uint64_t row = chunk.row + r;
        const float *const stats = reinterpret_cast<const float *>(p.stats) + 2 * row;
        const float mean = stats[0], rstd = stats[1];
        const RowVectors<S, T, V, CHANNELS_PER_THREAD> current = next;
        if (r + 1 < chunk.rows) next.fetch(p, row + 1, rank, size);
        float x[VECTORS][V], g[VECTORS][V], sums[2] = {};
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            if (row_column<V>(rank, size, i) >= p.width) break;
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float dy = current.dy_at(i, j);
                x[i][j] = (current.x_at(i, j) - mean) * rstd;
                g[i][j] = dy * factor[i][j];
                sum_dy[i][j] += dy;
                sum_dy_x[i][j] = fmaf(dy, x[i][j], sum_dy_x[i][j]);
                sums[0] += g[i][j];
                sums[1] = fmaf(g[i][j], x[i][j], sums[1]);
            }
        }
        if (p.dx == 0) continue;
        group.all_sum(sums);
        const float mean_g = sums[0] * inverse_width, mean_gx = sums[1] * inverse_width;
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            const uint32_t column = row_column<V>(rank, size, i);
            if (column >= p.width) break;
            float dx[V];
#pragma unroll
            for (int j = 0; j < V; j++) dx[j] = rstd * (g[i][j] - mean_g - x[i][j] * mean_gx);
            finish_dx<S>(p, row, column, dx);
        }
    }
    if (p.sums == 0) return;
    float *const to = reinterpret_cast<float *>(p.sums) + 2 * group.index() * p.width;
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        const uint32_t column = row_column<V>(rank, size, i);
        if (column >= p.width) break;
        store_floats(to + column, sum_dy[i]);
        store_floats(to + p.width + column, sum_dy_x[i]);
    }
}

// Partial sums of a chunk of rows of any length. Grid: one block per chunk and `blockDim.x` columns.
template <typename S, typename T>
DEVICE void norm_backward_long_sums(const NormBackwardParams &p) {
    const uint32_t blocks_per_chunk = (p.width + blockDim.x - 1) / blockDim.x, index = blockIdx.x / blocks_per_chunk;
    const uint64_t column = uint64_t(blockIdx.x % blocks_per_chunk) * blockDim.x + threadIdx.x;
    if (column >= p.width) return;
    const NormChunk chunk = norm_chunk(p, index);
    float sum_dy = 0.0f, sum_dy_x = 0.0f;
    for (int r = 0; r < chunk.rows; r++) {
        const uint64_t row = chunk.row + r, at = row * p.width + column;
        const float *const stats = reinterpret_cast<const float *>(p.stats) + 2 * row;
        const float x = to_float(reinterpret_cast<const S *>(p.x)[at]);
        const float dy = to_float(reinterpret_cast<const T *>(p.dy)[at]);
        sum_dy += dy;
        sum_dy_x = fmaf(dy, (x - stats[0]) * stats[1], sum_dy_x);
    }
    float *const to = reinterpret_cast<float *>(p.sums) + 2 * uint64_t(index) * p.width + column;
    to[0] = sum_dy;
    to[p.width] = sum_dy_x;
}

// dx of one row of any length per block: chunks have one row.
template <typename S, typename T>
DEVICE void norm_backward_long_dx(const NormBackwardParams &p) {
    __shared__ float scratch[2 * WARP];
    const NormChunk chunk = norm_chunk(p, blockIdx.x);
    const float *const stats = reinterpret_cast<const float *>(p.stats) + 2 * chunk.row;
    const float mean = stats[0], rstd = stats[1];
    const S *const x = reinterpret_cast<const S *>(p.x) + chunk.row * p.width;
    const T *const dy = reinterpret_cast<const T *>(p.dy) + chunk.row * p.width;
    float sums[2] = {}, factor[1];
    for (uint32_t column = threadIdx.x; column < p.width; column += blockDim.x) {
        norm_factors<T, 1>(p, chunk.group, column, factor);
        const float g = to_float(dy[column]) * factor[0];
        sums[0] += g;
        sums[1] = fmaf(g, (to_float(x[column]) - mean) * rstd, sums[1]);
    }
    block_sums(sums, scratch);
    const float inverse_width = 1.0f / float(p.width);
    const float mean_g = sums[0] * inverse_width, mean_gx = sums[1] * inverse_width;
    for (uint32_t column = threadIdx.x; column < p.width; column += blockDim.x) {
        norm_factors<T, 1>(p, chunk.group, column, factor);
        const float g = to_float(dy[column]) * factor[0], normed = (to_float(x[column]) - mean) * rstd;
        float dx = rstd * (g - mean_g - normed * mean_gx);
        const uint64_t at = chunk.row * p.width + column;
        if (p.residual != 0) dx += to_float(reinterpret_cast<const S *>(p.residual)[at]);
        reinterpret_cast<S *>(p.dx)[at] = from_float<S>(dx);
    }
}

struct NormBackwardFinishParams {
    // `sums` [G, 2, D] are Σ dy and Σ dy·x̂ per group, in f32. All others may be 0.
    uint64_t sums, weight, bias, scale, dscale, dshift;
    uint64_t scale_stride;
    uint64_t groups, width;
};

// dscale ← Σ dy·(x̂·weight + bias), dshift ← Σ dy, and sums ← sums·(1 + scale), the contribution of a group to dbias
// and dweight. One thread per group and channel.
template <typename T>
DEVICE void norm_backward_finish(const NormBackwardFinishParams &p) {
    const uint64_t at = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (at >= p.groups * p.width) return;
    const uint64_t group = at / p.width, column = at - group * p.width;
    float *const sums = reinterpret_cast<float *>(p.sums) + 2 * group * p.width + column;
    const float sum_dy = sums[0], sum_dy_x = sums[p.width];
    if (p.dscale != 0) {
        float dscale = sum_dy_x;
        if (p.weight != 0) {
            const float weight = to_float(reinterpret_cast<const T *>(p.weight)[column]);
            dscale = fmaf(sum_dy_x, weight, sum_dy * to_float(reinterpret_cast<const T *>(p.bias)[column]));
        }
        reinterpret_cast<T *>(p.dscale)[at] = from_float<T>(dscale);
        reinterpret_cast<T *>(p.dshift)[at] = from_float<T>(sum_dy);
    }
    if (p.scale != 0) {
        const float factor = 1.0f + to_float(reinterpret_cast<const T *>(p.scale)[group * p.scale_stride + column]);
        sums[0] = sum_dy * factor;
        sums[p.width] = sum_dy_x * factor;
    }
}

#define NORM_BACKWARD_WARP(type, S, T, V, suffix, C, blocks)                                            \
    KERNEL_BOUNDED(norm_backward_warp_##C##suffix##_##type, NormBackwardParams, p, ROW_THREADS, blocks) { \
        norm_backward_warp<S, T, V, C>(p);                                                              \
    }

// Warps for rows of up to 256, 1,024 and 1,280 channels. `blocks`: resident blocks of the two longer ones per multiprocessor, as
// many as fit without register spilling.
#define NORM_BACKWARD(type, S, T, V, suffix, blocks)                                                        \
    NORM_BACKWARD_WARP(type, S, T, V, suffix, 8, 6)                                                         \
    NORM_BACKWARD_WARP(type, S, T, V, suffix, 32, blocks)                                                   \
    NORM_BACKWARD_WARP(type, S, T, V, suffix, 40, blocks)                                                   \
    KERNEL_BOUNDED(norm_backward_block##suffix##_##type, NormBackwardParams, p, NORM_BACKWARD_THREADS, 1) { \
        norm_backward_block<S, T, V>(p);                                                                    \
    }

#define NORM_LONG(type, S, T, suffix)                                                                         \
    KERNEL_BOUNDED(norm_backward_long_sums##suffix##_##type, NormBackwardParams, p, NORM_BACKWARD_THREADS, 1) { \
        norm_backward_long_sums<S, T>(p);                                                                     \
    }                                                                                                         \
    KERNEL_BOUNDED(norm_backward_long_dx##suffix##_##type, NormBackwardParams, p, NORM_BACKWARD_THREADS, 1) { \
        norm_backward_long_dx<S, T>(p);                                                                       \
    }

NORM_BACKWARD(f32, float, float, 1, , 1)
NORM_BACKWARD(bf16, bf16, bf16, 1, , 1)
NORM_BACKWARD(bf16, float, bf16, 1, _stream, 1)
NORM_BACKWARD(f32, float, float, LANES<float>, _wide, 3)
NORM_BACKWARD(bf16, bf16, bf16, LANES<bf16>, _wide, 3)
NORM_BACKWARD(bf16, float, bf16, LANES<bf16>, _stream_wide, 3)
NORM_LONG(f32, float, float, )
NORM_LONG(bf16, bf16, bf16, )
NORM_LONG(bf16, float, bf16, _stream)
KERNEL(norm_backward_finish_f32, NormBackwardFinishParams, p) { norm_backward_finish<float>(p); }
KERNEL(norm_backward_finish_bf16, NormBackwardFinishParams, p) { norm_backward_finish<bf16>(p); }
