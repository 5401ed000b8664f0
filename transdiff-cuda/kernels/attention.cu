// Tiled attention: y ← dropout(softmax(scale · q kᵀ)) v and lse ← ln Σ exp(scale · q kᵀ), with an online softmax over
// tiles of keys (Dao et al., "FlashAttention", NeurIPS 2022). q, y [B, Nq, H, E], k, v [B, Nkv, H, E], lse [B, H, Nq]
// f32.
//
// Grid: one block per tile of queries, head and image. Tiles begin at multiples of their size, and a tile that is fully
// masked for a query leaves its sums bitwise unchanged: a query's result does not depend on the other queries of its
// block.
#include "attention_bf16.cuh"
#include "attention_f32.cuh"

struct AttentionParams {
    Attention a;
    // `lse` is 0 if not requested.
    Heads y;
    uint64_t lse;
};

// Online softmax of a row, in base 2: row max of the scores so far, and Σ 2^(score − max) over this thread's columns.
struct RowState {
    float max, sum;
};

// Updates the row max with the max of further scores and rescales the sum. Returns the rescale factor for the output.
DEVICE float rescale(RowState &row, float max) {
    const float new_max = fmaxf(row.max, max), factor = fast_exp2(row.max - new_max);
    row.sum *= factor;
    row.max = new_max;
    return factor;
}

// Stores the log-sum-exp of a finished row and returns the factor that normalises its output; `sum` covers all columns.
// A fully masked row has y = 0.
DEVICE float finish_row(const AttentionParams &p, const TileOrigin &at, uint32_t query, float max, float sum,
                        bool writes) {
    if (p.lse != 0 && writes && query < p.a.queries)
        reinterpret_cast<float *>(p.lse)[query_index(p.a, at, query)] = max * LN_2 + logf(sum);
    return sum == 0.0f ? 0.0f : p.a.dropout_scale / sum;
}

namespace tensor_core {

// Scores → 2^(score − row max), with earlier sums and outputs rescaled to the new row max.
template <int E, int N>
DEVICE void online_softmax(float (&s)[N][4], float (&out)[E / 8][4], RowState (&rows)[2]) {
    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float max = s[0][2 * r];
#pragma unroll
        for (int n = 0; n < N; n++) max = fmaxf(max, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
        factor[r] = rescale(rows[r], warp_max<4>(max));
    }
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            s[n][i] = fast_exp2(s[n][i] - rows[i / 2].max);
            rows[i / 2].sum += s[n][i];
        }
    }
#pragma unroll
    for (int n = 0; n < E / 8; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) out[n][i] *= factor[i / 2];
    }
}

// Scales the scores and masks the keys beyond the visible lengths of the two rows. `min_visible` is the minimum of the
// warp's rows, `key` the first key of the tile.
template <int N>
DEVICE void scale_and_mask(float (&s)[N][4], float factor, const uint32_t (&visible)[2], uint32_t min_visible,
                           uint32_t key) {
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) s[n][i] *= factor;
    }
    if (key + 8 * N <= min_visible) return;
    const uint32_t mine = key + lane() % 4 * 2;
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (mine + 8 * n + i % 2 >= visible[i / 2]) s[n][i] = -INFINITY;
        }
    }
}

// Applies dropout to the probabilities, without its scale.
template <int N>
DEVICE void apply_dropout(float (&s)[N][4], const Attention &a, const TileOrigin &at, uint32_t query, uint32_t key) {
    uint32_t kept[2];
#pragma unroll
    for (int n = 0; n < N; n++) {
        if (n % 4 == 0) load_kept(kept, a, at, query, key + 8 * n);
#pragma unroll
        for (int i = 0; i < 4; i++) s[n][i] = kept[i / 2] >> (n % 4 * 8 + i % 2) & 1 ? s[n][i] : 0.0f;
    }
}

