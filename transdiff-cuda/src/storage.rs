//! Memory: allocation, transfer, copies between layouts and types.

use bytemuck::Pod;
use half::bf16;
use transdiff_core::backend::{Storage, View, ViewMut};
use transdiff_core::{DType, Error, HostData, Layout, Result};

use crate::device::{Address, Cuda, Graph, Memory};
use crate::strided;

/// Memory of a tensor. Dropping it gives the memory to whoever asks next.
#[derive(Debug)]
pub struct Buffer(Memory);

impl Buffer {
    pub(crate) fn address(&self) -> u64 {
        self.0.address()
    }
}

fn uploaded<T: Pod>(cuda: &Cuda, values: &[T]) -> Result<Buffer> {
    const OP: &str = "from_host";
    let _turn = cuda.turn_outside_recording(OP)?;
    let memory = cuda.scratch(OP, size_of_val(values))?;
    let mut staging = cuda.device.staging.lock();
    staging.upload(&cuda.device.driver, OP, bytemuck::cast_slice(values), memory.address())?;
    Ok(Buffer(memory))
}

/// The elements of a view in row-major order.
fn downloaded<T: Pod>(cuda: &Cuda, x: View<'_, Cuda>) -> Result<Vec<T>> {
    const OP: &str = "to_host";
    let turn = cuda.turn_outside_recording(OP)?;
    let mut values = try_with_capacity::<T>(x.layout.numel())?;
    if values.is_empty() {
        return Ok(values);
    }
    let dense = if x.layout.is_contiguous() { None } else { Some(gathered(cuda, x)?) };
    let from = dense.as_ref().map_or_else(|| x.address(), Buffer::address);
    drop(turn);
    cuda.finish(OP)?;
    let _turn = cuda.turn_outside_recording(OP)?;
    let mut staging = cuda.device.staging.lock();
    staging.download(&cuda.device.driver, OP, from, bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}

/// Zeros in host memory, asked for politely.
fn try_with_capacity<T: Pod>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>());
    values.try_reserve_exact(len).map_err(|_| Error::out_of_memory("to_host", bytes))?;
    values.resize(len, T::zeroed());
    Ok(values)
}

/// A copy without gaps.
pub(crate) fn gathered(cuda: &Cuda, x: View<'_, Cuda>) -> Result<Buffer> {
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
        let too_much = || Error::out_of_memory(OP, usize::MAX);
        let bytes = len.checked_mul(dtype.size()).ok_or_else(too_much)?;
        self.scratch(OP, bytes).map(Buffer)
    }

    fn from_host(&self, data: &HostData) -> Result<Buffer> {
        match data {
            HostData::F32(v) => uploaded(self, v),
            HostData::F64(v) => uploaded(self, v),
            HostData::BF16(v) => uploaded(self, v),
            HostData::I32(v) => uploaded(self, v),
        }
    }

    fn to_host(&self, x: View<'_, Self>) -> Result<HostData> {
        Ok(match x.dtype {
            DType::F32 => HostData::F32(downloaded::<f32>(self, x)?),
            DType::F64 => HostData::F64(downloaded::<f64>(self, x)?),
            DType::BF16 => HostData::BF16(downloaded::<bf16>(self, x)?),
            DType::I32 => HostData::I32(downloaded::<i32>(self, x)?),
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
        self.captured(work).map(Some)
    }

    fn launch(&self, graph: &Graph) -> Result<()> {
        self.launched(graph)
    }

    fn sync(&self) -> Result<()> {
        self.finish("sync")
    }
}
