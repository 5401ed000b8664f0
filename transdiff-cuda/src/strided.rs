//! Launches of `kernels/strided.cu`: copies, casts and fills between tensors of any strides.

use transdiff_core::{DType, Error, HostData, Result};

use crate::device::{Address, Cuda, In, Out};
use crate::driver::{Kernel, Params};
use crate::strided_indexer::{StridedIndexer, StridedPlan};

/// The kernel `$name` for words of `$bytes` bytes.
macro_rules! word_kernel {
    ($name:literal, $bytes:expr) => {
        Kernel {
            module: "strided",
            name: match $bytes {
                2 => concat!($name, "_2"),
                4 => concat!($name, "_4"),
                8 => concat!($name, "_8"),
                _ => concat!($name, "_16"),
            },
        }
    };
}

/// Regroups a plan into the widest words, of up to 16 bytes, that fit it; returns it with their size.
fn widest<const N: usize>(plan: StridedPlan<N>, size: usize) -> (StridedPlan<N>, usize) {
    let wide = [16, 8, 4].into_iter().find(|&bytes| bytes > size && plan.fits(bytes / size, false));
    wide.map_or((plan.clone(), size), |bytes| (plan.in_words(bytes / size), bytes))
}

#[repr(C, align(16))]
#[derive(Clone, Copy, Debug)]
struct Pattern([u8; 16]);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct FillParams {
    indexer: StridedIndexer<1>,
    pattern: Pattern,
}

// SAFETY: same layout as `FillParams` in strided.cu.
unsafe impl Params for FillParams {}

/// `value` in the type `dtype`, repeated to 16 bytes.
fn pattern(value: f64, dtype: DType) -> Pattern {
    let mut bytes = [0; 16];
    let mut repeat = |one: &[u8]| bytes.chunks_exact_mut(one.len()).for_each(|to| to.copy_from_slice(one));
    match HostData::from_f64(vec![value], dtype) {
        HostData::F32(v) => repeat(&v[0].to_le_bytes()),
        HostData::F64(v) => repeat(&v[0].to_le_bytes()),
        HostData::BF16(v) => repeat(&v[0].to_le_bytes()),
        HostData::I32(v) => repeat(&v[0].to_le_bytes()),
    }
    Pattern(bytes)
}

pub(crate) fn fill(cuda: &Cuda, value: f64, out: Out<'_>) -> Result<()> {
    const OP: &str = "fill";
    let size = out.dtype.size();
    let (plan, bytes) = widest(StridedPlan::new([out.layout], [out.address()], [size]), size);
    let params = FillParams { indexer: plan.indexer(OP, 1)?, pattern: pattern(value, out.dtype) };
    cuda.launch_kernel(OP, word_kernel!("fill", bytes), params.indexer.launch_config(), &params)
}

pub(crate) fn copy(cuda: &Cuda, x: In<'_>, out: Out<'_>) -> Result<()> {
    const OP: &str = "copy";
    let size = x.dtype.size();
    let plan = StridedPlan::new([x.layout, out.layout], [x.address(), out.address()], [size; 2]);
    let (plan, bytes) = widest(plan, size);
    let indexer = plan.indexer(OP, 1)?;
    cuda.launch_kernel(OP, word_kernel!("copy", bytes), indexer.launch_config(), &indexer)
}

/// The two kernels of a cast: one element per vector, and as many as 16 bytes hold of the wider type.
fn casts(from: DType, to: DType) -> Option<[&'static str; 2]> {
    macro_rules! both {
        ($name:literal) => {
            Some([$name, concat!($name, "_wide")])
        };
    }
    match (from, to) {
        (DType::F32, DType::BF16) => both!("cast_f32_bf16"),
        (DType::F32, DType::F64) => both!("cast_f32_f64"),
        (DType::BF16, DType::F32) => both!("cast_bf16_f32"),
        (DType::BF16, DType::F64) => both!("cast_bf16_f64"),
        (DType::F64, DType::F32) => both!("cast_f64_f32"),
        (DType::F64, DType::BF16) => both!("cast_f64_bf16"),
        _ => None,
    }
}

pub(crate) fn cast(cuda: &Cuda, x: In<'_>, out: Out<'_>) -> Result<()> {
    const OP: &str = "cast";
    if x.dtype == out.dtype {
        return copy(cuda, x, out);
    }
    let unknown =
        Error::DType { op: OP, expected: format!("a type that can be cast to {}", out.dtype), got: x.dtype };
    let [single, wide] = casts(x.dtype, out.dtype).ok_or(unknown)?;
    let sizes = [x.dtype.size(), out.dtype.size()];
    let plan = StridedPlan::new([x.layout, out.layout], [x.address(), out.address()], sizes);
    let width = 16 / sizes[0].max(sizes[1]);
    let (name, width) = if plan.fits(width, false) { (wide, width) } else { (single, 1) };
    let indexer = plan.indexer(OP, width)?;
    cuda.launch_kernel(OP, Kernel { module: "strided", name }, indexer.launch_config(), &indexer)
}
