// Tensors [G, R, D], contiguous: G groups (images) of R rows (tokens) of D columns (channels), cut among threads.
#pragma once
#include "common.cuh"

// A team of threads goes through a chunk of the rows of one group, every thread in columns of its own.
struct Tiles {
    // Of a group, and of a row.
    uint64_t rows, width;
    // Threads of a team, teams of a block, and blocks side by side that have the columns of a row.
    uint32_t team, teams, across;
    // Rows of a chunk, chunks of a group, and chunks in all.
    uint32_t per_chunk, per_group, chunks;
};

// What one thread has.
struct Tile {
    // Its chunk, counted over all groups, and the group.
    uint64_t chunk, group;
    // Its first row, counted over all groups, and how many there are; none if there is nothing to do.
    uint64_t row;
    int rows;
    // The first of its V columns.
    uint64_t column;
};

template <int V>
DEVICE Tile tile_of(const Tiles &t) {
    const uint32_t member = threadIdx.x % t.team, team = threadIdx.x / t.team;
    const uint64_t chunk = uint64_t(blockIdx.x / t.across) * t.teams + team;
    const uint64_t column = (uint64_t(blockIdx.x % t.across) * t.team + member) * V;
    const uint64_t group = uint32_t(chunk) / t.per_group, from = (chunk - group * t.per_group) * t.per_chunk;
    const bool idle = team >= t.teams || chunk >= t.chunks || column >= t.width;
    const int rows = idle ? 0 : int(t.rows - from < t.per_chunk ? t.rows - from : t.per_chunk);
    return Tile{chunk, group, group * t.rows + from, rows, column};
}

// Factors of V elements from `element` on; V is 1 or 4 divides V and `element`.
template <int V>
DEVICE void tile_factors(const Dropout &dropout, uint64_t element, float (&factor)[V]) {
    if constexpr (V == 1) {
        factor[0] = dropout_factor(dropout, element);
    } else {
#pragma unroll
        for (int i = 0; i < V; i += 4) {
            float four[4];
            dropout_factors(dropout, uint32_t((element + i) / 4), four);
#pragma unroll
            for (int j = 0; j < 4; j++) factor[i + j] = four[j];
        }
    }
}

// V numbers at `address`, or `otherwise` if there is no address.
template <int V, typename T>
DEVICE void load_or(float (&to)[V], const T *address, uint64_t at, float otherwise) {
    if (address != nullptr) {
        load_floats<V>(to, address + at);
    } else {
#pragma unroll
        for (int i = 0; i < V; i++) to[i] = otherwise;
    }
}
