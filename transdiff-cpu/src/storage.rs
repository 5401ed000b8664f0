//! Memory: allocation, transfer, copies between layouts and types.

use std::alloc;
use std::convert::Infallible;
use std::sync::Arc;

use half::bf16;
use ndarray::Array1;
use transdiff_core::backend::{Storage, View, ViewMut};
use transdiff_core::{DType, Error, HostData, Layout, Result};

use crate::Cpu;
use crate::element::Element;
use crate::recycle::Recycler;
use crate::strided;

/// Memory of a tensor. Dropping it gives the memory back to the backend that it is of.
#[derive(Debug)]
pub struct Buffer {
    /// Never empty but while it is dropped.
    data: Data,
    home: Arc<Recycler>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.give(std::mem::replace(&mut self.data, Data::I32(Array1::default(0))));
    }
}

impl Buffer {
    pub(crate) fn data(&self) -> &Data {
        &self.data
    }

    pub(crate) fn data_mut(&mut self) -> &mut Data {
        &mut self.data
    }
}

/// Memory of one element type.
#[derive(Debug)]
pub(crate) enum Data {
    /// Single precision.
    F32(Array1<f32>),
    /// Double precision.
    F64(Array1<f64>),
    /// bfloat16, which is stored and converted, not computed in.
    BF16(Array1<bf16>),
    /// Integers, which are stored, not computed in.
    I32(Array1<i32>),
}

impl Data {
    pub(crate) fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
            Self::BF16(_) => DType::BF16,
            Self::I32(_) => DType::I32,
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::F32(a) => a.len(),
            Self::F64(a) => a.len(),
            Self::BF16(a) => a.len(),
            Self::I32(a) => a.len(),
        }
    }

    fn zeros(dtype: DType, len: usize) -> Result<Self> {
        const OP: &str = "alloc";
        Ok(match dtype {
            DType::F32 => Self::F32(zeros(OP, len)?.into()),
            DType::F64 => Self::F64(zeros(OP, len)?.into()),
            DType::BF16 => Self::BF16(zeros(OP, len)?.into()),
            DType::I32 => Self::I32(zeros(OP, len)?.into()),
        })
    }
}

/// `len` zeros, or the error that there is no memory for them.
pub(crate) fn zeros<T: Element>(op: &'static str, len: usize) -> Result<Vec<T>> {
    let exhausted = || Error::out_of_memory(op, len.saturating_mul(size_of::<T>()));
    if len == 0 {
        return Ok(Vec::new());
    }
    let layout = alloc::Layout::array::<T>(len).map_err(|_| exhausted())?;
    // The zeroing allocator rather than a reservation and a loop: the system's fresh pages are zero already.
    // SAFETY: the layout is not empty; element types are numbers, for which all bits zero is a value; the
    // vector gets the layout that the memory was allocated with.
    unsafe {
        let start = alloc::alloc_zeroed(layout).cast::<T>();
        if start.is_null() { Err(exhausted()) } else { Ok(Vec::from_raw_parts(start, len, len)) }
    }
}

fn copied<T: Element>(cpu: &Cpu, dtype: DType, values: &[T]) -> Result<Buffer> {
    let mut out = cpu.alloc(dtype, values.len())?;
    T::slice_mut(&mut out).copy_from_slice(values);
    Ok(out)
}

fn gathered<T: Element>(cpu: &Cpu, x: View<'_, Cpu>) -> Result<Vec<T>> {
    let layout = Layout::contiguous(x.layout.shape());
    let mut out = zeros("to_host", layout.numel())?;
    strided::map(cpu, (T::slice(x.buffer), x.layout), (&mut out, &layout), |v: T| v);
    Ok(out)
}

fn filled<T: Element>(cpu: &Cpu, value: f64, out: ViewMut<'_, Cpu>) {
    let value = [T::of(value)];
    let point = Layout::new(out.layout.shape(), &vec![0; out.layout.rank()], 0);
    strided::map(cpu, (&value, &point), (T::slice_mut(out.buffer), out.layout), |v: T| v);
}

fn converted<A: Element, B: Element>(
    cpu: &Cpu,
    x: View<'_, Cpu>,
    out: ViewMut<'_, Cpu>,
    f: impl Fn(A) -> B + Copy + Send + Sync,
) {
    strided::map(cpu, (A::slice(x.buffer), x.layout), (B::slice_mut(out.buffer), out.layout), f);
}

impl Storage for Cpu {
    type Buffer = Buffer;
    type Graph = Infallible;

    fn name(&self) -> String {
        "cpu".into()
    }

    fn supports(&self, dtype: DType) -> bool {
        matches!(dtype, DType::F32 | DType::F64)
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        let home = Arc::clone(self.recycler());
        let data = home.take(dtype, len, || Data::zeros(dtype, len))?;
        Ok(Buffer { data, home })
    }

    fn from_host(&self, data: &HostData) -> Result<Buffer> {
        match data {
            HostData::F32(v) => copied(self, DType::F32, v),
            HostData::F64(v) => copied(self, DType::F64, v),
            HostData::BF16(v) => copied(self, DType::BF16, v),
            HostData::I32(v) => copied(self, DType::I32, v),
        }
    }

    fn to_host(&self, x: View<'_, Self>) -> Result<HostData> {
        Ok(match x.dtype {
            DType::F32 => HostData::F32(gathered(self, x)?),
            DType::F64 => HostData::F64(gathered(self, x)?),
            DType::BF16 => HostData::BF16(gathered(self, x)?),
            DType::I32 => HostData::I32(gathered(self, x)?),
        })
    }

    fn fill(&self, value: f64, out: ViewMut<'_, Self>) -> Result<()> {
        match out.dtype {
            DType::F32 => filled::<f32>(self, value, out),
            DType::F64 => filled::<f64>(self, value, out),
            DType::BF16 => filled::<bf16>(self, value, out),
            DType::I32 => filled::<i32>(self, value, out),
        }
        Ok(())
    }

    fn copy(&self, x: View<'_, Self>, out: ViewMut<'_, Self>) -> Result<()> {
        match x.dtype {
            DType::F32 => converted(self, x, out, |v: f32| v),
            DType::F64 => converted(self, x, out, |v: f64| v),
            DType::BF16 => converted(self, x, out, |v: bf16| v),
            DType::I32 => converted(self, x, out, |v: i32| v),
        }
        Ok(())
    }

    fn cast(&self, x: View<'_, Self>, out: ViewMut<'_, Self>) -> Result<()> {
        match (x.dtype, out.dtype) {
            (DType::F32, DType::BF16) => converted(self, x, out, bf16::from_f32),
            (DType::F32, DType::F64) => converted(self, x, out, |v: f32| f64::from(v)),
            (DType::F64, DType::F32) => converted(self, x, out, |v: f64| v as f32),
            (DType::F64, DType::BF16) => converted(self, x, out, transdiff_core::bf16_from_f64),
            (DType::BF16, DType::F32) => converted(self, x, out, bf16::to_f32),
            (DType::BF16, DType::F64) => converted(self, x, out, bf16::to_f64),
            (from, to) if from == to => return self.copy(x, out),
            (from, to) => {
                let got = if from.is_float() { to } else { from };
                return Err(Error::DType { op: "cast", expected: "float types".into(), got });
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn capture(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<Option<Infallible>> {
        Ok(None)
    }

    fn launch(&self, graph: &Infallible) -> Result<()> {
        match *graph {}
    }
}
