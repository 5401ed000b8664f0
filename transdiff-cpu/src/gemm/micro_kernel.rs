//! The interface between the blocked driver and the micro-kernels.

use super::operand::{Left, Panel, Sums};
use crate::scratch::Scratch;
use crate::view::Float;

/// The innermost part of a matrix product C = A B, for one combination of types and instruction set, by one thread.
///
/// A new kernel is a file with an implementation of this trait; the driver needs no change for it. A kernel whose
/// elements come in groups of k (pairs of bf16, fours of 8-bit integers) packs its panels, and A where the stride of k
/// is not 1, in that order, and pads the last group with zeros. A kernel is a value: it may hold scales of
/// quantised operands.
///
/// Every sum over k is formed in an order that depends on K alone, not on the place of the element in C or the number of
/// rows and columns in the call: from the left within blocks of [`DEPTH`](Self::DEPTH), then block by block.
pub(crate) trait MicroKernel: Copy + Send + Sync {
    /// Elements of A.
    type Left: Scratch + Send + Sync;
    /// Elements of B.
    type Right: Scratch + Send + Sync;
    /// Sums over k. They are formed in C if C is of this type, else in scratch memory.
    type Accumulator: Scratch;
    /// Elements of C before it is rounded to its type; epilogues compute in it.
    type Output: Float<Real = Self::Output>;

    /// Alignment of partitions of C between threads, in rows or columns: the width of a full panel, so that only the last
    /// part has a narrower one.
    const ALIGNMENT: usize;
    /// Values of k per block, a multiple of the kernel's groups of k.
    const DEPTH: usize;

    /// Number of columns of the next panel of B when `remaining` are left, at least 1.
    fn panel_width(&self, remaining: usize) -> usize;

    /// Number of elements that [`pack`](Self::pack) writes for a full panel over `depth` values of k, in a product of
    /// `m` rows with a B of these strides; 0 if such a B is read in place.
    fn packed_len(&self, _m: usize, _depth: usize, _strides: [usize; 2]) -> usize {
        0
    }

    /// Packs a panel of B into `packed`, which has [`packed_len`](Self::packed_len) elements.
    ///
    /// # Safety
    /// `b` reaches all its elements.
    unsafe fn pack(&self, b: Panel<Self::Right>, _packed: &mut [Self::Right]) -> Panel<Self::Right> {
        b
    }

    /// Number of elements that [`pack_left`](Self::pack_left) writes for an A of m×k elements and these strides, which is
    /// m rows of equal length; 0 if such an A is read in place.
    fn packed_left_len(&self, _shape: [usize; 2], _strides: [usize; 2]) -> usize {
        0
    }

    /// Packs m×k elements, some rows of an A, into `packed`: row after row, each with the stride 1 of k and of the
    /// length that [`packed_left_len`](Self::packed_left_len) gives the rows of the whole A.
    ///
    /// # Safety
    /// `a` reaches m×k elements.
    unsafe fn pack_left(&self, _a: Left<Self::Left>, _shape: [usize; 2], _packed: &mut [Self::Left]) {
        unreachable!("A of any strides is read in place")
    }

    /// Computes `m` rows and a panel of columns of the sums, over the panel's block of k.
    ///
    /// # Safety
    /// `a` reaches `m` rows and the panel's depth; `b` reaches its elements; both are as the packing functions return
    /// them, where they pack. `sums` reaches `m` rows and the panel's width; nothing else uses its elements.
    unsafe fn multiply(
        &self,
        m: usize,
        a: Left<Self::Left>,
        b: Panel<Self::Right>,
        sums: Sums<Self::Accumulator>,
    );

    /// Converts finished sums of part of a row, from row and column `position` of C on, to outputs. Not called if sums are
    /// formed in C.
    fn convert(&self, position: [usize; 2], sums: &[Self::Accumulator], out: &mut [Self::Output]);
}
