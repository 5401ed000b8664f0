// Group normalisation.
#include "sums.cuh"
#include "tiles.cuh"

// Pixels that a thread reads before it adds the first.
constexpr int GROUP_NORM_RUN = 4;

struct GroupNormSumsParams {
    // x [B, pixels, C]; `sums` [chunks, 2, C] in f32.
    uint64_t x, sums;
    Tiles tiles;
};

// Over the pixels of a chunk, for each channel: Σ (x − pivot) and Σ (x − pivot)². The pivot is the channel's first
// pixel in the image: sums about it keep their digits where the mean is far from zero.
template <typename T, int V>
DEVICE void group_norm_sums(const GroupNormSumsParams &p) {
    const Tile tile = tile_of<V>(p.tiles);
    if (tile.rows == 0) return;
    const uint64_t width = p.tiles.width;
    const T *const x = reinterpret_cast<const T *>(p.x) + tile.column;
    float pivot[V], sums[V] = {}, squares[V] = {};
    load_floats<V>(pivot, x + tile.group * p.tiles.rows * width);
    for (int from = 0; from < tile.rows; from += GROUP_NORM_RUN) {
        float v[GROUP_NORM_RUN][V];
#pragma unroll
        for (int i = 0; i < GROUP_NORM_RUN; i++) {
            if (from + i < tile.rows) load_floats<V>(v[i], x + (tile.row + from + i) * width);
        }
#pragma unroll
        for (int i = 0; i < GROUP_NORM_RUN; i++) {
            if (from + i >= tile.rows) break;
#pragma unroll
            for (int j = 0; j < V; j++) {
                const float difference = v[i][j] - pivot[j];
                sums[j] += difference;
                squares[j] = fmaf(difference, difference, squares[j]);
            }
        }
    }
    float *const to = reinterpret_cast<float *>(p.sums) + 2 * tile.chunk * width + tile.column;
    store_floats(to, sums);
    store_floats(to + width, squares);
}

struct GroupNormMapParams {
    // `map` [B, 2, C] is f32.
    uint64_t x, sums, weight, bias, map;
    double eps;
    uint64_t pixels, channels;
    // Groups of an image, pixels of a chunk, chunks of an image.
    uint32_t groups, per_chunk, chunks;
};

// The map of the channels of a group, for a block: all sums are brought to the pivot of the group's first channel.
template <typename T>
DEVICE void group_norm_map(const GroupNormMapParams &p) {
    const uint64_t image = blockIdx.x / p.groups, size = p.channels / p.groups, first = blockIdx.x % p.groups * size;
    const T *const pivots = reinterpret_cast<const T *>(p.x) + image * p.pixels * p.channels + first;
    const float *const sums = reinterpret_cast<const float *>(p.sums) + 2 * image * p.chunks * p.channels + first;
    const double pivot = to_float(pivots[0]), count = double(p.pixels) * double(size);
    double sum = 0.0, square = 0.0;
    for (uint64_t i = threadIdx.x; i < p.chunks * size; i += SUM_THREADS) {
        const uint64_t chunk = i / size, channel = i - chunk * size, rest = p.pixels - chunk * p.per_chunk;
        const double pixels = double(rest < p.per_chunk ? rest : p.per_chunk);
        const double s = sums[2 * chunk * p.channels + channel], q = sums[(2 * chunk + 1) * p.channels + channel];
        const double away = to_float(pivots[channel]) - pivot;
        sum += s + pixels * away;
        square += q + away * (2.0 * s + pixels * away);
    }
    sum = block_sum_f64(sum) / count;
    const double variance = block_sum_f64(square) / count - sum * sum;
    const double rstd = 1.0 / sqrt((variance > 0.0 ? variance : 0.0) + p.eps);
    float *const map = reinterpret_cast<float *>(p.map) + 2 * image * p.channels + first;
    for (uint64_t c = threadIdx.x; c < size; c += SUM_THREADS) {
        const double factor = rstd * to_float(reinterpret_cast<const T *>(p.weight)[first + c]);
        const double bias = to_float(reinterpret_cast<const T *>(p.bias)[first + c]);
        map[c] = float(factor);
        map[p.channels + c] = float(bias - (pivot + sum) * factor);
    }
}

KERNEL(group_norm_sums_f32, GroupNormSumsParams, p) { group_norm_sums<float, 1>(p); }
KERNEL(group_norm_sums_bf16, GroupNormSumsParams, p) { group_norm_sums<bf16, 1>(p); }
KERNEL(group_norm_sums_wide_f32, GroupNormSumsParams, p) { group_norm_sums<float, LANES<float>>(p); }
KERNEL(group_norm_sums_wide_bf16, GroupNormSumsParams, p) { group_norm_sums<bf16, LANES<bf16>>(p); }
KERNEL(group_norm_map_f32, GroupNormMapParams, p) { group_norm_map<float>(p); }
KERNEL(group_norm_map_bf16, GroupNormMapParams, p) { group_norm_map<bf16>(p); }
