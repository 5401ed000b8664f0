// Sums over axes: out ← Σ x over the summed axes, x of any strides, out contiguous.
//
// The summed positions are partitioned into slices; with more than one, a second launch sums their partial sums. Each
// thread sums runs of a few elements before adding them to its total, which bounds the rounding error of long sums.
#include "common.cuh"

constexpr int REDUCE_AXES = 6;
constexpr int REDUCE_THREADS = 256;
// Elements that a thread loads before it adds the first.
constexpr int REDUCE_RUN = 8;

// The summed or the kept axes; the innermost axis counts vectors if it is accessed in vectors.
struct ReduceAxes {
    uint64_t shape[REDUCE_AXES], strides[REDUCE_AXES];
    uint64_t count;
    uint64_t axes;
};

struct ReduceParams {
    // `out` [slices, kept], contiguous.
    uint64_t x, out;
    ReduceAxes kept, summed;
    // Summed positions per slice, and number of slices.
    uint64_t per_slice;
    uint32_t slices;
    // Threads per thread group: in sum_columns threads of different results, in sum_rows threads of one result.
    uint32_t thread_group;
};

DEVICE uint64_t divide(uint64_t a, uint64_t b) {
    return (a | b) >> 32 == 0 ? uint32_t(a) / uint32_t(b) : a / b;
}

DEVICE uint64_t position(const ReduceAxes &axes, uint64_t index) {
    uint64_t at = 0;
    for (int axis = int(axes.axes) - 1; axis > 0; axis--) {
        const uint64_t outer = divide(index, axes.shape[axis]);
        at += (index - outer * axes.shape[axis]) * axes.strides[axis];
        index = outer;
    }
    return at + index * axes.strides[0];
}

// Sums over the positions `from`, `from + step`, … before `to`, per element of a vector.
template <typename T, int V>
DEVICE void thread_sums(const ReduceParams &p, uint64_t kept, uint64_t from, uint64_t to, uint64_t step,
                        float (&sums)[V]) {
    const T *const x = reinterpret_cast<const T *>(p.x) + kept;
#pragma unroll
    for (int i = 0; i < V; i++) sums[i] = 0.0f;
    for (; from < to; from += REDUCE_RUN * step) {
        float v[REDUCE_RUN][V], run[V] = {};
#pragma unroll
        for (int r = 0; r < REDUCE_RUN; r++) {
            if (from + r * step < to) {
                load_floats<V>(v[r], x + position(p.summed, from + r * step));
            } else {
#pragma unroll
                for (int i = 0; i < V; i++) v[r][i] = 0.0f;
            }
        }
#pragma unroll
        for (int r = 0; r < REDUCE_RUN; r++) {
#pragma unroll
            for (int i = 0; i < V; i++) run[i] += v[r][i];
        }
#pragma unroll
        for (int i = 0; i < V; i++) sums[i] += run[i];
    }
}

// Adjacent results from adjacent elements: `thread_group` threads cover as many results (or vectors of them), and the
// thread groups of a block share the sum. Grid: one block per slice and `thread_group` results.
template <typename In, typename Out, int V>
DEVICE void sum_columns(const ReduceParams &p) {
    __shared__ float scratch[V][REDUCE_THREADS];
    const uint32_t blocks_per_slice = uint32_t((p.kept.count + p.thread_group - 1) / p.thread_group);
    const uint32_t rank = threadIdx.x % p.thread_group, share = threadIdx.x / p.thread_group;
    const uint32_t shares = REDUCE_THREADS / p.thread_group, block = blockIdx.x;
    const uint64_t slice = block / blocks_per_slice;
    const uint64_t column = uint64_t(block % blocks_per_slice) * p.thread_group + rank;
    const uint64_t from = slice * p.per_slice, end = from + p.per_slice;
    float sums[V] = {};
    if (column < p.kept.count) {
        const uint64_t to = end < p.summed.count ? end : p.summed.count;
        thread_sums<In, V>(p, position(p.kept, column), from + share, to, shares, sums);
    }
#pragma unroll
    for (int i = 0; i < V; i++) scratch[i][threadIdx.x] = sums[i];
    // Pairwise; `shares` is a power of two.
    for (uint32_t width = shares / 2; width > 0; width /= 2) {
        __syncthreads();
        if (share < width) {
#pragma unroll
            for (int i = 0; i < V; i++) {
                sums[i] += scratch[i][threadIdx.x + width * p.thread_group];
                scratch[i][threadIdx.x] = sums[i];
            }
        }
    }
    if (share != 0 || column >= p.kept.count) return;
    Out *const out = reinterpret_cast<Out *>(p.out) + (slice * p.kept.count + column) * V;
    // The output may be unaligned.
    if (p.out % sizeof(Vec<Out, PIECE<Out, V>>) == 0) return store_floats(out, sums);
#pragma unroll
    for (int i = 0; i < V; i++) out[i] = from_float<Out>(sums[i]);
}

// One result and slice per thread group (a warp or the block).
template <typename In, typename Out, int V>
DEVICE void sum_rows(const ReduceParams &p) {
    __shared__ float scratch[REDUCE_THREADS / WARP];
    const uint32_t rank = threadIdx.x % p.thread_group;
    const uint64_t result = uint64_t(blockIdx.x) * (REDUCE_THREADS / p.thread_group) + threadIdx.x / p.thread_group;
    const bool idle = result >= p.kept.count * p.slices;
    float sum = 0.0f;
    if (!idle) {
        const uint64_t slice = divide(result, p.kept.count), from = slice * p.per_slice, end = from + p.per_slice;
        const uint64_t to = end < p.summed.count ? end : p.summed.count;
        float sums[V];
        thread_sums<In, V>(p, position(p.kept, result - slice * p.kept.count), from + rank, to, p.thread_group, sums);
#pragma unroll
        for (int i = 0; i < V; i++) sum += sums[i];
    }
    sum = p.thread_group == WARP ? warp_sum(sum) : block_sum(sum, scratch);
    if (rank == 0 && !idle) reinterpret_cast<Out *>(p.out)[result] = from_float<Out>(sum);
}

// Input types to output types, of which f32 is also the type of partial sums.
#define REDUCE(from, to, In, Out)                                                                   \
    KERNEL(sum_columns_##from##_##to, ReduceParams, p) { sum_columns<In, Out, 1>(p); }              \
    KERNEL(sum_columns_wide_##from##_##to, ReduceParams, p) { sum_columns<In, Out, LANES<In>>(p); } \
    KERNEL(sum_rows_##from##_##to, ReduceParams, p) { sum_rows<In, Out, 1>(p); }                    \
    KERNEL(sum_rows_wide_##from##_##to, ReduceParams, p) { sum_rows<In, Out, LANES<In>>(p); }

REDUCE(f32, f32, float, float)
REDUCE(f32, bf16, float, bf16)
REDUCE(bf16, bf16, bf16, bf16)
REDUCE(bf16, f32, bf16, float)
