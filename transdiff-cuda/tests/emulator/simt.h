// The kernels' view of the emulator: CUDA C++ keywords for a host compiler, and the primitives behind kernels/common.cuh.
// The threads of a block are fibers of one host thread; README.md lists what that detects and its limits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace simt {

constexpr unsigned kWarp = 32;           // lanes of a warp
constexpr unsigned kMaxThreads = 1024;   // of a block
constexpr size_t kMaxParams = 4096;      // bytes of a kernel's argument

struct Index {
    unsigned x, y, z;
};

// A kernel, which the driver finds by name among this library's symbols.
struct Kernel {
    uint64_t magic;           // kMagic: the symbol is a kernel
    size_t params;            // bytes of its argument
    unsigned max_threads;     // of a block
    const char* file;         // the source that was compiled
    void (*thread)(const void* params);
};

constexpr uint64_t kMagic = 0x6b65726e656c2121;

// State shared by all threads of a block.
struct Place {
    Index block, block_size, grid_size;
    unsigned char* shared;    // dynamic shared memory
};

struct Thread {
    Index index;
    unsigned lane;            // in its warp
    const Place* place;
};

// The running thread: each host thread executes its own blocks.
extern __thread const Thread* self __attribute__((visibility("hidden")));

// Aborts the launch with an error that names the kernel, the block and the thread.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Fails if an access of `bytes` bytes at `address` is misaligned.
inline void check_aligned(const void* address, size_t bytes) {
    if (reinterpret_cast<uintptr_t>(address) % bytes != 0) fail("misaligned address %p, not a multiple of %zu", address, bytes);
}

// Barrier of all threads of the block; `file` and `line` must be the same for all.
void barrier(const char* file, int line);

// Collective of the 32 lanes of a warp, with the same `name` in all: each passes the address of its own record, and the
// last lane to arrive calls `combine` with the records of lanes 0 to 31, which it may read and write.
void meet(const char* name, void* mine, void (*combine)(void* const lanes[kWarp]));

// The bits of `value` as a `To`.
template <typename To, typename From>
To bits(From value) {
    static_assert(sizeof(To) == sizeof(From) && std::is_trivially_copyable<To>::value, "bits of another size");
    To result;
    std::memcpy(&result, &value, sizeof(To));
    return result;
}

inline float float_of_bits(uint32_t value) { return bits<float>(value); }

// Rounds to nearest, ties to even; NaN stays NaN.
inline uint16_t bf16_bits(float value) {
    const uint32_t word = bits<uint32_t>(value);
    if (value != value) return 0x7FFF;
    return static_cast<uint16_t>((word + 0x7FFF + (word >> 16 & 1)) >> 16);
}

}  // namespace simt

#include "async_copy.h"
#include "warp.h"

// --- CUDA C++ keywords ------------------------------------------------------------------------------------------

#define __device__
#define __host__
#define __global__
#define __constant__ static const
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
// A host thread runs one block at a time.
#define __shared__ static __thread

#define threadIdx (simt::self->index)
#define blockIdx (simt::self->place->block)
#define blockDim (simt::self->place->block_size)
#define gridDim (simt::self->place->grid_size)

#define DYNAMIC_SHARED(name) unsigned char* const name = simt::self->place->shared

#define KERNEL(name, Params, p) KERNEL_BOUNDED(name, Params, p, simt::kMaxThreads, 1)
#define KERNEL_BOUNDED(name, Params, p, threads, blocks)                                                                  \
    static_assert(std::is_trivially_copyable<Params>::value && sizeof(Params) <= simt::kMaxParams, "argument of " #name); \
    static void name##_thread(const Params& p);                                                                       \
    static void name##_entry(const void* params) { name##_thread(*static_cast<const Params*>(params)); }              \
    extern "C" __attribute__((visibility("default"))) const simt::Kernel name;                                        \
    const simt::Kernel name = {simt::kMagic, sizeof(Params), threads, __BASE_FILE__, name##_entry};               \
    static void name##_thread(const Params& p)

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { simt::barrier(file, line); }
inline void __syncwarp() {
    simt::meet("__syncwarp", nullptr, [](void* const*) {});
}

inline uint32_t __float_as_uint(float value) { return simt::bits<uint32_t>(value); }
inline float __uint_as_float(uint32_t value) { return simt::float_of_bits(value); }
