// Gated residual with dropout: y ← x + gate · dropout(u). x, u, y [G, R, D], gate [G, D].
#include "row_partition.cuh"

// Rows that a thread loads before it stores the first.
constexpr int RESIDUAL_ROWS = 2;

struct ResidualParams {
    uint64_t x, u, gate, y;
    uint64_t gate_stride;
    RowPartition partition;
    Dropout dropout;
};

// y ← x + gate · dropout(u). Grid: see RowPartition.
template <typename T, int V>
DEVICE void gated_residual(const ResidualParams &p) {
    const RowChunk chunk = row_chunk<V>(p.partition);
    if (chunk.rows == 0) return;
    const T *const x = reinterpret_cast<const T *>(p.x), *const u = reinterpret_cast<const T *>(p.u);
    float gate[V], a[RESIDUAL_ROWS][V], b[RESIDUAL_ROWS][V];
#pragma unroll
    for (int i = 0; i < RESIDUAL_ROWS; i++) {
        if (i >= chunk.rows) break;
        const uint64_t at = (chunk.row + i) * p.partition.width + chunk.column;
        load_floats<V>(a[i], x + at);
        load_floats<V>(b[i], u + at);
    }
    load_or<V>(gate, reinterpret_cast<const T *>(p.gate), chunk.group * p.gate_stride + chunk.column, 1.0f);
#pragma unroll
    for (int i = 0; i < RESIDUAL_ROWS; i++) {
        if (i >= chunk.rows) break;
        const uint64_t at = (chunk.row + i) * p.partition.width + chunk.column;
        if (p.dropout.active) {
            float factor[V];
            dropout_factors_at<V>(p.dropout, sample_of(p.dropout, p.partition, chunk), at, factor);
#pragma unroll
            for (int j = 0; j < V; j++) b[i][j] *= factor[j];
        }
#pragma unroll
        for (int j = 0; j < V; j++) a[i][j] = fmaf(gate[j], b[i][j], a[i][j]);
        store_floats(reinterpret_cast<T *>(p.y) + at, a[i]);
    }
}

struct ResidualBackwardParams {
    // `u` and `sums` are 0 if dgate is not requested; `sums` [chunks, D] are f32.
    uint64_t u, gate, dy, du, sums;
    uint64_t gate_stride;
    RowPartition partition;
    Dropout dropout;
};

// du ← gate · dropout(dy), and the partial sums of dropout(u) · dy over the rows of a chunk. Both use the same mask.
template <typename T, int V>
DEVICE void gated_residual_backward(const ResidualBackwardParams &p) {
    const RowChunk chunk = row_chunk<V>(p.partition);
    if (chunk.rows == 0) return;
    const T *const u = reinterpret_cast<const T *>(p.u), *const dy = reinterpret_cast<const T *>(p.dy);
    float gate[V], sums[V] = {};
    load_or<V>(gate, reinterpret_cast<const T *>(p.gate), chunk.group * p.gate_stride + chunk.column, 1.0f);
    for (int row = 0; row < chunk.rows; row += RESIDUAL_ROWS) {
        float a[RESIDUAL_ROWS][V], b[RESIDUAL_ROWS][V];
#pragma unroll
        for (int i = 0; i < RESIDUAL_ROWS; i++) {
            if (row + i >= chunk.rows) break;
            const uint64_t at = (chunk.row + row + i) * p.partition.width + chunk.column;
            load_or<V>(a[i], u, at, 0.0f);
            load_floats<V>(b[i], dy + at);
        }
#pragma unroll
        for (int i = 0; i < RESIDUAL_ROWS; i++) {
            if (row + i >= chunk.rows) break;
            const uint64_t at = (chunk.row + row + i) * p.partition.width + chunk.column;
            if (p.dropout.active) {
                float factor[V];
                dropout_factors_at<V>(p.dropout, sample_of(p.dropout, p.partition, chunk), at, factor);
#pragma unroll
                for (int j = 0; j < V; j++) b[i][j] *= factor[j];
            }
#pragma unroll
            for (int j = 0; j < V; j++) {
                sums[j] = fmaf(a[i][j], b[i][j], sums[j]);
                b[i][j] *= gate[j];
            }
            store_floats(reinterpret_cast<T *>(p.du) + at, b[i]);
        }
    }
    if (p.sums == 0) return;
    store_floats(reinterpret_cast<float *>(p.sums) + chunk.index * p.partition.width + chunk.column, sums);
}

KERNEL(gated_residual_f32, ResidualParams, p) { gated_residual<float, 1>(p); }
KERNEL(gated_residual_bf16, ResidualParams, p) { gated_residual<bf16, 1>(p); }
KERNEL(gated_residual_wide_f32, ResidualParams, p) { gated_residual<float, LANES<float>>(p); }
KERNEL(gated_residual_wide_bf16, ResidualParams, p) { gated_residual<bf16, LANES<bf16>>(p); }
KERNEL(gated_residual_backward_f32, ResidualBackwardParams, p) { gated_residual_backward<float, 1>(p); }
KERNEL(gated_residual_backward_bf16, ResidualBackwardParams, p) { gated_residual_backward<bf16, 1>(p); }
KERNEL(gated_residual_backward_wide_f32, ResidualBackwardParams, p) { gated_residual_backward<float, LANES<float>>(p); }
KERNEL(gated_residual_backward_wide_bf16, ResidualBackwardParams, p) { gated_residual_backward<bf16, LANES<bf16>>(p); }
