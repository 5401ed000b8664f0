// Primitives of all kernels. Each has two implementations: CUDA, and C++ for the emulator, which runs the same kernels
// on the CPU (tests/emulator/simt.h).
//
// A kernel takes one struct by value, with the layout of the `#[repr(C)]` struct in its launcher:
//
//     KERNEL(fill_f32, FillParams, p) { fill<float>(p); }
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define KERNEL(name, Params, p) extern "C" __global__ void name(const __grid_constant__ Params p)
// At most `threads` threads per block, and at least `blocks` resident blocks per multiprocessor.
#define KERNEL_BOUNDED(name, Params, p, threads, blocks) \
    extern "C" __global__ void __launch_bounds__(threads, blocks) name(const __grid_constant__ Params p)
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#define DEVICE __device__ __forceinline__
#else
#include "simt.h"
#define DEVICE inline
#endif

constexpr int WARP = 32;

// ---- types ----

struct bf16 {
    uint16_t bits;
};

// Two floats as two bf16 in a word, `low` in the lower half; rounded to nearest even.
DEVICE uint32_t pack_bf16(float low, float high) {
#ifdef __CUDACC__
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
#else
    return simt::bf16_bits(low) | uint32_t(simt::bf16_bits(high)) << 16;
#endif
}

DEVICE float float_of_bits(uint32_t bits) {
#ifdef __CUDACC__
    return __uint_as_float(bits);
#else
    return simt::float_of_bits(bits);
#endif
}

// Lower and upper element of a packed word.
DEVICE float low_of(uint32_t packed) { return float_of_bits(packed << 16); }
DEVICE float high_of(uint32_t packed) { return float_of_bits(packed & 0xFFFF0000u); }

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return float_of_bits(uint32_t(x.bits) << 16); }

template <typename T>
DEVICE T from_float(float x);
template <>
DEVICE float from_float<float>(float x) {
    return x;
}
template <>
DEVICE bf16 from_float<bf16>(float x) {
    return bf16{uint16_t(pack_bf16(x, 0.0f))};
}

// 2^x, within a few units in the last place.
DEVICE float fast_exp2(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return exp2f(x);
#endif
}

// x / y within a few units in the last place, for y ≥ 1.
DEVICE float fast_divide(float x, float y) {
#ifdef __CUDACC__
    return __fdividef(x, y);
#else
    return x / y;
#endif
}

DEVICE float reciprocal_root(float x) {
#ifdef __CUDACC__
    return rsqrtf(x);
#else
    return 1.0f / sqrtf(x);
#endif
}

// ---- vectors ----

// N elements that are accessed at once. N · sizeof(T) is at most 16, and addresses are multiples of it.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vec {
    T at[N];
};

// Elements of a type in a vector of 16 bytes.
template <typename T>
constexpr int LANES = 16 / sizeof(T);

template <int N, typename T>
DEVICE Vec<T, N> load(const T *address) {
#ifndef __CUDACC__
    simt::check_aligned(address, sizeof(Vec<T, N>));
#endif
    return *reinterpret_cast<const Vec<T, N> *>(address);
}

template <int N, typename T>
DEVICE void store(T *address, const Vec<T, N> &v) {
#ifndef __CUDACC__
    simt::check_aligned(address, sizeof(Vec<T, N>));
#endif
    *reinterpret_cast<Vec<T, N> *>(address) = v;
}

// Elements per vector, if N elements are split into vectors of up to 16 bytes.
template <typename T, int N>
constexpr int PIECE = N < LANES<T> ? N : LANES<T>;

// Loads or stores N elements in as few vectors as possible; the address is aligned to a vector.
template <int N, typename T>
DEVICE void load_floats(float (&to)[N], const T *address) {
#pragma unroll
    for (int i = 0; i < N; i += PIECE<T, N>) {
        const auto v = load<PIECE<T, N>>(address + i);
#pragma unroll
        for (int j = 0; j < PIECE<T, N>; j++) to[i + j] = to_float(v.at[j]);
    }
}

