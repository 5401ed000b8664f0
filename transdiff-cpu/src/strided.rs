//! Strided iteration: loops over tensors of any strides, for elementwise operations and copies.

use ndarray::{ArrayView, ArrayViewMut, IxDyn, ShapeBuilder, Zip};
use transdiff_core::Layout;

use crate::device::Cpu;
use crate::disjoint_slice::DisjointSlice;
use crate::element::Element;
use crate::view::Float;

/// Number of elements per task.
const CHUNK: usize = 1 << 14;

/// Indexer of the common axes of N tensors of equal shape, the last of which is the output: axes are in the memory order
/// of the output, and merged where they follow each other without gaps in every tensor.
struct StridedIndexer<const N: usize> {
    shape: Vec<usize>,
    strides: [Vec<usize>; N],
    offsets: [usize; N],
}

impl<const N: usize> StridedIndexer<N> {
    fn new(layouts: [&Layout; N]) -> Self {
        let out = layouts[N - 1];
        assert!(!out.overlaps(), "two elements of an output share a position");
        let mut axes: Vec<usize> = (0..out.rank()).filter(|&a| out.shape()[a] != 1).collect();
        axes.sort_by_key(|&a| std::cmp::Reverse(out.strides()[a]));
        let mut indexer = Self {
            shape: Vec::with_capacity(axes.len()),
            strides: std::array::from_fn(|_| Vec::with_capacity(axes.len())),
            offsets: layouts.map(Layout::offset),
        };
        for axis in axes {
            let size = out.shape()[axis];
            let follows =
                |i: usize, l: &Layout| indexer.strides[i].last() == Some(&(l.strides()[axis] * size));
            if !indexer.shape.is_empty() && layouts.iter().enumerate().all(|(i, l)| follows(i, l)) {
                *indexer.shape.last_mut().expect("not empty") *= size;
                for (strides, l) in indexer.strides.iter_mut().zip(layouts) {
                    *strides.last_mut().expect("not empty") = l.strides()[axis];
                }
            } else {
                indexer.shape.push(size);
                for (strides, l) in indexer.strides.iter_mut().zip(layouts) {
                    strides.push(l.strides()[axis]);
                }
            }
        }
        if indexer.shape.is_empty() {
            indexer.shape.push(1);
            indexer.strides.iter_mut().for_each(|s| s.push(1));
        }
        indexer
    }

    /// Size of the last axis.
    fn inner(&self) -> usize {
        self.shape[self.shape.len() - 1]
    }

    /// Number of runs along the last axis.
    fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    fn inner_strides(&self) -> [usize; N] {
        std::array::from_fn(|i| self.strides[i][self.shape.len() - 1])
    }

    /// Calls `f` with the positions of the first elements of rows `from..to`.
    fn for_rows(&self, from: usize, to: usize, mut f: impl FnMut([usize; N])) {
        let outer = self.shape.len() - 1;
        let mut index = vec![0; outer];
        let mut at = self.offsets;
        let mut rest = from;
        for axis in (0..outer).rev() {
            index[axis] = rest % self.shape[axis];
            rest /= self.shape[axis];
            for (position, strides) in at.iter_mut().zip(&self.strides) {
                *position += index[axis] * strides[axis];
            }
        }
        for _ in from..to {
            f(at);
            for axis in (0..outer).rev() {
                index[axis] += 1;
                let wraps = index[axis] == self.shape[axis];
                for (position, strides) in at.iter_mut().zip(&self.strides) {
                    *position += strides[axis];
                    if wraps {
                        *position -= strides[axis] * self.shape[axis];
                    }
                }
                if !wraps {
                    break;
                }
                index[axis] = 0;
            }
        }
    }

    /// Calls `f` with the positions and the length of runs along the last axis, which together are all elements.
    fn for_runs(&self, cpu: &Cpu, f: impl Fn([usize; N], usize) + Send + Sync) {
        let (rows, inner) = (self.rows(), self.inner());
        let cost = rows * inner / 2 + rows * 4;
        if rows == 1 {
            let steps = self.inner_strides();
            cpu.run(inner.div_ceil(CHUNK), cost, |i| {
                let from = i * CHUNK;
                f(std::array::from_fn(|t| self.offsets[t] + from * steps[t]), CHUNK.min(inner - from));
            });
        } else {
            let each = CHUNK.div_ceil(inner);
            cpu.run(rows.div_ceil(each), cost, |i| {
                self.for_rows(i * each, rows.min((i + 1) * each), |at| f(at, inner));
            });
        }
    }

