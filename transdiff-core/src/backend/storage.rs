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

    /// Operations that were recorded: see [`capture`](Self::capture). [`Infallible`](std::convert::Infallible) for a
    /// backend that never does.
    type Graph: Debug + Send + Sync;

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

    /// Notes the operations that `work` asks of the device, without doing them, to be done by
    /// [`launch`](Self::launch) any number of times. `None` where the device gains nothing from it; `work` was not
    /// called then.
    ///
    /// A replay does the same operations, in an order with the same results, on the same buffers, with the numbers
    /// that they were asked with. Of these buffers, the recording keeps those that were allocated meanwhile, even if
    /// `work` dropped them; those from before are the caller's to keep, and are read as they are when it is replayed.
    /// Until the first replay the contents of what `work` writes are unspecified.
    ///
    /// What is noted is what the calling thread asks for; other threads use the device as ever. `work` is called once,
    /// and again if memory ran out and some that nobody uses could be given back. It allocates and computes, but waits for nothing: [`from_host`](Self::from_host), [`to_host`](Self::to_host),
    /// [`sync`](Self::sync), [`squared_norm`](super::TrainOps::squared_norm), which gives a number, `capture` and
    /// `launch` are errors in it. An error of `work` is handed on; nothing of the recording is left then, and the
    /// device is as usable as before.
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Self::Graph>>;

    /// Does what was recorded, after everything that this thread asked of the device before, and before everything it
    /// asks after. One recording is replayed by one thread at a time.
    fn launch(&self, graph: &Self::Graph) -> Result<()>;
}