template <int N, typename T>
DEVICE void store_floats(T *address, const float (&from)[N]) {
#pragma unroll
    for (int i = 0; i < N; i += PIECE<T, N>) {
        Vec<T, PIECE<T, N>> v;
#pragma unroll
        for (int j = 0; j < PIECE<T, N>; j++) v.at[j] = from_float<T>(from[i + j]);
        store(address + i, v);
    }
}

// ---- warp collectives: all 32 lanes call them ----

// Value of lane `lane ^ mask`.
template <typename T>
DEVICE T warp_xor(T value, int mask) {
    static_assert(sizeof(T) == 4, "a word");
#ifdef __CUDACC__
    return __shfl_xor_sync(0xFFFFFFFFu, value, mask);
#else
    return simt::shuffle_xor(value, mask);
#endif
}

// Value of lane `lane`.
template <typename T>
DEVICE T warp_from(T value, int lane) {
    static_assert(sizeof(T) == 4, "a word");
#ifdef __CUDACC__
    return __shfl_sync(0xFFFFFFFFu, value, lane);
#else
    return simt::shuffle(value, lane);
#endif
}

// Bit i: `value` of lane i.
DEVICE uint32_t warp_ballot(bool value) {
#ifdef __CUDACC__
    return __ballot_sync(0xFFFFFFFFu, value);
#else
    uint32_t bits = uint32_t(value) << threadIdx.x % WARP;
    for (int mask = WARP / 2; mask > 0; mask /= 2) bits |= warp_xor(bits, mask);
    return bits;
#endif
}

// Index of the lowest set bit; `bits` is not 0.
DEVICE int lowest_bit(uint32_t bits) {
#ifdef __CUDACC__
    return __ffs(int(bits)) - 1;
#else
    return __builtin_ctz(bits);
#endif
}

// Sum over each aligned group of `width` lanes, bitwise identical in all of them.
template <int width = WARP>
DEVICE float warp_sum(float value) {
#pragma unroll
    for (int mask = width / 2; mask > 0; mask /= 2) value += warp_xor(value, mask);
    return value;
}

template <int width = WARP>
DEVICE float warp_max(float value) {
#pragma unroll
    for (int mask = width / 2; mask > 0; mask /= 2) value = fmaxf(value, warp_xor(value, mask));
    return value;
}

// ---- block collectives: all threads of a one-dimensional block call them ----

// Sums over the block, identical in every thread, in an order that depends on the block size alone (deterministic).
// `scratch` holds one float per sum and warp. The block size is a multiple of 32.
template <int N>
DEVICE void block_sums(float (&values)[N], float *scratch) {
    const int warps = int(blockDim.x) / WARP, warp = int(threadIdx.x) / WARP, lane = int(threadIdx.x) % WARP;
#pragma unroll
    for (int i = 0; i < N; i++) values[i] = warp_sum(values[i]);
    if (warps == 1) return;
    __syncthreads();
    if (lane == 0) {
#pragma unroll
        for (int i = 0; i < N; i++) scratch[i * warps + warp] = values[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) {
        float sum = 0.0f;
        for (int w = 0; w < warps; w++) sum += scratch[i * warps + w];
        values[i] = sum;
    }
}

DEVICE float block_sum(float value, float *scratch) {
    float values[1] = {value};
    block_sums(values, scratch);
    return values[0];
}

// ---- tensor cores ----

// Loads four 8×8 matrices of 16-bit elements from shared memory. Lane i passes the address of row i % 8 of matrix i /
// 8, a multiple of 16 bytes. Lane i receives elements 2·(i % 4) and 2·(i % 4) + 1 of row i / 4 of each.
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void *row) {
#ifdef __CUDACC__
    const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
#else
    simt::ldmatrix_x4(r, row);
#endif
}

