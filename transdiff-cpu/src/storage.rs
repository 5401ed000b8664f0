//! Memory: allocation, transfer, copies between layouts and types.

use std::convert::Infallible;
use std::sync::Arc;

use half::bf16;
use transdiff_core::backend::{Storage, View, ViewMut, copy_in_order};
use transdiff_core::{DType, Error, HostData, Int8Weight, Layout, Result};

use crate::buffer::{Buffer, Stored};
use crate::device::Cpu;
use crate::gemm::int8_group;
use crate::int8_panels::Int8Panels;
use crate::memory::{Memory, zeros};
use crate::strided;

fn copied<T: Stored>(cpu: &Cpu, dtype: DType, values: &[T]) -> Result<Buffer> {
    let mut out = cpu.alloc(dtype, values.len())?;
    T::slice_mut(&mut out).copy_from_slice(values);
    Ok(out)
}

fn gathered<T: Stored>(cpu: &Cpu, x: View<'_, Cpu>) -> Result<Vec<T>> {
    let layout = Layout::contiguous(x.layout.shape());
    let mut out = zeros("to_host", layout.numel())?;
    strided::map(cpu, (T::slice(x.buffer), x.layout), (&mut out, &layout), |v: T| v);
    Ok(out)
}

fn filled<T: Stored>(cpu: &Cpu, value: f64, out: ViewMut<'_, Cpu>) {
    let value = [T::of(value)];
    let point = Layout::new(out.layout.shape(), &vec![0; out.layout.rank()], 0);
    strided::map(cpu, (&value, &point), (T::slice_mut(out.buffer), out.layout), |v: T| v);
}

fn converted<A: Stored, B: Stored>(
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
        matches!(dtype, DType::F32 | DType::F64 | DType::BF16)
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        let memory = self.allocator().alloc(dtype, len, || Memory::zeros(dtype, len))?;
        Ok(Buffer::new(memory, Arc::clone(self.allocator())))
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

    /// Memory order [.., inputs, outputs]: panels of a linear layer's weight are then packed along memory, and the kernels
    /// of convolutions are read in place.
    fn prepare_weight(&self, w: View<'_, Self>) -> Result<Option<(Buffer, Layout)>> {
        let axes: Vec<usize> = (2..w.layout.rank()).chain([1, 0]).collect();
        copy_in_order(self, w, &axes)
    }

    fn supports_int8(&self) -> bool {
        true
    }

    fn quantized_weight(&self, weight: &Int8Weight, dtype: DType) -> Result<(Buffer, Layout)> {
        if !matches!(dtype, DType::F32 | DType::BF16) {
            let expected = "f32 or bf16".to_owned();
            return Err(Error::DType { op: "quantized_weight", expected, got: dtype });
        }
        let panels = Int8Panels::new(weight, int8_group(self.instruction_set()))?;
        let buffer = Buffer::quantized(panels, dtype, Arc::clone(self.allocator()));
        Ok((buffer, Layout::contiguous(&weight.shape())))
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
