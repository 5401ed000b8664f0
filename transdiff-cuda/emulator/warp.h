// What the 32 lanes of a warp do together. All of them must come, each with the same call.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

namespace warp {

template <typename T>
struct Shuffle {
    T value;
    unsigned source;
    T result;
};

template <typename T>
struct Value {
    T value;
};

template <typename Record>
Record& record(void* lane) {
    return *static_cast<Record*>(lane);
}

// Five exchanges with the lanes 16, 8, 4, 2 and 1 away, as on the device: floating-point sums have its bits.
template <typename T, typename Operator>
void butterfly(void* const* lanes, Operator combine) {
    T now[kWarp], next[kWarp];
    for (unsigned lane = 0; lane < kWarp; ++lane) now[lane] = record<Value<T>>(lanes[lane]).value;
    for (unsigned distance = kWarp / 2; distance > 0; distance /= 2) {
        for (unsigned lane = 0; lane < kWarp; ++lane) next[lane] = combine(now[lane], now[lane ^ distance]);
        for (unsigned lane = 0; lane < kWarp; ++lane) now[lane] = next[lane];
    }
    for (unsigned lane = 0; lane < kWarp; ++lane) record<Value<T>>(lanes[lane]).value = now[lane];
}

}  // namespace warp

// This thread's lane.
inline unsigned lane() { return self->lane; }

// `value` of the lane `source`, modulo 32 (__shfl_sync).
template <typename T>
T shuffle(T value, unsigned source) {
    warp::Shuffle<T> mine{value, source % kWarp, value};
    meet("warp_shuffle", &mine, [](void* const* lanes) {
        for (unsigned lane = 0; lane < kWarp; ++lane) {
            auto& to = warp::record<warp::Shuffle<T>>(lanes[lane]);
            to.result = warp::record<warp::Shuffle<T>>(lanes[to.source]).value;
        }
    });
    return mine.result;
}

// `value` of the lane whose number differs by the bits of `mask` (__shfl_xor_sync).
template <typename T>
T shuffle_xor(T value, unsigned mask) {
    return shuffle(value, lane() ^ mask);
}

// The sum of the lanes' values: the same bits in every lane.
template <typename T>
T warp_sum(T value) {
    warp::Value<T> mine{value};
    meet("warp_sum", &mine, [](void* const* lanes) { warp::butterfly<T>(lanes, [](T a, T b) { return a + b; }); });
    return mine.value;
}

// The greatest of the lanes' values; like fmaxf it passes over NaN.
template <typename T>
T warp_max(T value) {
    warp::Value<T> mine{value};
    meet("warp_max", &mine, [](void* const* lanes) {
        warp::butterfly<T>(lanes, [](T a, T b) { return b > a || a != a ? b : a; });
    });
    return mine.value;
}

// d += a b on tensor cores: mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32, each lane with its part of the
// fragments as the PTX manual lays them out.
void mma_bf16_16x8x16(float d[4], const uint32_t a[4], const uint32_t b[2]);

// ldmatrix.sync.aligned.m8n8.x{2,4}[.trans].shared.b16: lane 8 m + r gives the address of row r of matrix m.
void ldmatrix_x4(uint32_t r[4], const void* row);
void ldmatrix_x4_trans(uint32_t r[4], const void* row);
void ldmatrix_x2(uint32_t r[2], const void* row);
void ldmatrix_x2_trans(uint32_t r[2], const void* row);

}  // namespace simt
