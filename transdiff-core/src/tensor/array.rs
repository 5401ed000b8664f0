//! The tensor itself: a shared buffer, a layout and a type, and its views.

use std::sync::Arc;

use crate::backend::{Backend, View, ViewMut};
use crate::{DType, Error, Layout, Result};

/// An n-dimensional array on the device of backend `B`.
#[derive(Debug)]
pub struct Tensor<B: Backend> {
    pub(super) backend: B,
    pub(super) buffer: Arc<B::Buffer>,
    pub(super) layout: Layout,
    pub(super) dtype: DType,
}

impl<B: Backend> Clone for Tensor<B> {
    /// Shares the buffer.
    fn clone(&self) -> Self {
        Self {
            backend: self.backend.clone(),
            buffer: Arc::clone(&self.buffer),
            layout: self.layout.clone(),
            dtype: self.dtype,
        }
    }
}

/// A new tensor during the operation that writes it: contiguous at first, and the only owner of its buffer.
pub(super) struct Output<B: Backend> {
    buffer: B::Buffer,
    pub(super) layout: Layout,
    dtype: DType,
}

impl<B: Backend> Output<B> {
    pub(super) fn new(backend: &B, dtype: DType, shape: &[usize]) -> Result<Self> {
        crate::layout::checked_numel("alloc", shape)?;
        let layout = Layout::contiguous(shape);
        Ok(Self { buffer: backend.alloc(dtype, layout.numel())?, layout, dtype })
    }

    /// An output of the shape of `like`, in its memory order if that has no gaps.
    pub(super) fn like(like: &Tensor<B>, dtype: DType) -> Result<Self> {
        let mut out = Self::new(&like.backend, dtype, like.shape())?;
        if like.is_dense() {
            out.layout = like.dense_layout()?;
        }
        Ok(out)
    }

    pub(super) fn view(&mut self) -> ViewMut<'_, B> {
        ViewMut { buffer: &mut self.buffer, layout: &self.layout, dtype: self.dtype }
    }

    /// A part or another shape of the output.
    pub(super) fn view_as<'a>(&'a mut self, layout: &'a Layout) -> ViewMut<'a, B> {
        ViewMut { buffer: &mut self.buffer, layout, dtype: self.dtype }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn finish(self, backend: &B) -> Tensor<B> {
        Tensor {
            backend: backend.clone(),
            buffer: Arc::new(self.buffer),
            layout: self.layout,
            dtype: self.dtype,
        }
    }
}

impl<B: Backend> Tensor<B> {
    /// The backend that holds the tensor.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Size of every axis.
    pub fn shape(&self) -> &[usize] {
        self.layout.shape()
    }

    /// Size of one axis.
    pub fn dim(&self, axis: usize) -> usize {
        self.shape()[axis]
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.layout.numel()
    }

    /// Shape, strides and offset.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// View of the elements for backends.
    pub fn view(&self) -> View<'_, B> {
        self.view_as(&self.layout)
    }

    pub(super) fn view_as<'a>(&'a self, layout: &'a Layout) -> View<'a, B> {
        View { buffer: &self.buffer, layout, dtype: self.dtype }
    }

    pub(super) fn with_layout(&self, layout: Layout) -> Self {
        Self { layout, ..self.clone() }
    }

    /// Reorders the axes; see [`Layout::permute`]. No copy.
    pub fn permute(&self, axes: &[usize]) -> Result<Self> {
        Ok(self.with_layout(self.layout.permute(axes)?))
    }

    /// Swaps the last two axes. No copy.
    pub fn transpose(&self) -> Result<Self> {
        let rank = self.layout.rank();
        if rank < 2 {
            return Err(Error::shape("transpose", "at least two axes", self.shape()));
        }
        let mut axes: Vec<usize> = (0..rank).collect();
        axes.swap(rank - 2, rank - 1);
        self.permute(&axes)
    }

    /// Elements `start..start + len` of one axis. No copy.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        Ok(self.with_layout(self.layout.narrow(axis, start, len)?))
    }

    /// Repeats axes of size 1 and adds axes in front. No copy.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Self> {
        Ok(self.with_layout(self.layout.broadcast_to(shape)?))
    }

    /// Returns whether the elements fill a range of the buffer without gaps, in any order.
    pub(super) fn is_dense(&self) -> bool {
        self.dense_layout().is_ok_and(|l| self.steps_as(&l)) || self.layout.is_contiguous()
    }

    /// Returns whether the strides of all axes of more than one element are those of `layout`.
    pub(super) fn steps_as(&self, layout: &Layout) -> bool {
        let strides = self.layout.strides().iter().zip(layout.strides());
        self.shape().iter().zip(strides).all(|(&n, (a, b))| n == 1 || a == b)
    }

    /// Axes in the order of the memory, outermost first.
    pub(crate) fn memory_order(&self) -> Vec<usize> {
        let mut axes: Vec<usize> = (0..self.layout.rank()).collect();
        axes.sort_by_key(|&a| std::cmp::Reverse(self.layout.strides()[a]));
        axes
    }

    /// Layout without gaps, from position 0, with the axes in the memory order of `self`.
    pub(super) fn dense_layout(&self) -> Result<Layout> {
        let axes = self.memory_order();
        let shape: Vec<usize> = axes.iter().map(|&a| self.shape()[a]).collect();
        let mut back = vec![0; axes.len()];
        for (place, &axis) in axes.iter().enumerate() {
            back[axis] = place;
        }
        Layout::contiguous(&shape).permute(&back)
    }

    pub(crate) fn expect_dtype(&self, op: &'static str, other: &Self) -> Result<()> {
        if self.dtype == other.dtype {
            return Ok(());
        }
        Err(Error::DType { op, expected: self.dtype.to_string(), got: other.dtype })
    }

    /// Checks the type of a tensor that an operation on tensors like `self` saved: the accumulator's.
    pub(crate) fn expect_saved(&self, op: &'static str, saved: &Self) -> Result<()> {
        let wanted = self.dtype.accumulator();
        if saved.dtype == wanted {
            return Ok(());
        }
        Err(Error::DType { op, expected: wanted.to_string(), got: saved.dtype })
    }

    /// Checks the type of a residual stream that tensors like `self` are added to or computed from: their own, or the
    /// accumulator's.
    pub(crate) fn expect_stream(&self, op: &'static str, stream: &Self) -> Result<()> {
        if stream.dtype == self.dtype { Ok(()) } else { self.expect_saved(op, stream) }
    }

    pub(crate) fn expect_float(&self, op: &'static str) -> Result<()> {
        if self.dtype.is_float() && self.backend.supports(self.dtype) {
            return Ok(());
        }
        let expected = format!("a float type that {} computes in", self.backend.name());
        Err(Error::DType { op, expected, got: self.dtype })
    }

    pub(crate) fn expect_shape(&self, op: &'static str, what: &str, shape: &[usize]) -> Result<()> {
        if self.shape() == shape {
            return Ok(());
        }
        Err(Error::shape(op, format!("{what} {shape:?}"), self.shape()))
    }
}
