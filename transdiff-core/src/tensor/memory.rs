//! Creation, transfer, copies, casts and concatenation.

use std::sync::Arc;

use super::array::{Output, Tensor};
use crate::backend::{Backend, ViewMut};
use crate::{DType, Error, HostData, HostTensor, Int8Weight, Layout, Result};

impl<B: Backend> Tensor<B> {
    /// A tensor with the elements and the type of `host`.
    pub fn from_host(backend: &B, host: &HostTensor) -> Result<Self> {
        let buffer = backend.from_host(host.data())?;
        let layout = Layout::contiguous(host.shape());
        Ok(Self { backend: backend.clone(), buffer: Arc::new(buffer), layout, dtype: host.dtype() })
    }

    /// A quantised weight of a linear layer, [outputs, inputs], of nominal type `dtype`; see
    /// [`Storage::quantized_weight`](crate::backend::Storage::quantized_weight).
    ///
    /// # Errors
    /// [`Error::Backend`] if the backend has no products of 8-bit integers; [`Error::OutOfMemory`].
    pub fn quantized_weight(backend: &B, weight: &Int8Weight, dtype: DType) -> Result<Self> {
        let (buffer, layout) = backend.quantized_weight(weight, dtype)?;
        Ok(Self { backend: backend.clone(), buffer: Arc::new(buffer), layout, dtype })
    }

    /// A tensor of f32 values, cast to `dtype`.
    pub fn from_f32(backend: &B, shape: &[usize], values: Vec<f32>, dtype: DType) -> Result<Self> {
        Self::from_host(backend, &HostTensor::new(shape, HostData::F32(values).cast(dtype)?)?)
    }

    /// A tensor of f64 values, rounded to `dtype`.
    pub fn from_f64(backend: &B, shape: &[usize], values: Vec<f64>, dtype: DType) -> Result<Self> {
        Self::from_host(backend, &HostTensor::new(shape, HostData::F64(values).cast(dtype)?)?)
    }

    /// A tensor with every element `value`.
    pub fn full(backend: &B, shape: &[usize], value: f64, dtype: DType) -> Result<Self> {
        Self::written_by(backend, shape, dtype, |out| backend.fill(value, out))
    }

    /// A tensor of zeros.
    pub fn zeros(backend: &B, shape: &[usize], dtype: DType) -> Result<Self> {
        Self::full(backend, shape, 0.0, dtype)
    }

    /// Zeros of the shape, type and memory order of `self`.
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
            _ => unreachable!("the cast gives this type"),
        }
    }

    /// The elements as f64, in host memory.
    pub fn to_f64(&self) -> Result<Vec<f64>> {
        match self.to_host()?.cast(DType::F64)?.into_data() {
            HostData::F64(values) => Ok(values),
            _ => unreachable!("the cast gives this type"),
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

    /// The same elements in another shape; a copy only where strides cannot express it.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        match self.layout.reshape(shape)? {
            Some(layout) => Ok(self.with_layout(layout)),
            None => self.contiguous()?.reshape(shape),
        }
    }

    /// The same elements in row-major order without gaps; a copy only if they are not already.
    pub fn contiguous(&self) -> Result<Self> {
        if self.layout.is_contiguous() { Ok(self.clone()) } else { self.copy() }
    }

    /// A contiguous copy in a new buffer.
    pub fn copy(&self) -> Result<Self> {
        Self::written_by(&self.backend, self.shape(), self.dtype, |out| self.backend.copy(self.view(), out))
    }

    /// The same values in another float type, in the memory order of `self` if that has no gaps; a clone if it is the same
    /// type.
    pub fn cast(&self, dtype: DType) -> Result<Self> {
        if self.dtype == dtype {
            return Ok(self.clone());
        }
        for found in [self.dtype, dtype] {
            if !found.is_float() {
                return Err(Error::DType { op: "cast", expected: "float types".into(), got: found });
            }
        }
        let mut out = Output::like(self, dtype)?;
        self.backend.cast(self.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }

    /// Concatenates tensors of equal type along `axis`; the other axes agree.
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
                return Err(Error::shape("cat", format!("{shape:?} except for axis {axis}"), part.shape()));
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

    /// The same values in the memory order of `like`.
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

    /// The weight `self` [outputs, inputs, ..] as the backend's products read it; see
    /// [`Storage::prepare_weight`](crate::backend::Storage::prepare_weight). A placeholder, whose strides are 0, has no
    /// memory to prepare.
    pub(crate) fn prepared_weight(&self) -> Result<Self> {
        let strides = self.layout.strides().iter().zip(self.shape());
        if strides.into_iter().all(|(&stride, &size)| stride == 0 || size == 1) {
            return Ok(self.clone());
        }
        match self.backend.prepare_weight(self.view())? {
            Some((buffer, layout)) => Ok(Self { buffer: Arc::new(buffer), layout, ..self.clone() }),
            None => self.dense(),
        }
    }

    /// A contiguous tensor in a new buffer that `write` writes.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], and those of `write`.
    pub fn written_by(
        backend: &B,
        shape: &[usize],
        dtype: DType,
        write: impl FnOnce(ViewMut<'_, B>) -> Result<()>,
    ) -> Result<Self> {
        let mut out = Output::new(backend, dtype, shape)?;
        write(out.view())?;
        Ok(out.finish(backend))
    }

    /// Mutable view of the buffer, which is copied first if it is shared or has gaps.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] for the copy.
    pub fn make_mut(&mut self) -> Result<ViewMut<'_, B>> {
        if Arc::get_mut(&mut self.buffer).is_none() || !self.is_dense() {
            let mut out = Output::new(&self.backend, self.dtype, self.shape())?;
            out.layout = self.dense_layout()?;
            self.backend.copy(self.view(), out.view())?;
            *self = out.finish(&self.backend);
        }
        let buffer = Arc::get_mut(&mut self.buffer).expect("the buffer has one owner");
        Ok(ViewMut { buffer, layout: &self.layout, dtype: self.dtype })
    }

    /// Replaces the elements by those of `value`, of equal shape and type; in another buffer if this one is shared.
    pub(crate) fn assign(&mut self, value: &Self) -> Result<()> {
        const OP: &str = "assign";
        self.expect_dtype(OP, value)?;
        value.expect_shape(OP, "a tensor", self.shape())?;
        let backend = self.backend.clone();
        backend.copy(value.view(), self.make_mut()?)
    }

    /// Writes the elements of `value`, of equal shape and type, into the buffer, which keeps its address.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::DType`]; [`Error::Argument`] if another tensor shares the buffer.
    pub(super) fn overwrite(&mut self, value: &Self) -> Result<()> {
        const OP: &str = "overwrite";
        self.expect_dtype(OP, value)?;
        value.expect_shape(OP, "a tensor", self.shape())?;
        let buffer = Arc::get_mut(&mut self.buffer)
            .ok_or_else(|| Error::argument("tensor", "the only owner of its buffer", "one of several"))?;
        self.backend.copy(value.view(), ViewMut { buffer, layout: &self.layout, dtype: self.dtype })
    }

    /// The same elements without gaps, in any order; a copy only if they have gaps.
    pub(super) fn dense(&self) -> Result<Self> {
        if self.is_dense() { Ok(self.clone()) } else { self.copy() }
    }
}
