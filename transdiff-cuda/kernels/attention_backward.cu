// Gradients of attention. The probabilities are recomputed from the log-sum-exp of their rows. With P the
// probabilities, M the dropout factors and delta D_i = Σ dy_i·y_i:
//
//     dv = (P∘M)ᵀ dy, dS = P∘(M∘(dy vᵀ) − D), dq = scale·dS k, dk = scale·dSᵀ q.
//
// Two kernels: one with a block per tile of queries (dq, and D for the other), one with a block per tile of keys (dk,
// dv). Both compute P and dy vᵀ: seven products instead of five. In return no sum is shared between blocks, so the
// result is deterministic, and no intermediate gradient is stored.
#include "attention_bf16.cuh"
#include "attention_f32.cuh"

struct AttentionBackwardParams {
    Attention a;
    Heads y, dy, dq, dk, dv;
    // f32, [B, H, Nq]; `delta` is D, the mean of M∘(dy vᵀ) under P.
    uint64_t lse, delta;
};

// Per-query inputs of the gradients.
struct QueryState {
    float lse, delta;
    uint32_t visible;
};

// Queries past the last see no keys.
DEVICE QueryState query_state(const AttentionBackwardParams &p, const TileOrigin &at, uint32_t query, bool has_delta) {
    if (query >= p.a.queries) return QueryState{0.0f, 0.0f, 0};
    const uint64_t index = query_index(p.a, at, query);
    const float delta = has_delta ? reinterpret_cast<const float *>(p.delta)[index] : 0.0f;
    return QueryState{reinterpret_cast<const float *>(p.lse)[index], delta, visible_len(p.a, query)};
}

DEVICE void store_delta(const AttentionBackwardParams &p, const TileOrigin &at, uint32_t query, float delta) {
    if (query < p.a.queries) reinterpret_cast<float *>(p.delta)[query_index(p.a, at, query)] = delta;
}

// Base-2 logarithm of the probability of a visible key.
DEVICE float log_probability(const Attention &a, const QueryState &query, float product) {
    return fmaf(product, a.scale, -query.lse) * LOG2_E;
}

// weight ← P∘M without the dropout scale; gradient ← dS, given dy·v in `gradient` and whether dropout keeps the
// element.
DEVICE void score_gradient(const Attention &a, const QueryState &query, float probability, bool kept, float &weight,
                           float &gradient) {
    weight = kept ? probability : 0.0f;
    gradient = probability * ((kept ? gradient * a.dropout_scale : 0.0f) - query.delta);
}

namespace tensor_core {

// Σ dy·y of the rows g and g + 8 of a warp.
template <int E>
DEVICE void deltas(QueryState (&queries)[2], const uint32_t (&dy)[E / 16][4], const uint32_t (&y)[E / 16][4]) {
#pragma unroll
    for (int k = 0; k < E / 16; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            queries[i % 2].delta = fmaf(low_of(dy[k][i]), low_of(y[k][i]), queries[i % 2].delta);
            queries[i % 2].delta = fmaf(high_of(dy[k][i]), high_of(y[k][i]), queries[i % 2].delta);
        }
    }
    for (QueryState &query : queries) query.delta = warp_sum<4>(query.delta);
}

// Weights (in s) and score gradients (in ds) of 16 queries and 16 keys, given q·k in s and dy·v in ds. `query` is this
// lane's first query, `first` the first key of the tile.
DEVICE void score_gradients_by_query(const Attention &a, const TileOrigin &at, const QueryState (&queries)[2],
                                     uint32_t query, uint32_t first, float (&s)[2][4], float (&ds)[2][4]) {
    uint32_t kept[2] = {~0u, ~0u};
    if (a.kept != 0) load_kept(kept, a, at, query, first);
#pragma unroll
    for (int n = 0; n < 2; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const QueryState &row = queries[i / 2];
            const uint32_t key = first + 8 * n + lane() % 4 * 2 + i % 2;
            const float probability = key < row.visible ? fast_exp2(log_probability(a, row, s[n][i])) : 0.0f;
            score_gradient(a, row, probability, kept[i / 2] >> (8 * n + i % 2) & 1, s[n][i], ds[n][i]);
        }
    }
}

