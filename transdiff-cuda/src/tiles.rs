//! Tensors [G, R, D], contiguous, cut among threads. `kernels/tiles.cuh` takes them.

use crate::driver::Launch;

/// Threads of a block at the most.
const THREADS: usize = 256;

/// The struct `Tiles` of the kernels: a team of threads goes through a chunk of the rows of one group, every thread in
/// columns of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles {
    rows: u64,
    width: u64,
    team: u32,
    teams: u32,
    across: u32,
    per_chunk: u32,
    per_group: u32,
    chunks: u32,
}

impl Tiles {
    /// [G, R, D] cut into chunks of `per_chunk` rows and vectors of `vector` columns, which divides D.
    pub(crate) fn new([groups, rows, width]: [usize; 3], vector: usize, per_chunk: usize) -> Self {
        let vectors = width.div_ceil(vector);
        // Teams of one size: blocks side by side have as much to do as each other.
        let across = vectors.div_ceil(THREADS);
        let team = vectors.div_ceil(across.max(1)).max(1);
        let per_group = rows.div_ceil(per_chunk);
        Self {
            rows: rows as u64,
            width: width as u64,
            team: team as u32,
            teams: (THREADS / team) as u32,
            across: across as u32,
            per_chunk: per_chunk as u32,
            per_group: per_group as u32,
            chunks: (groups * per_group) as u32,
        }
    }

    /// Chunks of a group.
    pub(crate) fn per_group(&self) -> usize {
        self.per_group as usize
    }

    /// Chunks in all.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks as usize
    }

    /// Blocks of whole warps: the threads past the last team have nothing to do.
    pub(crate) fn launch(&self) -> Launch {
        let grid = [self.chunks.div_ceil(self.teams) * self.across, 1, 1];
        Launch { grid, block: (self.teams * self.team).next_multiple_of(32), shared: 0 }
    }
}

/// How many rows are summed by one thread before the sums of chunks are: few enough to make work for a whole GPU, and
/// many enough that what is written for each chunk is little beside what is read.
pub(crate) fn rows_of_sums(rows: usize) -> usize {
    (rows / 1024).next_power_of_two().clamp(8, 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn teams_leave_few_threads_idle() {
        // Width and vector; threads of a team, teams of a block, blocks side by side, threads of a block.
        let cases = [
            (1280, 8, [160, 1, 1, 160]),
            (1280, 4, [160, 1, 2, 160]),
            (1024, 8, [128, 2, 1, 256]),
            (2056, 8, [129, 1, 2, 160]),
            (33, 1, [33, 7, 1, 256]),
            (0, 1, [1, 256, 0, 256]),
        ];
        for (width, vector, want) in cases {
            let tiles = Tiles::new([1, 7, width], vector, 2);
            let got = [tiles.team, tiles.teams, tiles.across, tiles.launch().block];
            assert_eq!(got, want, "{width}, {vector}");
            assert!((tiles.team * tiles.across) as usize * vector >= width);
        }
    }
}
