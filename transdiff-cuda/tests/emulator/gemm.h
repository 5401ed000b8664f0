// Matrix products as defined by cuBLASLt, in host memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gemm {

enum Type : int32_t { kF32 = 0, kBf16 = 14 };
// Bits of cublasLtEpilogue_t.
enum Epilogue : uint32_t { kDefault = 1, kBias = 4, kGelu = 32, kSumA = 256, kSumB = 512 };

struct Matrix {
    int32_t type = kF32;
    uint64_t rows = 0, columns = 0;
    int64_t leading = 0;
    int32_t batch = 1;
    int64_t batch_stride = 0;
    uintptr_t address = 0;

    // Offset of an element from `address`, in elements.
    int64_t offset(uint64_t row, uint64_t column) const {
        const int64_t r = static_cast<int64_t>(row), c = static_cast<int64_t>(column);
        return c * leading + r;
    }
};

float load(int32_t type, uintptr_t address, int64_t index);
void store(int32_t type, uintptr_t address, int64_t index, float value);
size_t bytes_of(int32_t type);

// D = epilogue(alpha op(A) op(B) + beta C).
struct Problem {
    Matrix a, b, c, d;
    bool transpose_a = false, transpose_b = false;
    float alpha = 1, beta = 0;
    // True if operands are rounded to TF32.
    bool tf32 = false;
    uint32_t epilogue = kDefault;
    int32_t bias_type = kF32;
    uintptr_t bias = 0;

    uint64_t m() const { return d.rows; }
    uint64_t n() const { return d.columns; }
    uint64_t k() const { return transpose_a ? a.rows : a.columns; }
    // Elements of the vector at `bias`; 0 if the epilogue takes none.
    uint64_t bias_length() const {
        if (epilogue & (kBias | kSumA)) return m();
        return epilogue & kSumB ? n() : 0;
    }
};

void run(const Problem& problem);

}  // namespace gemm
