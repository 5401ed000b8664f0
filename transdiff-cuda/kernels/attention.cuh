// Shared by all attention kernels: parameters, the block-causal mask, the dropout mask, and tiles in shared memory.
#pragma once
#include "common.cuh"

constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;
// Maximum number of segment ends in the parameters.
constexpr int MAX_ENDS = 512;

// q, k, v, y or a gradient of them: element (b, i, h, e) is at address + b·image + i·row + h·head + e, in elements.
struct Heads {
    uint64_t address, image, row, head;
};

struct Attention {
    Heads q, k, v;
    uint32_t heads, queries, keys, size;
    // Factor of the scores.
    float scale;
    // True if all addresses, strides and the head size are multiples of 16 bytes.
    uint32_t vectors;
    // Words of the dropout mask [B, H, Nq, ⌈Nkv/32⌉], bit i of word j for key 32·j + i, or 0 without dropout; and the factor
    // of the probabilities that it keeps, 1 without dropout.
    uint64_t kept;
    float dropout_scale;
    // Ascending segment ends of the block-causal mask; without any, every query sees every key.
    uint32_t ends, end[MAX_ENDS];
};

// The tile of rows of a block: image, head and first row.
struct TileOrigin {
    uint32_t image, head, first;
};

// Blocks are ordered by tile of `rows` rows, then head, then image.
DEVICE TileOrigin tile_origin(const Attention &a, uint32_t all, uint32_t rows) {
    const uint32_t tiles = (all + rows - 1) / rows, index = blockIdx.x / tiles;
    return TileOrigin{index / a.heads, index % a.heads, blockIdx.x % tiles * rows};
}

template <typename T>
DEVICE T *rows_of(const Heads &h, const TileOrigin &at, uint32_t first) {
    return reinterpret_cast<T *>(h.address) + at.image * h.image + at.head * h.head + first * h.row;
}

// Index of a query over all images and heads: the position of its log-sum-exp.
DEVICE uint64_t query_index(const Attention &a, const TileOrigin &at, uint32_t query) {
    return (uint64_t(at.image) * a.heads + at.head) * a.queries + query;
}

// ---- block-causal mask ----

// Number of segment ends that are at most `position`.
DEVICE uint32_t ends_up_to(const Attention &a, uint32_t position) {
    uint32_t low = 0, high = a.ends;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (a.end[middle] <= position) low = middle + 1;
        else high = middle;
    }
    return low;
}

// Visible length of a query: the number of leading keys that it sees. Queries past the last have its visible length.
DEVICE uint32_t visible_len(const Attention &a, uint32_t query) {
    if (a.ends == 0) return a.keys;
    const uint32_t last = a.queries - 1;
    return a.end[ends_up_to(a, (query < last ? query : last) + a.keys - a.queries)];
}

// The first query that sees `key`.
DEVICE uint32_t first_query(const Attention &a, uint32_t key) {
    const uint32_t before = ends_up_to(a, key), start = before == 0 ? 0 : a.end[before - 1];
    const uint32_t offset = a.ends == 0 ? 0 : a.keys - a.queries;
    return start > offset ? start - offset : 0;
}

// ---- dropout ----

// The word of the dropout mask whose bit `key % 32` is that of a query and key; 0 past the last query or word.
DEVICE uint32_t kept_word(const Attention &a, const TileOrigin &at, uint32_t query, uint32_t key) {
    const uint32_t words = (a.keys + 31) / 32, word = key / 32;
    // Or the addresses of all rows would be computed before a loop over keys, and spilled.
    keep_in_loop(query);
    if (query >= a.queries || word >= words) return 0;
    return reinterpret_cast<const uint32_t *>(a.kept)[query_index(a, at, query) * words + word];
}

// ---- tiles in shared memory ----

// Elements between rows of a tile: an odd number of 16-byte units, so that eight rows start in different banks.
template <typename T, int E>
constexpr int PITCH = E + LANES<T>;

// The first `valid` elements at `from`, then zeros.
template <typename T>
DEVICE Vec<T, LANES<T>> gather(const T *from, int valid) {
    Vec<T, LANES<T>> v;
#pragma unroll
    for (int i = 0; i < LANES<T>; i++) v.at[i] = i < valid ? from[i] : from_float<T>(0.0f);
    return v;
}

// Starts to load N rows of E elements from row `first` on, with zeros past the head size and past the `all` rows of the
// tensor. All threads call it; before reading the tile they wait for their own copies and then for each other. The
// lanes of a warp have reconverged on return, as tensor cores require.
template <int E, int N, typename T>
DEVICE void load_tile(T *tile, const Attention &a, const Heads &tensor, const TileOrigin &at, uint32_t first,
                      uint32_t all) {
    constexpr int VECTORS = E / LANES<T>;
    const T *rows = rows_of<const T>(tensor, at, first);
    for (int i = int(threadIdx.x); i < N * VECTORS; i += int(blockDim.x)) {
        const int row = i / VECTORS, column = i % VECTORS * LANES<T>;
        const int valid = first + row < all ? int(a.size) - column : 0;
        const T *from = valid > 0 ? rows + row * tensor.row + column : rows;
        T *to = tile + row * PITCH<T, E> + column;
        if (a.vectors) copy_async_16(to, from, valid > 0);
        else store(to, gather(from, valid));
    }
    copy_async_commit();
    __syncwarp();
}
