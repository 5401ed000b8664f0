// Gradients of attention: the probabilities are computed again from the log-sum-exp of their rows. With P the
// probabilities, M the factors of dropout and D_i = Σ dy_i·y_i:
//
//     dv = (P∘M)ᵀ dy, dS = P∘(M∘(dy vᵀ) − D), dq = scale·dS k, dk = scale·dSᵀ q.
//
// Two kernels, one with a block for some queries (dq, and D for the other), one with a block for some keys (dk, dv).
// Both compute P and dy vᵀ: seven products instead of five, in return for which nothing is added by several blocks, so
// that every sum has one order, and no gradient is stored in between.
#include "attention_bf16.cuh"
#include "attention_f32.cuh"

struct AttentionBackwardParams {
    Attention a;
    Heads y, dy, dq, dk, dv;
    // f32, [B, H, Nq]; `mean` is D, the mean of M∘(dy vᵀ) under P.
    uint64_t lse, mean;
};

// What is known of a query.
struct Query {
    float lse, mean;
    uint32_t limit;
};

// Queries past the last see nothing.
DEVICE Query query_of(const AttentionBackwardParams &p, const Place &at, uint32_t query, bool mean_is_known) {
    if (query >= p.a.queries) return Query{0.0f, 0.0f, 0};
    const uint64_t index = query_index(p.a, at, query);
    const float mean = mean_is_known ? reinterpret_cast<const float *>(p.mean)[index] : 0.0f;
    return Query{reinterpret_cast<const float *>(p.lse)[index], mean, limit_of(p.a, query)};
}

DEVICE void store_mean(const AttentionBackwardParams &p, const Place &at, uint32_t query, float mean) {
    if (query < p.a.queries) reinterpret_cast<float *>(p.mean)[query_index(p.a, at, query)] = mean;
}

// The logarithm to base 2 of the probability of a key that is seen.
DEVICE float log_probability(const Attention &a, const Query &query, float product) {
    return fmaf(product, a.scale, -query.lse) * LOG2_E;
}

// Given the product q·k, the product dy·v and whether the probability is kept: P∘M but for the factor of what is kept,
// and dS.
DEVICE void slope(const Attention &a, const Query &query, float probability, bool kept, float &weight, float &gradient) {
    weight = kept ? probability : 0.0f;
    gradient = probability * ((kept ? gradient * a.dropout.scale : 0.0f) - query.mean);
}

namespace tensor {

// Σ dy·y of the rows g and g + 8 of a warp.
template <int E>
DEVICE void means(Query (&queries)[2], const uint32_t (&dy)[E / 16][4], const uint32_t (&y)[E / 16][4]) {
#pragma unroll
    for (int k = 0; k < E / 16; k++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            queries[i % 2].mean = fmaf(low_of(dy[k][i]), low_of(y[k][i]), queries[i % 2].mean);
            queries[i % 2].mean = fmaf(high_of(dy[k][i]), high_of(y[k][i]), queries[i % 2].mean);
        }
    }
    for (Query &query : queries) query.mean = warp_sum<4>(query.mean);
}

// Weights and slopes of 16 queries and 16 keys from the products q·k and dy·v. `key` is this lane's first.
DEVICE void slopes_by_query(const Attention &a, const Place &at, const Query (&queries)[2], uint32_t query,
                            uint32_t first, float (&s)[2][4], float (&ds)[2][4]) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
        const uint32_t kept = a.dropout.active ? kept_by_query(a, at, query, first + 8 * n) : 15;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const Query &row = queries[i / 2];
            const uint32_t key = first + 8 * n + lane() % 4 * 2 + i % 2;
            const float probability = key < row.limit ? fast_exp2(log_probability(a, row, s[n][i])) : 0.0f;
            slope(a, row, probability, kept >> i & 1, s[n][i], ds[n][i]);
        }
    }
}

