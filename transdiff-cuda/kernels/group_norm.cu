// Group normalisation as a scale and a shift per image and channel: y = scale·x + shift, where scale = rstd·weight and
// shift = bias − mean·scale, with mean and rstd over all pixels and channels of a group. x [B, pixels, C].
#include "block_sum.cuh"
#include "row_partition.cuh"

// Pixels that a thread loads before it adds the first.
constexpr int GROUP_NORM_RUN = 4;

struct GroupNormSumsParams {
    // x [B, pixels, C]; `sums` [chunks, 2, C] in f32.
    uint64_t x, sums;
    RowPartition partition;
};

// Partial sums over the pixels of a chunk, per channel: Σ (x − pivot) and Σ (x − pivot)². The pivot is the channel's
// first pixel in the image: this avoids cancellation where the mean is far from zero.
template <typename T, int V>
DEVICE void group_norm_sums(const GroupNormSumsParams &p) {
    const RowChunk chunk = row_chunk<V>(p.partition);
    if (chunk.rows == 0) return;
    const uint64_t width = p.partition.width;
    const T *const x = reinterpret_cast<const T *>(p.x) + chunk.column;
    float pivot[V], sums[V] = {}, squares[V] = {};
    load_floats<V>(pivot, x + chunk.group * p.partition.rows * width);
    for (int from = 0; from < chunk.rows; from += GROUP_NORM_RUN) {
        float v[GROUP_NORM_RUN][V];
#pragma unroll
        for (int i = 0; i < GROUP_NORM_RUN; i++) {
            if (from + i < chunk.rows) load_floats<V>(v[i], x + (chunk.row + from + i) * width);
        }
#pragma unroll
        for (int i = 0; i < GROUP_NORM_RUN; i++) {
            if (from + i >= chunk.rows) break;
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float difference = v[i][j] - pivot[j];
                sums[j] += difference;
                squares[j] = fmaf(difference, difference, squares[j]);
            }
        }
    }
    float *const to = reinterpret_cast<float *>(p.sums) + 2 * chunk.index * width + chunk.column;
    store_floats(to, sums);
    store_floats(to + width, squares);
}

struct GroupNormScaleShiftParams {
    // `scale_shift` [B, 2, C] is f32.
    uint64_t x, sums, weight, bias, scale_shift;
    double eps;
    uint64_t pixels, channels;
    // Groups per image, pixels per chunk, chunks per image.
    uint32_t groups, pixels_per_chunk, chunks;
};

// Scale and shift of the channels of a group. Grid: one block per image and group. All sums are converted to the pivot
// of the group's first channel.
template <typename T>
DEVICE void group_norm_scale_shift(const GroupNormScaleShiftParams &p) {
    const uint64_t image = blockIdx.x / p.groups, size = p.channels / p.groups, first = blockIdx.x % p.groups * size;
    const T *const pivots = reinterpret_cast<const T *>(p.x) + image * p.pixels * p.channels + first;
    const float *const sums = reinterpret_cast<const float *>(p.sums) + 2 * image * p.chunks * p.channels + first;
    const double pivot = to_float(pivots[0]), count = double(p.pixels) * double(size);
    double sum = 0.0, square = 0.0;
    for (uint64_t i = threadIdx.x; i < p.chunks * size; i += SUM_THREADS) {
        const uint64_t chunk = i / size, channel = i - chunk * size, rest = p.pixels - chunk * p.pixels_per_chunk;
        const double pixels = double(rest < p.pixels_per_chunk ? rest : p.pixels_per_chunk);
        const double s = sums[2 * chunk * p.channels + channel], q = sums[(2 * chunk + 1) * p.channels + channel];
        const double distance = to_float(pivots[channel]) - pivot;
        sum += s + pixels * distance;
        square += q + distance * (2.0 * s + pixels * distance);
    }
    sum = block_sum_f64(sum) / count;
    const double variance = block_sum_f64(square) / count - sum * sum;
    const double rstd = 1.0 / sqrt((variance > 0.0 ? variance : 0.0) + p.eps);
    float *const scale_shift = reinterpret_cast<float *>(p.scale_shift) + 2 * image * p.channels + first;
    for (uint64_t c = threadIdx.x; c < size; c += SUM_THREADS) {
        const double scale = rstd * to_float(reinterpret_cast<const T *>(p.weight)[first + c]);
        const double bias = to_float(reinterpret_cast<const T *>(p.bias)[first + c]);
        scale_shift[c] = float(scale);
        scale_shift[p.channels + c] = float(bias - (pivot + sum) * scale);
    }
}

KERNEL(group_norm_sums_f32, GroupNormSumsParams, p) { group_norm_sums<float, 1>(p); }
KERNEL(group_norm_sums_bf16, GroupNormSumsParams, p) { group_norm_sums<bf16, 1>(p); }
KERNEL(group_norm_sums_wide_f32, GroupNormSumsParams, p) { group_norm_sums<float, LANES<float>>(p); }
KERNEL(group_norm_sums_wide_bf16, GroupNormSumsParams, p) { group_norm_sums<bf16, LANES<bf16>>(p); }
KERNEL(group_norm_scale_shift_f32, GroupNormScaleShiftParams, p) { group_norm_scale_shift<float>(p); }
KERNEL(group_norm_scale_shift_bf16, GroupNormScaleShiftParams, p) { group_norm_scale_shift<bf16>(p); }
