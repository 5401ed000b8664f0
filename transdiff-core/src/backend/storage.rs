//! Memory: allocation, transfer, copies between layouts and types.

use std::fmt::Debug;

use crate::{DType, HostData, Layout, Result};

/// What an operation reads: a buffer and where in it the elements are.
#[derive(Debug)]
pub struct View<'a, S: Storage> {
    /// Device memory.
    pub buffer: &'a S::Buffer,
    /// Shape, strides and offset.
    pub layout: &'a Layout,
    /// Element type of the buffer.
    pub dtype: DType,
}

impl<S: Storage> Clone for View<'_, S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Storage> Copy for View<'_, S> {}

/// What an operation writes.
#[derive(Debug)]
pub struct ViewMut<'a, S: Storage> {
    /// Device memory.
    pub buffer: &'a mut S::Buffer,
    /// Shape, strides and offset.
    pub layout: &'a Layout,
    /// Element type of the buffer.
    pub dtype: DType,
}

/// Device memory and its transfer.
pub trait Storage: Clone + Debug + Send + Sync + 'static {
    /// A block of device memory of one element type.
    type Buffer: Debug + Send + Sync;

    /// Name of the device, for people.
    fn name(&self) -> String;

    /// Whether the backend computes in `dtype`.
    fn supports(&self, dtype: DType) -> bool;

    /// Memory for `len` elements. Contents are unspecified.
    fn alloc(&self, dtype: DType, len: usize) -> Result<Self::Buffer>;

    /// A buffer that holds `data`.
    #[allow(clippy::wrong_self_convention)] // `self` is the device, not what is converted
    fn from_host(&self, data: &HostData) -> Result<Self::Buffer>;

    /// The elements of `x` in row-major order. Any strides.
    fn to_host(&self, x: View<'_, Self>) -> Result<HostData>;

    /// out ← value. Any strides.
    fn fill(&self, value: f64, out: ViewMut<'_, Self>) -> Result<()>;

    /// out ← x, of equal shape and type. Any strides on both sides.
    fn copy(&self, x: View<'_, Self>, out: ViewMut<'_, Self>) -> Result<()>;

    /// out ← x, of equal shape and any two float types, rounded to nearest even. Any strides on both sides.
    fn cast(&self, x: View<'_, Self>, out: ViewMut<'_, Self>) -> Result<()>;

    /// Waits until everything that was asked of the device is done.
    fn sync(&self) -> Result<()>;
}
