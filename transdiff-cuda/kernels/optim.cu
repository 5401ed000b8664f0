// What an optimiser does to parameters, many tensors a launch.
#include "sums.cuh"

// Tensors of a launch: as many as a kernel's argument has room for.
constexpr int OPTIM_SLOTS = 64;

// Tensors without gaps, N of equal length a slot. Blocks `first[s]` to `first[s + 1]` have slot s.
template <int N>
struct Slots {
    uint64_t address[OPTIM_SLOTS][N];
    uint64_t count[OPTIM_SLOTS];
    uint32_t first[OPTIM_SLOTS];
    uint32_t slots;
    // Numbers that a block has.
    uint32_t per_block;
};

// What a block has: `count` numbers of a slot, from number `from` on.
struct Stretch {
    uint32_t slot;
    uint64_t from;
    uint32_t count;
    // How many of them are read in vectors; the rest, one by one.
    uint32_t in_vectors;
};

template <typename T, int N>
DEVICE Stretch stretch_of(const Slots<N> &s) {
    uint32_t slot = 0, end = s.slots;
    while (end - slot > 1) {
        const uint32_t middle = (slot + end) / 2;
        if (s.first[middle] <= blockIdx.x) {
            slot = middle;
        } else {
            end = middle;
        }
    }
    const uint64_t from = uint64_t(blockIdx.x - s.first[slot]) * s.per_block, rest = s.count[slot] - from;
    const uint32_t count = rest < s.per_block ? uint32_t(rest) : s.per_block;
    uint64_t bits = 0;
#pragma unroll
    for (int i = 0; i < N; i++) bits |= s.address[slot][i];
    return Stretch{slot, from, count, bits % 16 == 0 ? count - count % LANES<T> : 0};
}

// Calls f(index, vector width) for everything that this thread has of a stretch.
template <typename T, typename F>
DEVICE void for_stretch(const Stretch &stretch, const F &f) {
    for (uint32_t i = threadIdx.x * LANES<T>; i < stretch.in_vectors; i += SUM_THREADS * LANES<T>) {
        f.template run<LANES<T>>(stretch.from + i);
    }
    for (uint32_t i = stretch.in_vectors + threadIdx.x; i < stretch.count; i += SUM_THREADS) {
        f.template run<1>(stretch.from + i);
    }
}

template <typename T, int N>
DEVICE T *slot_address(const Slots<N> &s, uint32_t slot, int which) {
    return reinterpret_cast<T *>(s.address[slot][which]);
}

// ---- AdamW ----

struct AdamWParams {
    // Parameter, first and second moment, gradient; no gradient is 0.
    Slots<4> slots;
    // 1 − lr · weight decay.
    float keep[OPTIM_SLOTS];
    float grad_scale, beta1, beta2, rest1, rest2;
    // lr / (1 − β₁ᵗ), and 1 / √(1 − β₂ᵗ).
    float step, root, eps;
};

template <typename T>
struct AdamWStep {
    const AdamWParams &p;
    T *param, *m, *v;
    const T *grad;
    float keep;

    template <int V>
    DEVICE void run(uint64_t at) const {
        float w[V], a[V], b[V], g[V] = {};
        load_floats<V>(w, param + at);
        load_floats<V>(a, m + at);
        load_floats<V>(b, v + at);
        if (grad != nullptr) load_floats<V>(g, grad + at);
#pragma unroll
        for (int j = 0; j < V; j++) {
            const float scaled = p.grad_scale * g[j];
            a[j] = fmaf(p.beta1, a[j], p.rest1 * scaled);
            b[j] = fmaf(p.beta2, b[j], p.rest2 * scaled * scaled);
            w[j] = w[j] * keep - p.step * a[j] / fmaf(sqrtf(b[j]), p.root, p.eps);
        }
        store_floats(param + at, w);
        store_floats(m + at, a);
        store_floats(v + at, b);
    }
};

template <typename T>
DEVICE void adamw(const AdamWParams &p) {
    const Stretch s = stretch_of<T>(p.slots);
    const auto address = [&](int which) { return slot_address<T>(p.slots, s.slot, which); };
    for_stretch<T>(s, AdamWStep<T>{p, address(0), address(1), address(2), address(3), p.keep[s.slot]});
}

// ---- moving averages ----

struct EmaParams {
    // Average and parameter.
    Slots<2> slots;
    float rate, rest;
};

template <typename T>
struct EmaStep {
    const EmaParams &p;
    T *average;
    const T *param;

    template <int V>
    DEVICE void run(uint64_t at) const {
        float a[V], w[V];
        load_floats<V>(a, average + at);
        load_floats<V>(w, param + at);
#pragma unroll
        for (int j = 0; j < V; j++) a[j] = fmaf(p.rate, a[j], p.rest * w[j]);
        store_floats(average + at, a);
    }
};

template <typename T>
DEVICE void ema(const EmaParams &p) {
    const Stretch s = stretch_of<T>(p.slots);
    for_stretch<T>(s, EmaStep<T>{p, slot_address<T>(p.slots, s.slot, 0), slot_address<T>(p.slots, s.slot, 1)});
}

// ---- norms ----

struct SquaredNormParams {
    Slots<1> slots;
    // A sum in f64 for each block.
    uint64_t sums;
};

template <typename T>
struct SquareSum {
    const T *x;
    double *sum;

    template <int V>
    DEVICE void run(uint64_t at) const {
        float v[V];
        load_floats<V>(v, x + at);
#pragma unroll
        for (int j = 0; j < V; j++) *sum += double(v[j]) * double(v[j]);
    }
};

template <typename T>
DEVICE void squared_norm(const SquaredNormParams &p) {
    const Stretch s = stretch_of<T>(p.slots);
    double sum = 0.0;
    for_stretch<T>(s, SquareSum<T>{slot_address<T>(p.slots, s.slot, 0), &sum});
    sum = block_sum_f64(sum);
    if (threadIdx.x == 0) reinterpret_cast<double *>(p.sums)[blockIdx.x] = sum;
}

struct SumOfSumsParams {
    // f64; `sum` is one number.
    uint64_t sums, sum;
    uint64_t count;
};

KERNEL(adamw_f32, AdamWParams, p) { adamw<float>(p); }
KERNEL(adamw_bf16, AdamWParams, p) { adamw<bf16>(p); }
KERNEL(ema_f32, EmaParams, p) { ema<float>(p); }
KERNEL(ema_bf16, EmaParams, p) { ema<bf16>(p); }
KERNEL(squared_norm_f32, SquaredNormParams, p) { squared_norm<float>(p); }
KERNEL(squared_norm_bf16, SquaredNormParams, p) { squared_norm<bf16>(p); }
// What the blocks gave becomes one number, so that nothing else has to come to the host. One block.
KERNEL(sum_of_sums, SumOfSumsParams, p) {
    const double sum = block_sum_of(reinterpret_cast<const double *>(p.sums), p.count);
    if (threadIdx.x == 0) *reinterpret_cast<double *>(p.sum) = sum;
}
