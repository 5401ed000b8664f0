//! Typed blocks of host memory.

use std::alloc;
use std::ops::{Deref, DerefMut};

use half::bf16;
use transdiff_core::{DType, Error, Result};

use crate::element::Element;

/// A block of memory of one element type.
#[derive(Debug)]
pub(crate) enum Memory {
    /// Single precision.
    F32(Vec<f32>),
    /// Double precision.
    F64(Vec<f64>),
    /// bfloat16: computed with in single precision.
    BF16(Vec<bf16>),
    /// Integers: stored, not computed in.
    I32(Vec<i32>),
}

impl Memory {
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
            Self::BF16(_) => DType::BF16,
            Self::I32(_) => DType::I32,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::BF16(v) => v.len(),
            Self::I32(v) => v.len(),
        }
    }

    /// Number of elements that the memory can [hold](Self::resized).
    pub(crate) fn capacity(&self) -> usize {
        match self {
            Self::F32(v) => v.capacity(),
            Self::F64(v) => v.capacity(),
            Self::BF16(v) => v.capacity(),
            Self::I32(v) => v.capacity(),
        }
    }

    /// The same memory with `len` elements, at most its capacity. Contents are unspecified.
    pub(crate) fn resized(self, len: usize) -> Self {
        fn resized<T: Element>(mut v: Vec<T>, len: usize) -> Vec<T> {
            debug_assert!(len <= v.capacity(), "{len} elements in memory for {}", v.capacity());
            v.resize(len, T::default());
            v
        }
        match self {
            Self::F32(v) => Self::F32(resized(v, len)),
            Self::F64(v) => Self::F64(resized(v, len)),
            Self::BF16(v) => Self::BF16(resized(v, len)),
            Self::I32(v) => Self::I32(resized(v, len)),
        }
    }

    /// Writes the values of `f` of their indices.
    pub(crate) fn fill_with(&mut self, f: impl Fn(usize) -> f64) {
        fn fill<T: Element>(v: &mut [T], f: impl Fn(usize) -> f64) {
            v.iter_mut().enumerate().for_each(|(i, x)| *x = T::of(f(i)));
        }
        match self {
            Self::F32(v) => fill(v, f),
            Self::F64(v) => fill(v, f),
            Self::BF16(v) => fill(v, f),
            Self::I32(v) => fill(v, f),
        }
    }

    pub(crate) fn zeros(dtype: DType, len: usize) -> Result<Self> {
        const OP: &str = "alloc";
        Ok(match dtype {
            DType::F32 => Self::F32(zeros(OP, len)?),
            DType::F64 => Self::F64(zeros(OP, len)?),
            DType::BF16 => Self::BF16(zeros(OP, len)?),
            DType::I32 => Self::I32(zeros(OP, len)?),
        })
    }
}

/// `len` zeros.
///
/// # Errors
/// [`Error::OutOfMemory`], which names the operation `op`.
pub(crate) fn zeros<T: Element>(op: &'static str, len: usize) -> Result<Vec<T>> {
    let out_of_memory = || Error::out_of_memory(op, len.saturating_mul(size_of::<T>()));
    if len == 0 {
        return Ok(Vec::new());
    }
    let layout = alloc::Layout::array::<T>(len).map_err(|_| out_of_memory())?;
    // The zeroing allocator rather than a reservation and a loop: the system's fresh pages are zero already.
    // SAFETY: the layout is not empty; element types are numbers, for which all bits zero is a value; the
    // vector gets the layout that the memory was allocated with.
    unsafe {
        let start = alloc::alloc_zeroed(layout).cast::<T>();
        if start.is_null() { Err(out_of_memory()) } else { Ok(Vec::from_raw_parts(start, len, len)) }
    }
}

/// Bytes of a cache line, and of the widest vector.
const LINE: usize = 64;

/// Elements that begin at a cache line: vectors across two lines are loaded and stored at half the rate.
#[derive(Debug, Default)]
pub(crate) struct Aligned<T> {
    /// The elements are those from `start` on, which is at most [`SLACK`](Self::SLACK).
    memory: Vec<T>,
    start: usize,
}

impl<T: Element> Aligned<T> {
    const SLACK: usize = LINE / size_of::<T>();

    /// `len` zeros.
    ///
    /// # Errors
    /// As [`zeros`].
    pub(crate) fn zeros(op: &'static str, len: usize) -> Result<Self> {
        let mut memory: Vec<T> = zeros(op, len.saturating_add(Self::SLACK))?;
        let start = memory.as_ptr().align_offset(LINE).min(Self::SLACK);
        memory.truncate(start + len);
        Ok(Self { memory, start })
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.memory[self.start..]
    }
}

impl<T> DerefMut for Aligned<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_elements_begin_at_a_line() {
        fn check<T: Element + PartialEq>() {
            for len in [0, 1, 63, 1000, 100_000] {
                let mut aligned = Aligned::<T>::zeros("test", len).unwrap();
                assert_eq!(aligned.as_ptr() as usize % LINE, 0);
                assert!(aligned.len() == len && aligned.iter().all(|x| *x == T::default()));
                aligned.fill(T::of(1.0));
            }
            assert!(Aligned::<T>::zeros("test", usize::MAX).is_err());
        }
        check::<i8>();
        check::<bf16>();
        check::<f32>();
        check::<f64>();
    }
}