// dq and D of a tile of 64 queries.
template <int E>
DEVICE void backward_queries(const AttentionBackwardParams &p) {
    constexpr int N = STEP<E>;
    DYNAMIC_SHARED(memory);
    bf16 *stages = reinterpret_cast<bf16 *>(memory), *tile_q = stages + 2 * TILE<E>, *tile_dy = tile_q + ROW_TILE<E>;
    const Attention &a = p.a;
    const TileOrigin at = tile_origin(a, a.queries, ROWS);
    const uint32_t visible_end = visible_len(a, at.first + ROWS - 1);
    load_tile<E, ROWS>(tile_q, a, a.q, at, at.first, a.queries);
    load_tile<E, ROWS>(tile_dy, a, p.dy, at, at.first, a.queries);
    // y is in the stages, before the first keys and values.
    load_tile<E, ROWS>(stages, a, p.y, at, at.first, a.queries);
    const uint32_t first = at.first + 16 * warp(), query = first + lane() / 4;
    QueryState queries[2] = {query_state(p, at, query, false), query_state(p, at, query + 8, false)};
    copy_async_wait<0>();
    __syncthreads();

    const int mine = 16 * warp() * TILE_PITCH<E>;
    uint32_t q[E / 16][4], dy[E / 16][4];
    float dq[E / 8][4] = {};
    load_rows<E>(q, stages + mine);
    load_rows<E>(dy, tile_dy + mine);
    deltas<E>(queries, dy, q);
    load_rows<E>(q, tile_q + mine);
    __syncthreads();
    load_keys<E>(stages, a, at, 0);
    if (lane() % 4 < 2)
        store_delta(p, at, query + lane() % 4 * 8, lane() % 4 == 0 ? queries[0].delta : queries[1].delta);
    copy_async_wait<0>();
    __syncthreads();
    for (uint32_t key = 0; key < visible_end; key += N) {
        if (key + N < visible_end) load_keys<E>(stages, a, at, key + N);
        const bf16 *keys = stage_of<E>(stages, key), *values = keys + TILE<E>;
        for (int n = 0; n < N; n += 16) {
            float s[2][4], ds[2][4];
            multiply_transposed<E>(s, q, keys + n * TILE_PITCH<E>);
            multiply_transposed<E>(ds, dy, values + n * TILE_PITCH<E>);
            score_gradients_by_query(a, at, queries, query, key + n, s, ds);
            multiply<E>(dq, ds[0], ds[1], keys + n * TILE_PITCH<E>);
        }
        copy_async_wait<0>();
        __syncthreads();
    }
    store_rows<E>(stages + mine, dq, a.scale, a.scale, a, p.dq, at, first, a.queries);
}

// As score_gradients_by_query with keys as rows: `first` is the first key of the warp, `queries` are those of the tile.
DEVICE void score_gradients_by_key(const Attention &a, const TileOrigin &at, const QueryState *queries, uint32_t query,
                                   uint32_t first, float (&s)[2][4], float (&ds)[2][4]) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
        const int column = 8 * n + lane() % 4 * 2;
        uint32_t kept[2] = {~0u, ~0u};
        if (a.kept != 0) {
#pragma unroll
            for (int i = 0; i < 2; i++) kept[i] = kept_word(a, at, query + column + i, first);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const QueryState row = queries[column + i % 2];
            const uint32_t key = first + lane() / 4 + i / 2 * 8;
            const float probability = key < row.visible ? fast_exp2(log_probability(a, row, s[n][i])) : 0.0f;
            const bool is_kept = kept[i % 2] >> key % 32 & 1;
            score_gradient(a, row, probability, is_kept, s[n][i], ds[n][i]);
        }
    }
}

