// Copies, casts and fills between tensors of any strides.
#include <string.h>

#include "strided_indexer.cuh"

// ---- copy: out ← x, in words of 2 to 16 bytes of any type ----

typedef StridedIndexer<2> CopyParams;

template <typename Word>
DEVICE void copy(const CopyParams &p) {
    Word words[STRIDED_UNROLL];
    uint64_t to[STRIDED_UNROLL];
#pragma unroll
    for (int step = 0; step < STRIDED_UNROLL; step++) {
        const uint64_t index = strided_index(step);
        if (index >= p.count) break;
        uint64_t at[2];
        strided_offsets(p, index, at);
        words[step] = reinterpret_cast<const Word *>(p.address[0])[at[0]];
        to[step] = at[1];
    }
#pragma unroll
    for (int step = 0; step < STRIDED_UNROLL; step++) {
        if (strided_index(step) >= p.count) break;
        reinterpret_cast<Word *>(p.address[1])[to[step]] = words[step];
    }
}

KERNEL(copy_2, CopyParams, p) { copy<uint16_t>(p); }
KERNEL(copy_4, CopyParams, p) { copy<uint32_t>(p); }
KERNEL(copy_8, CopyParams, p) { copy<uint64_t>(p); }
KERNEL(copy_16, CopyParams, p) { copy<Vec<uint32_t, 4>>(p); }

// ---- fill: out ← value ----

struct FillParams {
    StridedIndexer<1> indexer;
    // The value, repeated to 16 bytes.
    Vec<uint32_t, 4> pattern;
};

template <typename Word>
DEVICE void fill(const FillParams &p) {
    Word word;
    memcpy(&word, &p.pattern, sizeof(Word));
    for (int step = 0; step < STRIDED_UNROLL; step++) {
        const uint64_t index = strided_index(step);
        if (index >= p.indexer.count) break;
        uint64_t at[1];
        strided_offsets(p.indexer, index, at);
        reinterpret_cast<Word *>(p.indexer.address[0])[at[0]] = word;
    }
}

KERNEL(fill_2, FillParams, p) { fill<uint16_t>(p); }
KERNEL(fill_4, FillParams, p) { fill<uint32_t>(p); }
KERNEL(fill_8, FillParams, p) { fill<uint64_t>(p); }
KERNEL(fill_16, FillParams, p) { fill<Vec<uint32_t, 4>>(p); }

// ---- cast: out ← x, rounded to nearest even ----

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
    // Round to odd: towards zero, with the last bit set if inexact, so that the second rounding is correct.
    const uint32_t beyond = fabs(double(near)) > fabs(x) ? 1 : 0;
    uint32_t bits;
    memcpy(&bits, &near, sizeof(bits));
    y = from_float<bf16>(float_of_bits((bits - beyond) | 1));
}

template <typename A, typename B, int V>
DEVICE void cast(const StridedIndexer<2> &p) {
    for (int step = 0; step < STRIDED_UNROLL; step++) {
        const uint64_t index = strided_index(step);
        if (index >= p.count) break;
        uint64_t at[2];
        strided_offsets(p, index, at);
        const Vec<A, V> from = load<V>(reinterpret_cast<const A *>(p.address[0]) + at[0]);
        Vec<B, V> to;
#pragma unroll
        for (int i = 0; i < V; i++) convert(from.at[i], to.at[i]);
        store<V>(reinterpret_cast<B *>(p.address[1]) + at[1], to);
    }
}

// One element per vector, and as many as 16 bytes hold of the wider type.
#define CAST(from, to, A, B, V)                                            \
    KERNEL(cast_##from##_##to, StridedIndexer<2>, p) { cast<A, B, 1>(p); } \
    KERNEL(cast_##from##_##to##_wide, StridedIndexer<2>, p) { cast<A, B, V>(p); }

CAST(f32, bf16, float, bf16, 4)
CAST(f32, f64, float, double, 2)
CAST(bf16, f32, bf16, float, 4)
CAST(bf16, f64, bf16, double, 2)
CAST(f64, f32, double, float, 2)
CAST(f64, bf16, double, bf16, 2)
