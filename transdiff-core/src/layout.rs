//! Shapes, strides and views.

use crate::{Error, Result};

/// Positions of a tensor's elements in its buffer: element `i` (one index per axis) is at `offset + Σ i_a · strides_a`.
/// Strides count elements and are never negative; a stride of 0 repeats an axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
}

impl Layout {
    /// Row-major layout of `shape` without gaps, starting at element 0.
    pub fn contiguous(shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), strides: row_major_strides(shape), offset: 0 }
    }

    /// Creates a layout from its parts.
    pub fn new(shape: &[usize], strides: &[usize], offset: usize) -> Self {
        assert_eq!(shape.len(), strides.len(), "a layout has one stride per axis");
        Self { shape: shape.to_vec(), strides: strides.to_vec(), offset }
    }

    /// Size per axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Stride per axis, in elements.
    pub fn strides(&self) -> &[usize] {
        &self.strides
    }

    /// Position of the first element in the buffer.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// One past the last buffer position that the layout reaches (its offset if it has no elements).
    pub fn end(&self) -> usize {
        if self.numel() == 0 {
            return self.offset;
        }
        self.offset + self.shape.iter().zip(&self.strides).map(|(n, s)| (n - 1) * s).sum::<usize>() + 1
    }

    /// Returns whether the elements are in row-major order without gaps (at any offset).
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1;
        self.shape.iter().zip(&self.strides).rev().all(|(&n, &s)| {
            let fits = n == 1 || s == expected;
            expected *= n;
            fits || self.numel() == 0
        })
    }

    /// Returns whether two elements may share a position: false for every layout that results from a contiguous one by
    /// permuting and narrowing.
    pub fn overlaps(&self) -> bool {
        let mut axes: Vec<(usize, usize)> =
            self.strides.iter().copied().zip(self.shape.iter().copied()).filter(|&(_, n)| n != 1).collect();
        axes.sort_unstable();
        // The stride of each axis must exceed the extent of all axes with smaller strides.
        let mut reach = 0;
        self.numel() > 1
            && axes.into_iter().any(|(stride, n)| {
                let collides = stride <= reach;
                reach += (n - 1) * stride;
                collides
            })
    }

    /// Reorders the axes: axis `a` of the result is axis `axes[a]` of `self`.
    pub fn permute(&self, axes: &[usize]) -> Result<Self> {
        let mut seen = vec![false; self.rank()];
        let valid = axes.len() == self.rank()
            && axes.iter().all(|&a| a < self.rank() && !std::mem::replace(&mut seen[a], true));
        if !valid {
            return Err(Error::shape("permute", format!("axes {axes:?} to be a permutation"), &self.shape));
        }
        let pick = |from: &[usize]| axes.iter().map(|&a| from[a]).collect();
        Ok(Self { shape: pick(&self.shape), strides: pick(&self.strides), offset: self.offset })
    }

    /// Selects the elements `start..start + len` of one axis.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        if axis >= self.rank() || start.checked_add(len).is_none_or(|end| end > self.shape[axis]) {
            let expected = format!("axis {axis} to hold {start}..{start}+{len}");
            return Err(Error::shape("narrow", expected, &self.shape));
        }
        let mut out = self.clone();
        out.shape[axis] = len;
        // An empty view keeps its offset: adding to it could take it past the end of the buffer.
        if out.numel() > 0 {
            out.offset += start * self.strides[axis];
        }
        Ok(out)
    }

    /// Repeats axes of size 1 (and adds axes in front) until the shape is `shape`.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Self> {
        let bad =
            || Error::shape("broadcast_to", format!("a shape that broadcasts to {shape:?}"), &self.shape);
        let added = shape.len().checked_sub(self.rank()).ok_or_else(bad)?;
        let mut strides = vec![0; shape.len()];
        for axis in 0..self.rank() {
            strides[added + axis] = match (self.shape[axis], shape[added + axis]) {
                (from, to) if from == to => self.strides[axis],
                (1, _) => 0,
                _ => return Err(bad()),
            };
        }
        checked_numel("broadcast_to", shape)?;
        Ok(Self { shape: shape.to_vec(), strides, offset: self.offset })
    }

    /// Returns the same elements in another shape if strides can express it; `None` if a copy is needed.
    pub fn reshape(&self, shape: &[usize]) -> Result<Option<Self>> {
        if checked_numel("reshape", shape)? != self.numel() {
            return Err(Error::shape(
                "reshape",
                format!("{} elements for {shape:?}", self.numel()),
                &self.shape,
            ));
        }
        if self.numel() == 0 {
            return Ok(Some(Self { offset: self.offset, ..Self::contiguous(shape) }));
        }
        Ok(self.reshaped_strides(shape).map(|strides| Self {
            shape: shape.to_vec(),
            strides,
            offset: self.offset,
        }))
    }

    /// Strides of the non-empty view `shape`. Groups of old axes are matched with groups of new axes of equal size.
    fn reshaped_strides(&self, shape: &[usize]) -> Option<Vec<usize>> {
        let old: Vec<(usize, usize)> =
            self.shape.iter().copied().zip(self.strides.iter().copied()).filter(|&(n, _)| n != 1).collect();
        let mut strides = vec![0; shape.len()];
        let (mut from, mut to) = (0, 0);
        while from < old.len() {
            let (start, first) = (from, to);
            let (mut have, mut want) = (old[from].0, *shape.get(to)?);
            (from, to) = (from + 1, to + 1);
            while have != want {
                if have < want {
                    have *= old.get(from)?.0;
                    from += 1;
                } else {
                    want *= shape.get(to)?;
                    to += 1;
                }
            }
            // A group can be split differently only if there are no gaps between its axes.
            if !old[start..from].windows(2).all(|w| w[0].1 == w[1].0 * w[1].1) {
                return None;
            }
            let mut stride = old[from - 1].1;
            for axis in (first..to).rev() {
                strides[axis] = stride;
                stride *= shape[axis];
            }
        }
        Some(strides)
    }

    /// Calls `f` with the buffer position of every element, in row-major order.
    pub fn for_each_position(&self, mut f: impl FnMut(usize)) {
        if self.numel() == 0 {
            return;
        }
        let mut index = vec![0; self.rank()];
        let mut position = self.offset;
        loop {
            f(position);
            let mut axis = self.rank();
            loop {
                if axis == 0 {
                    return;
                }
                axis -= 1;
                index[axis] += 1;
                position += self.strides[axis];
                if index[axis] < self.shape[axis] {
                    break;
                }
                position -= self.strides[axis] * self.shape[axis];
                index[axis] = 0;
            }
        }
    }
}

