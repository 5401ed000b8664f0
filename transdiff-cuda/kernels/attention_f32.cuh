// Attention in f32 without tensor cores: 256 threads, in 16 lines of 16, share a square tile of scores. Line t has the
// rows t·SIDE to t·SIDE + SIDE − 1; thread c of a line has the columns c, c + 16, … of scores and of outputs.
#pragma once
#include "attention.cuh"

namespace scalar {

constexpr int LINE = 16, THREADS = LINE * LINE;

// Rows and columns per thread (SIDE), and per tile (STEP).
template <int E>
constexpr int SIDE = E <= 64 ? 4 : 2;
template <int E>
constexpr int STEP = LINE * SIDE<E>;
template <int E>
constexpr int TILE = STEP<E> * PITCH<float, E>;

DEVICE int line() { return int(threadIdx.x) / LINE; }
DEVICE int column() { return int(threadIdx.x) % LINE; }

// s ← rows · columnsᵀ, of two tiles.
template <int E>
DEVICE void multiply_transposed(float (&s)[SIDE<E>][SIDE<E>], const float *rows, const float *columns) {
    constexpr int S = SIDE<E>, P = PITCH<float, E>;
#pragma unroll
    for (int i = 0; i < S * S; i++) s[i / S][i % S] = 0.0f;
// One iteration is 4·SIDE² multiplications; unrolling would spill registers.
#pragma unroll 1
    for (int e = 0; e < E; e += 4) {
        Vec<float, 4> row[S];
#pragma unroll
        for (int i = 0; i < S; i++) row[i] = load<4>(rows + (line() * S + i) * P + e);
#pragma unroll
        for (int j = 0; j < S; j++) {
            const Vec<float, 4> other = load<4>(columns + (column() + LINE * j) * P + e);
#pragma unroll
            for (int i = 0; i < S; i++) {
#pragma unroll
                for (int x = 0; x < 4; x++) s[i][j] = fmaf(row[i].at[x], other.at[x], s[i][j]);
            }
        }
    }
}

// out ← out + weights · tile. The weights are exchanged between threads through `shared`, whose rows belong to one
// warp.
template <int E>
DEVICE void multiply(float (&out)[SIDE<E>][E / LINE], const float (&weights)[SIDE<E>][SIDE<E>], float *shared,
                     const float *tile) {
    constexpr int S = SIDE<E>, P = PITCH<float, STEP<E>>;
    float *mine = shared + line() * S * P;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < S * S; i++) mine[i / S * P + column() + LINE * (i % S)] = weights[i / S][i % S];
    __syncwarp();
#pragma unroll 2
    for (int n = 0; n < STEP<E>; n += 4) {
        Vec<float, 4> weight[S];
#pragma unroll
        for (int i = 0; i < S; i++) weight[i] = load<4>(mine + i * P + n);
#pragma unroll
        for (int x = 0; x < 4; x++) {
#pragma unroll
            for (int c = 0; c < E / LINE; c++) {
                const float value = tile[(n + x) * PITCH<float, E> + column() + LINE * c];
#pragma unroll
                for (int i = 0; i < S; i++) out[i][c] = fmaf(weight[i].at[x], value, out[i][c]);
            }
        }
    }
}

template <int N>
DEVICE void store_row(float *to, const float (&values)[N], float factor, uint32_t size) {
#pragma unroll
    for (int c = 0; c < N; c++) {
        if (column() + LINE * c < int(size)) to[column() + LINE * c] = values[c] * factor;
    }
}

// ---- dropout: bit S·i + j is set if score (i, j) of a thread is kept ----

// Rows are queries, of which `query` is the thread's first; columns are keys, of which `key` is the tile's first, a multiple
// of 32.
template <int S>
DEVICE uint32_t kept_by_query(const Attention &a, const TileOrigin &at, uint32_t query, uint32_t key) {
    uint32_t kept = 0;
#pragma unroll
    for (int b = 0; b < S * S; b += 2) {
        const uint32_t word = kept_word(a, at, query + b / S, key + LINE * (b % S)) >> column();
        kept |= (word & 1) << b | (word >> LINE & 1) << (b + 1);
    }
    return kept;
}

// Rows are keys, of which `key` is the thread's first; columns are queries, of which `query` is the tile's first.
template <int S>
DEVICE uint32_t kept_by_key(const Attention &a, const TileOrigin &at, uint32_t key, uint32_t query) {
    uint32_t kept = 0;
#pragma unroll
    for (int j = 0; j < S; j++) {
        const uint32_t word = kept_word(a, at, query + column() + LINE * j, key) >> key % 32;
#pragma unroll
        for (int i = 0; i < S; i++) kept |= (word >> i & 1) << (S * i + j);
    }
    return kept;
}

// Sets dropped scores to 0.
template <int S>
DEVICE void apply_dropout(float (&s)[S][S], uint32_t kept) {
#pragma unroll
    for (int b = 0; b < S * S; b++) s[b / S][b % S] = kept >> b & 1 ? s[b / S][b % S] : 0.0f;
}

}  // namespace scalar
