#include "gemm.h"

#include <algorithm>
#include <cmath>
#include <thread>
#include <vector>

#include "simt.h"

namespace gemm {

namespace {

// Multiplications from which on two threads share the rows.
constexpr uint64_t kLarge = uint64_t{1} << 22;
constexpr size_t kRowsAtOnce = 4;

using Floats = std::vector<float>;

// op(matrix) of one matrix of the batch, row-major.
Floats pack(const Matrix& matrix, bool transpose, int32_t batch) {
    const uint64_t rows = transpose ? matrix.columns : matrix.rows, columns = transpose ? matrix.rows : matrix.columns;
    const int64_t start = batch * matrix.batch_stride;
    Floats packed(rows * columns);
    for (uint64_t row = 0; row < rows; ++row) {
        for (uint64_t column = 0; column < columns; ++column) {
            const int64_t offset = transpose ? matrix.offset(column, row) : matrix.offset(row, column);
            packed[row * columns + column] = load(matrix.type, matrix.address, start + offset);
        }
    }
    return packed;
}

// Rows [first, last) of the product of a [m, k] and b [k, n], summed over k in ascending order.
void multiply(const Floats& a, const Floats& b, Floats& product, size_t first, size_t last, size_t n, size_t k) {
    for (size_t row = first; row < last; row += kRowsAtOnce) {
        const size_t rows = std::min(kRowsAtOnce, last - row);
        for (size_t inner = 0; inner < k; ++inner) {
            const float* from = &b[inner * n];
            for (size_t r = 0; r < rows; ++r) {
                const float factor = a[(row + r) * k + inner];
                float* to = &product[(row + r) * n];
                for (size_t column = 0; column < n; ++column) to[column] += factor * from[column];
            }
        }
    }
}

// Rounds to the nearest TF32 value, ties away from zero.
void round_to_tf32(Floats& values) {
    constexpr uint32_t kDropped = 13;
    for (float& value : values) {
        if (!std::isfinite(value)) continue;
        const uint32_t rounded = simt::bits<uint32_t>(value) + (1u << (kDropped - 1));
        value = simt::float_of_bits(rounded >> kDropped << kDropped);
    }
}

Floats product(const Floats& a, const Floats& b, size_t m, size_t n, size_t k) {
    Floats result(m * n, 0.0f);
    if (result.empty() || k == 0) return result;
    if (m * n * k < kLarge) {
        multiply(a, b, result, 0, m, n, k);
        return result;
    }
    std::thread half([&] { multiply(a, b, result, 0, m / 2, n, k); });
    multiply(a, b, result, m / 2, m, n, k);
    half.join();
    return result;
}

// The tanh form: x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))).
constexpr float kRoot = 0.7978845608028654f, kCubic = 0.044715f;

float gelu(float x) { return 0.5f * x * (1.0f + std::tanh(kRoot * (x + kCubic * x * x * x))); }

// One element of D before rounding, from the element of the product.
float epilogue(const Problem& p, float value, uint64_t row, uint64_t column, int32_t batch) {
    const int64_t c = batch * p.c.batch_stride + p.c.offset(row, column);
    value *= p.alpha;
    if (p.beta != 0.0f) value += p.beta * load(p.c.type, p.c.address, c);
    if (p.epilogue & kBias) value += load(p.bias_type, p.bias, static_cast<int64_t>(row));
    return p.epilogue & kGelu ? gelu(value) : value;
}

// Sums over k of op(A) [m, k] or op(B) [k, n].
void sum_operand(const Problem& p, const Floats& a, const Floats& b) {
    Floats sums(p.bias_length(), 0.0f);
    for (size_t i = 0; i < sums.size(); ++i) {
        for (size_t k = 0; k < p.k(); ++k) sums[i] += p.epilogue & kSumA ? a[i * p.k() + k] : b[k * p.n() + i];
    }
    for (size_t i = 0; i < sums.size(); ++i) store(p.bias_type, p.bias, static_cast<int64_t>(i), sums[i]);
}

void run(const Problem& p, int32_t batch) {
    Floats a = pack(p.a, p.transpose_a, batch), b = pack(p.b, p.transpose_b, batch);
    if (p.tf32) round_to_tf32(a), round_to_tf32(b);
    const Floats values = product(a, b, p.m(), p.n(), p.k());
    for (uint64_t row = 0; row < p.m(); ++row) {
        for (uint64_t column = 0; column < p.n(); ++column) {
            const float value = epilogue(p, values[row * p.n() + column], row, column, batch);
            store(p.d.type, p.d.address, batch * p.d.batch_stride + p.d.offset(row, column), value);
        }
    }
    if (p.epilogue & (kSumA | kSumB)) sum_operand(p, a, b);
}

}  // namespace

float load(int32_t type, uintptr_t address, int64_t index) {
    if (type == kF32) return reinterpret_cast<const float*>(address)[index];
    return simt::float_of_bits(uint32_t{reinterpret_cast<const uint16_t*>(address)[index]} << 16);
}

void store(int32_t type, uintptr_t address, int64_t index, float value) {
    if (type == kF32) {
        reinterpret_cast<float*>(address)[index] = value;
    } else {
        reinterpret_cast<uint16_t*>(address)[index] = simt::bf16_bits(value);
    }
}

size_t bytes_of(int32_t type) { return type == kF32 ? 4 : 2; }

void run(const Problem& problem) {
    for (int32_t batch = 0; batch < problem.d.batch; ++batch) run(problem, batch);
}

}  // namespace gemm
