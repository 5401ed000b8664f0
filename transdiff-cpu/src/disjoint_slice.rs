//! Disjoint parts of a slice for several tasks, where only the kernel knows that they are disjoint.

use std::marker::PhantomData;

/// A slice whose disjoint parts are written by several tasks, for parts that are not chunks of memory: columns of a
/// matrix, pixels of a phase. Chunks are shared out without unsafe code, by [`Cpu::chunks`](crate::Cpu::chunks) and
/// [`Cpu::for_each`](crate::Cpu::for_each).
#[derive(Debug)]
pub(crate) struct DisjointSlice<'a, T> {
    start: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

impl<T> Clone for DisjointSlice<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for DisjointSlice<'_, T> {}

// SAFETY: access goes through `part`, whose callers promise that parts do not overlap, and through the pointers of
// `at`, whose users promise the same.
unsafe impl<T: Send> Send for DisjointSlice<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for DisjointSlice<'_, T> {}

impl<'a, T> DisjointSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
    }

    /// Elements `from..from + len`.
    ///
    /// # Safety
    /// No other part in use shares any of them.
    pub(crate) unsafe fn part(self, from: usize, len: usize) -> &'a mut [T] {
        assert!(from <= self.len && len <= self.len - from, "a kernel left its output");
        // SAFETY: within the slice, and not aliased, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }

    /// Position of element `from`, or the end.
    pub(crate) fn at(self, from: usize) -> *mut T {
        assert!(from <= self.len);
        // SAFETY: within the slice or one past its end.
        unsafe { self.start.add(from) }
    }
}
