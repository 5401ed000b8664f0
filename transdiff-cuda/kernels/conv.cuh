// Implicit GEMM convolution: parameters, tile geometry, loads of input patches and weight slices to shared memory, and
// the output of results.
//
// A block computes a tile of M positions of one image times N output channels. Grid: [tiles · ceil(outputs / N),
// images]. The sum over K·L·C is a loop of steps: over chunks of 64 bytes of channels, and for each over the taps of
// the kernel. The patch is the input that a tile reads of a chunk, through all taps. It is loaded once, scaled and
// shifted once in place, and read K·L times. Where it would be too large, each step has a patch of its own: the pixel that
// each position reads through its tap.
#pragma once
#include "common.cuh"

struct ConvParams {
    // x [B, H, W, C], w [K, L, C, O], b [O], scale_shift [B, 2, C] f32, residual and y [B, H', W', O]. `scale_shift`
    // and `residual` may be 0.
    uint64_t x, w, b, scale_shift, residual, y;
    // Strides of images, rows and pixels of x, in elements.
    uint64_t image, row, pixel;
    uint64_t first_image;
    // Shape of x.
    int32_t height, width, channels;
    // Shape of y.
    int32_t to_height, to_width, outputs;
    // Height and width of the kernel.
    int32_t kernel_height, kernel_width;
    // Output row `at` reads row (stride·at + tap − padding) >> upsample_shift of x with kernel row `tap`; columns
    // alike.
    int32_t stride_y, stride_x, padding_y, padding_x, upsample_shift;
    // True if each step has a patch of its own.
    uint32_t patch_per_step;
    // Columns per tile: 2^tile_bits. Tiles per row of tiles.
    int32_t tile_bits, tiles_per_row;
    int32_t patch_width, patch_pixels;
    // Blocks along the output channels.
    int32_t blocks_per_tile;
    uint32_t silu, relu;
    // True if tensors with input channels, and those with output channels, are accessed 16 bytes at a time.
    uint32_t vector_in, vector_out;
};

// Channels per chunk.
template <typename T>
constexpr int CHUNK = 64 / sizeof(T);
// Vectors of 16 bytes per chunk.
constexpr int VECTORS_PER_CHUNK = 4;
// Elements between pixels of a patch, 80 bytes: any eight consecutive pixels start in different banks.
template <typename T>
constexpr int PIXEL = CHUNK<T> + LANES<T>;
// Elements between rows of a slice of the weights: likewise.
template <typename T, int N>
constexpr int SLICE_ROW = N + LANES<T>;
template <typename T, int N>
constexpr int SLICE = CHUNK<T> *SLICE_ROW<T, N>;
// Floats between rows of the results: four consecutive rows start in different quarters of the banks.
template <int N>
constexpr int RESULT_ROW = N + 8;
// Pipeline stages: slices of the weights in shared memory, of which one is read while the others are loaded.
constexpr int STAGES = 4;

// Row of x, possibly outside of it, that a position in row `at` reads with row `tap` of the kernel.
DEVICE int source_row(const ConvParams &p, int at, int tap) {
    return (p.stride_y * at + tap - p.padding_y) >> p.upsample_shift;
}

// Likewise for columns.
DEVICE int source_column(const ConvParams &p, int at, int tap) {
    return (p.stride_x * at + tap - p.padding_x) >> p.upsample_shift;
}

// Origin of a block's tile.
struct TileOrigin {
    uint64_t image;
    // First position, and the first pixel of x that it reads.
    int y, x, top, left;
    // First output channel.
    int output;
};

template <int M, int N>
DEVICE TileOrigin tile_origin(const ConvParams &p) {
    const int tile = int(blockIdx.x) / p.blocks_per_tile, tile_height = M >> p.tile_bits;
    const int y = tile / p.tiles_per_row * tile_height, x = tile % p.tiles_per_row << p.tile_bits;
    const int output = int(blockIdx.x) % p.blocks_per_tile * N;
    return TileOrigin{p.first_image + blockIdx.y, y, x, source_row(p, y, 0), source_column(p, x, 0), output};
}

