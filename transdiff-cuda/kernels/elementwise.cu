// Elementwise arithmetic.
#include "walk.cuh"

struct Silu {
    DEVICE float operator()(float x) const { return x / (1.0f + expf(-x)); }
};

struct SiluSlope {
    DEVICE float operator()(float x, float dy) const {
        const float s = 1.0f / (1.0f + expf(-x));
        return dy * s * fmaf(x, 1.0f - s, 1.0f);
    }
};

struct Square {
    DEVICE float operator()(float x) const { return x * x; }
};

struct SquareSlope {
    DEVICE float operator()(float x, float dy) const { return (x + x) * dy; }
};

struct Rsqrt {
    DEVICE float operator()(float x) const { return 1.0f / sqrtf(x); }
};

struct RsqrtSlope {
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

// out ← f(inputs), of which there are N − 1.
template <typename T, int V, int N, typename F>
DEVICE void map(const Walk<N> &walk, const F &f) {
    float x[WALK_UNROLL][N - 1][V];
    uint64_t to[WALK_UNROLL];
#pragma unroll
    for (int turn = 0; turn < WALK_UNROLL; turn++) {
        const uint64_t index = walk_index(turn);
        if (index >= walk.count) break;
        uint64_t at[N];
        walk_positions(walk, index, at);
#pragma unroll
        for (int t = 0; t < N - 1; t++) walk_load<T>(walk, t, at[t], x[turn][t]);
        to[turn] = at[N - 1];
    }
#pragma unroll
    for (int turn = 0; turn < WALK_UNROLL; turn++) {
        if (walk_index(turn) >= walk.count) break;
        float y[V];
#pragma unroll
        for (int i = 0; i < V; i++) {
            float arguments[N - 1];
#pragma unroll
            for (int t = 0; t < N - 1; t++) arguments[t] = x[turn][t][i];
            y[i] = apply(f, arguments);
        }
        store_floats(reinterpret_cast<T *>(walk.address[N - 1]) + to[turn], y);
    }
}

struct UnaryParams {
    Walk<2> walk;
    uint32_t op;
    // Of the affine function.
    float mul, add;
};

struct BinaryParams {
    Walk<3> walk;
    uint32_t op;
};

template <typename T, int V>
DEVICE void unary(const UnaryParams &p) {
    switch (p.op) {
    case 0: return map<T, V>(p.walk, Silu{});
    case 1: return map<T, V>(p.walk, Square{});
    case 2: return map<T, V>(p.walk, Rsqrt{});
    default: return map<T, V>(p.walk, Affine{p.mul, p.add});
    }
}

template <typename T, int V>
DEVICE void binary(const BinaryParams &p) {
    switch (p.op) {
    case 0: return map<T, V>(p.walk, SiluSlope{});
    case 1: return map<T, V>(p.walk, SquareSlope{});
    case 2: return map<T, V>(p.walk, RsqrtSlope{});
    case 3: return map<T, V>(p.walk, Add{});
    case 4: return map<T, V>(p.walk, Sub{});
    default: return map<T, V>(p.walk, Mul{});
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