// dq and D of 64 queries.
template <int E>
DEVICE void backward_queries(const AttentionBackwardParams &p) {
    constexpr int N = STEP<E>;
    DYNAMIC_SHARED(memory);
    bf16 *stages = reinterpret_cast<bf16 *>(memory), *tile_q = stages + 2 * TILE<E>, *tile_dy = tile_q + OWN_TILE<E>;
    const Attention &a = p.a;
    const Place at = place(a, a.queries, ROWS);
    const uint32_t seen = limit_of(a, at.first + ROWS - 1);
    load_tile<E, ROWS>(tile_q, a, a.q, at, at.first, a.queries);
    load_tile<E, ROWS>(tile_dy, a, p.dy, at, at.first, a.queries);
    // y lies where the first keys and values will.
    load_tile<E, ROWS>(stages, a, p.y, at, at.first, a.queries);
    const uint32_t first = at.first + 16 * warp(), query = first + lane() / 4;
    Query queries[2] = {query_of(p, at, query, false), query_of(p, at, query + 8, false)};
    copy_async_wait<0>();
    __syncthreads();

    const int mine = 16 * warp() * TILE_PITCH<E>;
    uint32_t q[E / 16][4], dy[E / 16][4];
    float dq[E / 8][4] = {};
    load_rows<E>(q, stages + mine);
    load_rows<E>(dy, tile_dy + mine);
    means<E>(queries, dy, q);
    load_rows<E>(q, tile_q + mine);
    __syncthreads();
    load_keys<E>(stages, a, at, 0);
    if (lane() % 4 < 2) store_mean(p, at, query + lane() % 4 * 8, lane() % 4 == 0 ? queries[0].mean : queries[1].mean);
    copy_async_wait<0>();
    __syncthreads();
    for (uint32_t key = 0; key < seen; key += N) {
        if (key + N < seen) load_keys<E>(stages, a, at, key + N);
        const bf16 *keys = stage_of<E>(stages, key), *values = keys + TILE<E>;
        for (int n = 0; n < N; n += 16) {
            float s[2][4], ds[2][4];
            multiply_transposed<E>(s, q, keys + n * TILE_PITCH<E>);
            multiply_transposed<E>(ds, dy, values + n * TILE_PITCH<E>);
            slopes_by_query(a, at, queries, query, key + n, s, ds);
            multiply<E>(dq, ds[0], ds[1], keys + n * TILE_PITCH<E>);
        }
        copy_async_wait<0>();
        __syncthreads();
    }
    store_rows<E>(stages + mine, dq, a.scale, a.scale, a, p.dq, at, first, a.queries);
}

// The same with keys as rows: `key` is this lane's first, and `queries` are those of the tile.
DEVICE void slopes_by_key(const Attention &a, const Place &at, const Query *queries, uint32_t query, uint32_t first,
                          float (&s)[2][4], float (&ds)[2][4]) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
        const int column = 8 * n + lane() % 4 * 2;
        const uint32_t kept = a.dropout.active ? kept_by_key(a, at, first, query + column) : 15;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const Query row = queries[column + i % 2];
            const uint32_t key = first + lane() / 4 + i / 2 * 8;
            const float probability = key < row.limit ? fast_exp2(log_probability(a, row, s[n][i])) : 0.0f;
            slope(a, row, probability, kept >> i & 1, s[n][i], ds[n][i]);
        }
    }
}

// dk and dv of 64 keys.
template <int E>
DEVICE void backward_keys(const AttentionBackwardParams &p) {
    constexpr int N = STEP<E>;
    DYNAMIC_SHARED(memory);
    bf16 *stages = reinterpret_cast<bf16 *>(memory), *tile_k = stages + 2 * TILE<E>, *tile_v = tile_k + OWN_TILE<E>;
    // Of the queries of either stage.
    Query *known = reinterpret_cast<Query *>(tile_v + OWN_TILE<E>);
    const Attention &a = p.a;
    const Place at = place(a, a.keys, ROWS);
    const uint32_t start = first_query(a, at.first) / N * N, thread = threadIdx.x;
    const auto load = [&](uint32_t query) {
        bf16 *queries = stage_of<E>(stages, query - start);
        load_tile<E, N>(queries, a, a.q, at, query, a.queries);
        load_tile<E, N>(queries + TILE<E>, a, p.dy, at, query, a.queries);
    };
    load_tile<E, ROWS>(tile_k, a, a.k, at, at.first, a.keys);
    load_tile<E, ROWS>(tile_v, a, a.v, at, at.first, a.keys);
    load(start);
    if (thread < N) known[thread] = query_of(p, at, start + thread, true);
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
        Query next = {};
        if (query + N < a.queries) {
            load(query + N);
            if (thread < N) next = query_of(p, at, query + N + thread, true);
            // Looking for a limit takes some lanes longer than others.
            __syncwarp();
        }
        const uint32_t turn = (query - start) / N % 2;
        const bf16 *queries = stage_of<E>(stages, query - start), *dy = queries + TILE<E>;
        for (int n = 0; n < N; n += 16) {
            float s[2][4], ds[2][4];
            multiply_transposed<E>(s, k, queries + n * TILE_PITCH<E>);
            multiply_transposed<E>(ds, v, dy + n * TILE_PITCH<E>);
            slopes_by_key(a, at, known + turn * N + n, query + n, first, s, ds);
            multiply<E>(dv, s[0], s[1], dy + n * TILE_PITCH<E>);
            multiply<E>(dk, ds[0], ds[1], queries + n * TILE_PITCH<E>);
        }
        if (thread < N) known[(1 - turn) * N + thread] = next;
        copy_async_wait<0>();
        __syncthreads();
    }
    const float kept = a.dropout.scale;
    store_rows<E>(stages + mine, dk, a.scale, a.scale, a, p.dk, at, first, a.keys);
    store_rows<E>(stages + OWN_TILE<E> + mine, dv, kept, kept, a, p.dv, at, first, a.keys);
}

}  // namespace tensor