// Output position.
struct Position {
    int y, x;
};

DEVICE Position position(const ConvParams &p, const TileOrigin &at, int index) {
    return Position{at.y + (index >> p.tile_bits), at.x + (index & ((1 << p.tile_bits) - 1))};
}

// Loop index of the sum: chunk of channels and tap.
struct Step {
    int chunk = 0, row = 0, column = 0;
    // Number of the patch that it reads.
    int patch = 0;

    DEVICE bool begins_patch(const ConvParams &p) const { return p.patch_per_step || (row == 0 && column == 0); }

    DEVICE void next(const ConvParams &p) {
        patch += int(p.patch_per_step);
        if (++column < p.kernel_width) return;
        column = 0;
        if (++row < p.kernel_height) return;
        row = 0;
        chunk++;
        patch += int(!p.patch_per_step);
    }
};

// Pixel of the patch that position `index` of the tile reads in a step.
DEVICE int patch_pixel(const ConvParams &p, const TileOrigin &at, const Step &step, int index) {
    if (p.patch_per_step) return index;
    const Position position = ::position(p, at, index);
    const int row = source_row(p, position.y, step.row) - at.top;
    const int column = source_column(p, position.x, step.column) - at.left;
    return row * p.patch_width + column;
}

// Loads 16 bytes: the first `count` elements, then zeros. With `vector`, `count` covers all elements or none.
template <typename T>
DEVICE void load_vector(T *to, const T *from, int count, bool vector) {
    if (vector) return copy_async_16(to, from, count > 0);
#pragma unroll
    for (int i = 0; i < LANES<T>; i++) to[i] = i < count ? from[i] : T{};
}

// Offset in x of pixel `index` of the patch of a step, or -1 outside of x.
DEVICE int64_t patch_offset(const ConvParams &p, const TileOrigin &at, const Step &step, int index) {
    int row = at.top + index / p.patch_width, column = at.left + index % p.patch_width;
    if (p.patch_per_step) {
        const Position position = ::position(p, at, index);
        row = source_row(p, position.y, step.row);
        column = source_column(p, position.x, step.column);
    }
    if (unsigned(row) >= unsigned(p.height) || unsigned(column) >= unsigned(p.width)) return -1;
    return int64_t(at.image * p.image + row * p.row + column * p.pixel);
}

// Offset in a chunk of this thread's vector, which is the same for all its pixels.
template <typename T>
DEVICE int thread_part() {
    return int(threadIdx.x) % VECTORS_PER_CHUNK * LANES<T>;
}

template <typename T, int THREADS>
DEVICE void load_patch(const ConvParams &p, const TileOrigin &at, const Step &step, T *patch) {
    const T *x = reinterpret_cast<const T *>(p.x);
    const int channel = step.chunk * CHUNK<T> + thread_part<T>();
    for (int i = int(threadIdx.x) / VECTORS_PER_CHUNK; i < p.patch_pixels; i += THREADS / VECTORS_PER_CHUNK) {
        const int64_t source = patch_offset(p, at, step, i);
        const int count = source < 0 ? 0 : p.channels - channel;
        load_vector(patch + i * PIXEL<T> + thread_part<T>(), count > 0 ? x + source + channel : x, count, p.vector_in);
    }
}

// Loads N per-channel values; zeros from `count` on, so that zeros past the last channel stay zero.
template <int N>
DEVICE void load_channels(const float *from, int count, bool vector, float (&to)[N]) {
    if (vector && count > 0) return load_floats(to, from);
#pragma unroll
    for (int i = 0; i < N; i++) to[i] = i < count ? from[i] : 0.0f;
}

DEVICE float silu(float x) {
    constexpr float LOG2_E = 1.44269504f;
    return fast_divide(x, 1.0f + fast_exp2(-LOG2_E * x));
}

