// Matrix fragments of a warp in the layout of the PTX manual: "Matrix Fragments for mma.m16n8k16 with floating
// point type" and "ldmatrix".
#include "simt.h"

#include "launch.h"

namespace simt {

namespace {

constexpr unsigned kRows = 16, kColumns = 8, kDepth = 16;   // of an mma tile
constexpr unsigned kMatrices = 4;                           // of an ldmatrix

float from_bf16(uint32_t pair, unsigned half) { return bits<float>(pair >> 16 * half << 16); }

struct Mma {
    float* d;
    const uint32_t *a, *b;
};

// Lane 4 g + t has a in rows g and g + 8, columns 2 t and 2 t + 8 and those after; b in rows 2 t and 2 t + 8 and those
// after, column g; d in rows g and g + 8, columns 2 t and 2 t + 1.
void multiply(void* const* lanes) {
    float a[kRows][kDepth], b[kDepth][kColumns];
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        const Mma& mine = *static_cast<Mma*>(lanes[lane]);
        const unsigned g = lane / 4, t = lane % 4;
        for (unsigned half = 0; half < 2; ++half) {
            for (unsigned i = 0; i < 4; ++i) a[g + i % 2 * 8][2 * t + i / 2 * 8 + half] = from_bf16(mine.a[i], half);
            for (unsigned i = 0; i < 2; ++i) b[2 * t + i * 8 + half][g] = from_bf16(mine.b[i], half);
        }
    }
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        float* d = static_cast<Mma*>(lanes[lane])->d;
        for (unsigned i = 0; i < 4; ++i) {
            const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
            for (unsigned k = 0; k < kDepth; ++k) d[i] += a[row][k] * b[k][column];
        }
    }
}

struct Load {
    const void* row;
    uint32_t* r;
};

template <bool transposed>
void load(void* const* lanes) {
    for (unsigned lane = 0; lane < kWarp; ++lane) {
        for (unsigned matrix = 0; matrix < kMatrices; ++matrix) {
            uint16_t pair[2];
            for (unsigned i = 0; i < 2; ++i) {
                const unsigned row = transposed ? lane % 4 * 2 + i : lane / 4;
                const unsigned column = transposed ? lane / 4 : lane % 4 * 2 + i;
                const auto* address = static_cast<const char*>(static_cast<Load*>(lanes[8 * matrix + row])->row);
                std::memcpy(&pair[i], address + column * sizeof pair[i], sizeof pair[i]);
            }
            static_cast<Load*>(lanes[lane])->r[matrix] = pair[0] | uint32_t{pair[1]} << 16;
        }
    }
}

template <bool transposed>
void ldmatrix(const char* name, uint32_t* r, const void* row) {
    check_aligned(row, 16);
    if (!in_shared(row, 16)) fail("%s reads from %p, which is not shared memory", name, row);
    Load mine{row, r};
    meet(name, &mine, load<transposed>);
}

}  // namespace

void mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2]) {
    Mma mine{d, a, b};
    meet("mma_bf16", &mine, multiply);
}

void ldmatrix_x4(uint32_t r[4], const void* row) { ldmatrix<false>("ldmatrix_x4", r, row); }
void ldmatrix_x4_trans(uint32_t r[4], const void* row) { ldmatrix<true>("ldmatrix_x4_trans", r, row); }

}  // namespace simt
