// Bias and activation of a linear layer, where cuBLASLt does not fuse them, and their backward pass.
#include "row_partition.cuh"

// Rows that a thread loads before it stores the first.
constexpr int LINEAR_ROWS = 2;

// Φ(x), the normal distribution function.
DEVICE float normal_cdf(float x) { return fmaf(0.5f, erff(x * 0.70710678f), 0.5f); }

DEVICE float gelu(float x) { return x * normal_cdf(x); }

// gelu′(x) = Φ(x) + x·φ(x).
DEVICE float gelu_gradient(float x) { return fmaf(x, 0.39894228f * expf(-0.5f * x * x), normal_cdf(x)); }

struct BiasActivationParams {
    // x and y [M, N] may alias; `bias` [N] may be 0.
    uint64_t x, bias, y;
    RowPartition partition;
    Dropout dropout;
    // True if GELU is applied.
    uint32_t gelu;
};

// Multiplies V elements from `at` on of a tensor of the partition's shape by their dropout factors.
template <int V>
DEVICE void drop(const Dropout &dropout, const RowPartition &p, const RowChunk &chunk, uint64_t at, float (&x)[V]) {
    if (!dropout.active) return;
    float factor[V];
    dropout_factors_at<V>(dropout, sample_of(dropout, p, chunk), at, factor);
#pragma unroll
    for (int j = 0; j < V; j++) x[j] *= factor[j];
}

// y ← dropout(act(x + bias)). Grid: see RowPartition.
template <typename T, int V>
DEVICE void bias_activation(const BiasActivationParams &p) {
    const RowChunk chunk = row_chunk<V>(p.partition);
    if (chunk.rows == 0) return;
    float bias[V], v[LINEAR_ROWS][V];
#pragma unroll
    for (int i = 0; i < LINEAR_ROWS; i++) {
        if (i >= chunk.rows) break;
        load_floats<V>(v[i], reinterpret_cast<const T *>(p.x) + (chunk.row + i) * p.partition.width + chunk.column);
    }
    load_or<V>(bias, reinterpret_cast<const T *>(p.bias), chunk.column, 0.0f);
#pragma unroll
    for (int i = 0; i < LINEAR_ROWS; i++) {
        if (i >= chunk.rows) break;
#pragma unroll
        for (int j = 0; j < V; j++) {
            const float sum = v[i][j] + bias[j];
            v[i][j] = p.gelu ? gelu(sum) : sum;
        }
        const uint64_t at = (chunk.row + i) * p.partition.width + chunk.column;
        drop<V>(p.dropout, p.partition, chunk, at, v[i]);
        store_floats(reinterpret_cast<T *>(p.y) + at, v[i]);
    }
}

struct GeluBackwardParams {
    // pre, dy, g [M, N]; `sums` [chunks, N] are f32, or 0.
    uint64_t pre, dy, g, sums;
    RowPartition partition;
    Dropout dropout;
};

// g ← gelu′(pre) · dropout(dy), and the sums over the rows of a chunk of the values as rounded in g.
template <typename T, int V>
DEVICE void gelu_backward(const GeluBackwardParams &p) {
    const RowChunk chunk = row_chunk<V>(p.partition);
    if (chunk.rows == 0) return;
    const T *const pre = reinterpret_cast<const T *>(p.pre), *const dy = reinterpret_cast<const T *>(p.dy);
    float sums[V] = {};
    for (int row = 0; row < chunk.rows; row += LINEAR_ROWS) {
        float a[LINEAR_ROWS][V], b[LINEAR_ROWS][V];
#pragma unroll
        for (int i = 0; i < LINEAR_ROWS; i++) {
            if (row + i >= chunk.rows) break;
            const uint64_t at = (chunk.row + row + i) * p.partition.width + chunk.column;
            load_floats<V>(a[i], pre + at);
            load_floats<V>(b[i], dy + at);
        }
#pragma unroll
        for (int i = 0; i < LINEAR_ROWS; i++) {
            if (row + i >= chunk.rows) break;
            const uint64_t at = (chunk.row + row + i) * p.partition.width + chunk.column;
            drop<V>(p.dropout, p.partition, chunk, at, b[i]);
#pragma unroll
            for (int j = 0; j < V; j++) {
                b[i][j] = to_float(from_float<T>(gelu_gradient(a[i][j]) * b[i][j]));
                sums[j] += b[i][j];
            }
            store_floats(reinterpret_cast<T *>(p.g) + at, b[i]);
        }
    }
    if (p.sums == 0) return;
    store_floats(reinterpret_cast<float *>(p.sums) + chunk.index * p.partition.width + chunk.column, sums);
}

KERNEL(bias_activation_f32, BiasActivationParams, p) { bias_activation<float, 1>(p); }
KERNEL(bias_activation_bf16, BiasActivationParams, p) { bias_activation<bf16, 1>(p); }
KERNEL(bias_activation_wide_f32, BiasActivationParams, p) { bias_activation<float, LANES<float>>(p); }
KERNEL(bias_activation_wide_bf16, BiasActivationParams, p) { bias_activation<bf16, LANES<bf16>>(p); }
KERNEL(gelu_backward_f32, GeluBackwardParams, p) { gelu_backward<float, 1>(p); }
KERNEL(gelu_backward_bf16, GeluBackwardParams, p) { gelu_backward<bf16, 1>(p); }
KERNEL(gelu_backward_wide_f32, GeluBackwardParams, p) { gelu_backward<float, LANES<float>>(p); }
KERNEL(gelu_backward_wide_bf16, GeluBackwardParams, p) { gelu_backward<bf16, LANES<bf16>>(p); }