// Applies scale, shift and SiLU in place to what this thread loaded of a patch; pixels outside of x stay zero.
template <typename T, int THREADS>
DEVICE void scale_shift_patch(const ConvParams &p, const TileOrigin &at, const Step &step, T *patch) {
    if (p.scale_shift == 0) return;
    const int channel = step.chunk * CHUNK<T> + thread_part<T>(), count = p.channels - channel;
    const float *scales = reinterpret_cast<const float *>(p.scale_shift) + at.image * 2 * p.channels + channel;
    float scale[LANES<T>], shift[LANES<T>];
    load_channels(scales, count, p.vector_in, scale);
    load_channels(scales + p.channels, count, p.vector_in, shift);
    for (int i = int(threadIdx.x) / VECTORS_PER_CHUNK; i < p.patch_pixels; i += THREADS / VECTORS_PER_CHUNK) {
        if (patch_offset(p, at, step, i) < 0) continue;
        float values[LANES<T>];
        T *part = patch + i * PIXEL<T> + thread_part<T>();
        load_floats(values, part);
#pragma unroll
        for (int j = 0; j < LANES<T>; j++) {
            values[j] = fmaf(values[j], scale[j], shift[j]);
            if (p.silu) values[j] = silu(values[j]);
        }
        store_floats(part, values);
    }
}

// Loads the weights of a step, one row per channel.
template <typename T, int N, int THREADS>
DEVICE void load_slice(const ConvParams &p, const TileOrigin &at, const Step &step, T *slice) {
    constexpr int WIDE = N / LANES<T>;
    const T *w = reinterpret_cast<const T *>(p.w);
    const int64_t tap = int64_t(step.row * p.kernel_width + step.column) * p.channels;
#pragma unroll
    for (int i = int(threadIdx.x); i < CHUNK<T> * WIDE; i += THREADS) {
        const int row = i / WIDE, column = i % WIDE * LANES<T>;
        const int channel = step.chunk * CHUNK<T> + row, output = at.output + column;
        const int count = channel < p.channels ? p.outputs - output : 0;
        const T *from = count > 0 ? w + (tap + channel) * p.outputs + output : w;
        load_vector(slice + row * SLICE_ROW<T, N> + column, from, count, p.vector_out);
    }
}

// NaN stays.
DEVICE float relu(const ConvParams &p, float x) { return p.relu && x < 0.0f ? 0.0f : x; }

// Adds bias and residual to LANES sums, applies ReLU, and stores those below the number of output channels, starting at `output`.
template <typename T>
DEVICE void store_vector(const ConvParams &p, uint64_t pixel, int output, float (&sums)[LANES<T>]) {
    const T *bias = reinterpret_cast<const T *>(p.b) + output;
    const uint64_t at = pixel * p.outputs + output;
    const T *residual = reinterpret_cast<const T *>(p.residual) + at;
    T *y = reinterpret_cast<T *>(p.y) + at;
    if (p.vector_out) {
        float biases[LANES<T>], residuals[LANES<T>] = {};
        load_floats(biases, bias);
        if (p.residual) load_floats(residuals, residual);
#pragma unroll
        for (int i = 0; i < LANES<T>; i++) sums[i] = relu(p, sums[i] + (biases[i] + residuals[i]));
        return store_floats(y, sums);
    }
#pragma unroll
    for (int i = 0; i < LANES<T>; i++) {
        if (output + i >= p.outputs) return;
        const float added = to_float(bias[i]) + (p.residual ? to_float(residual[i]) : 0.0f);
        y[i] = from_float<T>(relu(p, sums[i] + added));
    }
}

// Stores the results of the tile from shared memory.
template <typename T, int M, int N, int THREADS>
DEVICE void store_tile(const ConvParams &p, const TileOrigin &at, const float *results) {
    constexpr int WIDE = N / LANES<T>;
    for (int i = int(threadIdx.x); i < M * WIDE; i += THREADS) {
        const int index = i / WIDE, column = i % WIDE * LANES<T>;
        const Position position = ::position(p, at, index);
        if (position.y >= p.to_height || position.x >= p.to_width || at.output + column >= p.outputs) continue;
        float sums[LANES<T>];
        load_floats(sums, results + index * RESULT_ROW<N> + column);
        const uint64_t pixel = (at.image * p.to_height + position.y) * p.to_width + position.x;
        store_vector<T>(p, pixel, at.output + column, sums);
    }
}
