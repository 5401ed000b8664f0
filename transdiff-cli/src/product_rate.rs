//! Floating-point operations per second of matrix products, by which times are estimated.

use std::time::Instant;

use transdiff::{Backend, DType, DeviceTask, Tensor};

/// Products that are timed, after one that is not.
const PRODUCTS: u32 = 8;

/// Measurement of the rate of products of `side` × `side` in `dtype`; `None` on a device that does not compute in it.
pub struct ProductRate {
    pub dtype: DType,
    pub side: usize,
}

impl DeviceTask for ProductRate {
    type Output = Option<f64>;

    fn run<B: Backend>(self, backend: B) -> transdiff::Result<Option<f64>> {
        let Self { dtype, side } = self;
        if !backend.supports(dtype) {
            return Ok(None);
        }
        let a = Tensor::full(&backend, &[side, side], 0.5, dtype)?;
        a.matmul(&a)?;
        backend.sync()?;
        let started = Instant::now();
        (0..PRODUCTS).try_for_each(|_| a.matmul(&a).map(drop))?;
        backend.sync()?;
        let work = 2.0 * (side as f64).powi(3) * f64::from(PRODUCTS);
        Ok(Some(work / started.elapsed().as_secs_f64()))
    }
}
