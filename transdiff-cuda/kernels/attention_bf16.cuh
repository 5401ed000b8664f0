// Attention in bf16 on tensor cores: a warp has 16 rows, in fragments of 16 numbers of each; scores and sums are f32.
#pragma once
#include "attention.cuh"

namespace tensor {

constexpr int WARPS = 4, THREADS = WARPS * WARP, ROWS = 16 * WARPS;

// Rows of the tiles that a block passes over: what two of them of each kind take fits the shared memory of every device.
template <int E>
constexpr int STEP = E <= 80 ? 64 : 32;

template <int E>
constexpr int TILE_PITCH = PITCH<bf16, E>;
// Numbers of a tile.
template <int E>
constexpr int TILE = STEP<E> * TILE_PITCH<E>;
// That of a block's own rows.
template <int E>
constexpr int OWN_TILE = ROWS * TILE_PITCH<E>;

DEVICE int lane() { return int(threadIdx.x) % WARP; }
DEVICE int warp() { return int(threadIdx.x) / WARP; }

// ---- shared memory ----
//
// Two stages of two tiles each: one is worked on while the other is loaded. A block's own rows are in registers meanwhile:
// they come by way of the second stage and what follows it, and its results leave from the beginning. Neither has room of
// its own, so that as many blocks fit an A100's memory as fit its registers.

// The stage of the tiles that begin `distance` rows behind the first.
template <int E>
DEVICE bf16 *stage_of(bf16 *stages, uint32_t distance) {
    return stages + distance / STEP<E> % 2 * 2 * TILE<E>;
}

// Begins to load the keys and the values from `key` on.
template <int E>
DEVICE void load_keys(bf16 *stages, const Attention &a, const Place &at, uint32_t key) {
    bf16 *keys = stage_of<E>(stages, key);
    load_tile<E, STEP<E>>(keys, a, a.k, at, key, a.keys);
    load_tile<E, STEP<E>>(keys + TILE<E>, a, a.v, at, key, a.keys);
}

// 16 rows of a tile as the left factor of a product.
template <int E>
DEVICE void load_rows(uint32_t (&rows)[E / 16][4], const bf16 *tile) {
    const bf16 *at = tile + lane() % 16 * TILE_PITCH<E> + lane() / 16 * 8;
#pragma unroll
    for (int k = 0; k < E / 16; k++) ldmatrix_x4(rows[k], at + k * 16);
}

// s ← rows · tileᵀ, 16 by 8·N.
template <int E, int N>
DEVICE void multiply_transposed(float (&s)[N][4], const uint32_t (&rows)[E / 16][4], const bf16 *tile) {
    const bf16 *at = tile + (lane() % 8 + lane() / 16 * 8) * TILE_PITCH<E> + lane() / 8 % 2 * 8;
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) s[n][i] = 0.0f;
    }
#pragma unroll
    for (int k = 0; k < E / 16; k++) {
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, at + n * 8 * TILE_PITCH<E> + k * 16);
            mma_bf16(s[n], rows[k], {b[0], b[1]});
            mma_bf16(s[n + 1], rows[k], {b[2], b[3]});
        }
    }
}

// out ← out + weights · tile for 16 rows of the tile; two tiles of scores are the weights' 16 columns.
template <int E>
DEVICE void multiply(float (&out)[E / 8][4], const float (&left)[4], const float (&right)[4], const bf16 *tile) {
    const uint32_t weights[4] = {pack_bf16(left[0], left[1]), pack_bf16(left[2], left[3]),
                                 pack_bf16(right[0], right[1]), pack_bf16(right[2], right[3])};
    const bf16 *at = tile + lane() % 16 * TILE_PITCH<E> + lane() / 16 * 8;
#pragma unroll
    for (int n = 0; n < E / 8; n += 2) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, at + n * 8);
        mma_bf16(out[n], weights, {b[0], b[1]});
        mma_bf16(out[n + 1], weights, {b[2], b[3]});
    }
}

