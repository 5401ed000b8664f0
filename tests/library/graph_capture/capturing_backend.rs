//! A backend with graph capture: the reference implementation, whose operations can be stored and executed later.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use transdiff_core::backend::{
    Activation, AdamW, AdamWArgs, AttentionArgs, AttentionGrads, BinaryOp, ConvArgs, ImageOps, LinearGrads,
    NnOps, NormArgs, NormGrads, Pooling, Storage, TensorOps, TrainOps, UnaryOp, View, ViewMut, Windows,
};
use transdiff_core::reference::{self, Reference};
use transdiff_core::rng::Dropout;
use transdiff_core::{DType, HostData, Layout, Result};

/// The device. Clones share its state.
#[derive(Clone, Debug, Default)]
pub struct CapturingBackend(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The graph of the capture in progress.
    captured: Option<Graph>,
    captures: usize,
    launches: usize,
}

type Operation = Box<dyn Fn() -> Result<()> + Send + Sync>;

/// Captured operations, which share their buffers.
#[derive(Default)]
pub struct Graph(Vec<Operation>);

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations", self.0.len())
    }
}

/// Memory that captured operations share.
pub type Buffer = Arc<RwLock<reference::Buffer>>;
type In<'a> = View<'a, CapturingBackend>;
type Out<'a> = ViewMut<'a, CapturingBackend>;
type RefIn<'a> = View<'a, Reference>;
type RefOut<'a> = ViewMut<'a, Reference>;

const UNUSED: &str = "not used by generation";

impl CapturingBackend {
    /// Number of captures and of graph launches.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.captures, state.launches)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Panics during a capture, in operations that wait for the device.
    fn assert_not_capturing(&self) {
        assert!(self.state().captured.is_none(), "waits for the device during a capture");
    }

