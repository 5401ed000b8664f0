//! Walks over tensors of any strides: what elementwise operations and copies share. `kernels/walk.cuh` takes them.

use std::cmp::Reverse;

use transdiff_core::{Error, Layout, Result};

use crate::driver::{Launch, Params};

/// Axes that a kernel can walk.
pub(crate) const AXES: usize = 6;
/// Threads of a block, and vectors that one thread handles.
const THREADS: u32 = 256;
const UNROLL: u64 = 2;

/// The struct `Walk` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk<const N: usize> {
    address: [u64; N],
    strides: [[u64; AXES]; N],
    shape: [u64; AXES],
    count: u64,
    axes: u32,
    repeats: u32,
}

// SAFETY: the fields of `Walk` in walk.cuh.
unsafe impl<const N: usize> Params for Walk<N> {}

impl<const N: usize> Walk<N> {
    /// One thread a vector.
    pub(crate) fn launch(&self) -> Launch {
        Launch {
            grid: [self.count.div_ceil(u64::from(THREADS) * UNROLL) as u32, 1, 1],
            block: THREADS,
            shared: 0,
        }
    }
}

/// Common axes of N tensors of equal shape, the last tensor being the output: ordered as the output lies in memory,
/// with axes that follow each other without gaps in every tensor merged. Sizes and strides count elements.
#[derive(Clone, Debug)]
pub(crate) struct Plan<const N: usize> {
    shape: Vec<usize>,
    strides: [Vec<usize>; N],
    address: [u64; N],
    /// Bytes of an element.
    sizes: [usize; N],
}

impl<const N: usize> Plan<N> {
    /// A plan for tensors whose first elements are at `address`.
    pub(crate) fn new(layouts: [&Layout; N], address: [u64; N], sizes: [usize; N]) -> Self {
        let out = layouts[N - 1];
        let mut axes: Vec<usize> = (0..out.rank()).filter(|&a| out.shape()[a] != 1).collect();
        axes.sort_by_key(|&a| Reverse(out.strides()[a]));
        let mut plan = Self { shape: Vec::new(), strides: [const { Vec::new() }; N], address, sizes };
        for axis in axes {
            plan.push(out.shape()[axis], layouts.map(|l| l.strides()[axis]));
        }
        if plan.shape.is_empty() {
            plan.push(1, [0; N]);
        }
        plan
    }

    /// Adds an axis inside of the others, or makes it part of the innermost one.
    fn push(&mut self, size: usize, strides: [usize; N]) {
        let follows = |(outer, inner): (&Vec<usize>, usize)| outer.last() == Some(&(inner * size));
        if self.strides.iter().zip(strides).all(follows) {
            *self.shape.last_mut().expect("not empty") *= size;
            for (outer, inner) in self.strides.iter_mut().zip(strides) {
                *outer.last_mut().expect("not empty") = inner;
            }
        } else {
            self.shape.push(size);
            self.strides.iter_mut().zip(strides).for_each(|(all, stride)| all.push(stride));
        }
    }

    /// Whether the innermost axis can be read and written `width` elements at once; an input may repeat one element
    /// along it if `repeats` allows that.
    pub(crate) fn fits(&self, width: usize, repeats: bool) -> bool {
        let inner = self.shape.last().expect("a plan has an axis");
        let fits = |t: usize| {
            let (step, strides) = self.strides[t].split_last().expect("a plan has an axis");
            let repeated = *step == 0 && repeats && t + 1 < N;
            let aligned = self.address[t].is_multiple_of((width * self.sizes[t]) as u64)
                && strides.iter().all(|stride| stride.is_multiple_of(width));
            repeated || (*step == 1 && aligned)
        };
        inner.is_multiple_of(width) && (0..N).all(fits)
    }

    /// The same for tensors of words of `width` elements.
    pub(crate) fn in_words(mut self, width: usize) -> Self {
        *self.shape.last_mut().expect("a plan has an axis") /= width;
        for strides in &mut self.strides {
            let outer = strides.len() - 1;
            strides[..outer].iter_mut().for_each(|stride| *stride /= width);
        }
        self.sizes = self.sizes.map(|size| size * width);
        self
    }

    /// What kernels take, for vectors of `width` elements.
    pub(crate) fn walk(&self, op: &'static str, width: usize) -> Result<Walk<N>> {
        let axes = self.shape.len();
        if axes > AXES {
            let expected = format!("strides that leave at most {AXES} axes after merging");
            return Err(Error::shape(op, expected, &self.shape));
        }
        let mut walk = Walk {
            address: self.address,
            strides: [[0; AXES]; N],
            shape: [1; AXES],
            count: 0,
            axes: axes as u32,
            repeats: 0,
        };
        for (to, &size) in walk.shape.iter_mut().zip(&self.shape) {
            *to = size as u64;
        }
        walk.shape[axes - 1] /= width as u64;
        walk.count = walk.shape[..axes].iter().product();
        for (t, strides) in self.strides.iter().enumerate() {
            for (to, &stride) in walk.strides[t].iter_mut().zip(strides) {
                *to = stride as u64;
            }
            walk.strides[t][axes - 1] *= width as u64;
            walk.repeats |= u32::from(strides[axes - 1] == 0) << t;
        }
        Ok(walk)
    }
}