// Writes the warp's 16 rows from `first` on, of `all` that a tensor has, times a factor for the upper eight and one for
// the lower. `tile` is shared memory of this warp alone.
template <int E>
DEVICE void store_rows(bf16 *tile, const float (&values)[E / 8][4], float upper, float lower, const Attention &a,
                       const Heads &tensor, const Place &at, uint32_t first, uint32_t all) {
    bf16 *rows = rows_of<bf16>(tensor, at, first);
    bf16 *mine = tile + lane() / 4 * TILE_PITCH<E> + lane() % 4 * 2;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < E / 8; n++) {
        const float(&v)[4] = values[n];
        *reinterpret_cast<uint32_t *>(mine + n * 8) = pack_bf16(v[0] * upper, v[1] * upper);
        *reinterpret_cast<uint32_t *>(mine + n * 8 + 8 * TILE_PITCH<E>) = pack_bf16(v[2] * lower, v[3] * lower);
    }
    __syncwarp();
#pragma unroll
    for (int i = lane(); i < 16 * E / 8; i += WARP) {
        const int row = i / (E / 8), column = i % (E / 8) * 8, valid = first + row < all ? int(a.size) - column : 0;
        bf16 *to = rows + row * tensor.row + column;
        const Vec<bf16, 8> v = load<8>(tile + row * TILE_PITCH<E> + column);
        if (a.vectors && valid > 0) store(to, v);
        if (a.vectors) continue;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            if (j < valid) to[j] = v.at[j];
        }
    }
}

// ---- dropout ----
//
// A lane holds four scores of a tile of 16 by 8: with g = lane / 4 and c = 2·(lane % 4), those at (g, c), (g, c + 1),
// (g + 8, c) and (g + 8, c + 1). Both functions give a bit for each, in this order. Where each row of probabilities is
// whole Philox blocks, every block is drawn once, by one of the four lanes that need parts of it.

// Rows are queries, the first of a lane being `query`; columns are keys, the first of the tile being `key`.
DEVICE uint32_t kept_by_query(const Attention &a, const Place &at, uint32_t query, uint32_t key) {
    const uint64_t upper = query_index(a, at, query) * a.keys + key, lower = upper + uint64_t(8) * a.keys;
    const uint32_t c = lane() % 4 * 2, odd = lane() % 2;
    if (a.keys % 4 == 0) {
        const uint32_t mine = kept_four(a.dropout, uint32_t(((odd ? lower : upper) + c / 4 * 4) / 4));
        const uint32_t theirs = warp_xor(mine, 1);
        const uint32_t above = odd ? theirs : mine, below = odd ? mine : theirs;
        return (above >> 2 * odd & 3) | (below >> 2 * odd & 3) << 2;
    }
    uint32_t kept = 0;
#pragma unroll
    for (int i = 0; i < 4; i++) kept |= kept_one(a.dropout, (i < 2 ? upper : lower) + c + i % 2) << i;
    return kept;
}

// Rows are keys, the first of the warp being `key`; columns are queries, the first of a lane being `query`.
DEVICE uint32_t kept_by_key(const Attention &a, const Place &at, uint32_t key, uint32_t query) {
    const uint64_t left = query_index(a, at, query) * a.keys + key, right = left + a.keys;
    const uint32_t g = lane() / 4;
    uint32_t kept = 0;
    if (a.keys % 4 == 0) {
        // Lanes that differ in the lower bits of g have the same two queries and the same two fours of keys.
        const uint32_t turn = g % 4;
        const uint64_t first = (turn % 2 == 0 ? left : right) + g / 4 * 4 + turn / 2 * 8;
        uint32_t four = kept_four(a.dropout, uint32_t(first / 4)) << 4 * turn;
        four |= warp_xor(four, 4);
        four |= warp_xor(four, 8);
#pragma unroll
        for (int i = 0; i < 4; i++) kept |= (four >> (4 * i + turn) & 1) << i;
        return kept;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) kept |= kept_one(a.dropout, (i % 2 == 0 ? left : right) + g + i / 2 * 8) << i;
    return kept;
}

}  // namespace tensor
