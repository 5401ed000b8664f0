//! Memory: allocation, transfer, copies between layouts and types.

use bytemuck::Pod;
use half::bf16;
use transdiff_core::backend::{Storage, View, ViewMut, copy_in_order};
use transdiff_core::{DType, Error, HostData, Layout, Result};

use crate::device::{Address, Cuda, Graph, Memory};
use crate::strided;

/// Memory of a tensor. Dropping it returns the memory to the allocator's cache.
#[derive(Debug)]
pub struct Buffer(Memory);

impl Buffer {
    pub(crate) fn address(&self) -> u64 {
        self.0.address()
    }
}

/// A copy of `values`.
pub(crate) fn upload<T: Pod>(cuda: &Cuda, values: &[T]) -> Result<Buffer> {
    const OP: &str = "from_host";
    let _guard = cuda.lock_outside_capture(OP)?;
    let memory = cuda.scratch(OP, size_of_val(values))?;
    let mut staging = cuda.device.staging.lock();
    staging.upload(&cuda.device.driver, OP, bytemuck::cast_slice(values), memory.address())?;
    Ok(Buffer(memory))
}

/// The elements of a view in row-major order.
fn download<T: Pod>(cuda: &Cuda, x: View<'_, Cuda>) -> Result<Vec<T>> {
    const OP: &str = "to_host";
    let guard = cuda.lock_outside_capture(OP)?;
    let mut values = try_with_capacity::<T>(x.layout.numel())?;
    if values.is_empty() {
        return Ok(values);
    }
    let dense = if x.layout.is_contiguous() { None } else { Some(contiguous_copy(cuda, x)?) };
    let from = dense.as_ref().map_or_else(|| x.address(), Buffer::address);
    drop(guard);
    read(cuda, from, bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}

/// Fills `bytes` from the device address `from`, after all work enqueued so far.
pub(crate) fn read(cuda: &Cuda, from: u64, bytes: &mut [u8]) -> Result<()> {
    const OP: &str = "to_host";
    cuda.synchronize(OP)?;
    let _guard = cuda.lock_outside_capture(OP)?;
    let mut staging = cuda.device.staging.lock();
    staging.download(&cuda.device.driver, OP, from, bytes)
}

/// Zeros in host memory; fails with out of memory instead of aborting.
pub(crate) fn try_with_capacity<T: Pod>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>());
    values.try_reserve_exact(len).map_err(|_| Error::out_of_memory("to_host", bytes))?;
    values.resize(len, T::zeroed());
    Ok(values)
}

/// Copies a view to a contiguous buffer.
pub(crate) fn contiguous_copy(cuda: &Cuda, x: View<'_, Cuda>) -> Result<Buffer> {
    let layout = Layout::contiguous(x.layout.shape());
    let mut buffer = cuda.alloc(x.dtype, layout.numel())?;
    cuda.copy(x, ViewMut { buffer: &mut buffer, layout: &layout, dtype: x.dtype })?;
    Ok(buffer)
}

impl Storage for Cuda {
    type Buffer = Buffer;
    type Graph = Graph;

    fn name(&self) -> String {
        self.device.driver.name().to_owned()
    }

    fn supports(&self, dtype: DType) -> bool {
        matches!(dtype, DType::F32 | DType::BF16)
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        const OP: &str = "alloc";
        let overflow = || Error::out_of_memory(OP, usize::MAX);
        let bytes = len.checked_mul(dtype.size()).ok_or_else(overflow)?;
        self.scratch(OP, bytes).map(Buffer)
    }

    fn from_host(&self, data: &HostData) -> Result<Buffer> {
        match data {
            HostData::F32(v) => upload(self, v),
            HostData::F64(v) => upload(self, v),
            HostData::BF16(v) => upload(self, v),
            HostData::I32(v) => upload(self, v),
        }
    }

    fn to_host(&self, x: View<'_, Self>) -> Result<HostData> {
        Ok(match x.dtype {
            DType::F32 => HostData::F32(download::<f32>(self, x)?),
            DType::F64 => HostData::F64(download::<f64>(self, x)?),
            DType::BF16 => HostData::BF16(download::<bf16>(self, x)?),
            DType::I32 => HostData::I32(download::<i32>(self, x)?),
        })
    }

    fn fill(&self, value: f64, out: ViewMut<'_, Self>) -> Result<()> {
        strided::fill(self, value, out)
    }

    fn copy(&self, x: View<'_, Self>, out: ViewMut<'_, Self>) -> Result<()> {
        strided::copy(self, x, out)
    }

    fn cast(&self, x: View<'_, Self>, out: ViewMut<'_, Self>) -> Result<()> {
        strided::cast(self, x, out)
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Graph>> {
        self.capture_graph(work).map(Some)
    }

    fn launch(&self, graph: &Graph) -> Result<()> {
        self.launch_graph(graph)
    }

    /// Memory order [.., inputs, outputs]: convolutions read their kernels like that, and cuBLASLt takes the
    /// weights of linear layers in either order.
    fn prepare_weight(&self, w: View<'_, Self>) -> Result<Option<(Buffer, Layout)>> {
        let axes: Vec<usize> = (2..w.layout.rank()).chain([1, 0]).collect();
        copy_in_order(self, w, &axes)
    }

    fn sync(&self) -> Result<()> {
        self.synchronize("sync")
    }
}