/// Number of elements of `shape`.
///
/// # Errors
/// [`Error::Shape`] if it exceeds the address space: a product that wraps around would give a huge shape a small
/// buffer.
pub fn checked_numel(op: &'static str, shape: &[usize]) -> Result<usize> {
    const LIMIT: usize = isize::MAX as usize / size_of::<f64>();
    // Empty axes are skipped: the product of the others must not wrap around either, because strides depend on it.
    let size = shape.iter().filter(|&&n| n != 0).try_fold(1usize, |size, &n| size.checked_mul(n));
    match size {
        Some(size) if size <= LIMIT => Ok(if shape.contains(&0) { 0 } else { size }),
        _ => Err(Error::shape(op, format!("at most {LIMIT} elements"), shape)),
    }
}

/// Row-major strides of `shape`.
pub fn row_major_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    strides
}

/// Shape that `a` and `b` broadcast to, with axes aligned at the end.
pub fn broadcast_shape(op: &'static str, a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |s: &[usize], axis: usize| (axis + s.len()).checked_sub(rank).map_or(1, |i| s[i]);
    (0..rank)
        .map(|axis| match (at(a, axis), at(b, axis)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(Error::shape(op, format!("a shape that broadcasts with {b:?}"), a)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reshape_splits_merges_and_rejects() {
        let base = Layout::contiguous(&[2, 6]);
        assert_eq!(base.reshape(&[2, 2, 3]).unwrap().unwrap().strides(), [6, 3, 1]);
        assert_eq!(base.reshape(&[12]).unwrap().unwrap().strides(), [1]);
        let transposed = base.permute(&[1, 0]).unwrap();
        assert!(transposed.reshape(&[12]).unwrap().is_none());
        assert_eq!(transposed.reshape(&[3, 2, 1, 2]).unwrap().unwrap().strides(), [2, 1, 12, 6]);
        assert!(base.reshape(&[5]).is_err());
        assert!(Layout::contiguous(&[0, 3]).reshape(&[3, 0, 2]).unwrap().is_some());
        assert!(Layout::contiguous(&[1, 1]).reshape(&[]).unwrap().is_some());
    }

    #[test]
    fn views_keep_positions() {
        let layout = Layout::contiguous(&[2, 3, 4]).narrow(1, 1, 2).unwrap().permute(&[2, 0, 1]).unwrap();
        let mut seen = Vec::new();
        layout.for_each_position(|p| seen.push(p));
        assert_eq!(&seen[..5], [4, 8, 16, 20, 5]);
        assert_eq!(layout.end(), 24);
        assert!(!layout.is_contiguous());
        assert!(layout.narrow(0, 3, 2).is_err());
        assert!(layout.permute(&[0, 0, 1]).is_err());
    }

    #[test]
    fn overflowing_sizes_are_rejected() {
        let huge = [3, usize::MAX / 3 + 1];
        assert!(checked_numel("t", &huge).is_err() && checked_numel("t", &[0, usize::MAX, 2]).is_err());
        assert_eq!(checked_numel("t", &[4, 0, 7]).unwrap(), 0);
        let one = Layout::contiguous(&[1, 1]);
        assert!(one.broadcast_to(&huge).is_err() && one.reshape(&huge).is_err());
    }

    #[test]
    fn broadcasting_aligns_trailing_axes() {
        assert_eq!(broadcast_shape("t", &[3, 1], &[2, 1, 5]).unwrap(), [2, 3, 5]);
        assert!(broadcast_shape("t", &[3], &[2]).is_err());
        let row = Layout::contiguous(&[3, 1]).broadcast_to(&[2, 3, 5]).unwrap();
        assert_eq!(row.strides(), [0, 1, 0]);
    }
}
