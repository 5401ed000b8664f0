// Attention without the matrix of scores: tiles of keys, with the softmax corrected as they come (Dao et al.,
// "FlashAttention", NeurIPS 2022). Tiles begin at multiples of their size whatever the call, and a tile that a query
// does not see leaves its sums as they are, to the bit: its result does not depend on which others are in its block.
#include "attention_bf16.cuh"
#include "attention_f32.cuh"

struct AttentionParams {
    Attention a;
    // `lse` is 0 where it is not wanted.
    Heads y;
    uint64_t lse;
};

// What is known of a row from the keys before: the largest score and Σ 2^(score − largest), of this thread's columns.
struct Row {
    float top, sum;
};

// Takes the largest score of further keys in. Returns the factor that brings earlier sums to it.
DEVICE float raise(Row &row, float top) {
    const float raised = fmaxf(row.top, top), factor = fast_exp2(row.top - raised);
    row.sum *= factor;
    row.top = raised;
    return factor;
}

// The factor of the sums of a row that no further key is added to; `sum` is that of all columns. No key: y is 0.
DEVICE float finish(const AttentionParams &p, const Place &at, uint32_t query, float top, float sum, bool writes) {
    if (p.lse != 0 && writes && query < p.a.queries)
        reinterpret_cast<float *>(p.lse)[query_index(p.a, at, query)] = top * LN_2 + logf(sum);
    return sum == 0.0f ? 0.0f : p.a.dropout.scale / sum;
}

namespace tensor {

// Scores → 2^(score − largest), earlier sums being brought to the new largest scores.
template <int E, int N>
DEVICE void soften(float (&s)[N][4], float (&out)[E / 8][4], Row (&rows)[2]) {
    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = s[0][2 * r];
#pragma unroll
        for (int n = 0; n < N; n++) top = fmaxf(top, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        factor[r] = raise(rows[r], warp_max<4>(top));
    }
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[n][i] = fast_exp2(s[n][i] - rows[i / 2].top);
            rows[i / 2].sum += s[n][i];
        }
    }
#pragma unroll
    for (int n = 0; n < E / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) out[n][i] *= factor[i / 2];
    }
}

// Scales the scores and hides the keys past the limits of the two rows. `least` is that of all rows of the warp, `key`
// the tile's first.
template <int N>
DEVICE void scale_and_hide(float (&s)[N][4], float factor, const uint32_t (&limits)[2], uint32_t least, uint32_t key) {
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) s[n][i] *= factor;
    }
    if (key + 8 * N <= least) return;
    const uint32_t mine = key + lane() % 4 * 2;
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (mine + 8 * n + i % 2 >= limits[i / 2]) s[n][i] = -INFINITY;
        }
    }
}

template <int N>
DEVICE void drop(float (&s)[N][4], const Attention &a, const Place &at, uint32_t query, uint32_t key) {
#pragma unroll
    for (int n = 0; n < N; n++) {
        const uint32_t kept = kept_by_query(a, at, query, key + 8 * n);
#pragma unroll
        for (int i = 0; i < 4; i++) s[n][i] = kept >> i & 1 ? s[n][i] : 0.0f;
    }
}

// A block has 64 queries. Tiles of keys and values are copied while those before are worked on.
template <int E>
DEVICE void forward(const AttentionParams &p) {
    constexpr int N = STEP<E>;
    DYNAMIC_SHARED(memory);
    bf16 *stages = reinterpret_cast<bf16 *>(memory), *queries = stages + 2 * TILE<E>;
    const Attention &a = p.a;
    const Place at = place(a, a.queries, ROWS);
    const uint32_t seen = limit_of(a, at.first + ROWS - 1);
    load_tile<E, ROWS>(queries, a, a.q, at, at.first, a.queries);
    load_keys<E>(stages, a, at, 0);
    const uint32_t query = at.first + 16 * warp() + lane() / 4;
    // Limits ascend: the warp's first is the least.
    const uint32_t limits[2] = {limit_of(a, query), limit_of(a, query + 8)}, least = warp_from(limits[0], 0);
    copy_async_wait<0>();
    __syncthreads();

    uint32_t q[E / 16][4];
    float out[E / 8][4] = {};
    Row rows[2] = {{-INFINITY, 0.0f}, {-INFINITY, 0.0f}};
    const int mine = 16 * warp() * TILE_PITCH<E>;
    load_rows<E>(q, queries + mine);
    __syncthreads();
    for (uint32_t key = 0; key < seen; key += N) {
        if (key + N < seen) load_keys<E>(stages, a, at, key + N);
        const bf16 *keys = stage_of<E>(stages, key), *values = keys + TILE<E>;
        float s[N / 8][4];
        multiply_transposed<E>(s, q, keys);
        scale_and_hide(s, a.scale * LOG2_E, limits, least, key);
        soften<E>(s, out, rows);
        if (a.dropout.active) drop(s, a, at, query, key);
#pragma unroll
        for (int n = 0; n < N / 8; n += 2) multiply<E>(out, s[n], s[n + 1], values + n * 8 * TILE_PITCH<E>);
        copy_async_wait<0>();
        __syncthreads();
    }
    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; r++)
        factor[r] = finish(p, at, query + 8 * r, rows[r].top, warp_sum<4>(rows[r].sum), lane() % 4 == 0);
    store_rows<E>(stages + mine, out, factor[0], factor[1], a, p.y, at, at.first + 16 * warp(), a.queries);
}

}  // namespace tensor

