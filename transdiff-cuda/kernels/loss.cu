// Mean squared error: loss ← Σ (a − b)² / n, summed in f64.
#include "block_sum.cuh"

// Vectors per thread.
constexpr int LOSS_VECTORS = 8;

struct LossParams {
    // `sums` [blocks] are f64.
    uint64_t a, b, sums;
    uint64_t count;
};

// Partial sum Σ (a − b)² over the range of a block, which is SUM_THREADS · LOSS_VECTORS vectors long.
template <typename T, int V>
DEVICE void mse(const LossParams &p) {
    const T *const a = reinterpret_cast<const T *>(p.a), *const b = reinterpret_cast<const T *>(p.b);
    double sum = 0.0;
#pragma unroll
    for (int i = 0; i < LOSS_VECTORS; i++) {
        const uint64_t at = ((uint64_t(blockIdx.x) * LOSS_VECTORS + i) * SUM_THREADS + threadIdx.x) * V;
        if (at >= p.count) break;
        float x[V], y[V];
        load_floats<V>(x, a + at);
        load_floats<V>(y, b + at);
#pragma unroll
        for (int j = 0; j < V; j++) {
            const double difference = double(x[j]) - double(y[j]);
            sum += difference * difference;
        }
    }
    sum = block_sum_f64(sum);
    if (threadIdx.x == 0) reinterpret_cast<double *>(p.sums)[blockIdx.x] = sum;
}

struct LossMeanParams {
    uint64_t sums, loss;
    // Number of partial sums, and of elements.
    uint64_t sum_count, count;
};

// loss ← Σ sums / n. One block.
template <typename T>
DEVICE void mse_mean(const LossMeanParams &p) {
    const double sum = block_sum_of(reinterpret_cast<const double *>(p.sums), p.sum_count);
    if (threadIdx.x == 0) *reinterpret_cast<T *>(p.loss) = from_float<T>(float(sum / double(p.count)));
}

struct LossBackwardParams {
    uint64_t a, b, dloss, da;
    uint64_t count;
};

// da ← 2 (a − b) · dloss / n. One vector per thread.
template <typename T, int V>
DEVICE void mse_backward(const LossBackwardParams &p) {
    const uint64_t at = (uint64_t(blockIdx.x) * blockDim.x + threadIdx.x) * V;
    if (at >= p.count) return;
    const float factor = float(2.0 * double(to_float(*reinterpret_cast<const T *>(p.dloss))) / double(p.count));
    float x[V], y[V];
    load_floats<V>(x, reinterpret_cast<const T *>(p.a) + at);
    load_floats<V>(y, reinterpret_cast<const T *>(p.b) + at);
#pragma unroll
    for (int j = 0; j < V; j++) x[j] = (x[j] - y[j]) * factor;
    store_floats(reinterpret_cast<T *>(p.da) + at, x);
}

KERNEL(mse_f32, LossParams, p) { mse<float, 1>(p); }
KERNEL(mse_bf16, LossParams, p) { mse<bf16, 1>(p); }
KERNEL(mse_wide_f32, LossParams, p) { mse<float, LANES<float>>(p); }
KERNEL(mse_wide_bf16, LossParams, p) { mse<bf16, LANES<bf16>>(p); }
KERNEL(mse_mean_f32, LossMeanParams, p) { mse_mean<float>(p); }
KERNEL(mse_mean_bf16, LossMeanParams, p) { mse_mean<bf16>(p); }
KERNEL(mse_backward_f32, LossBackwardParams, p) { mse_backward<float, 1>(p); }
KERNEL(mse_backward_bf16, LossBackwardParams, p) { mse_backward<bf16, 1>(p); }
KERNEL(mse_backward_wide_f32, LossBackwardParams, p) { mse_backward<float, LANES<float>>(p); }
KERNEL(mse_backward_wide_bf16, LossBackwardParams, p) { mse_backward<bf16, LANES<bf16>>(p); }
