// Pooling of images in NHWC: the maximum or the average of the pixels of a window that are within the image.
#include "row_partition.cuh"

struct PoolParams {
    // x [B, H, W, C], y [B, H', W', C], contiguous.
    uint64_t x, y;
    // The rows are the pixels of y.
    RowPartition partition;
    // Shape of x, and of y.
    int32_t height, width, to_height, to_width;
    // Windows: of rows, then of columns.
    int32_t kernel_y, kernel_x, stride_y, stride_x, padding_y, padding_x;
    uint32_t average;
};

// The rows, or columns, of a window that are within the image.
struct PoolRange {
    int first, end;
};

DEVICE PoolRange pool_range(int at, int stride, int padding, int kernel, int side) {
    const int start = at * stride - padding, end = start + kernel;
    return PoolRange{start > 0 ? start : 0, end < side ? end : side};
}

template <typename T, int V>
DEVICE void pool(const PoolParams &p) {
    const RowChunk chunk = row_chunk<V>(p.partition);
    const uint64_t channels = p.partition.width;
    for (int i = 0; i < chunk.rows; i++) {
        const uint64_t pixel = chunk.row + i, line = pixel / p.to_width, image = line / p.to_height;
        const PoolRange rows =
            pool_range(int(line % p.to_height), p.stride_y, p.padding_y, p.kernel_y, p.height);
        const PoolRange columns =
            pool_range(int(pixel % p.to_width), p.stride_x, p.padding_x, p.kernel_x, p.width);
        float values[V];
#pragma unroll
        for (int j = 0; j < V; j++) values[j] = p.average ? 0.0f : -INFINITY;
        for (int y = rows.first; y < rows.end; y++) {
            for (int x = columns.first; x < columns.end; x++) {
                float seen[V];
                const uint64_t from = ((image * p.height + y) * p.width + x) * channels + chunk.column;
                load_floats<V>(seen, reinterpret_cast<const T *>(p.x) + from);
#pragma unroll
                for (int j = 0; j < V; j++) {
                    // NaN counts as the largest: it replaces everything, and nothing replaces it.
                    if (p.average) values[j] += seen[j];
                    else if (seen[j] > values[j] || seen[j] != seen[j]) values[j] = seen[j];
                }
            }
        }
        const float count = float((rows.end - rows.first) * (columns.end - columns.first));
        if (p.average) {
#pragma unroll
            for (int j = 0; j < V; j++) values[j] /= count;
        }
        store_floats(reinterpret_cast<T *>(p.y) + pixel * channels + chunk.column, values);
    }
}

KERNEL(pool_f32, PoolParams, p) { pool<float, 1>(p); }
KERNEL(pool_bf16, PoolParams, p) { pool<bf16, 1>(p); }
KERNEL(pool_wide_f32, PoolParams, p) { pool<float, LANES<float>>(p); }
KERNEL(pool_wide_bf16, PoolParams, p) { pool<bf16, LANES<bf16>>(p); }
