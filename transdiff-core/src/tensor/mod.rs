//! Tensors: a shared buffer, a layout and a type.
//!
//! A tensor is a value: cloning shares the buffer, and whatever is written is written to a buffer of its own. All
//! checks of shapes, types and ranges are here; see [`crate::backend`] for what backends may rely on.

mod graph_cache;
mod image;
mod math;
mod nn;
mod train;

use std::sync::Arc;

pub(crate) use graph_cache::GraphCache;
pub use image::{ChannelMap, Conv};
pub use nn::{Attention, Modulation, NormOutput};
pub use train::Slot;

use crate::backend::{Backend, View, ViewMut};
use crate::{DType, Error, HostData, HostTensor, Layout, Result};

/// An n-dimensional array on the device of backend `B`.
#[derive(Debug)]
pub struct Tensor<B: Backend> {
    backend: B,
    buffer: Arc<B::Buffer>,
    layout: Layout,
    dtype: DType,
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

/// A new tensor while an operation fills it: contiguous, and the only owner of its buffer.
pub(crate) struct Output<B: Backend> {
    buffer: B::Buffer,
    layout: Layout,
    dtype: DType,
}

impl<B: Backend> Output<B> {
    pub(crate) fn new(backend: &B, dtype: DType, shape: &[usize]) -> Result<Self> {
        crate::layout::checked_numel("alloc", shape)?;
        let layout = Layout::contiguous(shape);
        Ok(Self { buffer: backend.alloc(dtype, layout.numel())?, layout, dtype })
    }

    pub(crate) fn view(&mut self) -> ViewMut<'_, B> {
        ViewMut { buffer: &mut self.buffer, layout: &self.layout, dtype: self.dtype }
    }

    /// A part or another shape of the output, to be written.
    pub(crate) fn view_as<'a>(&'a mut self, layout: &'a Layout) -> ViewMut<'a, B> {
        ViewMut { buffer: &mut self.buffer, layout, dtype: self.dtype }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn finish(self, backend: &B) -> Tensor<B> {
        Tensor {
            backend: backend.clone(),
            buffer: Arc::new(self.buffer),
            layout: self.layout,
            dtype: self.dtype,
        }
    }
}

impl<B: Backend> Tensor<B> {
    /// A tensor with the elements and the type of `host`.
    pub fn from_host(backend: &B, host: &HostTensor) -> Result<Self> {
        let buffer = backend.from_host(host.data())?;
        let layout = Layout::contiguous(host.shape());
        Ok(Self { backend: backend.clone(), buffer: Arc::new(buffer), layout, dtype: host.dtype() })
    }

    /// A tensor of f32 values in another float type.
    pub fn from_f32(backend: &B, shape: &[usize], values: Vec<f32>, dtype: DType) -> Result<Self> {
        Self::from_host(backend, &HostTensor::new(shape, HostData::F32(values).cast(dtype)?)?)
    }

    /// A tensor of f64 values, rounded to `dtype`.
    pub fn from_f64(backend: &B, shape: &[usize], values: Vec<f64>, dtype: DType) -> Result<Self> {
        Self::from_host(backend, &HostTensor::new(shape, HostData::F64(values).cast(dtype)?)?)
    }

    /// A tensor with every element `value`.
    pub fn full(backend: &B, shape: &[usize], value: f64, dtype: DType) -> Result<Self> {
        let mut out = Output::new(backend, dtype, shape)?;
        backend.fill(value, out.view())?;
        Ok(out.finish(backend))
    }

    /// A tensor of zeros.
    pub fn zeros(backend: &B, shape: &[usize], dtype: DType) -> Result<Self> {
        Self::full(backend, shape, 0.0, dtype)
    }

    /// Zeros of the shape, type and order in memory of `self`.
    pub fn zeros_like(&self) -> Result<Self> {
        let mut out = Output::new(&self.backend, self.dtype, self.shape())?;
        self.backend.fill(0.0, out.view())?;
        out.layout = self.dense_layout()?;
        Ok(out.finish(&self.backend))
    }

