// The mask of a dropout of rows [R, N], with a bit per element: kept [R, ⌈N/32⌉].
#include "common.cuh"

struct DropoutMaskParams {
    uint64_t kept;
    uint64_t rows;
    uint32_t width, words;
    // Its parts are rows.
    Dropout dropout;
};

// A thread writes one word. Without the four elements of a block divided between two words, a word takes eight blocks; with,
// nine.
KERNEL(dropout_mask_32, DropoutMaskParams, p) {
    const uint64_t index = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x, row = index / p.words;
    if (row >= p.rows) return;
    const uint32_t sample = uint32_t(row / p.dropout.per_sample), column = uint32_t(index % p.words) * 32;
    const uint64_t first = row % p.dropout.per_sample * p.width + column;
    const uint32_t skipped = uint32_t(first % 4), left = p.width - column;
    uint64_t bits = 0;
    for (int block = 0; block < (skipped == 0 ? 8 : 9); block++) {
        // Blocks are numbered modulo 2^32.
        const Words words = dropout_words(p.dropout, sample, uint32_t(first / 4) + block);
#pragma unroll
        for (int i = 0; i < 4; i++) bits |= uint64_t(words.at[i] >= p.dropout.threshold) << (4 * block + i);
    }
    const uint32_t word = uint32_t(bits >> skipped);
    reinterpret_cast<uint32_t *>(p.kept)[index] = left < 32 ? word & ((1u << left) - 1) : word;
}
