// Copies, casts and fills between tensors of any strides.
#include <string.h>

#include "walk.cuh"

// ---- copy: words of 2 to 16 bytes, whatever they hold ----

typedef Walk<2> CopyParams;

template <typename Word>
DEVICE void copy(const CopyParams &p) {
    Word words[WALK_UNROLL];
    uint64_t to[WALK_UNROLL];
#pragma unroll
    for (int turn = 0; turn < WALK_UNROLL; turn++) {
        const uint64_t index = walk_index(turn);
        if (index >= p.count) break;
        uint64_t at[2];
        walk_positions(p, index, at);
        words[turn] = reinterpret_cast<const Word *>(p.address[0])[at[0]];
        to[turn] = at[1];
    }
#pragma unroll
    for (int turn = 0; turn < WALK_UNROLL; turn++) {
        if (walk_index(turn) >= p.count) break;
        reinterpret_cast<Word *>(p.address[1])[to[turn]] = words[turn];
    }
}

KERNEL(copy_2, CopyParams, p) { copy<uint16_t>(p); }
KERNEL(copy_4, CopyParams, p) { copy<uint32_t>(p); }
KERNEL(copy_8, CopyParams, p) { copy<uint64_t>(p); }
KERNEL(copy_16, CopyParams, p) { copy<Vec<uint32_t, 4>>(p); }

// ---- fill ----

struct FillParams {
    Walk<1> walk;
    // The value, repeated to 16 bytes.
    Vec<uint32_t, 4> pattern;
};

template <typename Word>
DEVICE void fill(const FillParams &p) {
    Word word;
    memcpy(&word, &p.pattern, sizeof(Word));
    for (int turn = 0; turn < WALK_UNROLL; turn++) {
        const uint64_t index = walk_index(turn);
        if (index >= p.walk.count) break;
        uint64_t at[1];
        walk_positions(p.walk, index, at);
        reinterpret_cast<Word *>(p.walk.address[0])[at[0]] = word;
    }
}

KERNEL(fill_2, FillParams, p) { fill<uint16_t>(p); }
KERNEL(fill_4, FillParams, p) { fill<uint32_t>(p); }
KERNEL(fill_8, FillParams, p) { fill<uint64_t>(p); }
KERNEL(fill_16, FillParams, p) { fill<Vec<uint32_t, 4>>(p); }

// ---- cast ----

DEVICE void convert(float x, bf16 &y) { y = from_float<bf16>(x); }
DEVICE void convert(float x, double &y) { y = x; }
DEVICE void convert(bf16 x, float &y) { y = to_float(x); }
DEVICE void convert(bf16 x, double &y) { y = to_float(x); }
DEVICE void convert(double x, float &y) { y = float(x); }

DEVICE void convert(double x, bf16 &y) {
    const float near = float(x);
    if (isnan(x) || double(near) == x) {
        y = from_float<bf16>(near);
        return;
    }
    // Rounded to odd: towards zero, with the last bit set for what was lost, so that the second rounding sees it.
    const uint32_t beyond = fabs(double(near)) > fabs(x) ? 1 : 0;
    uint32_t bits;
    memcpy(&bits, &near, sizeof(bits));
    y = from_float<bf16>(float_of_bits((bits - beyond) | 1));
}

template <typename A, typename B, int V>
DEVICE void cast(const Walk<2> &p) {
    for (int turn = 0; turn < WALK_UNROLL; turn++) {
        const uint64_t index = walk_index(turn);
        if (index >= p.count) break;
        uint64_t at[2];
        walk_positions(p, index, at);
        const Vec<A, V> from = load<V>(reinterpret_cast<const A *>(p.address[0]) + at[0]);
        Vec<B, V> to;
#pragma unroll
        for (int i = 0; i < V; i++) convert(from.at[i], to.at[i]);
        store<V>(reinterpret_cast<B *>(p.address[1]) + at[1], to);
    }
}

// One number at a time, and as many as 16 bytes hold of the wider type.
#define CAST(from, to, A, B, V)                                            \
    KERNEL(cast_##from##_##to, Walk<2>, p) { cast<A, B, 1>(p); }           \
    KERNEL(cast_##from##_##to##_wide, Walk<2>, p) { cast<A, B, V>(p); }

CAST(f32, bf16, float, bf16, 4)
CAST(f32, f64, float, double, 2)
CAST(bf16, f32, bf16, float, 4)
CAST(bf16, f64, bf16, double, 2)
CAST(f64, f32, double, float, 2)
CAST(f64, bf16, double, bf16, 2)