namespace plain {

// Weights and slopes of one query and key.
DEVICE void slope_of(const Attention &a, const Query &query, uint32_t key, bool kept, float &s, float &ds) {
    const float probability = key < query.limit ? exp2f(log_probability(a, query, s)) : 0.0f;
    slope(a, query, probability, kept, s, ds);
}

// Σ dy·y of a query; all threads of its line take part.
DEVICE float mean(const AttentionBackwardParams &p, const Place &at, uint32_t query) {
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
    const Place at = place(a, a.queries, N);
    const uint32_t seen = limit_of(a, at.first + N - 1), query = at.first + line() * S;
    load_tile<E, N>(queries, a, a.q, at, at.first, a.queries);
    load_tile<E, N>(dy, a, p.dy, at, at.first, a.queries);
    Query rows[S];
#pragma unroll
    for (int i = 0; i < S; i++) {
        rows[i] = query_of(p, at, query + i, false);
        rows[i].mean = mean(p, at, query + i);
        if (column() == 0) store_mean(p, at, query + i, rows[i].mean);
    }
    float dq[S][E / LINE] = {};
    for (uint32_t key = 0; key < seen; key += N) {
        __syncthreads();
        load_tile<E, N>(keys, a, a.k, at, key, a.keys);
        load_tile<E, N>(values, a, a.v, at, key, a.keys);
        copy_async_wait<0>();
        __syncthreads();
        float s[S][S], ds[S][S];
        multiply_transposed<E>(s, queries, keys);
        multiply_transposed<E>(ds, dy, values);
        const uint32_t kept = a.dropout.active ? kept_by_query<S>(a, at, query, key) : ~0u;
#pragma unroll
        for (int b = 0; b < S * S; b++)
            slope_of(a, rows[b / S], key + column() + LINE * (b % S), kept >> b & 1, s[b / S][b % S], ds[b / S][b % S]);
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
    const Place at = place(a, a.keys, N);
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
        const uint32_t kept = a.dropout.active ? kept_by_key<S>(a, at, key, query) : ~0u;
#pragma unroll
        for (int j = 0; j < S; j++) {
            const Query known = query_of(p, at, query + column() + LINE * j, true);
#pragma unroll
            for (int i = 0; i < S; i++) slope_of(a, known, key + i, kept >> (S * i + j) & 1, s[i][j], ds[i][j]);
        }
        multiply<E>(dv, s, weights, dy);
        multiply<E>(dk, ds, weights, queries);
    }
#pragma unroll
    for (int i = 0; i < S; i++) {
        if (key + i >= a.keys) continue;
        store_row(rows_of<float>(p.dk, at, key + i), dk[i], a.scale, a.size);
        store_row(rows_of<float>(p.dv, at, key + i), dv[i], a.dropout.scale, a.size);
    }
}

}  // namespace plain

#define BACKWARD(part, E, blocks)                                                                        \
    KERNEL_BOUNDED(attention_##part##_##E##_bf16, AttentionBackwardParams, p, tensor::THREADS, blocks) { \
        tensor::backward_##part<E>(p);                                                                   \
    }                                                                                                    \
    KERNEL_BOUNDED(attention_##part##_##E##_f32, AttentionBackwardParams, p, plain::THREADS, 2) {        \
        plain::backward_##part<E>(p);                                                                    \
    }

// As many blocks as fit the registers without putting any of them into memory.
BACKWARD(queries, 32, 4)
BACKWARD(queries, 64, 3)
BACKWARD(queries, 80, 3)
BACKWARD(queries, 128, 2)
BACKWARD(keys, 32, 4)
BACKWARD(keys, 64, 3)
BACKWARD(keys, 80, 2)
BACKWARD(keys, 128, 2)
