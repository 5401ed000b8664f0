//! Reference implementation of the backend traits in plain f64, which other backends are tested against.
//!
//! Every operation gathers its inputs into row-major vectors, computes the formula of the trait's documentation
//! literally, and scatters the result. Arithmetic is in f64 for tensors of all types; only [`cast`](Storage::cast) and
//! [`to_host`](Storage::to_host) round. The guarantees of core to backends are asserted, so that every test that runs on
//! this backend also tests core's checks.

mod attention;
mod conv;
mod elementwise;
mod embedding;
mod group_norm;
mod image;
mod linear;
mod loss;
mod nn;
mod norm;
mod optim;
mod pool;

use std::convert::Infallible;

use crate::backend::{Storage, View, ViewMut, copy_in_order};
use crate::rng::Dropout;
use crate::{DType, HostData, Layout, Result};

/// The reference backend: slow and simple.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// Memory of [`Reference`]: f64 values in place of elements of `dtype`.
#[derive(Clone, Debug)]
pub struct Buffer {
    dtype: DType,
    data: Vec<f64>,
}

type In<'a> = View<'a, Reference>;
type Out<'a> = ViewMut<'a, Reference>;

/// The buffer positions of a layout in row-major order.
fn positions(layout: &Layout) -> Vec<usize> {
    let mut out = Vec::with_capacity(layout.numel());
    layout.for_each_position(|p| out.push(p));
    out
}

/// The elements of `x` in row-major order.
fn gather(x: In<'_>) -> Vec<f64> {
    read(x.buffer, x.layout, x.dtype)
}

fn read(buffer: &Buffer, layout: &Layout, dtype: DType) -> Vec<f64> {
    assert_eq!(buffer.dtype, dtype, "the type of a view is that of its buffer");
    assert!(layout.end() <= buffer.data.len(), "{layout:?} lies within {} elements", buffer.data.len());
    positions(layout).into_iter().map(|p| buffer.data[p]).collect()
}

/// [`gather`] for an input that the trait guarantees to be contiguous and of this shape.
fn gather_contiguous(x: In<'_>, shape: &[usize]) -> Vec<f64> {
    assert_eq!(x.layout.shape(), shape);
    assert!(x.layout.is_contiguous(), "{:?} is contiguous", x.layout);
    gather(x)
}

/// Writes the elements of `out`, given in row-major order.
fn scatter(out: Out<'_>, values: impl IntoIterator<Item = f64>) {
    assert_eq!(out.buffer.dtype, out.dtype, "the type of a view is that of its buffer");
    let mut values = values.into_iter();
    for p in positions(out.layout) {
        out.buffer.data[p] = values.next().expect("a value for every element");
    }
    assert!(values.next().is_none(), "an element for every value");
}

/// [`scatter`] for an output that the trait guarantees to be contiguous and of this shape.
fn scatter_contiguous(out: Out<'_>, shape: &[usize], values: impl IntoIterator<Item = f64>) {
    assert_eq!(out.layout.shape(), shape);
    assert!(out.layout.is_contiguous(), "{:?} is contiguous", out.layout);
    scatter(out, values);
}

/// Factor of element `i` of `len` under an optional dropout.
fn kept(dropout: Option<Dropout>, i: usize, len: usize) -> f64 {
    dropout.map_or(1.0, |d| {
        assert!(len.is_multiple_of(d.samples), "{len} elements of {} samples", d.samples);
        f64::from(d.factor(i, len))
    })
}

impl Storage for Reference {
    type Buffer = Buffer;
    type Graph = Infallible;

    fn name(&self) -> String {
        "f64 reference".into()
    }

    fn supports(&self, dtype: DType) -> bool {
        dtype.is_float()
    }

    /// Memory filled with NaN, so that unwritten elements show.
    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        Ok(Buffer { dtype, data: vec![f64::NAN; len] })
    }

    fn from_host(&self, data: &HostData) -> Result<Buffer> {
        Ok(Buffer { dtype: data.dtype(), data: data.to_f64() })
    }

    fn to_host(&self, x: In<'_>) -> Result<HostData> {
        Ok(HostData::from_f64(gather(x), x.dtype))
    }

    fn fill(&self, value: f64, out: Out<'_>) -> Result<()> {
        let n = out.layout.numel();
        scatter(out, std::iter::repeat_n(value, n));
        Ok(())
    }

    fn copy(&self, x: In<'_>, out: Out<'_>) -> Result<()> {
        assert_eq!((x.layout.shape(), x.dtype), (out.layout.shape(), out.dtype));
        scatter(out, gather(x));
        Ok(())
    }

    fn cast(&self, x: In<'_>, out: Out<'_>) -> Result<()> {
        assert_eq!(x.layout.shape(), out.layout.shape());
        assert!(x.dtype.is_float() && out.dtype.is_float());
        let rounded = HostData::from_f64(gather(x), out.dtype).to_f64();
        scatter(out, rounded);
        Ok(())
    }

    /// Memory order [.., inputs, outputs]: another than row-major, so that tests on this backend meet one.
    fn prepare_weight(&self, w: In<'_>) -> Result<Option<(Buffer, Layout)>> {
        let axes: Vec<usize> = (2..w.layout.rank()).chain([1, 0]).collect();
        copy_in_order(self, w, &axes)
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

#[cfg(test)]
mod testing {
    use super::Reference;
    use crate::{DType, Tensor};

    pub(super) fn tensor(shape: &[usize], values: &[f64]) -> Tensor<Reference> {
        Tensor::from_f64(&Reference, shape, values.to_vec(), DType::F64).unwrap()
    }

    #[track_caller]
    pub(super) fn assert_close(got: &Tensor<Reference>, want: &[f64]) {
        let got = got.to_f64().unwrap();
        assert_eq!(got.len(), want.len());
        let close = got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-12);
        assert!(close, "got {got:?}, want {want:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::testing::tensor;
    use super::*;
    use crate::Tensor;

    #[test]
    fn only_cast_rounds() {
        let third = Tensor::full(&Reference, &[1], 1.0 / 3.0, DType::F32).unwrap();
        assert_eq!(third.affine(3.0, 0.0).unwrap().item().unwrap(), 1.0);
        let rounded = third.cast(DType::BF16).unwrap();
        // bf16 keeps 8 bits: 1/3 = 0.0101 0101 01(01..)₂ rounds up to 171/512.
        assert_eq!(rounded.cast(DType::F64).unwrap().item().unwrap(), 171.0 / 512.0);
    }

    #[test]
    fn copies_follow_strides() {
        let x = tensor(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let turned = x.transpose().unwrap().copy().unwrap();
        assert_eq!(turned.to_f64().unwrap(), [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
        let part = Tensor::cat(&[&x.narrow(1, 1, 2).unwrap(), &x.narrow(1, 0, 1).unwrap()], 1).unwrap();
        assert_eq!(part.to_f64().unwrap(), [2.0, 3.0, 1.0, 5.0, 6.0, 4.0]);
    }
}