    fn nd<'a, T>(&self, i: usize, data: &'a [T]) -> ArrayView<'a, T, IxDyn> {
        let shape = IxDyn(&self.shape).strides(IxDyn(&self.strides[i]));
        ArrayView::from_shape(shape, &data[self.offsets[i]..]).expect("the view lies within its buffer")
    }

    fn nd_mut<'a, T>(&self, i: usize, data: &'a mut [T]) -> ArrayViewMut<'a, T, IxDyn> {
        let shape = IxDyn(&self.shape).strides(IxDyn(&self.strides[i]));
        ArrayViewMut::from_shape(shape, &mut data[self.offsets[i]..]).expect("outputs do not overlap")
    }
}

simd! {
    fn map_run<A: Element, B: Element, F: Fn(A) -> B>(x: &[A], out: &mut [B], f: F) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = f(x);
        }
    }
}

/// out ← f(x), elementwise.
pub(crate) fn map<A: Element, B: Element>(
    cpu: &Cpu,
    (x, x_layout): (&[A], &Layout),
    (out, out_layout): (&mut [B], &Layout),
    f: impl Fn(A) -> B + Copy + Send + Sync,
) {
    if out_layout.numel() == 0 {
        return;
    }
    let indexer = StridedIndexer::new([x_layout, out_layout]);
    if !matches!(indexer.inner_strides(), [0 | 1, 1]) {
        Zip::from(indexer.nd_mut(1, out)).and(indexer.nd(0, x)).for_each(|out, &x| *out = f(x));
        return;
    }
    let [step, _] = indexer.inner_strides();
    let out = DisjointSlice::new(out);
    indexer.for_runs(cpu, |[at, to], len| {
        // SAFETY: runs of an output do not overlap.
        let out = unsafe { out.part(to, len) };
        if step == 1 { map_run(&x[at..at + len], out, f) } else { out.fill(f(x[at])) }
    });
}

/// A function of two numbers: a trait, so that it is inlined into every loop.
pub(crate) trait BinaryFunction<T>: Copy + Send + Sync {
    fn call(self, a: T, b: T) -> T;
}

simd! {
    fn zip_run<T: Float, F: BinaryFunction<T::Real>>(a: &[T], b: &[T], out: &mut [T], f: F) {
        for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *out = T::rounded(f.call(a.real(), b.real()));
        }
    }
}

simd! {
    fn zip_left<T: Float, F: BinaryFunction<T::Real>>(a: T::Real, b: &[T], out: &mut [T], f: F) {
        for (out, &b) in out.iter_mut().zip(b) {
            *out = T::rounded(f.call(a, b.real()));
        }
    }
}

simd! {
    fn zip_right<T: Float, F: BinaryFunction<T::Real>>(a: &[T], b: T::Real, out: &mut [T], f: F) {
        for (out, &a) in out.iter_mut().zip(a) {
            *out = T::rounded(f.call(a.real(), b));
        }
    }
}

/// out ← f(a, b), elementwise.
pub(crate) fn zip<T: Float>(
    cpu: &Cpu,
    (a, a_layout): (&[T], &Layout),
    (b, b_layout): (&[T], &Layout),
    (out, out_layout): (&mut [T], &Layout),
    f: impl BinaryFunction<T::Real>,
) {
    if out_layout.numel() == 0 {
        return;
    }
    let indexer = StridedIndexer::new([a_layout, b_layout, out_layout]);
    let steps = indexer.inner_strides();
    if !matches!(steps, [0 | 1, 0 | 1, 1]) {
        let inputs = (indexer.nd(0, a), indexer.nd(1, b));
        let place = |out: &mut T, &a: &T, &b: &T| *out = T::rounded(f.call(a.real(), b.real()));
        Zip::from(indexer.nd_mut(2, out)).and(inputs.0).and(inputs.1).for_each(place);
        return;
    }
    let out = DisjointSlice::new(out);
    indexer.for_runs(cpu, |[pa, pb, po], len| {
        // SAFETY: runs of an output do not overlap.
        let out = unsafe { out.part(po, len) };
        match steps {
            [1, 1, _] => zip_run(&a[pa..pa + len], &b[pb..pb + len], out, f),
            [0, 1, _] => zip_left(a[pa].real(), &b[pb..pb + len], out, f),
            [1, 0, _] => zip_right(&a[pa..pa + len], b[pb].real(), out, f),
            _ => out.fill(T::rounded(f.call(a[pa].real(), b[pb].real()))),
        }
    });
}
