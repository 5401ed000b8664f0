//! Strided views of storages.

use std::io;

use super::byte_reader::ByteReader;
use super::errors::Mismatch;

/// Number of elements that a view may have beyond those of its storage, as an expanded scalar does.
const MAX_REPEATED: usize = 1 << 16;
/// Distance in bytes beyond which elements are read one by one: reading the gap costs more than a system call.
const MAX_GAP: usize = 1 << 12;

/// A view of a storage, as PyTorch writes it; checked by [`Strided::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Strided {
    /// Position of the storage in the file, in bytes.
    pub start: u64,
    /// Number of elements of the storage.
    pub elements: usize,
    /// Index of the view's first element in the storage.
    pub offset: usize,
    /// Stride per axis, in elements.
    pub strides: Vec<usize>,
}

impl Strided {
    fn describe(&self, shape: &[usize]) -> String {
        format!("shape {shape:?} from element {} with strides {:?}", self.offset, self.strides)
    }

    /// Returns the number of elements. Fails with (expected, got) unless every one is inside of the storage.
    pub fn check(&self, shape: &[usize]) -> Result<usize, Mismatch> {
        let got = || self.describe(shape);
        let numel = element_count(shape)
            .ok_or_else(|| ("a shape whose number of elements does not overflow".to_owned(), got()))?;
        let last = shape.iter().zip(&self.strides).try_fold(self.offset, |at, (&d, &stride)| {
            at.checked_add(d.saturating_sub(1).checked_mul(stride)?)
        });
        // An empty view may begin anywhere, the end of the storage included.
        let inside = match numel {
            0 => self.offset <= self.elements,
            _ => last.is_some_and(|at| at < self.elements),
        };
        if !inside {
            return Err((format!("a view inside its storage of {} elements", self.elements), got()));
        }
        Ok(numel)
    }

    /// Fails with (expected, got) if the view has far more elements than its storage.
    pub fn check_repeats(&self, shape: &[usize]) -> Result<(), Mismatch> {
        let max = self.elements.saturating_add(MAX_REPEATED);
        if shape.iter().product::<usize>() <= max {
            return Ok(());
        }
        Err((format!("a view of at most {max} elements"), self.describe(shape)))
    }

    pub fn is_contiguous(&self, shape: &[usize]) -> bool {
        let mut step = 1;
        shape.iter().zip(&self.strides).rev().filter(|&(&d, _)| d != 1).all(|(&d, &stride)| {
            let as_expected = stride == step;
            step *= d;
            as_expected
        })
    }

    /// Calls `put` with the row-major index and the bytes of every element. Elements are visited in storage order where
    /// the strides allow it, so that the window passes over the file once, whatever the order of the axes.
    pub fn gather<const SIZE: usize>(
        &self,
        reader: &ByteReader,
        shape: &[usize],
        mut put: impl FnMut(usize, [u8; SIZE]),
    ) -> io::Result<()> {
        let mut axes = Vec::with_capacity(shape.len());
        let mut step = 1;
        for (&size, &stride) in shape.iter().zip(&self.strides).rev() {
            axes.push(Axis { size, stride, step, at: 0 });
            step *= size;
        }
        axes.sort_by_key(|axis| std::cmp::Reverse(axis.stride));
        let mut window = reader.window(self.start + (self.elements * SIZE) as u64, span(&axes, SIZE));
        for _ in 0..step {
            let (from, to) = axes
                .iter()
                .fold((self.offset, 0), |(from, to), a| (from + a.at * a.stride, to + a.at * a.step));
            put(to, window.get(self.start + (from * SIZE) as u64)?);
            advance(&mut axes);
        }
        Ok(())
    }
}

/// One axis of a view during iteration.
struct Axis {
    size: usize,
    stride: usize,
    /// Stride in the row-major result.
    step: usize,
    /// Current index.
    at: usize,
}

/// Number of bytes that iteration covers before it reaches an element more than [`MAX_GAP`] away from the previous
/// one. The last axis varies fastest and has the smallest stride.
fn span(axes: &[Axis], element: usize) -> usize {
    let steps = axes.iter().rev().filter(|axis| axis.size > 1);
    let mut bytes = element;
    for (size, step) in steps.map(|axis| (axis.size, axis.stride.saturating_mul(element))) {
        if step > bytes.saturating_add(MAX_GAP) {
            break;
        }
        bytes = bytes.saturating_add((size - 1).saturating_mul(step));
    }
    bytes
}

/// Advances by one element, the last axis fastest.
fn advance(axes: &mut [Axis]) {
    for axis in axes.iter_mut().rev() {
        axis.at += 1;
        if axis.at < axis.size {
            return;
        }
        axis.at = 0;
    }
}

/// Number of elements, unless it or the size in bits of the widest type overflows.
pub(super) fn element_count(shape: &[usize]) -> Option<usize> {
    let numel = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    numel.checked_mul(u64::BITS as usize).map(|_| numel)
}

#[cfg(test)]
mod tests {
    use super::{Axis, span};

    #[test]
    fn span_ends_before_a_large_gap() {
        let axes = |axes: &[(usize, usize)]| -> Vec<Axis> {
            axes.iter().map(|&(size, stride)| Axis { size, stride, step: 0, at: 0 }).collect()
        };
        let cases: [(&[(usize, usize)], usize); 7] = [
            (&[], 4),
            (&[(10, 1)], 40),
            (&[(10, 1 << 20)], 4),
            (&[(10, 1 << 20), (5, 1)], 20),
            (&[(10, 1000), (1, 1 << 20), (5, 2)], 9 * 4000 + 4 * 8 + 4),
            (&[(7, 50), (50, 1)], 7 * 200),
            (&[(usize::MAX, 1)], usize::MAX),
        ];
        for (sizes_and_strides, bytes) in cases {
            assert_eq!(span(&axes(sizes_and_strides), 4), bytes, "{sizes_and_strides:?}");
        }
    }
}
