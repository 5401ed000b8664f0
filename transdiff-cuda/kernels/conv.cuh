// What a block of a convolution works with: where it stands, its patches of the input and its slices of the weights in
// shared memory, and how its results are written.
//
// A block gives a tile of M positions of one image times N output channels. The sum over K·K·C goes in steps: a chunk
// of 64 bytes of channels, and in it the taps of the kernel. The patch is what a tile sees of a chunk through all taps;
// it is fetched once, mapped once where it lies, and read K·K times.
#pragma once
#include "common.cuh"

struct ConvParams {
    // Addresses; `map` and `residual` may be 0. The map is of floats.
    uint64_t x, w, b, map, residual, y;
    // Elements from an image, a row and a pixel of x to the next.
    uint64_t image, row, pixel;
    uint64_t first_image;
    // Of x.
    int32_t height, width, channels;
    // Of y.
    int32_t to_height, to_width, outputs;
    int32_t kernel;
    // Position `at` sees row (step·at + tap - before) >> shift of x through row `tap` of the kernel; columns likewise.
    int32_t step, before, shift;
    // A tile has 2^tile_bits columns, and a row of tiles `across` of them.
    int32_t tile_bits, across;
    int32_t patch_width, patch_pixels;
    // Blocks beside each other along the outputs.
    int32_t columns;
    uint32_t silu;
    // Whether x and the map, and what has outputs, are read and written 16 bytes at a time.
    uint32_t vector_in, vector_out;
};

// Channels of a step.
template <typename T>
constexpr int CHUNK = 64 / sizeof(T);
// 16-byte parts of a chunk.
constexpr int PARTS = 4;
// Elements from a pixel of a patch to the next, 80 bytes: any eight in a row begin in different banks.
template <typename T>
constexpr int PIXEL = CHUNK<T> + LANES<T>;
// Elements from a row of a slice of the weights to the next: likewise.
template <typename T, int N>
constexpr int SLICE_ROW = N + LANES<T>;
template <typename T, int N>
constexpr int SLICE = CHUNK<T> *SLICE_ROW<T, N>;
// Floats from a row of the results to the next: four in a row begin in different quarters of the banks.
template <int N>
constexpr int RESULT_ROW = N + 8;
// Slices of the weights in shared memory: one is read, the others are on their way.
constexpr int STAGES = 4;

// The row or column of x, which may lie outside, that position `at` sees through row or column `tap`.
DEVICE int seen(const ConvParams &p, int at, int tap) { return (p.step * at + tap - p.before) >> p.shift; }

// Where a block stands.
struct Place {
    uint64_t image;
    // First position, and the first pixel of x that it sees.
    int y, x, top, left;
    // First output channel.
    int output;
};

template <int M, int N>
DEVICE Place place(const ConvParams &p) {
    const int tile = int(blockIdx.x) / p.columns, tile_height = M >> p.tile_bits;
    const int y = tile / p.across * tile_height, x = tile % p.across << p.tile_bits;
    const int output = int(blockIdx.x) % p.columns * N;
    return Place{p.first_image + blockIdx.y, y, x, seen(p, y, 0), seen(p, x, 0), output};
}

// A position of a tile.
struct Position {
    int y, x;
};

DEVICE Position position(const ConvParams &p, const Place &at, int index) {
    return Position{at.y + (index >> p.tile_bits), at.x + (index & ((1 << p.tile_bits) - 1))};
}

// A step of the sum.
struct Step {
    int chunk = 0, row = 0, column = 0;

    DEVICE bool begins_chunk() const { return row == 0 && column == 0; }

    DEVICE void next(int kernel) {
        if (++column < kernel) return;
        column = 0;
        if (++row < kernel) return;
        row = 0;
        chunk++;
    }
};

// The pixel of the patch that position `index` of the tile sees in a step.
DEVICE int patch_pixel(const ConvParams &p, const Place &at, const Step &step, int index) {
    const Position position = ::position(p, at, index);
    const int row = seen(p, position.y, step.row) - at.top, column = seen(p, position.x, step.column) - at.left;
    return row * p.patch_width + column;
}

// 16 bytes, of which the first `count` elements are there and the others are zeros; all or none are if `vector`.
template <typename T>
DEVICE void fetch_part(T *to, const T *from, int count, bool vector) {
    if (vector) return copy_async_16(to, from, count > 0);
#pragma unroll
    for (int i = 0; i < LANES<T>; i++) to[i] = i < count ? from[i] : T{};
}

// The offset in x of pixel `index` of the patch, or -1 if it lies outside.
DEVICE int64_t patch_source(const ConvParams &p, const Place &at, int index) {
    const int row = at.top + index / p.patch_width, column = at.left + index % p.patch_width;
    if (unsigned(row) >= unsigned(p.height) || unsigned(column) >= unsigned(p.width)) return -1;
    return int64_t(at.image * p.image + row * p.row + column * p.pixel);
}

// A thread has the same part of every pixel that is its own.
template <typename T>
DEVICE int own_part() {
    return int(threadIdx.x) % PARTS * LANES<T>;
}

