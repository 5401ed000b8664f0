// Embedding: table lookup, and accumulation of its gradients.
#include "row_partition.cuh"

struct EmbeddingParams {
    uint64_t table, ids, out;
    RowPartition partition;
};

// out[i] ← table[ids[i]]. table [V, D], ids [n] i32, out [n, D], contiguous.
template <typename T, int V>
DEVICE void embedding(const EmbeddingParams &p) {
    const RowChunk chunk = row_chunk<V>(p.partition);
    for (int i = 0; i < chunk.rows; i++) {
        const uint64_t row = chunk.row + i, id = uint64_t(reinterpret_cast<const int32_t *>(p.ids)[row]);
        const T *const from = reinterpret_cast<const T *>(p.table) + id * p.partition.width + chunk.column;
        store(reinterpret_cast<T *>(p.out) + row * p.partition.width + chunk.column, load<V>(from));
    }
}

struct EmbeddingBackwardParams {
    uint64_t ids, dy, dtable;
    uint64_t count, width;
    // Blocks that share the columns of a row.
    uint32_t blocks_per_row;
};

constexpr int EMBEDDING_THREADS = 128;
// Ids that a lane loads before it compares the first.
constexpr int EMBEDDING_RUN = 4;

// dtable[v] ← Σ dy[i] over the i with ids[i] = v, in ascending order. Grid: one block per row of the table and part of
// its columns. Each warp compares 32 ids at once.
template <typename T, int V>
DEVICE void embedding_backward(const EmbeddingBackwardParams &p) {
    const int32_t row = int32_t(blockIdx.x / p.blocks_per_row), *const ids = reinterpret_cast<const int32_t *>(p.ids);
    const uint64_t column = (uint64_t(blockIdx.x % p.blocks_per_row) * EMBEDDING_THREADS + threadIdx.x) * V;
    const bool idle = column >= p.width;
    float sums[V] = {};
    for (uint64_t from = 0; from < p.count; from += EMBEDDING_RUN * WARP) {
        int32_t id[EMBEDDING_RUN];
#pragma unroll
        for (int r = 0; r < EMBEDDING_RUN; r++) {
            const uint64_t i = from + r * WARP + threadIdx.x % WARP;
            id[r] = i < p.count ? ids[i] : -1;
        }
#pragma unroll
        for (int r = 0; r < EMBEDDING_RUN; r++) {
            for (uint32_t found = warp_ballot(id[r] == row); found != 0 && !idle; found &= found - 1) {
                float dy[V];
                const uint64_t i = from + r * WARP + lowest_bit(found);
                load_floats<V>(dy, reinterpret_cast<const T *>(p.dy) + i * p.width + column);
#pragma unroll
                for (int j = 0; j < V; j++) sums[j] += dy[j];
            }
        }
    }
    if (!idle) store_floats(reinterpret_cast<T *>(p.dtable) + uint64_t(row) * p.width + column, sums);
}

KERNEL(embedding_f32, EmbeddingParams, p) { embedding<float, 1>(p); }
KERNEL(embedding_bf16, EmbeddingParams, p) { embedding<bf16, 1>(p); }
KERNEL(embedding_wide_f32, EmbeddingParams, p) { embedding<float, LANES<float>>(p); }
KERNEL(embedding_wide_bf16, EmbeddingParams, p) { embedding<bf16, LANES<bf16>>(p); }
KERNEL(embedding_backward_f32, EmbeddingBackwardParams, p) { embedding_backward<float, 1>(p); }
KERNEL(embedding_backward_bf16, EmbeddingBackwardParams, p) { embedding_backward<bf16, 1>(p); }
KERNEL(embedding_backward_wide_f32, EmbeddingBackwardParams, p) { embedding_backward<float, LANES<float>>(p); }
KERNEL(embedding_backward_wide_bf16, EmbeddingBackwardParams, p) { embedding_backward<bf16, LANES<bf16>>(p); }
