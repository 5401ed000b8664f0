// Gated residual with dropout: y ← x + gate · dropout(u). x, u, y [G, R, D], gate [G, D]. x, y and dy are of the type S of
// the residual stream, all others of type T.
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
template <typename S, typename T, int V>
DEVICE void gated_residual(const ResidualParams &p) {
    const RowChunk chunk = row_chunk<V>(p.partition);
    if (chunk.rows == 0) return;
    const S *const x = reinterpret_cast<const S *>(p.x);
    const T *const u = reinterpret_cast<const T *>(p.u);
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
        store_floats(reinterpret_cast<S *>(p.y) + at, a[i]);
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
template <typename S, typename T, int V>
DEVICE void gated_residual_backward(const ResidualBackwardParams &p) {
    const RowChunk chunk = row_chunk<V>(p.partition);
    if (chunk.rows == 0) return;
    const T *const u = reinterpret_cast<const T *>(p.u);
    const S *const dy = reinterpret_cast<const S *>(p.dy);
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

#define RESIDUAL(type, S, T, V, suffix)                                                                  \
    KERNEL(gated_residual##suffix##_##type, ResidualParams, p) { gated_residual<S, T, V>(p); }           \
    KERNEL(gated_residual_backward##suffix##_##type, ResidualBackwardParams, p) {                        \
        gated_residual_backward<S, T, V>(p);                                                             \
    }

RESIDUAL(f32, float, float, 1, )
RESIDUAL(bf16, bf16, bf16, 1, )
RESIDUAL(bf16, float, bf16, 1, _stream)
RESIDUAL(f32, float, float, LANES<float>, _wide)
RESIDUAL(bf16, bf16, bf16, LANES<bf16>, _wide)
RESIDUAL(bf16, float, bf16, LANES<bf16>, _stream_wide)
