//! Operands of a product: matrices of callers, and the parts of them that micro-kernels read and write.

use std::ops::Range;

/// A matrix operand: its elements from the first on, and the strides of rows and columns.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) strides: [usize; 2],
}

impl<'a, T> Operand<'a, T> {
    pub(crate) fn new(data: &'a [T], strides: [usize; 2]) -> Self {
        Self { data, strides }
    }

    /// Row-major without gaps.
    pub(crate) fn rows(data: &'a [T], width: usize) -> Self {
        Self { data, strides: [width, 1] }
    }

    pub(crate) fn transposed(self) -> Self {
        Self { strides: [self.strides[1], self.strides[0]], ..self }
    }

    /// Returns true if a matrix of this shape lies within the elements.
    pub(super) fn reaches(&self, shape: [usize; 2]) -> bool {
        self.extent(shape) <= self.data.len()
    }

    /// Number of elements of memory from the first element of a matrix of this shape to its last.
    pub(super) fn extent(&self, shape: [usize; 2]) -> usize {
        match shape {
            [0, _] | [_, 0] => 0,
            [m, n] => (m - 1) * self.strides[0] + (n - 1) * self.strides[1] + 1,
        }
    }

    /// The panel of these values of k and these columns, as a right operand.
    pub(super) fn panel(&self, depth: Range<usize>, columns: Range<usize>) -> Panel<T> {
        let offset = depth.start * self.strides[0] + columns.start * self.strides[1];
        let start = self.data.as_ptr().wrapping_add(offset);
        Panel { start, strides: self.strides, depth: depth.len(), width: columns.len() }
    }

    /// The rows from `first` on, as a left operand.
    pub(super) fn left(&self, first: usize) -> Left<T> {
        Left { start: self.data.as_ptr().wrapping_add(first * self.strides[0]), strides: self.strides }
    }
}

/// Rows of A: the first element, and the strides of rows and of k.
#[derive(Debug)]
pub(crate) struct Left<T> {
    pub(super) start: *const T,
    pub(super) strides: [usize; 2],
}

impl<T> Left<T> {
    /// The part from row `row` and `k` on.
    pub(super) fn from(self, row: usize, k: usize) -> Self {
        let start = self.start.wrapping_add(row * self.strides[0] + k * self.strides[1]);
        Self { start, ..self }
    }

    /// Copies m×k elements to rows `stride` apart, which are filled up with zeros.
    ///
    /// # Safety
    /// The operand reaches these elements.
    pub(super) unsafe fn copy_rows(self, [m, k]: [usize; 2], stride: usize, out: &mut [T])
    where
        T: Copy + Default,
    {
        // Squares, so that reading down a column and writing along a row both stay within few lines.
        const SQUARE: usize = 32;
        for (i0, rows) in
            out.chunks_mut(SQUARE * stride.max(1)).enumerate().map(|(n, rows)| (n * SQUARE, rows))
        {
            for k0 in (0..stride).step_by(SQUARE) {
                for (i, row) in rows.chunks_exact_mut(stride).enumerate().take(m.saturating_sub(i0)) {
                    for (k1, out) in row[k0..stride.min(k0 + SQUARE)].iter_mut().enumerate() {
                        let at = self.from(i0 + i, k0 + k1);
                        // SAFETY: an element, as the caller promises.
                        *out = if k0 + k1 < k { unsafe { *at.start } } else { T::default() };
                    }
                }
            }
        }
    }
}

/// A panel, some columns of B over a block of k: the first element, the strides of k and of columns, and their numbers.
/// The strides of a packed panel are defined by its micro-kernel.
#[derive(Debug)]
pub(crate) struct Panel<T> {
    pub(super) start: *const T,
    pub(super) strides: [usize; 2],
    pub(super) depth: usize,
    pub(super) width: usize,
}

/// Sums over k, an m×n matrix: the first element, the stride of rows (that of columns is 1), and whether products are
/// added to the sums or replace them.
#[derive(Debug)]
pub(crate) struct Sums<T> {
    pub(super) start: *mut T,
    pub(super) stride: usize,
    pub(super) accumulate: bool,
}

impl<T> Sums<T> {
    /// The part from row `row` and column `column` on.
    pub(super) fn from(self, row: usize, column: usize) -> Self {
        Self { start: self.start.wrapping_add(row * self.stride + column), ..self }
    }
}

macro_rules! copies {
    ($($name:ident),*) => {$(
        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                *self
            }
        }

        impl<T> Copy for $name<T> {}
    )*};
}

copies!(Left, Panel, Sums);
