//! A backend that computes nothing: it counts the memory and the floating-point operations of whatever runs on it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::{
    Activation, AdamW, AdamWArgs, AttentionArgs, AttentionGrads, BinaryOp, ConvArgs, ImageOps, LinearGrads,
    NnOps, NormArgs, NormGrads, Pooling, Storage, TensorOps, TrainOps, UnaryOp, View, ViewMut, Windows,
};
use crate::rng::Dropout;
use crate::{DType, HostData, Result};

/// The metering backend. Buffers have a size and no contents; what is read from them is zero. Its clones count together.
///
/// The operations counted are those of matrix products and of attention, where a multiply-add is two; with a block-causal mask
/// as if there were none.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    live: AtomicU64,
    peak: AtomicU64,
    flops: AtomicU64,
}

/// Memory of [`Meter`].
#[derive(Debug)]
pub struct Buffer {
    bytes: u64,
    counts: Arc<Counts>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.counts.live.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

type In<'a> = View<'a, Meter>;
type Out<'a> = ViewMut<'a, Meter>;

impl Meter {
    /// Bytes of the buffers that there are now.
    pub fn live_bytes(&self) -> u64 {
        self.0.live.load(Ordering::Relaxed)
    }

    /// Largest number of bytes that there were at once.
    pub fn peak_bytes(&self) -> u64 {
        self.0.peak.load(Ordering::Relaxed)
    }

    /// Floating-point operations so far.
    pub fn flops(&self) -> u64 {
        self.0.flops.load(Ordering::Relaxed)
    }

    fn count(&self, sizes: &[usize]) {
        let product = sizes.iter().fold(1, |product: u64, &size| product.saturating_mul(size as u64));
        self.0.flops.fetch_add(product.saturating_mul(2), Ordering::Relaxed);
    }
}

impl Storage for Meter {
    type Buffer = Buffer;
    type Graph = Infallible;

    fn name(&self) -> String {
        "meter".into()
    }

    fn supports(&self, dtype: DType) -> bool {
        dtype.is_float()
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        let bytes = len as u64 * dtype.size() as u64;
        let live = self.0.live.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.0.peak.fetch_max(live, Ordering::Relaxed);
        Ok(Buffer { bytes, counts: Arc::clone(&self.0) })
    }

    fn from_host(&self, data: &HostData) -> Result<Buffer> {
        self.alloc(data.dtype(), data.len())
    }

    fn to_host(&self, x: In<'_>) -> Result<HostData> {
        Ok(HostData::from_f64(vec![0.0; x.layout.numel()], x.dtype))
    }

    fn fill(&self, _: f64, _: Out<'_>) -> Result<()> {
        Ok(())
    }

    fn copy(&self, _: In<'_>, _: Out<'_>) -> Result<()> {
        Ok(())
    }

