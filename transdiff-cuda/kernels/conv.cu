// Implicit GEMM convolution: y ← b + residual + w ∗ act(scale·x + shift), images in NHWC. conv.cuh loads and stores
// tiles.
#include "conv.cuh"

// The accumulators of a tile, distributed over the threads of a block. `add` accumulates the products of a step;
// `store_results` writes the sums to shared memory, one row per position.
template <typename T, int M, int N>
struct Accumulators;

// On tensor cores: four warps, in WARP_COLUMNS columns.
template <int M, int N>
struct Accumulators<bf16, M, N> {
    static constexpr int THREADS = 128;
    static constexpr int WARP_COLUMNS = N >= 64 ? 2 : 1;
    // Rows and columns per warp, and its index of 16-row and 8-column mma tiles.
    static constexpr int ROWS = M / (4 / WARP_COLUMNS), COLUMNS = N / WARP_COLUMNS;
    static constexpr int ROW_TILES = ROWS / 16, COLUMN_TILES = COLUMNS / 8;

    float at[ROW_TILES][COLUMN_TILES][4] = {};

    DEVICE static int lane() { return int(threadIdx.x) % WARP; }
    DEVICE static int row() { return int(threadIdx.x) / WARP / WARP_COLUMNS * ROWS; }
    DEVICE static int column() { return int(threadIdx.x) / WARP % WARP_COLUMNS * COLUMNS; }

    DEVICE void add(const ConvParams &p, const TileOrigin &origin, const Step &step, const bf16 *patch,
                    const bf16 *slice) {
        const int half = lane() / 16 * 8;
        const bf16 *a[ROW_TILES], *b = slice + lane() % 16 * SLICE_ROW<bf16, N> + column() + half;
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++)
            a[i] = patch + patch_pixel(p, origin, step, row() + 16 * i + lane() % 16) * PIXEL<bf16> + half;
#pragma unroll
        for (int k = 0; k < CHUNK<bf16>; k += 16) {
            uint32_t rows[ROW_TILES][4], columns[COLUMN_TILES / 2][4];
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++) ldmatrix_x4(rows[i], a[i] + k);
#pragma unroll
            for (int j = 0; j < COLUMN_TILES / 2; j++)
                ldmatrix_x4_trans(columns[j], b + k * SLICE_ROW<bf16, N> + 16 * j);
#pragma unroll
            for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
                for (int j = 0; j < COLUMN_TILES; j++) {
                    const uint32_t column[2] = {columns[j / 2][j % 2 * 2], columns[j / 2][j % 2 * 2 + 1]};
                    mma_bf16(at[i][j], rows[i], column);
                }
            }
        }
    }

    DEVICE void store_results(float *results) const {
        float *to = results + (row() + lane() / 4) * RESULT_ROW<N> + column() + lane() % 4 * 2;
#pragma unroll
        for (int i = 0; i < ROW_TILES; i++) {
#pragma unroll
            for (int j = 0; j < COLUMN_TILES; j++) {
                float *upper = to + 16 * i * RESULT_ROW<N> + 8 * j, *lower = upper + 8 * RESULT_ROW<N>;
                store(upper, Vec<float, 2>{{at[i][j][0], at[i][j][1]}});
                store(lower, Vec<float, 2>{{at[i][j][2], at[i][j][3]}});
            }
        }
    }
};

// In f32: a thread has positions 16 apart, and groups of adjacent outputs that it loads at once.
template <int M, int N>
struct Accumulators<float, M, N> {
    static constexpr int THREADS = 256;
    static constexpr int ROWS = M / 16, COLUMNS = N / 16;
    // Adjacent outputs per group; outputs between consecutive groups of a thread.
    static constexpr int GROUP = COLUMNS < 4 ? COLUMNS : 4, GROUP_STRIDE = 16 * GROUP;

    float at[ROWS][COLUMNS] = {};

    // Lanes of a warp are 4 positions by 8 outputs: their loads of either are then in different banks.
    DEVICE static int row() { return int(threadIdx.x) / 64 * 4 + int(threadIdx.x) % WARP / 8; }
    DEVICE static int column() { return (int(threadIdx.x) / WARP % 2 * 8 + int(threadIdx.x) % 8) * GROUP; }

