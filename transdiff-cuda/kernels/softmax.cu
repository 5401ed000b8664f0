// Softmax of rows of scores, between the two matrix products of attention with heads too wide for the tiled kernels.
#include "common.cuh"

constexpr int SOFTMAX_THREADS = 256;

struct SoftmaxParams {
    // Scores x [rows, width] in f32, and their softmax y.
    uint64_t x, y;
    uint64_t width;
    float scale;
    uint32_t padding;
};

// Maximum over the block, in every thread.
DEVICE float block_max(float value, float *scratch) {
    value = warp_max(value);
    const int warps = int(blockDim.x) / WARP;
    __syncthreads();
    if (threadIdx.x % WARP == 0) scratch[threadIdx.x / WARP] = value;
    __syncthreads();
    for (int w = 0; w < warps; w++) value = fmaxf(value, scratch[w]);
    return value;
}

// y ← exp(scale·x − max) / Σ exp(scale·x − max). One block per row, which is read three times, from the cache.
template <typename T>
DEVICE void softmax(const SoftmaxParams &p) {
    __shared__ float scratch[SOFTMAX_THREADS / WARP];
    const float *x = reinterpret_cast<const float *>(p.x) + blockIdx.x * p.width;
    T *y = reinterpret_cast<T *>(p.y) + blockIdx.x * p.width;
    float row_max = -INFINITY;
    for (uint64_t i = threadIdx.x; i < p.width; i += SOFTMAX_THREADS) row_max = fmaxf(row_max, p.scale * x[i]);
    row_max = block_max(row_max, scratch);
    float sum = 0.0f;
    for (uint64_t i = threadIdx.x; i < p.width; i += SOFTMAX_THREADS) sum += expf(p.scale * x[i] - row_max);
    sum = block_sum(sum, scratch);
    for (uint64_t i = threadIdx.x; i < p.width; i += SOFTMAX_THREADS) {
        y[i] = from_float<T>(expf(p.scale * x[i] - row_max) / sum);
    }
}

KERNEL_BOUNDED(softmax_f32, SoftmaxParams, p, SOFTMAX_THREADS, 4) { softmax<float>(p); }
KERNEL_BOUNDED(softmax_bf16, SoftmaxParams, p, SOFTMAX_THREADS, 4) { softmax<bf16>(p); }