    fn cast(&self, _: In<'_>, _: Out<'_>) -> Result<()> {
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

impl TensorOps for Meter {
    fn unary(&self, _: UnaryOp, _: In<'_>, _: Out<'_>) -> Result<()> {
        Ok(())
    }

    fn unary_backward(&self, _: UnaryOp, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        Ok(())
    }

    fn binary(&self, _: BinaryOp, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        Ok(())
    }

    fn affine(&self, _: In<'_>, _: f64, _: f64, _: Out<'_>) -> Result<()> {
        Ok(())
    }

    fn sum(&self, _: In<'_>, _: Out<'_>) -> Result<()> {
        Ok(())
    }

    fn matmul(&self, a: In<'_>, _: In<'_>, out: Out<'_>) -> Result<()> {
        let inner = a.layout.shape().last().copied().unwrap_or(0);
        self.count(&[out.layout.numel(), inner]);
        Ok(())
    }
}

impl NnOps for Meter {
    fn linear(
        &self,
        x: In<'_>,
        w: In<'_>,
        _: Option<In<'_>>,
        _: Activation,
        _: Out<'_>,
        _: Option<Out<'_>>,
    ) -> Result<()> {
        self.count(&[x.layout.shape()[0], w.layout.numel()]);
        Ok(())
    }

    fn linear_backward(
        &self,
        x: In<'_>,
        w: In<'_>,
        _: Activation,
        _: Option<In<'_>>,
        _: In<'_>,
        grads: LinearGrads<'_, Self>,
    ) -> Result<()> {
        let products = usize::from(grads.dx.is_some()) + usize::from(grads.dw.is_some());
        self.count(&[products, x.layout.shape()[0], w.layout.numel()]);
        Ok(())
    }

    fn norm_modulate(&self, _: NormArgs<'_, Self>, _: Out<'_>, _: Option<Out<'_>>) -> Result<()> {
        Ok(())
    }

    fn norm_modulate_backward(
        &self,
        _: NormArgs<'_, Self>,
        _: In<'_>,
        _: In<'_>,
        _: NormGrads<'_, Self>,
    ) -> Result<()> {
        Ok(())
    }

    fn gated_residual(
        &self,
        _: In<'_>,
        _: In<'_>,
        _: Option<In<'_>>,
        _: Option<Dropout>,
        _: Out<'_>,
    ) -> Result<()> {
        Ok(())
    }

    fn gated_residual_backward(
        &self,
        _: In<'_>,
        _: Option<In<'_>>,
        _: Option<Dropout>,
        _: In<'_>,
        _: Out<'_>,
        _: Option<Out<'_>>,
    ) -> Result<()> {
        Ok(())
    }

    /// Scores, and their weighted sums of values.
    fn attention(&self, args: AttentionArgs<'_, Self>, _: Out<'_>, _: Option<Out<'_>>) -> Result<()> {
        self.count(&[2, args.q.layout.numel(), args.k.layout.shape()[1]]);
        Ok(())
    }

    /// Scores once more, and the gradients of scores, queries, keys and values.
    fn attention_backward(
        &self,
        args: AttentionArgs<'_, Self>,
        _: In<'_>,
        _: In<'_>,
        _: In<'_>,
        _: AttentionGrads<'_, Self>,
    ) -> Result<()> {
        self.count(&[5, args.q.layout.numel(), args.k.layout.shape()[1]]);
        Ok(())
    }

    fn embedding(&self, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        Ok(())
    }

    fn embedding_backward(&self, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        Ok(())
    }

    fn mse(&self, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        Ok(())
    }

    fn mse_backward(&self, _: In<'_>, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        Ok(())
    }
}

impl ImageOps for Meter {
    fn images_at_once(&self, _: usize) -> usize {
        1
    }

    fn group_norm(&self, _: In<'_>, _: (In<'_>, In<'_>), _: usize, _: f64, _: Out<'_>) -> Result<()> {
        Ok(())
    }

    fn conv2d(&self, args: ConvArgs<'_, Self>, y: Out<'_>) -> Result<()> {
        let per_output: usize = args.w.layout.shape()[..3].iter().product();
        self.count(&[y.layout.numel(), per_output]);
        Ok(())
    }

    fn pool2d(&self, _: In<'_>, _: Pooling, _: Windows, _: Out<'_>) -> Result<()> {
        Ok(())
    }
}

impl TrainOps for Meter {
    fn adamw_step(&self, _: &AdamW, _: &mut [AdamWArgs<'_, Self>]) -> Result<()> {
        Ok(())
    }

    fn ema_step(&self, _: f64, _: &mut [(Out<'_>, In<'_>)]) -> Result<()> {
        Ok(())
    }

    fn squared_norms(&self, tensors: &[In<'_>]) -> Result<Vec<f64>> {
        Ok(vec![0.0; tensors.len()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tensor;

    #[test]
    fn buffers_and_products_are_counted() {
        let meter = Meter::default();
        let a = Tensor::zeros(&meter, &[3, 5], DType::F32).unwrap();
        let b = Tensor::zeros(&meter, &[5, 7], DType::F32).unwrap();
        assert_eq!(meter.live_bytes(), 4 * (15 + 35));
        let c = a.matmul(&b).unwrap();
        assert_eq!(meter.flops(), 2 * 3 * 5 * 7);
        drop((a, b));
        assert_eq!((meter.live_bytes(), meter.peak_bytes()), (4 * 21, 4 * (15 + 35 + 21)));
        assert_eq!(c.to_f64().unwrap(), [0.0; 21]);
    }
}