    /// Executes `op` on the buffers of `inputs` and `out`, or captures it.
    fn enqueue(
        &self,
        inputs: &[Option<In<'_>>],
        out: Out<'_>,
        op: impl Fn(&[Option<RefIn<'_>>], RefOut<'_>) -> Result<()> + Send + Sync + 'static,
    ) -> Result<()> {
        let owned = |view: &In<'_>| (Arc::clone(view.buffer), view.layout.clone(), view.dtype);
        let inputs: Vec<Option<(Buffer, Layout, DType)>> =
            inputs.iter().map(|view| view.as_ref().map(owned)).collect();
        let (buffer, layout, dtype) = (Arc::clone(out.buffer), out.layout.clone(), out.dtype);
        let operation = move || {
            let guards: Vec<Option<RwLockReadGuard<'_, _>>> = inputs
                .iter()
                .map(|input| input.as_ref().map(|(buffer, ..)| buffer.read().unwrap()))
                .collect();
            let views: Vec<Option<RefIn<'_>>> = inputs
                .iter()
                .zip(&guards)
                .map(|(input, guard)| {
                    let ((_, layout, dtype), buffer) = (input.as_ref()?, guard.as_ref()?);
                    Some(View { buffer: &**buffer, layout, dtype: *dtype })
                })
                .collect();
            op(&views, ViewMut { buffer: &mut buffer.write().unwrap(), layout: &layout, dtype })
        };
        if let Some(Graph(operations)) = &mut self.state().captured {
            operations.push(Box::new(operation));
            return Ok(());
        }
        operation()
    }
}

impl Storage for CapturingBackend {
    type Buffer = Buffer;
    type Graph = Graph;

    fn name(&self) -> String {
        "capturing backend".into()
    }

    fn supports(&self, dtype: DType) -> bool {
        Reference.supports(dtype)
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        Ok(Arc::new(RwLock::new(Reference.alloc(dtype, len)?)))
    }

    fn from_host(&self, data: &HostData) -> Result<Buffer> {
        self.assert_not_capturing();
        Ok(Arc::new(RwLock::new(Reference.from_host(data)?)))
    }

    fn to_host(&self, x: In<'_>) -> Result<HostData> {
        self.assert_not_capturing();
        Reference.to_host(View { buffer: &x.buffer.read().unwrap(), layout: x.layout, dtype: x.dtype })
    }

    fn fill(&self, value: f64, out: Out<'_>) -> Result<()> {
        self.enqueue(&[], out, move |_, out| Reference.fill(value, out))
    }

    fn copy(&self, x: In<'_>, out: Out<'_>) -> Result<()> {
        self.enqueue(&[Some(x)], out, |x, out| Reference.copy(x[0].unwrap(), out))
    }

    fn cast(&self, x: In<'_>, out: Out<'_>) -> Result<()> {
        self.enqueue(&[Some(x)], out, |x, out| Reference.cast(x[0].unwrap(), out))
    }

    fn sync(&self) -> Result<()> {
        self.assert_not_capturing();
        Ok(())
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Graph>> {
        self.assert_not_capturing();
        self.state().captured = Some(Graph::default());
        let outcome = work();
        let mut state = self.state();
        state.captures += 1;
        let graph = state.captured.take();
        outcome.map(|()| graph)
    }

    fn launch(&self, graph: &Graph) -> Result<()> {
        self.assert_not_capturing();
        self.state().launches += 1;
        graph.0.iter().try_for_each(|operation| operation())
    }
}

impl TensorOps for CapturingBackend {
    fn unary(&self, op: UnaryOp, x: In<'_>, out: Out<'_>) -> Result<()> {
        self.enqueue(&[Some(x)], out, move |x, out| Reference.unary(op, x[0].unwrap(), out))
    }

    fn unary_backward(&self, _: UnaryOp, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        unreachable!("{UNUSED}")
    }

    fn binary(&self, op: BinaryOp, a: In<'_>, b: In<'_>, out: Out<'_>) -> Result<()> {
        self.enqueue(&[Some(a), Some(b)], out, move |x, out| {
            Reference.binary(op, x[0].unwrap(), x[1].unwrap(), out)
        })
    }

    fn affine(&self, x: In<'_>, mul: f64, add: f64, out: Out<'_>) -> Result<()> {
        self.enqueue(&[Some(x)], out, move |x, out| Reference.affine(x[0].unwrap(), mul, add, out))
    }

    fn sum(&self, _: In<'_>, _: Out<'_>) -> Result<()> {
        unreachable!("{UNUSED}")
    }

    fn matmul(&self, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        unreachable!("{UNUSED}")
    }
}

impl NnOps for CapturingBackend {
    fn linear(
        &self,
        x: In<'_>,
        w: In<'_>,
        b: Option<In<'_>>,
        act: Activation,
        y: Out<'_>,
        pre: Option<Out<'_>>,
    ) -> Result<()> {
        assert!(pre.is_none(), "{UNUSED}");
        self.enqueue(&[Some(x), Some(w), b], y, move |x, y| {
            Reference.linear(x[0].unwrap(), x[1].unwrap(), x[2], act, y, None)
        })
    }

    fn linear_backward(
        &self,
        _: In<'_>,
        _: In<'_>,
        _: Activation,
        _: Option<In<'_>>,
        _: In<'_>,
        _: LinearGrads<'_, Self>,
    ) -> Result<()> {
        unreachable!("{UNUSED}")
    }

    fn norm_modulate(&self, args: NormArgs<'_, Self>, y: Out<'_>, stats: Option<Out<'_>>) -> Result<()> {
        assert!(stats.is_none(), "{UNUSED}");
        let ((w, b), (scale, shift), eps) = (args.affine.unzip(), args.modulation.unzip(), args.eps);
        self.enqueue(&[Some(args.x), w, b, scale, shift], y, move |x, y| {
            let (affine, modulation) = (x[1].zip(x[2]), x[3].zip(x[4]));
            Reference.norm_modulate(NormArgs { x: x[0].unwrap(), affine, modulation, eps }, y, None)
        })
    }

    fn norm_modulate_backward(
        &self,
        _: NormArgs<'_, Self>,
        _: In<'_>,
        _: In<'_>,
        _: NormGrads<'_, Self>,
    ) -> Result<()> {
        unreachable!("{UNUSED}")
    }

    fn gated_residual(
        &self,
        x: In<'_>,
        u: In<'_>,
        gate: Option<In<'_>>,
        dropout: Option<Dropout>,
        y: Out<'_>,
    ) -> Result<()> {
        self.enqueue(&[Some(x), Some(u), gate], y, move |x, y| {
            Reference.gated_residual(x[0].unwrap(), x[1].unwrap(), x[2], dropout, y)
        })
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
        unreachable!("{UNUSED}")
    }

    fn dropout_mask(&self, _: Dropout, _: usize, _: Out<'_>) -> Result<()> {
        unreachable!("{UNUSED}")
    }

    fn attention(&self, args: AttentionArgs<'_, Self>, y: Out<'_>, lse: Option<Out<'_>>) -> Result<()> {
        assert!(lse.is_none() && args.dropout.is_none(), "{UNUSED}");
        let (scale, ends) = (args.scale, args.segment_ends.map(<[_]>::to_vec));
        self.enqueue(&[Some(args.q), Some(args.k), Some(args.v)], y, move |x, y| {
            let [q, k, v] = [0, 1, 2].map(|i| x[i].unwrap());
            Reference.attention(
                AttentionArgs { q, k, v, scale, segment_ends: ends.as_deref(), dropout: None },
                y,
                None,
            )
        })
    }

    fn attention_backward(
        &self,
        _: AttentionArgs<'_, Self>,
        _: In<'_>,
        _: In<'_>,
        _: In<'_>,
        _: AttentionGrads<'_, Self>,
    ) -> Result<()> {
        unreachable!("{UNUSED}")
    }

    fn embedding(&self, table: In<'_>, ids: In<'_>, out: Out<'_>) -> Result<()> {
        self.enqueue(&[Some(table), Some(ids)], out, |x, out| {
            Reference.embedding(x[0].unwrap(), x[1].unwrap(), out)
        })
    }

    fn embedding_backward(&self, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        unreachable!("{UNUSED}")
    }

    fn mse(&self, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        unreachable!("{UNUSED}")
    }

    fn mse_backward(&self, _: In<'_>, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        unreachable!("{UNUSED}")
    }
}

impl ImageOps for CapturingBackend {
    fn images_at_once(&self, pixels: usize) -> usize {
        Reference.images_at_once(pixels)
    }

    fn group_norm(&self, _: In<'_>, _: (In<'_>, In<'_>), _: usize, _: f64, _: Out<'_>) -> Result<()> {
        unreachable!("{UNUSED}")
    }

    fn conv2d(&self, _: ConvArgs<'_, Self>, _: Out<'_>) -> Result<()> {
        unreachable!("{UNUSED}")
    }

    fn pool2d(&self, _: In<'_>, _: Pooling, _: Windows, _: Out<'_>) -> Result<()> {
        unreachable!("{UNUSED}")
    }
}

impl TrainOps for CapturingBackend {
    fn adamw_step(&self, _: &AdamW, _: &mut [AdamWArgs<'_, Self>]) -> Result<()> {
        unreachable!("{UNUSED}")
    }

    fn ema_step(&self, _: f64, _: &mut [(Out<'_>, In<'_>)]) -> Result<()> {
        unreachable!("{UNUSED}")
    }

    fn squared_norms(&self, tensors: &[In<'_>]) -> Result<Vec<f64>> {
        self.assert_not_capturing();
        let guards: Vec<_> = tensors.iter().map(|x| x.buffer.read().unwrap()).collect();
        let views: Vec<RefIn<'_>> = tensors
            .iter()
            .zip(&guards)
            .map(|(x, buffer)| View { buffer: &**buffer, layout: x.layout, dtype: x.dtype })
            .collect();
        Reference.squared_norms(&views)
    }
}
