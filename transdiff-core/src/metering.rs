//! A backend that computes nothing: it counts the memory, the floating-point operations and the bytes that are read and written
//! of whatever runs on it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::backend::{
    Activation, AdamW, AdamWArgs, AttentionArgs, AttentionGrads, BinaryOp, ConvArgs, ImageOps, LinearGrads,
    NnOps, NormArgs, NormGrads, Pooling, Storage, TensorOps, TrainOps, UnaryOp, View, ViewMut, Windows,
};
use crate::rng::Dropout;
use crate::{DType, HostData, Layout, Result};

/// The metering backend. Buffers have a size and no contents; what is read from them is zero. Its clones count together.
///
/// Bytes are those of the elements of all inputs and outputs of an operation, each once, as if nothing stayed in a cache.
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
    moved: AtomicU64,
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

    /// Bytes that operations have read and written so far.
    pub fn moved_bytes(&self) -> u64 {
        self.0.moved.load(Ordering::Relaxed)
    }

    /// Counts the bytes of tensors that an operation reads or writes.
    fn moves<'a>(&self, tensors: impl IntoIterator<Item = Option<(&'a Layout, DType)>>) {
        let bytes = |(layout, dtype): (&Layout, DType)| layout.numel() as u64 * dtype.size() as u64;
        let total = tensors.into_iter().flatten().map(bytes).sum();
        self.0.moved.fetch_add(total, Ordering::Relaxed);
    }

    fn count(&self, sizes: &[usize]) {
        let product = sizes.iter().fold(1, |product: u64, &size| product.saturating_mul(size as u64));
        self.0.flops.fetch_add(product.saturating_mul(2), Ordering::Relaxed);
    }
}

/// Layout and type of an input.
fn read<'a>(x: In<'a>) -> Option<(&'a Layout, DType)> {
    Some((x.layout, x.dtype))
}

/// Layout and type of an output.
fn written<'a>(out: &Out<'a>) -> Option<(&'a Layout, DType)> {
    Some((out.layout, out.dtype))
}

fn read_pair<'a>(pair: Option<(In<'a>, In<'a>)>) -> [Option<(&'a Layout, DType)>; 2] {
    [pair.and_then(|(first, _)| read(first)), pair.and_then(|(_, second)| read(second))]
}