// dk and dv of a tile of 64 keys.
template <int E>
DEVICE void backward_keys(const AttentionBackwardParams &p) {
    constexpr int N = STEP<E>;
    DYNAMIC_SHARED(memory);
    bf16 *stages = reinterpret_cast<bf16 *>(memory), *tile_k = stages + 2 * TILE<E>, *tile_v = tile_k + ROW_TILE<E>;
    // States of the queries, per stage.
    QueryState *states = reinterpret_cast<QueryState *>(tile_v + ROW_TILE<E>);
    const Attention &a = p.a;
    const TileOrigin at = tile_origin(a, a.keys, ROWS);
    const uint32_t start = first_query(a, at.first) / N * N, thread = threadIdx.x;
    const auto load = [&](uint32_t query) {
        bf16 *queries = stage_of<E>(stages, query - start);
        load_tile<E, N>(queries, a, a.q, at, query, a.queries);
        load_tile<E, N>(queries + TILE<E>, a, p.dy, at, query, a.queries);
    };
    load_tile<E, ROWS>(tile_k, a, a.k, at, at.first, a.keys);
    load_tile<E, ROWS>(tile_v, a, a.v, at, at.first, a.keys);
    load(start);
    if (thread < N) states[thread] = query_state(p, at, start + thread, true);
    copy_async_wait<0>();
    __syncthreads();

    const uint32_t first = at.first + 16 * warp();
    const int mine = 16 * warp() * TILE_PITCH<E>;
    uint32_t k[E / 16][4], v[E / 16][4];
    float dk[E / 8][4] = {}, dv[E / 8][4] = {};
    load_rows<E>(k, tile_k + mine);
    load_rows<E>(v, tile_v + mine);
    __syncthreads();
    for (uint32_t query = start; query < a.queries; query += N) {
        QueryState next = {};
        if (query + N < a.queries) {
            load(query + N);
            if (thread < N) next = query_state(p, at, query + N + thread, true);
            // Reconverge the lanes: the search for the visible length differs in length.
            __syncwarp();
        }
        const uint32_t stage = (query - start) / N % 2;
        const bf16 *queries = stage_of<E>(stages, query - start), *dy = queries + TILE<E>;
        for (int n = 0; n < N; n += 16) {
            float s[2][4], ds[2][4];
            multiply_transposed<E>(s, k, queries + n * TILE_PITCH<E>);
            multiply_transposed<E>(ds, v, dy + n * TILE_PITCH<E>);
            score_gradients_by_key(a, at, states + stage * N + n, query + n, first, s, ds);
            multiply<E>(dv, s[0], s[1], dy + n * TILE_PITCH<E>);
            multiply<E>(dk, ds[0], ds[1], queries + n * TILE_PITCH<E>);
        }
        if (thread < N) states[(1 - stage) * N + thread] = next;
        copy_async_wait<0>();
        __syncthreads();
    }
    const float dropout_scale = a.dropout_scale;
    store_rows<E>(stages + mine, dk, a.scale, a.scale, a, p.dk, at, first, a.keys);
    store_rows<E>(stages + ROW_TILE<E> + mine, dv, dropout_scale, dropout_scale, a, p.dv, at, first, a.keys);
}

}  // namespace tensor_core