// 64 queries per block. Tiles of keys and values are loaded while the previous ones are processed.
template <int E>
DEVICE void forward(const AttentionParams &p) {
    constexpr int N = STEP<E>;
    DYNAMIC_SHARED(memory);
    bf16 *stages = reinterpret_cast<bf16 *>(memory), *queries = stages + 2 * TILE<E>;
    const Attention &a = p.a;
    const TileOrigin at = tile_origin(a, a.queries, ROWS);
    const uint32_t visible_end = visible_len(a, at.first + ROWS - 1);
    load_tile<E, ROWS>(queries, a, a.q, at, at.first, a.queries);
    load_keys<E>(stages, a, at, 0);
    const uint32_t query = at.first + 16 * warp() + lane() / 4;
    // Visible lengths ascend: the first of the warp is the minimum.
    const uint32_t visible[2] = {visible_len(a, query), visible_len(a, query + 8)};
    const uint32_t min_visible = warp_from(visible[0], 0);
    copy_async_wait<0>();
    __syncthreads();

    uint32_t q[E / 16][4];
    float out[E / 8][4] = {};
    RowState rows[2] = {{-INFINITY, 0.0f}, {-INFINITY, 0.0f}};
    const int mine = 16 * warp() * TILE_PITCH<E>;
    load_rows<E>(q, queries + mine);
    __syncthreads();
    for (uint32_t key = 0; key < visible_end; key += N) {
        if (key + N < visible_end) load_keys<E>(stages, a, at, key + N);
        const bf16 *keys = stage_of<E>(stages, key), *values = keys + TILE<E>;
        float s[N / 8][4];
        multiply_transposed<E>(s, q, keys);
        scale_and_mask(s, a.scale * LOG2_E, visible, min_visible, key);
        online_softmax<E>(s, out, rows);
        if (a.kept != 0) apply_dropout(s, a, at, query, key);
#pragma unroll
        for (int n = 0; n < N / 8; n += 2) multiply<E>(out, s[n], s[n + 1], values + n * 8 * TILE_PITCH<E>);
        copy_async_wait<0>();
        __syncthreads();
    }
    float factor[2];
#pragma unroll
    for (int r = 0; r < 2; r++)
        factor[r] = finish_row(p, at, query + 8 * r, rows[r].max, warp_sum<4>(rows[r].sum), lane() % 4 == 0);
    store_rows<E>(stages + mine, out, factor[0], factor[1], a, p.y, at, at.first + 16 * warp(), a.queries);
}

}  // namespace tensor_core

// ---- f32 ----

namespace scalar {

// Scores → 2^(score − row max), with earlier sums and outputs rescaled to the new row max.
template <int E>
DEVICE void online_softmax(float (&s)[SIDE<E>][SIDE<E>], float (&out)[SIDE<E>][E / LINE], RowState (&rows)[SIDE<E>]) {
#pragma unroll
    for (int i = 0; i < SIDE<E>; i++) {
        float max = s[i][0];
#pragma unroll
        for (int j = 1; j < SIDE<E>; j++) max = fmaxf(max, s[i][j]);
        const float factor = rescale(rows[i], warp_max<LINE>(max));
#pragma unroll
        for (int j = 0; j < SIDE<E>; j++) {
            s[i][j] = exp2f(s[i][j] - rows[i].max);
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
    const TileOrigin at = tile_origin(a, a.queries, N);
    const uint32_t visible_end = visible_len(a, at.first + N - 1), query = at.first + line() * SIDE<E>;
    load_tile<E, N>(queries, a, a.q, at, at.first, a.queries);

    float out[SIDE<E>][E / LINE] = {};
    RowState rows[SIDE<E>];
    uint32_t visible[SIDE<E>];
#pragma unroll
    for (int i = 0; i < SIDE<E>; i++) {
        rows[i] = RowState{-INFINITY, 0.0f};
        visible[i] = visible_len(a, query + i);
    }
    for (uint32_t key = 0; key < visible_end; key += N) {
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
                s[i][j] = key + column() + LINE * j < visible[i] ? s[i][j] * (a.scale * LOG2_E) : -INFINITY;
        }
        online_softmax<E>(s, out, rows);
        if (a.kept != 0) apply_dropout<SIDE<E>>(s, kept_by_query<SIDE<E>>(a, at, query, key));
        multiply<E>(out, s, weights, values);
    }
#pragma unroll
    for (int i = 0; i < SIDE<E>; i++) {
        const float sum = warp_sum<LINE>(rows[i].sum);
        const float factor = finish_row(p, at, query + i, rows[i].max, sum, column() == 0);
        if (query + i < a.queries) store_row(rows_of<float>(p.y, at, query + i), out[i], factor, a.size);
    }
}

}  // namespace scalar

// `blocks`: resident blocks per multiprocessor, as many as fit without register spilling.
#define ATTENTION(E, blocks)                                                                 \
    KERNEL_BOUNDED(attention_##E##_bf16, AttentionParams, p, tensor_core::THREADS, blocks) { \
        tensor_core::forward<E>(p);                                                          \
    }                                                                                        \
    KERNEL_BOUNDED(attention_##E##_f32, AttentionParams, p, scalar::THREADS, 2) { scalar::forward<E>(p); }

ATTENTION(32, 5)
ATTENTION(64, 4)
ATTENTION(80, 3)
ATTENTION(128, 2)
