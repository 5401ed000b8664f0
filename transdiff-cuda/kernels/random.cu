// Dropout of contiguous tensors.
#include "common.cuh"

struct DropParams {
    uint64_t x, y;
    // Elements per sample.
    uint64_t size;
    // Philox blocks of all samples; the last of a sample may be partial.
    uint32_t blocks;
    Dropout dropout;
};

// y ← dropout(x). Each thread processes one Philox block: up to four elements, accessed V at a time.
template <typename T, int V>
DEVICE void dropout(const DropParams &p) {
    const uint32_t index = blockIdx.x * blockDim.x + threadIdx.x;
    if (index >= p.blocks) return;
    const uint32_t sample = index / p.dropout.per_sample, block = index - sample * p.dropout.per_sample;
    const uint64_t within = uint64_t(block) * 4, from = sample * p.size + within;
    const int count = int(p.size - within < 4 ? p.size - within : 4);
    float factor[4];
    dropout_factors(p.dropout, sample, block, factor);
    const T *const x = reinterpret_cast<const T *>(p.x) + from;
    T *const y = reinterpret_cast<T *>(p.y) + from;
    if (V == 4 && count == 4) {
        float values[4];
        load_floats<4>(values, x);
#pragma unroll
        for (int i = 0; i < 4; i++) values[i] *= factor[i];
        store_floats(y, values);
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (i < count) y[i] = from_float<T>(to_float(x[i]) * factor[i]);
    }
}

KERNEL(dropout_f32, DropParams, p) { dropout<float, 1>(p); }
KERNEL(dropout_bf16, DropParams, p) { dropout<bf16, 1>(p); }
KERNEL(dropout_wide_f32, DropParams, p) { dropout<float, 4>(p); }
KERNEL(dropout_wide_bf16, DropParams, p) { dropout<bf16, 4>(p); }
