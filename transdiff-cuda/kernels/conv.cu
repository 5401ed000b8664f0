// Convolution of images as a product of matrices that are never formed: what conv.cuh brings is multiplied here.
#include "conv.cuh"

// The sums of a tile, spread over the threads of a block. `add` adds a step's products; `put` writes them to shared
// memory, a row a position.
template <typename T, int M, int N>
struct Sums;

// On tensor cores: four warps beside each other and below each other.
template <int M, int N>
struct Sums<bf16, M, N> {
    static constexpr int THREADS = 128;
    static constexpr int ACROSS = N >= 64 ? 2 : 1;
    // Of a warp, and its 16×16 and 16×8 parts.
    static constexpr int ROWS = M / (4 / ACROSS), COLUMNS = N / ACROSS;
    static constexpr int DOWN = ROWS / 16, WIDE = COLUMNS / 8;

    float at[DOWN][WIDE][4] = {};

    DEVICE static int lane() { return int(threadIdx.x) % WARP; }
    DEVICE static int row() { return int(threadIdx.x) / WARP / ACROSS * ROWS; }
    DEVICE static int column() { return int(threadIdx.x) / WARP % ACROSS * COLUMNS; }

    DEVICE void add(const ConvParams &p, const Place &place, const Step &step, const bf16 *patch, const bf16 *slice) {
        const int half = lane() / 16 * 8;
        const bf16 *a[DOWN], *b = slice + lane() % 16 * SLICE_ROW<bf16, N> + column() + half;
#pragma unroll
        for (int i = 0; i < DOWN; i++)
            a[i] = patch + patch_pixel(p, place, step, row() + 16 * i + lane() % 16) * PIXEL<bf16> + half;
#pragma unroll
        for (int k = 0; k < CHUNK<bf16>; k += 16) {
            uint32_t rows[DOWN][4], columns[WIDE / 2][4];
#pragma unroll
            for (int i = 0; i < DOWN; i++) ldmatrix_x4(rows[i], a[i] + k);
#pragma unroll
            for (int j = 0; j < WIDE / 2; j++) ldmatrix_x4_trans(columns[j], b + k * SLICE_ROW<bf16, N> + 16 * j);
#pragma unroll
            for (int i = 0; i < DOWN; i++) {
#pragma unroll
                for (int j = 0; j < WIDE; j++) {
                    const uint32_t column[2] = {columns[j / 2][j % 2 * 2], columns[j / 2][j % 2 * 2 + 1]};
                    mma_bf16(at[i][j], rows[i], column);
                }
            }
        }
    }

    DEVICE void put(float *results) const {
        float *to = results + (row() + lane() / 4) * RESULT_ROW<N> + column() + lane() % 4 * 2;
#pragma unroll
        for (int i = 0; i < DOWN; i++) {
#pragma unroll
            for (int j = 0; j < WIDE; j++) {
                float *upper = to + 16 * i * RESULT_ROW<N> + 8 * j, *lower = upper + 8 * RESULT_ROW<N>;
                store(upper, Vec<float, 2>{{at[i][j][0], at[i][j][1]}});
                store(lower, Vec<float, 2>{{at[i][j][2], at[i][j][3]}});
            }
        }
    }
};

// A thread has positions 16 apart, and as many outputs beside each other as it reads at once, from each half of N.
template <int M, int N>
struct Sums<float, M, N> {
    static constexpr int THREADS = 256;
    static constexpr int ROWS = M / 16, COLUMNS = N / 16;
    // Outputs beside each other; from one such group of all threads to the next.
    static constexpr int GROUP = COLUMNS < 4 ? COLUMNS : 4, APART = 16 * GROUP;

    float at[ROWS][COLUMNS] = {};

    // Lanes of a warp are 4 positions by 8 outputs: what they read of either is then in different banks.
    DEVICE static int row() { return int(threadIdx.x) / 64 * 4 + int(threadIdx.x) % WARP / 8; }
    DEVICE static int column() { return (int(threadIdx.x) / WARP % 2 * 8 + int(threadIdx.x) % 8) * GROUP; }

