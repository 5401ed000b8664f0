//! Epilogues: operations on a product while it is in the cache.

use std::ops::Range;

/// An operation on the elements of a product, applied by the thread that computed them as soon as a block of them is
/// finished.
pub(crate) trait Epilogue<T>: Sync {
    /// Applies the operation to the columns `columns` of row `row` of C.
    fn apply(&self, row: usize, columns: Range<usize>, values: &mut [T]);
}

/// No operation: the product alone.
pub(crate) struct NoEpilogue;

impl<T> Epilogue<T> for NoEpilogue {
    #[inline(always)]
    fn apply(&self, _: usize, _: Range<usize>, _: &mut [T]) {}
}
