// Optimiser steps over many tensors per launch.
#include "block_sum.cuh"

// Slots per launch: as many as fit in kernel parameters.
constexpr int OPTIM_SLOTS = 64;

// Slots of N tensors of equal length without gaps. Blocks `first[s]` to `first[s + 1]` process slot s.
template <int N>
struct Slots {
    uint64_t address[OPTIM_SLOTS][N];
    uint64_t count[OPTIM_SLOTS];
    uint32_t first[OPTIM_SLOTS];
    uint32_t slots;
    // Elements per block.
    uint32_t per_block;
};

// The part of a block: `count` elements of a slot, starting at element `from`.
struct Span {
    uint32_t slot;
    uint64_t from;
    uint32_t count;
    // Number of elements accessed in vectors; the others are accessed one by one.
    uint32_t in_vectors;
};

template <typename T, int N>
DEVICE Span block_span(const Slots<N> &s) {
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
    return Span{slot, from, count, bits % 16 == 0 ? count - count % LANES<T> : 0};
}

// Calls f.run<vector width>(index) for this thread's elements of a span.
template <typename T, typename F>
DEVICE void for_each_in_span(const Span &span, const F &f) {
    for (uint32_t i = threadIdx.x * LANES<T>; i < span.in_vectors; i += SUM_THREADS * LANES<T>) {
        f.template run<LANES<T>>(span.from + i);
    }
    for (uint32_t i = span.in_vectors + threadIdx.x; i < span.count; i += SUM_THREADS) {
        f.template run<1>(span.from + i);
    }
}

template <typename T, int N>
DEVICE T *slot_address(const Slots<N> &s, uint32_t slot, int which) {
    return reinterpret_cast<T *>(s.address[slot][which]);
}

// ---- AdamW ----
//
// m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², p ← p·weight_factor − step_size·m / (√v·root_correction + eps), with
// g = grad_scale · grad.

struct AdamWParams {
    // Parameter, first and second moment of type T, gradient of type G, and the parameter rounded to bf16; the last two
    // may be 0.
    Slots<5> slots;
    // 1 − lr · weight decay.
    float weight_factor[OPTIM_SLOTS];
    float grad_scale, beta1, beta2, one_minus_beta1, one_minus_beta2;
    // lr / (1 − β₁ᵗ), and 1 / √(1 − β₂ᵗ).
    float step_size, root_correction, eps;
};

template <typename T, typename G>
struct AdamWStep {
    const AdamWParams &p;
    T *param, *m, *v;
    const G *grad;
    bf16 *cast;
    float weight_factor;

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
            a[j] = fmaf(p.beta1, a[j], p.one_minus_beta1 * scaled);
            b[j] = fmaf(p.beta2, b[j], p.one_minus_beta2 * scaled * scaled);
            w[j] = w[j] * weight_factor - p.step_size * a[j] / fmaf(sqrtf(b[j]), p.root_correction, p.eps);
        }
        store_floats(param + at, w);
        store_floats(m + at, a);
        store_floats(v + at, b);
        if (cast != nullptr) store_floats(cast + at, w);
    }
};

template <typename T, typename G>
DEVICE void adamw(const AdamWParams &p) {
    const Span s = block_span<T>(p.slots);
    const auto address = [&](int which) { return slot_address<T>(p.slots, s.slot, which); };
    G *const grad = slot_address<G>(p.slots, s.slot, 3);
    bf16 *const cast = slot_address<bf16>(p.slots, s.slot, 4);
    for_each_in_span<T>(s, AdamWStep<T, G>{p, address(0), address(1), address(2), grad, cast, p.weight_factor[s.slot]});
}

// ---- EMA: average ← decay · average + (1 − decay) · param ----

struct EmaParams {
    // EMA and parameter.
    Slots<2> slots;
    float decay, one_minus_decay;
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
        for (int j = 0; j < V; j++) a[j] = fmaf(p.decay, a[j], p.one_minus_decay * w[j]);
        store_floats(average + at, a);
    }
};

template <typename T>
DEVICE void ema(const EmaParams &p) {
    const Span s = block_span<T>(p.slots);
    for_each_in_span<T>(s, EmaStep<T>{p, slot_address<T>(p.slots, s.slot, 0), slot_address<T>(p.slots, s.slot, 1)});
}

// ---- squared norm: Σ x², in f64 ----

struct SquaredNormParams {
    Slots<1> slots;
    // f64 partial sums, one per block.
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
    const Span s = block_span<T>(p.slots);
    double sum = 0.0;
    for_each_in_span<T>(s, SquareSum<T>{slot_address<T>(p.slots, s.slot, 0), &sum});
    sum = block_sum_f64(sum);
    if (threadIdx.x == 0) reinterpret_cast<double *>(p.sums)[blockIdx.x] = sum;
}

KERNEL(adamw_f32, AdamWParams, p) { adamw<float, float>(p); }
KERNEL(adamw_bf16, AdamWParams, p) { adamw<bf16, bf16>(p); }
KERNEL(adamw_mixed_bf16, AdamWParams, p) { adamw<float, bf16>(p); }
KERNEL(ema_f32, EmaParams, p) { ema<float>(p); }
KERNEL(ema_bf16, EmaParams, p) { ema<bf16>(p); }
KERNEL(squared_norm_f32, SquaredNormParams, p) { squared_norm<float>(p); }
KERNEL(squared_norm_bf16, SquaredNormParams, p) { squared_norm<bf16>(p); }