fn attention_inputs<'a>(args: &AttentionArgs<'a, Meter>) -> [Option<(&'a Layout, DType)>; 4] {
    [read(args.q), read(args.k), read(args.v), args.dropout.and_then(|mask| read(mask.kept))]
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

    fn fill(&self, _: f64, out: Out<'_>) -> Result<()> {
        self.moves([written(&out)]);
        Ok(())
    }

    fn copy(&self, x: In<'_>, out: Out<'_>) -> Result<()> {
        self.moves([read(x), written(&out)]);
        Ok(())
    }

    fn cast(&self, x: In<'_>, out: Out<'_>) -> Result<()> {
        self.moves([read(x), written(&out)]);
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
    fn unary(&self, _: UnaryOp, x: In<'_>, out: Out<'_>) -> Result<()> {
        self.moves([read(x), written(&out)]);
        Ok(())
    }

    fn unary_backward(&self, _: UnaryOp, x: In<'_>, dy: In<'_>, dx: Out<'_>) -> Result<()> {
        self.moves([read(x), read(dy), written(&dx)]);
        Ok(())
    }

    fn binary(&self, _: BinaryOp, a: In<'_>, b: In<'_>, out: Out<'_>) -> Result<()> {
        self.moves([read(a), read(b), written(&out)]);
        Ok(())
    }

    fn affine(&self, x: In<'_>, _: f64, _: f64, out: Out<'_>) -> Result<()> {
        self.moves([read(x), written(&out)]);
        Ok(())
    }

    fn sum(&self, x: In<'_>, out: Out<'_>) -> Result<()> {
        self.moves([read(x), written(&out)]);
        Ok(())
    }

    fn matmul(&self, a: In<'_>, b: In<'_>, out: Out<'_>) -> Result<()> {
        self.moves([read(a), read(b), written(&out)]);
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
        b: Option<In<'_>>,
        _: Activation,
        y: Out<'_>,
        pre: Option<Out<'_>>,
    ) -> Result<()> {
        self.moves([read(x), read(w), b.and_then(read), written(&y), pre.as_ref().and_then(written)]);
        self.count(&[x.layout.shape()[0], w.layout.numel()]);
        Ok(())
    }

    fn linear_backward(
        &self,
        x: In<'_>,
        w: In<'_>,
        _: Activation,
        pre: Option<In<'_>>,
        dy: In<'_>,
        grads: LinearGrads<'_, Self>,
    ) -> Result<()> {
        let outputs = [&grads.dx, &grads.dw, &grads.db].map(|out| out.as_ref().and_then(written));
        self.moves([read(x), read(w), pre.and_then(read), read(dy)].into_iter().chain(outputs));
        let products = usize::from(grads.dx.is_some()) + usize::from(grads.dw.is_some());
        self.count(&[products, x.layout.shape()[0], w.layout.numel()]);
        Ok(())
    }

    fn norm_modulate(&self, args: NormArgs<'_, Self>, y: Out<'_>, stats: Option<Out<'_>>) -> Result<()> {
        let parameters = read_pair(args.affine).into_iter().chain(read_pair(args.modulation));
        let rows = [read(args.x), written(&y), stats.as_ref().and_then(written)];
        self.moves(rows.into_iter().chain(parameters));
        Ok(())
    }

    fn norm_modulate_backward(
        &self,
        args: NormArgs<'_, Self>,
        stats: In<'_>,
        dy: In<'_>,
        grads: NormGrads<'_, Self>,
    ) -> Result<()> {
        let parameters = read_pair(args.affine).into_iter().chain(read_pair(args.modulation));
        let rows = [read(args.x), read(stats), read(dy), grads.residual.and_then(read)];
        let pairs = [&grads.daffine, &grads.dmodulation].map(|pair| pair.as_ref());
        let sums = pairs.into_iter().flatten().flat_map(|(a, b)| [written(a), written(b)]);
        let dx = grads.dx.as_ref().and_then(written);
        self.moves(rows.into_iter().chain(parameters).chain(sums).chain([dx]));
        Ok(())
    }

    fn gated_residual(
        &self,
        x: In<'_>,
        u: In<'_>,
        gate: Option<In<'_>>,
        _: Option<Dropout>,
        y: Out<'_>,
    ) -> Result<()> {
        self.moves([read(x), read(u), gate.and_then(read), written(&y)]);
        Ok(())
    }

    /// The branch is read only for the gradient of its gate.
    fn gated_residual_backward(
        &self,
        u: In<'_>,
        gate: Option<In<'_>>,
        _: Option<Dropout>,
        dy: In<'_>,
        du: Out<'_>,
        dgate: Option<Out<'_>>,
    ) -> Result<()> {
        let dgate = dgate.as_ref().and_then(written);
        let u = read(u).filter(|_| dgate.is_some());
        self.moves([u, gate.and_then(read), read(dy), written(&du), dgate]);
        Ok(())
    }

    fn dropout_mask(&self, _: Dropout, _: usize, kept: Out<'_>) -> Result<()> {
        self.moves([written(&kept)]);
        Ok(())
    }

    /// Scores, and their weighted sums of values.
    fn attention(&self, args: AttentionArgs<'_, Self>, y: Out<'_>, lse: Option<Out<'_>>) -> Result<()> {
        let outputs = [written(&y), lse.as_ref().and_then(written)];
        self.moves(attention_inputs(&args).into_iter().chain(outputs));
        self.count(&[2, args.q.layout.numel(), args.k.layout.shape()[1]]);
        Ok(())
    }

    /// Scores once more, and the gradients of scores, queries, keys and values.
    fn attention_backward(
        &self,
        args: AttentionArgs<'_, Self>,
        y: In<'_>,
        lse: In<'_>,
        dy: In<'_>,
        grads: AttentionGrads<'_, Self>,
    ) -> Result<()> {
        let outputs = match &grads {
            AttentionGrads::Separate { dq, dk, dv } => [written(dq), written(dk), written(dv)],
            AttentionGrads::Joint(joint) => [written(joint), None, None],
        };
        self.moves(attention_inputs(&args).into_iter().chain([y, lse, dy].map(read)).chain(outputs));
        self.count(&[5, args.q.layout.numel(), args.k.layout.shape()[1]]);
        Ok(())
    }

    /// As many rows of the table are read as are written.
    fn embedding(&self, _: In<'_>, ids: In<'_>, out: Out<'_>) -> Result<()> {
        self.moves([read(ids), written(&out), written(&out)]);
        Ok(())
    }

    fn embedding_backward(&self, ids: In<'_>, dy: In<'_>, dtable: Out<'_>) -> Result<()> {
        self.moves([read(ids), read(dy), written(&dtable)]);
        Ok(())
    }

    fn mse(&self, a: In<'_>, b: In<'_>, loss: Out<'_>) -> Result<()> {
        self.moves([read(a), read(b), written(&loss)]);
        Ok(())
    }

    fn mse_backward(&self, a: In<'_>, b: In<'_>, dloss: In<'_>, da: Out<'_>) -> Result<()> {
        self.moves([read(a), read(b), read(dloss), written(&da)]);
        Ok(())
    }
}

impl ImageOps for Meter {
    fn images_at_once(&self, _: usize) -> usize {
        1
    }

    fn group_norm(
        &self,
        x: In<'_>,
        affine: (In<'_>, In<'_>),
        _: usize,
        _: f64,
        scale_shift: Out<'_>,
    ) -> Result<()> {
        self.moves([read(x), read(affine.0), read(affine.1), written(&scale_shift)]);
        Ok(())
    }

    fn conv2d(&self, args: ConvArgs<'_, Self>, y: Out<'_>) -> Result<()> {
        let scale_shift = args.scale_shift.and_then(|(scale_shift, _)| read(scale_shift));
        let residual = args.residual.and_then(read);
        self.moves([read(args.x), read(args.w), read(args.b), scale_shift, residual, written(&y)]);
        let per_output: usize = args.w.layout.shape()[..3].iter().product();
        self.count(&[y.layout.numel(), per_output]);
        Ok(())
    }

    fn pool2d(&self, x: In<'_>, _: Pooling, _: Windows, y: Out<'_>) -> Result<()> {
        self.moves([read(x), written(&y)]);
        Ok(())
    }
}

impl TrainOps for Meter {
    /// Parameter and moments are read and written.
    fn adamw_step(&self, _: &AdamW, params: &mut [AdamWArgs<'_, Self>]) -> Result<()> {
        for args in params {
            let updated = [written(&args.param), written(&args.m), written(&args.v)];
            let others = [args.grad.and_then(read), args.cast.as_ref().and_then(written)];
            self.moves(updated.into_iter().chain(updated).chain(others));
        }
        Ok(())
    }

    /// The average is read and written.
    fn ema_step(&self, _: f64, pairs: &mut [(Out<'_>, In<'_>)]) -> Result<()> {
        pairs.iter().for_each(|(average, param)| {
            self.moves([written(average), written(average), read(*param)]);
        });
        Ok(())
    }

    fn squared_norms(&self, tensors: &[In<'_>]) -> Result<Vec<f64>> {
        self.moves(tensors.iter().map(|&x| read(x)));
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
        // The zeros are written.
        assert_eq!(meter.moved_bytes(), 2 * 4 * (15 + 35) + 4 * 21);
        drop((a, b));
        assert_eq!((meter.live_bytes(), meter.peak_bytes()), (4 * 21, 4 * (15 + 35 + 21)));
        assert_eq!(c.to_f64().unwrap(), [0.0; 21]);
    }
}