// ---- f32 ----

namespace plain {

// Scores → 2^(score − largest), earlier sums being brought to the new largest scores.
template <int E>
DEVICE void soften(float (&s)[SIDE<E>][SIDE<E>], float (&out)[SIDE<E>][E / LINE], Row (&rows)[SIDE<E>]) {
#pragma unroll
    for (int i = 0; i < SIDE<E>; i++) {
        float top = s[i][0];
#pragma unroll
        for (int j = 1; j < SIDE<E>; j++) top = fmaxf(top, s[i][j]);
        const float factor = raise(rows[i], warp_max<LINE>(top));
#pragma unroll
        for (int j = 0; j < SIDE<E>; j++) {
            s[i][j] = exp2f(s[i][j] - rows[i].top);
            rows[i].sum += s[i][j];
        }
#pragma unroll
        for (int c = 0; c < E / LINE; c++) out[i][c] *= factor;
    }
}

template <int E>
DEVICE void forward(const AttentionParams &p) {
    constexpr int N = STEP<E>;
    DYNAMIC_SHARED(memory);
    float *queries = reinterpret_cast<float *>(memory), *keys = queries + TILE<E>, *values = keys + TILE<E>;
    float *weights = values + TILE<E>;
    const Attention &a = p.a;
    const Place at = place(a, a.queries, N);
    const uint32_t seen = limit_of(a, at.first + N - 1), query = at.first + line() * SIDE<E>;
    load_tile<E, N>(queries, a, a.q, at, at.first, a.queries);

    float out[SIDE<E>][E / LINE] = {};
    Row rows[SIDE<E>];
    uint32_t limits[SIDE<E>];
#pragma unroll
    for (int i = 0; i < SIDE<E>; i++) {
        rows[i] = Row{-INFINITY, 0.0f};
        limits[i] = limit_of(a, query + i);
    }
    for (uint32_t key = 0; key < seen; key += N) {
        __syncthreads();
        load_tile<E, N>(keys, a, a.k, at, key, a.keys);
        load_tile<E, N>(values, a, a.v, at, key, a.keys);
        copy_async_wait<0>();
        __syncthreads();
        float s[SIDE<E>][SIDE<E>];
        multiply_transposed<E>(s, queries, keys);
#pragma unroll
        for (int i = 0; i < SIDE<E>; i++) {
#pragma unroll
            for (int j = 0; j < SIDE<E>; j++)
                s[i][j] = key + column() + LINE * j < limits[i] ? s[i][j] * (a.scale * LOG2_E) : -INFINITY;
        }
        soften<E>(s, out, rows);
        if (a.dropout.active) keep<SIDE<E>>(s, kept_by_query<SIDE<E>>(a, at, query, key));
        multiply<E>(out, s, weights, values);
    }
#pragma unroll
    for (int i = 0; i < SIDE<E>; i++) {
        const float sum = warp_sum<LINE>(rows[i].sum);
        const float factor = finish(p, at, query + i, rows[i].top, sum, column() == 0);
        if (query + i < a.queries) store_row(rows_of<float>(p.y, at, query + i), out[i], factor, a.size);
    }
}

}  // namespace plain

// `blocks`: as many as fit the registers without putting any of them into memory.
#define ATTENTION(E, blocks)                                                                                    \
    KERNEL_BOUNDED(attention_##E##_bf16, AttentionParams, p, tensor::THREADS, blocks) { tensor::forward<E>(p); } \
    KERNEL_BOUNDED(attention_##E##_f32, AttentionParams, p, plain::THREADS, 2) { plain::forward<E>(p); }

ATTENTION(32, 5)
ATTENTION(64, 4)
ATTENTION(80, 3)
ATTENTION(128, 2)