template <typename T, int THREADS>
DEVICE void fetch_patch(const ConvParams &p, const Place &at, int chunk, T *patch) {
    const T *x = reinterpret_cast<const T *>(p.x);
    const int channel = chunk * CHUNK<T> + own_part<T>();
    for (int i = int(threadIdx.x) / PARTS; i < p.patch_pixels; i += THREADS / PARTS) {
        const int64_t source = patch_source(p, at, i);
        const int count = source < 0 ? 0 : p.channels - channel;
        fetch_part(patch + i * PIXEL<T> + own_part<T>(), count > 0 ? x + source + channel : x, count, p.vector_in);
    }
}

// N numbers of the map; zeros from `count` on, so that the map of zeros past the last channel is zero.
template <int N>
DEVICE void load_map(const float *from, int count, bool vector, float (&to)[N]) {
    if (vector && count > 0) return load_floats(to, from);
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = i < count ? from[i] : 0.0f;
}

DEVICE float silu(float x) {
    constexpr float LOG2_E = 1.44269504f;
    return fast_divide(x, 1.0f + fast_exp2(-LOG2_E * x));
}

// Maps what this thread fetched of a patch; pixels outside stay zeros.
template <typename T, int THREADS>
DEVICE void map_patch(const ConvParams &p, const Place &at, int chunk, T *patch) {
    if (p.map == 0) return;
    const int channel = chunk * CHUNK<T> + own_part<T>(), count = p.channels - channel;
    const float *factors = reinterpret_cast<const float *>(p.map) + at.image * 2 * p.channels + channel;
    float factor[LANES<T>], summand[LANES<T>];
    load_map(factors, count, p.vector_in, factor);
    load_map(factors + p.channels, count, p.vector_in, summand);
    for (int i = int(threadIdx.x) / PARTS; i < p.patch_pixels; i += THREADS / PARTS) {
        if (patch_source(p, at, i) < 0) continue;
        float values[LANES<T>];
        T *part = patch + i * PIXEL<T> + own_part<T>();
        load_floats(values, part);
#pragma unroll
        for (int j = 0; j < LANES<T>; j++) {
            values[j] = fmaf(values[j], factor[j], summand[j]);
            if (p.silu) values[j] = silu(values[j]);
        }
        store_floats(part, values);
    }
}

// The weights of a step: a row a channel.
template <typename T, int N, int THREADS>
DEVICE void fetch_slice(const ConvParams &p, const Place &at, const Step &step, T *slice) {
    constexpr int WIDE = N / LANES<T>;
    const T *w = reinterpret_cast<const T *>(p.w);
    const int64_t tap = int64_t(step.row * p.kernel + step.column) * p.channels;
#pragma unroll
    for (int i = int(threadIdx.x); i < CHUNK<T> * WIDE; i += THREADS) {
        const int row = i / WIDE, column = i % WIDE * LANES<T>;
        const int channel = step.chunk * CHUNK<T> + row, output = at.output + column;
        const int count = channel < p.channels ? p.outputs - output : 0;
        const T *from = count > 0 ? w + (tap + channel) * p.outputs + output : w;
        fetch_part(slice + row * SLICE_ROW<T, N> + column, from, count, p.vector_out);
    }
}

// Adds bias and residual to LANES sums and writes those of them that are output channels, from `output` on.
template <typename T>
DEVICE void write_part(const ConvParams &p, uint64_t pixel, int output, float (&sums)[LANES<T>]) {
    const T *bias = reinterpret_cast<const T *>(p.b) + output;
    const uint64_t at = pixel * p.outputs + output;
    const T *residual = reinterpret_cast<const T *>(p.residual) + at;
    T *y = reinterpret_cast<T *>(p.y) + at;
    if (p.vector_out) {
        float biases[LANES<T>], residuals[LANES<T>] = {};
        load_floats(biases, bias);
        if (p.residual) load_floats(residuals, residual);
#pragma unroll
        for (int i = 0; i < LANES<T>; i++) sums[i] += biases[i] + residuals[i];
        return store_floats(y, sums);
    }
#pragma unroll
    for (int i = 0; i < LANES<T>; i++) {
        if (output + i >= p.outputs) return;
        y[i] = from_float<T>(sums[i] + (to_float(bias[i]) + (p.residual ? to_float(residual[i]) : 0.0f)));
    }
}

// Writes the results of the tile, which all threads have put into shared memory.
template <typename T, int M, int N, int THREADS>
DEVICE void write_tile(const ConvParams &p, const Place &at, const float *results) {
    constexpr int WIDE = N / LANES<T>;
    for (int i = int(threadIdx.x); i < M * WIDE; i += THREADS) {
        const int index = i / WIDE, column = i % WIDE * LANES<T>;
        const Position position = ::position(p, at, index);
        if (position.y >= p.to_height || position.x >= p.to_width || at.output + column >= p.outputs) continue;
        float sums[LANES<T>];
        load_floats(sums, results + index * RESULT_ROW<N> + column);
        const uint64_t pixel = (at.image * p.to_height + position.y) * p.to_width + position.x;
        write_part<T>(p, pixel, at.output + column, sums);
    }
}
