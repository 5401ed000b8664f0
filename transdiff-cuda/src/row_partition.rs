//! Partition of contiguous tensors [G, R, D] between threads. Its device side is `kernels/row_partition.cuh`.

use crate::driver::LaunchConfig;

/// Maximum threads per block.
const THREADS: usize = 256;

/// `RowPartition` of the kernels: a thread group iterates over a chunk of the rows of one group, each thread over its
/// own columns.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowPartition {
    rows: u64,
    width: u64,
    /// Threads per thread group, and thread groups per block.
    thread_group: u32,
    thread_groups: u32,
    blocks_per_row: u32,
    rows_per_chunk: u32,
    chunks_per_group: u32,
    chunks: u32,
}

impl RowPartition {
    /// Partitions [G, R, D] into chunks of `rows_per_chunk` rows and vectors of `vector` columns, which divides D.
    pub(crate) fn new([groups, rows, width]: [usize; 3], vector: usize, rows_per_chunk: usize) -> Self {
        let vectors = width.div_ceil(vector);
        // Thread groups of equal size: all blocks of a row have equal work.
        let blocks_per_row = vectors.div_ceil(THREADS);
        let thread_group = vectors.div_ceil(blocks_per_row.max(1)).max(1);
        let chunks_per_group = rows.div_ceil(rows_per_chunk);
        Self {
            rows: rows as u64,
            width: width as u64,
            thread_group: thread_group as u32,
            thread_groups: (THREADS / thread_group) as u32,
            blocks_per_row: blocks_per_row as u32,
            rows_per_chunk: rows_per_chunk as u32,
            chunks_per_group: chunks_per_group as u32,
            chunks: (groups * chunks_per_group) as u32,
        }
    }

    /// Chunks per group.
    pub(crate) fn chunks_per_group(&self) -> usize {
        self.chunks_per_group as usize
    }

    /// Total number of chunks.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks as usize
    }

    /// Blocks of whole warps; threads past the last thread group are idle.
    pub(crate) fn launch_config(&self) -> LaunchConfig {
        let grid = [self.chunks.div_ceil(self.thread_groups) * self.blocks_per_row, 1, 1];
        LaunchConfig { grid, block: (self.thread_groups * self.thread_group).next_multiple_of(32), shared: 0 }
    }
}

/// Rows per partial sum: few enough to occupy a whole GPU, many enough that writing one sum per chunk costs little
/// beside reading the rows.
pub(crate) fn rows_per_partial_sum(rows: usize) -> usize {
    (rows / 1024).next_power_of_two().clamp(8, 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_groups_leave_few_threads_idle() {
        // Width and vector; threads per group, groups per block, blocks per row, threads per block.
        let cases = [
            (1280, 8, [160, 1, 1, 160]),
            (1280, 4, [160, 1, 2, 160]),
            (1024, 8, [128, 2, 1, 256]),
            (2056, 8, [129, 1, 2, 160]),
            (33, 1, [33, 7, 1, 256]),
            (0, 1, [1, 256, 0, 256]),
        ];
        for (width, vector, want) in cases {
            let partition = RowPartition::new([1, 7, width], vector, 2);
            let got = [
                partition.thread_group,
                partition.thread_groups,
                partition.blocks_per_row,
                partition.launch_config().block,
            ];
            assert_eq!(got, want, "{width}, {vector}");
            assert!((partition.thread_group * partition.blocks_per_row) as usize * vector >= width);
        }
    }
}