// As ldmatrix_x4, with each matrix transposed.
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void *row) {
#ifdef __CUDACC__
    const uint32_t address = uint32_t(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
#else
    simt::ldmatrix_x4_trans(r, row);
#endif
}

// d ← d + a b for tiles a [16, 16], b [16, 8], d [16, 8], distributed over the lanes as PTX defines for
// mma.m16n8k16.row.col: with g = lane / 4 and c = 2·(lane % 4), a holds (g, c), (g + 8, c), (g, c + 8), (g + 8, c + 8)
// and in each the next column too; b holds (c, g), (c + 8, g) and the next row too; d holds (g, c), (g, c + 1),
// (g + 8, c), (g + 8, c + 1).
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef __CUDACC__
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    simt::mma_bf16(d, a, b);
#endif
}

// ---- asynchronous copies to shared memory ----

// Copies 16 bytes from `global` to `shared`, both multiples of 16. If not `valid`, writes zeros and reads nothing.
DEVICE void copy_async_16(void *shared, const void *global, bool valid = true) {
#ifdef __CUDACC__
    const uint32_t address = uint32_t(__cvta_generic_to_shared(shared)), bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
#else
    simt::copy_async_16(shared, global, valid);
#endif
}

DEVICE void copy_async_commit() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    simt::copy_async_commit();
#endif
}

// Waits for this thread's groups of copies except the last `pending`.
template <int pending>
DEVICE void copy_async_wait() {
#ifdef __CUDACC__
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#else
    simt::copy_async_wait(pending);
#endif
}

// Makes a value unknown to the optimiser: what is computed from it in a loop is not computed before the loop, where it would
// hold registers.
DEVICE void keep_in_loop(uint32_t &value) { asm volatile("" : "+r"(value)); }

// ---- random numbers: bitwise identical to core's rng.rs ----

struct Words {
    uint32_t at[4];
};

// One block of Philox4x32-10 (Salmon et al., SC 2011).
DEVICE Words philox4x32(Words counter, uint32_t key0, uint32_t key1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = uint64_t(0xD2511F53u) * counter.at[0], p1 = uint64_t(0xCD9E8D57u) * counter.at[2];
        counter = Words{{uint32_t(p1 >> 32) ^ counter.at[1] ^ key0, uint32_t(p1),
                         uint32_t(p0 >> 32) ^ counter.at[3] ^ key1, uint32_t(p0)}};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

// Core's `Dropout`. If not `active`, `threshold` is 0, `scale` is 1 and no random words are drawn.
struct Dropout {
    uint32_t key0, key1;
    // Words 1 to 3 of the counter; `step` is that of the first sample.
    uint32_t index, step, purpose;
    uint32_t threshold;
    float scale;
    uint32_t active;
    // Parts per sample, at least 1: rows of a mask, groups of a gated residual, or Philox blocks.
    uint32_t per_sample;
};

// Words of a block of the stream of a sample, counted from the first of the batch.
DEVICE Words dropout_words(const Dropout &d, uint32_t sample, uint32_t block) {
    return philox4x32(Words{{block, d.index, d.step + sample, d.purpose}}, d.key0, d.key1);
}

// Dropout factors of elements 4·block to 4·block + 3 of a sample.
DEVICE void dropout_factors(const Dropout &d, uint32_t sample, uint32_t block, float (&factor)[4]) {
    const Words words = dropout_words(d, sample, block);
#pragma unroll
    for (int i = 0; i < 4; i++) factor[i] = words.at[i] >= d.threshold ? d.scale : 0.0f;
}

// Dropout factor of one element of a sample; costs as much as four at once.
DEVICE float dropout_factor(const Dropout &d, uint32_t sample, uint64_t element) {
    float factors[4];
    dropout_factors(d, sample, uint32_t(element / 4), factors);
    const uint32_t which = uint32_t(element % 4);
    return which == 0 ? factors[0] : which == 1 ? factors[1] : which == 2 ? factors[2] : factors[3];
}
