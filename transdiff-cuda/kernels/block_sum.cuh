// f64 sums over the threads of a block.
#pragma once
#include "common.cuh"

constexpr int SUM_THREADS = 256;

// Sum over the SUM_THREADS threads of a block, in a fixed order (deterministic). All threads call it and get the sum.
DEVICE double block_sum_f64(double value) {
    __shared__ double scratch[SUM_THREADS];
    __syncthreads();
    scratch[threadIdx.x] = value;
    for (int width = SUM_THREADS / 2; width > 0; width /= 2) {
        __syncthreads();
        if (int(threadIdx.x) < width) scratch[threadIdx.x] += scratch[threadIdx.x + width];
    }
    __syncthreads();
    return scratch[0];
}

// Sum of `count` values, likewise.
DEVICE double block_sum_of(const double *values, uint64_t count) {
    double sum = 0.0;
    for (uint64_t i = threadIdx.x; i < count; i += SUM_THREADS) sum += values[i];
    return block_sum_f64(sum);
}
