// Kernels of the emulator's test: correct ones, and one with each kind of error.
#include "common.cuh"

struct TestParams {
    float *out;
    const float *in;
    uint32_t choice;
    float value;
};

KERNEL(test_sum, TestParams, p) {
    __shared__ float scratch[WARP];
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    const float sum = block_sum(p.in[i], scratch);
    if (threadIdx.x == 0) p.out[blockIdx.x] = sum;
}

KERNEL_BOUNDED(test_add, TestParams, p, 64, 1) { p.out[blockIdx.x * blockDim.x + threadIdx.x] += p.value; }

// in: a [16, 16] then b [16, 8], out: d [16, 8], row-major; fragments in the layout of the PTX manual.
KERNEL(test_mma, TestParams, p) {
    const float *a = p.in, *b = p.in + 256;
    const int g = int(threadIdx.x) / 4, c = int(threadIdx.x) % 4 * 2;
    const auto pair = [](const float *m, int first, int second) { return pack_bf16(m[first], m[second]); };
    const uint32_t left[4] = {pair(a, g * 16 + c, g * 16 + c + 1), pair(a, (g + 8) * 16 + c, (g + 8) * 16 + c + 1),
                              pair(a, g * 16 + c + 8, g * 16 + c + 9),
                              pair(a, (g + 8) * 16 + c + 8, (g + 8) * 16 + c + 9)};
    const uint32_t right[2] = {pair(b, c * 8 + g, (c + 1) * 8 + g), pair(b, (c + 8) * 8 + g, (c + 9) * 8 + g)};
    float d[4] = {p.value, p.value, p.value, p.value};
    mma_bf16(d, left, right);
    for (int i = 0; i < 4; i++) p.out[(g + i / 2 * 8) * 8 + c + i % 2] = d[i];
}

// out ← what the other of two warps wrote before its lanes synchronised; choice: 0 waits for it, 1 does not.
KERNEL(test_ahead, TestParams, p) {
    __shared__ float written[2 * WARP];
    written[threadIdx.x] = p.value;
    __syncwarp();
    if (p.choice == 0) __syncthreads();
    p.out[threadIdx.x] = written[threadIdx.x ^ WARP];
}

// out: what lane i receives of 4 matrices with element (row, column) of matrix m = 64 m + 8 row + column, 4 words per lane.
KERNEL(test_ldmatrix, TestParams, p) {
    __shared__ __align__(16) uint16_t tile[4][8][8];
    const int lane = int(threadIdx.x);
    for (int column = 0; column < 8; column++) {
        tile[lane / 8][lane % 8][column] = uint16_t(64 * (lane / 8) + 8 * (lane % 8) + column);
    }
    __syncwarp();
    uint32_t r[4];
    if (p.choice == 0) {
        ldmatrix_x4(r, tile[lane / 8][lane % 8]);
    } else {
        ldmatrix_x4_trans(r, tile[lane / 8][lane % 8]);
    }
    for (int i = 0; i < 4; i++) p.out[lane * 4 + i] = float_of_bits(r[i]);
}

// out ← in through shared memory, 4 elements per thread; choice: 0 waits, 1 does not, 2 waits for the previous group,
// 3 does not commit, 4 copies zeros.
KERNEL(test_copy_async, TestParams, p) {
    DYNAMIC_SHARED(memory);
    float *mine = reinterpret_cast<float *>(memory) + 4 * threadIdx.x;
    copy_async_16(mine, p.in + 4 * threadIdx.x, p.choice != 4);
    if (p.choice != 3) copy_async_commit();
    if (p.choice == 2) copy_async_wait<1>();
    if (p.choice == 0 || p.choice >= 3) copy_async_wait<0>();
    __syncthreads();
    for (int i = 0; i < 4; i++) p.out[4 * threadIdx.x + i] = mine[i];
}

// Missing barrier if choice is 1: the result depends on the order of threads.
KERNEL(test_race, TestParams, p) {
    __shared__ float scratch[64];
    scratch[threadIdx.x] = p.value;
    if (p.choice == 0) __syncthreads();
    p.out[threadIdx.x] = scratch[63 - threadIdx.x];
}

// All blocks write to one element: the result depends on the order of blocks.
KERNEL(test_blocks, TestParams, p) { p.out[0] = float(blockIdx.x); }

KERNEL(test_returns_early, TestParams, p) {
    if (threadIdx.x < 40) return;
    __syncthreads();
    p.out[threadIdx.x] = 1.0f;
}

KERNEL(test_two_barriers, TestParams, p) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        p.out[threadIdx.x] = 1.0f;
        __syncthreads();
    }
}

KERNEL(test_half_warp, TestParams, p) {
    if (threadIdx.x < 16) p.out[threadIdx.x] = warp_sum(1.0f);
}

KERNEL(test_two_collectives, TestParams, p) {
    if (threadIdx.x < 16) {
        p.out[threadIdx.x] = warp_sum(1.0f);
    } else {
        __syncwarp();
    }
}

KERNEL(test_misaligned, TestParams, p) { p.out[0] = float(*reinterpret_cast<const double *>(p.in + 1)); }

// Writes `choice` floats beyond the dynamic shared memory.
KERNEL(test_overrun, TestParams, p) {
    DYNAMIC_SHARED(memory);
    reinterpret_cast<float *>(memory)[threadIdx.x + p.choice] = 1.0f;
}

// Thread 0 reads static (choice 0) or dynamic (choice 1) shared memory that was not written.
KERNEL(test_unwritten, TestParams, p) {
    DYNAMIC_SHARED(memory);
    __shared__ float fixed[64];
    float *from = p.choice == 0 ? fixed : reinterpret_cast<float *>(memory);
    if (threadIdx.x > 0) from[threadIdx.x] = 1.0f;
    __syncthreads();
    p.out[threadIdx.x] = from[threadIdx.x];
}

KERNEL(test_deep, TestParams, p) {
    volatile float large[17000];
    for (int i = 0; i < 17000; i++) large[i] = p.value;
    p.out[threadIdx.x] = large[p.choice];
}