    DEVICE void add(const ConvParams &p, const TileOrigin &origin, const Step &step, const float *patch,
                    const float *slice) {
        constexpr int DEPTH = 2;
        int a[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++) a[i] = patch_pixel(p, origin, step, row() + 16 * i) * PIXEL<float>;
#pragma unroll
        for (int k = 0; k < CHUNK<float>; k += DEPTH) {
            float rows[ROWS][DEPTH];
#pragma unroll
            for (int i = 0; i < ROWS; i++) load_floats(rows[i], patch + a[i] + k);
#pragma unroll
            for (int l = 0; l < DEPTH; l++) add_channel(rows, l, slice + (k + l) * SLICE_ROW<float, N> + column());
        }
    }

    template <int DEPTH>
    DEVICE void add_channel(const float (&rows)[ROWS][DEPTH], int l, const float *weights) {
#pragma unroll
        for (int j = 0; j < COLUMNS; j += GROUP) {
            float columns[GROUP];
            load_floats(columns, weights + j / GROUP * GROUP_STRIDE);
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
#pragma unroll
                for (int g = 0; g < GROUP; g++) at[i][j + g] = fmaf(rows[i][l], columns[g], at[i][j + g]);
            }
        }
    }

    DEVICE void store_results(float *results) const {
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
#pragma unroll
            for (int j = 0; j < COLUMNS; j++)
                results[(row() + 16 * i) * RESULT_ROW<N> + column() + j / GROUP * GROUP_STRIDE + j % GROUP] = at[i][j];
        }
    }
};

template <typename T, int M, int N>
DEVICE void convolve(const ConvParams &p) {
    constexpr int THREADS = Accumulators<T, M, N>::THREADS;
    DYNAMIC_SHARED(shared);
    T *const slices = reinterpret_cast<T *>(shared), *const patches = slices + STAGES * SLICE<T, N>;
    const TileOrigin at = tile_origin<M, N>(p);
    const int steps = (p.channels + CHUNK<T> - 1) / CHUNK<T> * p.kernel_height * p.kernel_width;
    // A patch is loaded with the first of its slices. With fewer taps than slices in flight, more than two patches may be.
    const bool one_step = p.patch_per_step || p.kernel_height * p.kernel_width < STAGES - 1;
    const int depth = one_step ? STAGES : 2;
    const auto patch = [&](const Step &step) { return patches + step.patch % depth * p.patch_pixels * PIXEL<T>; };
    Step ahead;
    const auto load_stage = [&](int index) {
        if (index < steps) {
            if (ahead.begins_patch(p)) load_patch<T, THREADS>(p, at, ahead, patch(ahead));
            load_slice<T, N, THREADS>(p, at, ahead, slices + index % STAGES * SLICE<T, N>);
            ahead.next(p);
        }
        copy_async_commit();
    };
    for (int index = 0; index < STAGES - 1; index++) load_stage(index);
    Accumulators<T, M, N> accumulators;
    Step step;
    for (int index = 0; index < steps; index++) {
        copy_async_wait<STAGES - 2>();
        if (step.begins_patch(p)) scale_shift_patch<T, THREADS>(p, at, step, patch(step));
        __syncthreads();
        // The overwritten stage was read in the previous step, before the barrier.
        load_stage(index + STAGES - 1);
        // Reconverge the lanes, which tensor cores require: some lanes loaded more than others.
        __syncwarp();
        accumulators.add(p, at, step, patch(step), slices + index % STAGES * SLICE<T, N>);
        step.next(p);
    }
    copy_async_wait<0>();
    __syncthreads();
    float *const results = reinterpret_cast<float *>(shared);
    accumulators.store_results(results);
    __syncthreads();
    store_tile<T, M, N, THREADS>(p, at, results);
}

// Tile sizes and threads per block are duplicated in the launcher, which chooses the kernel. As many resident blocks as fit
// without register spilling.
KERNEL_BOUNDED(conv_wide_bf16, ConvParams, p, 128, 2) { convolve<bf16, 128, 128>(p); }
KERNEL_BOUNDED(conv_small_bf16, ConvParams, p, 128, 4) { convolve<bf16, 64, 64>(p); }
KERNEL_BOUNDED(conv_narrow_bf16, ConvParams, p, 128, 4) { convolve<bf16, 128, 16>(p); }
KERNEL_BOUNDED(conv_wide_f32, ConvParams, p, 256, 1) { convolve<float, 128, 128>(p); }
KERNEL_BOUNDED(conv_small_f32, ConvParams, p, 256, 3) { convolve<float, 64, 64>(p); }
KERNEL_BOUNDED(conv_narrow_f32, ConvParams, p, 256, 1) { convolve<float, 128, 16>(p); }
