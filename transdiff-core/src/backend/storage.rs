//! Memory: allocation, transfer, copies between layouts and types.

use std::fmt::Debug;

use crate::{DType, Error, HostData, Int8Weight, Layout, Result};

/// An input of an operation: a buffer, and the positions of the elements in it.
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

/// An output of an operation: a buffer, and the positions of the elements in it.
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

    /// Captured operations: see [`capture`](Self::capture). [`Infallible`](std::convert::Infallible) for a backend
    /// without graphs.
    type Graph: Debug + Send + Sync;

    /// Human-readable name of the device.
    fn name(&self) -> String;

    /// Returns true if the backend computes in `dtype`.
    fn supports(&self, dtype: DType) -> bool;

    /// Returns true if the backend multiplies [quantised weights](Self::quantized_weight).
    fn supports_int8(&self) -> bool {
        false
    }

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

    /// Prepares the weight `w` [outputs, inputs, ..] of a linear layer or a convolution for the products that read it:
    /// returns a copy in the form that they read fastest, and the layout of its elements, of the shape of `w`. `None`
    /// keeps the weight as it is, which is the default.
    ///
    /// The format of the buffer is opaque to core: axes in another order, packed panels or another element type. All
    /// methods accept views of such a buffer, and writes keep it consistent. Shape and type of the tensor stay those of
    /// `w`; gradients, optimiser state and EMA have that shape, in the memory order of the returned layout.
    fn prepare_weight(&self, _w: View<'_, Self>) -> Result<Option<(Self::Buffer, Layout)>> {
        Ok(None)
    }

    /// A quantised weight of a linear layer in the form that the backend multiplies: a buffer of elements of type `dtype`, whose
    /// values are the [dequantised](Int8Weight::dequantize) ones, rounded to it, and their layout. [`linear`](super::NnOps::linear)
    /// quantises the rows of its input for such a weight, symmetrically, to 8 bits with one scale per row; sums are exact.
    /// All other methods accept views of the buffer as of any other.
    ///
    /// # Errors
    /// [`Error::Backend`] if the backend does not [support](Self::supports_int8) it, which is the default;
    /// [`Error::DType`] if it does not with this type; [`Error::Argument`] if so many inputs could overflow a sum;
    /// [`Error::OutOfMemory`].
    fn quantized_weight(&self, _weight: &Int8Weight, _dtype: DType) -> Result<(Self::Buffer, Layout)> {
        let message = "no products of 8-bit integers".to_owned();
        Err(Error::Backend { op: "quantized_weight", message })
    }

    /// Waits until all operations that were enqueued on the device are done.
    fn sync(&self) -> Result<()>;

    /// Captures the operations that `work` enqueues as a graph, without executing them, for any number of
    /// [`launch`](Self::launch)es. `None` if the device gains nothing from it; `work` has not been called then.
    ///
    /// A launch executes the same operations with the same arguments on the same buffers, with the
    /// same results; independent operations may be reordered. The graph owns the buffers that were allocated during the
    /// capture, even if `work` dropped them. The caller keeps buffers allocated before the capture alive; every launch
    /// reads their current contents. Until the first launch the contents of the outputs of `work` are unspecified.
    ///
    /// Operations of the calling thread are captured; other threads use the device as usual. `work` is called once,
    /// and again if memory ran out and cached memory could be freed. It allocates and computes, but does not wait:
    /// [`from_host`](Self::from_host), [`to_host`](Self::to_host), [`sync`](Self::sync),
    /// [`squared_norms`](super::TrainOps::squared_norms), which returns numbers, `capture` and `launch` fail in it. An
    /// error of `work` is returned; the graph is dropped then, and the device is usable as before.
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Self::Graph>>;

    /// Launches a graph, after all operations that this thread enqueued before, and before all that it enqueues later.
    /// One thread at a time launches a graph.
    fn launch(&self, graph: &Self::Graph) -> Result<()>;
}

/// Copy of `x` that is contiguous in the axis order `axes`, outermost first, and its layout; `None` if `x` already is.
pub fn copy_in_order<S: Storage>(
    storage: &S,
    x: View<'_, S>,
    axes: &[usize],
) -> Result<Option<(S::Buffer, Layout)>> {
    if x.layout.permute(axes)?.is_contiguous() {
        return Ok(None);
    }
    let shape: Vec<usize> = axes.iter().map(|&axis| x.layout.shape()[axis]).collect();
    let mut places = vec![0; axes.len()];
    axes.iter().enumerate().for_each(|(place, &axis)| places[axis] = place);
    let layout = Layout::contiguous(&shape).permute(&places)?;
    let mut buffer = storage.alloc(x.dtype, layout.numel())?;
    storage.copy(x, ViewMut { buffer: &mut buffer, layout: &layout, dtype: x.dtype })?;
    Ok(Some((buffer, layout)))
}