    DEVICE void add(const ConvParams &p, const Place &place, const Step &step, const float *patch, const float *slice) {
        constexpr int DEPTH = 2;
        int a[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++) a[i] = patch_pixel(p, place, step, row() + 16 * i) * PIXEL<float>;
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
            load_floats(columns, weights + j / GROUP * APART);
#pragma unroll
            for (int i = 0; i < ROWS; i++) {
#pragma unroll
                for (int g = 0; g < GROUP; g++) at[i][j + g] = fmaf(rows[i][l], columns[g], at[i][j + g]);
            }
        }
    }

    DEVICE void put(float *results) const {
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
#pragma unroll
            for (int j = 0; j < COLUMNS; j++)
                results[(row() + 16 * i) * RESULT_ROW<N> + column() + j / GROUP * APART + j % GROUP] = at[i][j];
        }
    }
};

template <typename T, int M, int N>
DEVICE void convolve(const ConvParams &p) {
    constexpr int THREADS = Sums<T, M, N>::THREADS;
    DYNAMIC_SHARED(shared);
    T *const slices = reinterpret_cast<T *>(shared), *const patches = slices + STAGES * SLICE<T, N>;
    const Place at = place<M, N>(p);
    const int steps = (p.channels + CHUNK<T> - 1) / CHUNK<T> * p.kernel * p.kernel;
    // A patch is fetched with the first of its slices: with one tap there are as many on their way as slices.
    const int depth = p.kernel == 1 ? STAGES : 2;
    const auto patch = [&](int chunk) { return patches + chunk % depth * p.patch_pixels * PIXEL<T>; };
    Step ahead;
    const auto fetch = [&](int number) {
        if (number < steps) {
            if (ahead.begins_chunk()) fetch_patch<T, THREADS>(p, at, ahead.chunk, patch(ahead.chunk));
            fetch_slice<T, N, THREADS>(p, at, ahead, slices + number % STAGES * SLICE<T, N>);
            ahead.next(p.kernel);
        }
        copy_async_commit();
    };
    for (int number = 0; number < STAGES - 1; number++) fetch(number);
    Sums<T, M, N> sums;
    Step step;
    for (int number = 0; number < steps; number++) {
        copy_async_wait<STAGES - 2>();
        if (step.begins_chunk()) map_patch<T, THREADS>(p, at, step.chunk, patch(step.chunk));
        __syncthreads();
        // What it overwrites was read in the last step, before the barrier.
        fetch(number + STAGES - 1);
        // Some lanes fetched more than others; tensor cores want them together.
        __syncwarp();
        sums.add(p, at, step, patch(step.chunk), slices + number % STAGES * SLICE<T, N>);
        step.next(p.kernel);
    }
    copy_async_wait<0>();
    __syncthreads();
    float *const results = reinterpret_cast<float *>(shared);
    sums.put(results);
    __syncthreads();
    write_tile<T, M, N, THREADS>(p, at, results);
}

// The launcher knows these sizes, and chooses.
KERNEL_BOUNDED(conv_wide_bf16, ConvParams, p, 128, 2) { convolve<bf16, 128, 128>(p); }
KERNEL_BOUNDED(conv_small_bf16, ConvParams, p, 128, 4) { convolve<bf16, 64, 64>(p); }
KERNEL_BOUNDED(conv_narrow_bf16, ConvParams, p, 128, 4) { convolve<bf16, 128, 16>(p); }
KERNEL_BOUNDED(conv_wide_f32, ConvParams, p, 256, 2) { convolve<float, 128, 128>(p); }
KERNEL_BOUNDED(conv_small_f32, ConvParams, p, 256, 3) { convolve<float, 64, 64>(p); }
KERNEL_BOUNDED(conv_narrow_f32, ConvParams, p, 256, 2) { convolve<float, 128, 16>(p); }
