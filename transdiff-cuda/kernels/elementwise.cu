// Elementwise arithmetic: out ← f(x) and out ← f(a, b), and derivatives dx ← f′(x) · dy. Tensors of any strides.
#include "strided_indexer.cuh"

struct Silu {
    DEVICE float operator()(float x) const { return x / (1.0f + expf(-x)); }
};

struct SiluGradient {
    DEVICE float operator()(float x, float dy) const {
        const float s = 1.0f / (1.0f + expf(-x));
        return dy * s * fmaf(x, 1.0f - s, 1.0f);
    }
};

struct Square {
    DEVICE float operator()(float x) const { return x * x; }
};

struct SquareGradient {
    DEVICE float operator()(float x, float dy) const { return (x + x) * dy; }
};

struct Rsqrt {
    DEVICE float operator()(float x) const { return 1.0f / sqrtf(x); }
};

struct RsqrtGradient {
    DEVICE float operator()(float x, float dy) const { return -0.5f / (x * sqrtf(x)) * dy; }
};

struct Affine {
    float mul, add;
    DEVICE float operator()(float x) const { return fmaf(x, mul, add); }
};

struct Add {
    DEVICE float operator()(float a, float b) const { return a + b; }
};

struct Sub {
    DEVICE float operator()(float a, float b) const { return a - b; }
};

struct Mul {
    DEVICE float operator()(float a, float b) const { return a * b; }
};

template <typename F>
DEVICE float apply(const F &f, const float (&x)[1]) {
    return f(x[0]);
}

template <typename F>
DEVICE float apply(const F &f, const float (&x)[2]) {
    return f(x[0], x[1]);
}

// out ← f(inputs), with N − 1 inputs.
template <typename T, int V, int N, typename F>
DEVICE void map(const StridedIndexer<N> &indexer, const F &f) {
    float x[STRIDED_UNROLL][N - 1][V];
    uint64_t to[STRIDED_UNROLL];
#pragma unroll
    for (int step = 0; step < STRIDED_UNROLL; step++) {
        const uint64_t index = strided_index(step);
        if (index >= indexer.count) break;
        uint64_t at[N];
        strided_offsets(indexer, index, at);
#pragma unroll
        for (int t = 0; t < N - 1; t++) strided_load<T>(indexer, t, at[t], x[step][t]);
        to[step] = at[N - 1];
    }
#pragma unroll
    for (int step = 0; step < STRIDED_UNROLL; step++) {
        if (strided_index(step) >= indexer.count) break;
        float y[V];
#pragma unroll
        for (int i = 0; i < V; i++) {
            float arguments[N - 1];
#pragma unroll
            for (int t = 0; t < N - 1; t++) arguments[t] = x[step][t][i];
            y[i] = apply(f, arguments);
        }
        store_floats(reinterpret_cast<T *>(indexer.address[N - 1]) + to[step], y);
    }
}

struct UnaryParams {
    StridedIndexer<2> indexer;
    uint32_t op;
    // Coefficients of the affine function.
    float mul, add;
};

struct BinaryParams {
    StridedIndexer<3> indexer;
    uint32_t op;
};

template <typename T, int V>
DEVICE void unary(const UnaryParams &p) {
    switch (p.op) {
    case 0: return map<T, V>(p.indexer, Silu{});
    case 1: return map<T, V>(p.indexer, Square{});
    case 2: return map<T, V>(p.indexer, Rsqrt{});
    default: return map<T, V>(p.indexer, Affine{p.mul, p.add});
    }
}

template <typename T, int V>
DEVICE void binary(const BinaryParams &p) {
    switch (p.op) {
    case 0: return map<T, V>(p.indexer, SiluGradient{});
    case 1: return map<T, V>(p.indexer, SquareGradient{});
    case 2: return map<T, V>(p.indexer, RsqrtGradient{});
    case 3: return map<T, V>(p.indexer, Add{});
    case 4: return map<T, V>(p.indexer, Sub{});
    default: return map<T, V>(p.indexer, Mul{});
    }
}

KERNEL(unary_f32, UnaryParams, p) { unary<float, 1>(p); }
KERNEL(unary_bf16, UnaryParams, p) { unary<bf16, 1>(p); }
KERNEL(unary_wide_f32, UnaryParams, p) { unary<float, LANES<float>>(p); }
KERNEL(unary_wide_bf16, UnaryParams, p) { unary<bf16, LANES<bf16>>(p); }
KERNEL(binary_f32, BinaryParams, p) { binary<float, 1>(p); }
KERNEL(binary_bf16, BinaryParams, p) { binary<bf16, 1>(p); }
KERNEL(binary_wide_f32, BinaryParams, p) { binary<float, LANES<float>>(p); }
KERNEL(binary_wide_bf16, BinaryParams, p) { binary<bf16, LANES<bf16>>(p); }
