// Partition of contiguous tensors [G, R, D] between threads: G groups (images) of R rows (tokens) of D columns
// (channels).
#pragma once
#include "common.cuh"

// A thread group iterates over a chunk of the rows of one group, each thread over its own V columns. Grid: one block
// per `thread_groups` chunks and per part of a row.
struct RowPartition {
    // Rows per group, columns per row.
    uint64_t rows, width;
    // Threads per thread group, thread groups per block, and blocks that share the columns of a row.
    uint32_t thread_group, thread_groups, blocks_per_row;
    // Rows per chunk, chunks per group, total chunks.
    uint32_t rows_per_chunk, chunks_per_group, chunks;
};

// The part of one thread.
struct RowChunk {
    // Index of the chunk over all groups, and the group.
    uint64_t index, group;
    // Index of the first row over all groups, and the number of rows; 0 for an idle thread.
    uint64_t row;
    int rows;
    // First of the V columns.
    uint64_t column;
};

template <int V>
DEVICE RowChunk row_chunk(const RowPartition &p) {
    const uint32_t rank = threadIdx.x % p.thread_group, thread_group = threadIdx.x / p.thread_group;
    const uint64_t chunk = uint64_t(blockIdx.x / p.blocks_per_row) * p.thread_groups + thread_group;
    const uint64_t column = (uint64_t(blockIdx.x % p.blocks_per_row) * p.thread_group + rank) * V;
    const uint64_t group = uint32_t(chunk) / p.chunks_per_group;
    const uint64_t from = (chunk - group * p.chunks_per_group) * p.rows_per_chunk;
    const bool idle = thread_group >= p.thread_groups || chunk >= p.chunks || column >= p.width;
    const int rows = idle ? 0 : int(p.rows - from < p.rows_per_chunk ? p.rows - from : p.rows_per_chunk);
    return RowChunk{chunk, group, group * p.rows + from, rows, column};
}

// A sample of a dropout, counted from the first of the batch, and the index of its first element.
struct Sample {
    uint32_t index;
    uint64_t first;
};

// The sample of a chunk; it is several groups.
DEVICE Sample sample_of(const Dropout &dropout, const RowPartition &p, const RowChunk &chunk) {
    const uint32_t index = uint32_t(chunk.group) / dropout.per_sample;
    return Sample{index, uint64_t(index) * dropout.per_sample * p.rows * p.width};
}

// Dropout factors of V elements from `element` on. V is 1, or V, `element` and the size of a sample are multiples of 4.
template <int V>
DEVICE void dropout_factors_at(const Dropout &dropout, const Sample &sample, uint64_t element, float (&factor)[V]) {
    if constexpr (V == 1) {
        factor[0] = dropout_factor(dropout, sample.index, element - sample.first);
    } else {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            float four[4];
            dropout_factors(dropout, sample.index, uint32_t((element + i - sample.first) / 4), four);
#pragma unroll
            for (int j = 0; j < 4; j++) factor[i + j] = four[j];
        }
    }
}

// Loads V elements at `address`, or `otherwise` if the address is null.
template <int V, typename T>
DEVICE void load_or(float (&to)[V], const T *address, uint64_t at, float otherwise) {
    if (address != nullptr) {
        load_floats<V>(to, address + at);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) to[i] = otherwise;
    }
}