namespace scalar {

// Weight and score gradient of one query and key.
DEVICE void score_gradient_of(const Attention &a, const QueryState &query, uint32_t key, bool kept, float &s,
                              float &ds) {
    const float probability = key < query.visible ? exp2f(log_probability(a, query, s)) : 0.0f;
    score_gradient(a, query, probability, kept, s, ds);
}

// Σ dy·y of a query; all threads of its line call it.
DEVICE float delta(const AttentionBackwardParams &p, const TileOrigin &at, uint32_t query) {
    float sum = 0.0f;
    if (query < p.a.queries) {
        const float *y = rows_of<const float>(p.y, at, query), *dy = rows_of<const float>(p.dy, at, query);
        for (int e = column(); e < int(p.a.size); e += LINE) sum = fmaf(dy[e], y[e], sum);
    }
    return warp_sum<LINE>(sum);
}

// dq and D of a tile of queries.
template <int E>
DEVICE void backward_queries(const AttentionBackwardParams &p) {
    constexpr int N = STEP<E>, S = SIDE<E>;
    DYNAMIC_SHARED(memory);
    float *queries = reinterpret_cast<float *>(memory), *dy = queries + TILE<E>, *keys = dy + TILE<E>;
    float *values = keys + TILE<E>, *weights = values + TILE<E>;
    const Attention &a = p.a;
    const TileOrigin at = tile_origin(a, a.queries, N);
    const uint32_t visible_end = visible_len(a, at.first + N - 1), query = at.first + line() * S;
    load_tile<E, N>(queries, a, a.q, at, at.first, a.queries);
    load_tile<E, N>(dy, a, p.dy, at, at.first, a.queries);
    QueryState rows[S];
#pragma unroll
    for (int i = 0; i < S; i++) {
        rows[i] = query_state(p, at, query + i, false);
        rows[i].delta = delta(p, at, query + i);
        if (column() == 0) store_delta(p, at, query + i, rows[i].delta);
    }
    float dq[S][E / LINE] = {};
    for (uint32_t key = 0; key < visible_end; key += N) {
        __syncthreads();
        load_tile<E, N>(keys, a, a.k, at, key, a.keys);
        load_tile<E, N>(values, a, a.v, at, key, a.keys);
        copy_async_wait<0>();
        __syncthreads();
        float s[S][S], ds[S][S];
        multiply_transposed<E>(s, queries, keys);
        multiply_transposed<E>(ds, dy, values);
        const uint32_t kept = a.kept != 0 ? kept_by_query<S>(a, at, query, key) : ~0u;
#pragma unroll
        for (int b = 0; b < S * S; b++)
            score_gradient_of(a, rows[b / S], key + column() + LINE * (b % S), kept >> b & 1, s[b / S][b % S],
                              ds[b / S][b % S]);
        multiply<E>(dq, ds, weights, keys);
    }
#pragma unroll
    for (int i = 0; i < S; i++) {
        if (query + i < a.queries) store_row(rows_of<float>(p.dq, at, query + i), dq[i], a.scale, a.size);
    }
}

// dk and dv of a tile of keys.
template <int E>
DEVICE void backward_keys(const AttentionBackwardParams &p) {
    constexpr int N = STEP<E>, S = SIDE<E>;
    DYNAMIC_SHARED(memory);
    float *keys = reinterpret_cast<float *>(memory), *values = keys + TILE<E>, *queries = values + TILE<E>;
    float *dy = queries + TILE<E>, *weights = dy + TILE<E>;
    const Attention &a = p.a;
    const TileOrigin at = tile_origin(a, a.keys, N);
    const uint32_t key = at.first + line() * S;
    load_tile<E, N>(keys, a, a.k, at, at.first, a.keys);
    load_tile<E, N>(values, a, a.v, at, at.first, a.keys);
    float dk[S][E / LINE] = {}, dv[S][E / LINE] = {};
    for (uint32_t query = first_query(a, at.first) / N * N; query < a.queries; query += N) {
        __syncthreads();
        load_tile<E, N>(queries, a, a.q, at, query, a.queries);
        load_tile<E, N>(dy, a, p.dy, at, query, a.queries);
        copy_async_wait<0>();
        __syncthreads();
        float s[S][S], ds[S][S];
        multiply_transposed<E>(s, keys, queries);
        multiply_transposed<E>(ds, values, dy);
        const uint32_t kept = a.kept != 0 ? kept_by_key<S>(a, at, key, query) : ~0u;
#pragma unroll
        for (int j = 0; j < S; j++) {
            const QueryState state = query_state(p, at, query + column() + LINE * j, true);
#pragma unroll
            for (int i = 0; i < S; i++)
                score_gradient_of(a, state, key + i, kept >> (S * i + j) & 1, s[i][j], ds[i][j]);
        }
        multiply<E>(dv, s, weights, dy);
        multiply<E>(dk, ds, weights, queries);
    }
#pragma unroll
    for (int i = 0; i < S; i++) {
        if (key + i >= a.keys) continue;
        store_row(rows_of<float>(p.dk, at, key + i), dk[i], a.scale, a.size);
        store_row(rows_of<float>(p.dv, at, key + i), dv[i], a.dropout_scale, a.size);
    }
}

}  // namespace scalar

#define BACKWARD(part, E, blocks, f32_blocks)                                                                                \
    KERNEL_BOUNDED(attention_backward_##part##_##E##_bf16, AttentionBackwardParams, p, tensor_core::THREADS, blocks) { \
        tensor_core::backward_##part<E>(p);                                                                            \
    }                                                                                                                  \
    KERNEL_BOUNDED(attention_backward_##part##_##E##_f32, AttentionBackwardParams, p, scalar::THREADS, f32_blocks) {   \
        scalar::backward_##part<E>(p);                                                                                 \
    }

// `blocks`: resident blocks per multiprocessor in bf16, and in f32: as many as fit without register spilling.
BACKWARD(queries, 32, 4, 2)
BACKWARD(queries, 64, 3, 1)
BACKWARD(queries, 80, 3, 2)
BACKWARD(queries, 128, 2, 2)
BACKWARD(keys, 32, 4, 2)
BACKWARD(keys, 64, 3, 2)
BACKWARD(keys, 80, 2, 2)
BACKWARD(keys, 128, 2, 2)
