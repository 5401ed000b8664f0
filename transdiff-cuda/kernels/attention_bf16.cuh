// Attention in bf16 on tensor cores: 16 rows per warp, in fragments of 16 elements per row; scores and sums are f32.
#pragma once
#include "attention.cuh"

namespace tensor_core {

constexpr int WARPS = 4, THREADS = WARPS * WARP, ROWS = 16 * WARPS;

// Rows per tile that a block iterates over: two stages of two tiles fit the shared memory of every supported device.
template <int E>
constexpr int STEP = E <= 80 ? 64 : 32;

template <int E>
constexpr int TILE_PITCH = PITCH<bf16, E>;
// Elements per tile.
template <int E>
constexpr int TILE = STEP<E> * TILE_PITCH<E>;
// Elements of a tile of the block's own rows.
template <int E>
constexpr int ROW_TILE = ROWS * TILE_PITCH<E>;

DEVICE int lane() { return int(threadIdx.x) % WARP; }
DEVICE int warp() { return int(threadIdx.x) / WARP; }

// ---- shared memory ----
//
// Two stages of two tiles each: one is processed while the other is loaded. The block's own rows are loaded to
// registers through the second stage and the memory after it, and its results are stored through the first stage.
// Neither needs memory of its own, so that shared memory does not limit the number of resident blocks on an A100 below
// what registers do.

// Stage of the tiles that begin `distance` rows after the first.
template <int E>
DEVICE bf16 *stage_of(bf16 *stages, uint32_t distance) {
    return stages + distance / STEP<E> % 2 * 2 * TILE<E>;
}

// Starts to load the tiles of keys and values from `key` on.
template <int E>
DEVICE void load_keys(bf16 *stages, const Attention &a, const TileOrigin &at, uint32_t key) {
    bf16 *keys = stage_of<E>(stages, key);
    load_tile<E, STEP<E>>(keys, a, a.k, at, key, a.keys);
    load_tile<E, STEP<E>>(keys + TILE<E>, a, a.v, at, key, a.keys);
}

// Loads 16 rows of a tile as the left operand of a product.
template <int E>
DEVICE void load_rows(uint32_t (&rows)[E / 16][4], const bf16 *tile) {
    const bf16 *at = tile + lane() % 16 * TILE_PITCH<E> + lane() / 16 * 8;
#pragma unroll
    for (int k = 0; k < E / 16; k++) ldmatrix_x4(rows[k], at + k * 16);
}

// s ← rows · tileᵀ, [16, 8·N].
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

// out ← out + weights · tile for 16 rows of the tile; two score tiles are the 16 columns of the weights.
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

// Stores the warp's 16 rows from row `first` on, of the `all` rows of the tensor, multiplied by `upper` (first eight
// rows) or `lower`. `tile` is shared memory of this warp alone.
template <int E>
DEVICE void store_rows(bf16 *tile, const float (&values)[E / 8][4], float upper, float lower, const Attention &a,
                       const Heads &tensor, const TileOrigin &at, uint32_t first, uint32_t all) {
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

// Words of the dropout mask of the rows of a lane's scores, the queries `query` and `query` + 8, for the keys from `key` on,
// shifted so that the lowest bit is that of the lane's first column.
DEVICE void load_kept(uint32_t (&kept)[2], const Attention &a, const TileOrigin &at, uint32_t query, uint32_t key) {
#pragma unroll
    for (int r = 0; r < 2; r++) kept[r] = kept_word(a, at, query + 8 * r, key) >> (key % 32 + lane() % 4 * 2);
}

}  // namespace tensor_core
