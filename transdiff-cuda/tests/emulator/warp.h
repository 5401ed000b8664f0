// Warp collectives. All 32 lanes must make the same call.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

template <typename T>
struct Shuffle {
    T value;
    unsigned source;
    T result;
};

// This thread's lane.
inline unsigned lane() { return self->lane; }

// `value` of lane `source`, modulo 32 (__shfl_sync).
template <typename T>
T shuffle(T value, unsigned source) {
    Shuffle<T> mine{value, source % kWarp, value};
    meet("shuffle", &mine, [](void* const* lanes) {
        for (unsigned lane = 0; lane < kWarp; ++lane) {
            auto& to = *static_cast<Shuffle<T>*>(lanes[lane]);
            to.result = static_cast<Shuffle<T>*>(lanes[to.source])->value;
        }
    });
    return mine.result;
}

// `value` of lane `lane() ^ mask` (__shfl_xor_sync).
template <typename T>
T shuffle_xor(T value, unsigned mask) {
    return shuffle(value, lane() ^ mask);
}

// d += a b on tensor cores: mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32, each lane with its part of the
// fragments, in the layout of the PTX manual.
void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]);

// ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16: lane 8 m + r passes the address of row r of matrix m.
void ldmatrix_x4(uint32_t r[4], const void* row);
void ldmatrix_x4_trans(uint32_t r[4], const void* row);

}  // namespace simt