    /// The elements in row-major order, in host memory.
    pub fn to_host(&self) -> Result<HostTensor> {
        HostTensor::new(self.shape(), self.backend.to_host(self.view())?)
    }

    /// The elements as f32, in host memory.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        match self.to_host()?.cast(DType::F32)?.into_data() {
            HostData::F32(values) => Ok(values),
            _ => unreachable!("it was cast"),
        }
    }

    /// The elements as f64, in host memory.
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        match self.to_host()?.cast(DType::F64)?.into_data() {
            HostData::F64(values) => Ok(values),
            _ => unreachable!("it was cast"),
        }
    }

    /// The only element, as f64.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is not exactly one.
    pub fn item(&self) -> Result<f64> {
        match self.to_f64()?[..] {
            [x] => Ok(x),
            _ => Err(Error::shape("item", "one element", self.shape())),
        }
    }

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

    /// What backends read.
    pub fn view(&self) -> View<'_, B> {
        self.view_as(&self.layout)
    }

    pub(crate) fn view_as<'a>(&'a self, layout: &'a Layout) -> View<'a, B> {
        View { buffer: &self.buffer, layout, dtype: self.dtype }
    }

    fn with_layout(&self, layout: Layout) -> Self {
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

    /// The same elements in another shape; a copy only where strides cannot express it.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        match self.layout.reshape(shape)? {
            Some(layout) => Ok(self.with_layout(layout)),
            None => self.contiguous()?.reshape(shape),
        }
    }

    /// The same elements in row-major order without gaps; a copy only where they are not.
    pub fn contiguous(&self) -> Result<Self> {
        if self.layout.is_contiguous() { Ok(self.clone()) } else { self.copy() }
    }

    /// A contiguous copy in a buffer of its own.
    pub fn copy(&self) -> Result<Self> {
        let mut out = Output::new(&self.backend, self.dtype, self.shape())?;
        self.backend.copy(self.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }

    /// The same values in another float type (a cheap clone where it is the same type).
    pub fn cast(&self, dtype: DType) -> Result<Self> {
        if self.dtype == dtype {
            return Ok(self.clone());
        }
        for found in [self.dtype, dtype] {
            if !found.is_float() {
                return Err(Error::DType { op: "cast", expected: "float types".into(), got: found });
            }
        }
        let mut out = Output::new(&self.backend, dtype, self.shape())?;
        self.backend.cast(self.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }

    /// Joins tensors of equal type along `axis`; the other axes agree.
    pub fn cat(parts: &[&Self], axis: usize) -> Result<Self> {
        let first = parts.first().ok_or_else(|| Error::argument("parts", "at least one tensor", "none"))?;
        let mut shape = first.shape().to_vec();
        if axis >= shape.len() {
            return Err(Error::shape("cat", format!("an axis {axis}"), &shape));
        }
        let mut total = 0;
        for part in parts {
            first.expect_dtype("cat", part)?;
            shape[axis] = part.shape().get(axis).copied().unwrap_or(0);
            if part.shape() != shape {
                return Err(Error::shape("cat", format!("{shape:?} but for axis {axis}"), part.shape()));
            }
            total += shape[axis];
        }
        shape[axis] = total;
        let mut out = Output::new(&first.backend, first.dtype, &shape)?;
        let mut start = 0;
        for part in parts {
            let place = out.layout().narrow(axis, start, part.dim(axis))?;
            first.backend.copy(part.view(), out.view_as(&place))?;
            start += part.dim(axis);
        }
        Ok(out.finish(&first.backend))
    }

    /// Zeros of `shape` with `self` as elements `start..` of `axis`: the adjoint of [`narrow`](Self::narrow).
    pub fn pad_into(&self, shape: &[usize], axis: usize, start: usize) -> Result<Self> {
        let len = self.shape().get(axis).copied();
        let len = len.ok_or_else(|| Error::shape("pad_into", format!("an axis {axis}"), self.shape()))?;
        let mut out = Output::new(&self.backend, self.dtype, shape)?;
        let place = out.layout().narrow(axis, start, len)?;
        if place.shape() != self.shape() {
            return Err(Error::shape("pad_into", format!("{:?}", place.shape()), self.shape()));
        }
        self.backend.fill(0.0, out.view())?;
        self.backend.copy(self.view(), out.view_as(&place))?;
        Ok(out.finish(&self.backend))
    }

    /// Whether the elements fill a range of the buffer without gaps, in whatever order.
    pub(crate) fn is_dense(&self) -> bool {
        self.dense_layout().is_ok_and(|l| self.steps_as(&l)) || self.layout.is_contiguous()
    }

    /// Whether the strides are those of `layout` wherever there is more than one step to take.
    fn steps_as(&self, layout: &Layout) -> bool {
        let strides = self.layout.strides().iter().zip(layout.strides());
        self.shape().iter().zip(strides).all(|(&n, (a, b))| n == 1 || a == b)
    }

    /// The layout without gaps, from position 0, whose axes lie in memory in the order of `self`'s.
    pub(crate) fn dense_layout(&self) -> Result<Layout> {
        let mut axes: Vec<usize> = (0..self.layout.rank()).collect();
        axes.sort_by_key(|&a| std::cmp::Reverse(self.layout.strides()[a]));
        let shape: Vec<usize> = axes.iter().map(|&a| self.shape()[a]).collect();
        let mut back = vec![0; axes.len()];
        for (place, &axis) in axes.iter().enumerate() {
            back[axis] = place;
        }
        Layout::contiguous(&shape).permute(&back)
    }

    /// The same values with the order in memory of `like`.
    pub(crate) fn ordered_like(&self, like: &Self) -> Result<Self> {
        let layout = like.dense_layout()?;
        if self.shape() != like.shape() {
            return Err(Error::shape("ordered_like", format!("{:?}", like.shape()), self.shape()));
        }
        if self.steps_as(&layout) {
            return Ok(self.clone());
        }
        let mut out = Output::new(&self.backend, self.dtype, self.shape())?;
        out.layout = layout;
        self.backend.copy(self.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }

    /// The buffer for writing; copied first if it is shared or has gaps.
    pub(crate) fn make_mut(&mut self) -> Result<ViewMut<'_, B>> {
        if Arc::get_mut(&mut self.buffer).is_none() || !self.is_dense() {
            let mut out = Output::new(&self.backend, self.dtype, self.shape())?;
            out.layout = self.dense_layout()?;
            self.backend.copy(self.view(), out.view())?;
            *self = out.finish(&self.backend);
        }
        let buffer = Arc::get_mut(&mut self.buffer).expect("the buffer was just made");
        Ok(ViewMut { buffer, layout: &self.layout, dtype: self.dtype })
    }

    /// Writes the elements of `value`, of equal shape and type, into the buffer, which stays where it is in memory.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`]; [`Error::Argument`] if another tensor shares the buffer.
    pub(crate) fn overwrite(&mut self, value: &Self) -> Result<()> {
        const OP: &str = "overwrite";
        self.expect_dtype(OP, value)?;
        value.expect_shape(OP, "a tensor", self.shape())?;
        let buffer = Arc::get_mut(&mut self.buffer)
            .ok_or_else(|| Error::argument("tensor", "the only owner of its buffer", "one of several"))?;
        self.backend.copy(value.view(), ViewMut { buffer, layout: &self.layout, dtype: self.dtype })
    }

    pub(crate) fn expect_dtype(&self, op: &'static str, other: &Self) -> Result<()> {
        if self.dtype == other.dtype {
            return Ok(());
        }
        Err(Error::DType { op, expected: self.dtype.to_string(), got: other.dtype })
    }

    /// What an operation on tensors like `self` keeps for another is of the accumulator's type.
    pub(crate) fn expect_saved(&self, op: &'static str, saved: &Self) -> Result<()> {
        let wanted = self.dtype.accumulator();
        if saved.dtype == wanted {
            return Ok(());
        }
        Err(Error::DType { op, expected: wanted.to_string(), got: saved.dtype })
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
