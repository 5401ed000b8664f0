// Dropout of contiguous tensors.
#include "common.cuh"

struct DropParams {
    uint64_t x, y;
    uint64_t count;
    Dropout dropout;
};

// y ← dropout(x). Each thread processes one Philox block: four elements, accessed V at a time.
template <typename T, int V>
DEVICE void dropout(const DropParams &p) {
    const uint64_t from = (uint64_t(blockIdx.x) * blockDim.x + threadIdx.x) * 4;
    if (from >= p.count) return;
    const int count = int(p.count - from < 4 ? p.count - from : 4);
    float factor[4];
    dropout_factors(p.dropout, uint32_t(from / 4), factor);
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
