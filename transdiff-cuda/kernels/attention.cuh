// What all attention kernels share: the problem, which keys a query sees, and the dropout of probabilities.
#pragma once
#include "common.cuh"

constexpr float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;
// Block ends that a launch carries.
constexpr int MAX_ENDS = 512;

// One of q, k, v, y and their gradients: element (b, i, h, e) is b·image + i·row + h·head + e elements on from `address`.
struct Heads {
    uint64_t address, image, row, head;
};

struct Attention {
    Heads q, k, v;
    uint32_t heads, queries, keys, size;
    // Factor of the scores.
    float scale;
    // Whether all addresses and strides are multiples of 16 bytes and the head size is one.
    uint32_t vectors;
    Dropout dropout;
    // Ascending ends of the blocks of keys; without any, every query sees every key.
    uint32_t ends, end[MAX_ENDS];
};

// The rows of one image and head that a block of threads has.
struct Place {
    uint32_t image, head, first;
};

// Blocks of threads count tiles of `rows` rows first, then heads, then images.
DEVICE Place place(const Attention &a, uint32_t all, uint32_t rows) {
    const uint32_t tiles = (all + rows - 1) / rows, index = blockIdx.x / tiles;
    return Place{index / a.heads, index % a.heads, blockIdx.x % tiles * rows};
}

template <typename T>
DEVICE T *rows_of(const Heads &h, const Place &at, uint32_t first) {
    return reinterpret_cast<T *>(h.address) + at.image * h.image + at.head * h.head + first * h.row;
}

// The number of a query among those of all images and heads: where its log-sum-exp is.
DEVICE uint64_t query_index(const Attention &a, const Place &at, uint32_t query) {
    return (uint64_t(at.image) * a.heads + at.head) * a.queries + query;
}

// ---- blocks ----

// How many ends are at most `position`.
DEVICE uint32_t ends_up_to(const Attention &a, uint32_t position) {
    uint32_t low = 0, high = a.ends;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (a.end[middle] <= position) low = middle + 1;
        else high = middle;
    }
    return low;
}

// How many leading keys a query sees; queries past the last see what it sees.
DEVICE uint32_t limit_of(const Attention &a, uint32_t query) {
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

// Which of the elements 4·block to 4·block + 3 are kept, a bit each.
DEVICE uint32_t kept_four(const Dropout &d, uint32_t block) {
    const Words words = philox4x32(Words{{block, d.index, d.step, d.purpose}}, d.key0, d.key1);
    uint32_t kept = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) kept |= uint32_t(words.at[i] >= d.threshold) << i;
    return kept;
}

DEVICE uint32_t kept_one(const Dropout &d, uint64_t element) {
    return kept_four(d, uint32_t(element / 4)) >> (element % 4) & 1;
}

// ---- tiles in shared memory ----

// Numbers from one row of a tile to the next: an odd number of 16-byte units, so that eight rows lie in different banks.
template <typename T, int E>
constexpr int PITCH = E + LANES<T>;

// The first `valid` of the numbers at `from`, then zeros.
template <typename T>
DEVICE Vec<T, LANES<T>> gather(const T *from, int valid) {
    Vec<T, LANES<T>> v;
#pragma unroll
    for (int i = 0; i < LANES<T>; i++) v.at[i] = i < valid ? from[i] : from_float<T>(0.0f);
    return v;
}

// Begins to load the N rows from `first` on, of `all` that a tensor has; E numbers of each, zeros past the end of rows
// and tensor. All threads take part, and must wait for their copies and then for each other. The lanes of a warp are
// together again afterwards, as tensor cores want them.
template <int E, int N, typename T>
DEVICE void load_tile(T *tile, const Attention &a, const Heads &tensor, const Place &at, uint32_t first, uint32_t all) {
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
