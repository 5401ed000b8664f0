//! A backend that records: the oracle, whose operations can be kept and done again.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use transdiff_core::backend::{
    Activation, AdamW, AdamWArgs, AttentionArgs, AttentionGrads, BinaryOp, ConvArgs, ImageOps, LinearGrads,
    NnOps, NormArgs, NormGrads, Storage, TensorOps, TrainOps, UnaryOp, View, ViewMut,
};
use transdiff_core::reference::{self, Reference};
use transdiff_core::rng::Dropout;
use transdiff_core::{DType, HostData, Layout, Result};

/// The device. Clones are one device.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    noting: Option<Graph>,
    recordings: usize,
    replays: usize,
}

type Operation = Box<dyn Fn() -> Result<()> + Send + Sync>;

/// Operations, which share their buffers.
#[derive(Default)]
pub struct Graph(Vec<Operation>);

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations", self.0.len())
    }
}

/// Memory that operations can keep.
pub type Buffer = Arc<RwLock<reference::Buffer>>;
type In<'a> = View<'a, Recorder>;
type Out<'a> = ViewMut<'a, Recorder>;
type RefIn<'a> = View<'a, Reference>;
type RefOut<'a> = ViewMut<'a, Reference>;

const NOT_HERE: &str = "generation does not ask for it";

impl Recorder {
    /// How many recordings were made, and how often one was replayed.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.recordings, state.replays)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits for the device has no place in a recording.
    fn assert_not_noting(&self) {
        assert!(self.state().noting.is_none(), "asked for while operations are noted");
    }

    /// Does `op` on what `inputs` and `out` stand for, or notes it.
    fn issue(
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
        if let Some(Graph(operations)) = &mut self.state().noting {
            operations.push(Box::new(operation));
            return Ok(());
        }
        operation()
    }
}

impl Storage for Recorder {
    type Buffer = Buffer;
    type Graph = Graph;

    fn name(&self) -> String {
        "recorder".into()
    }

    fn supports(&self, dtype: DType) -> bool {
        Reference.supports(dtype)
    }

    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer> {
        Ok(Arc::new(RwLock::new(Reference.alloc(dtype, len)?)))
    }

    fn from_host(&self, data: &HostData) -> Result<Buffer> {
        self.assert_not_noting();
        Ok(Arc::new(RwLock::new(Reference.from_host(data)?)))
    }

    fn to_host(&self, x: In<'_>) -> Result<HostData> {
        self.assert_not_noting();
        Reference.to_host(View { buffer: &x.buffer.read().unwrap(), layout: x.layout, dtype: x.dtype })
    }

    fn fill(&self, value: f64, out: Out<'_>) -> Result<()> {
        self.issue(&[], out, move |_, out| Reference.fill(value, out))
    }

    fn copy(&self, x: In<'_>, out: Out<'_>) -> Result<()> {
        self.issue(&[Some(x)], out, |x, out| Reference.copy(x[0].unwrap(), out))
    }

    fn cast(&self, x: In<'_>, out: Out<'_>) -> Result<()> {
        self.issue(&[Some(x)], out, |x, out| Reference.cast(x[0].unwrap(), out))
    }

    fn sync(&self) -> Result<()> {
        self.assert_not_noting();
        Ok(())
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<Graph>> {
        self.assert_not_noting();
        self.state().noting = Some(Graph::default());
        let outcome = work();
        let mut state = self.state();
        state.recordings += 1;
        let recording = state.noting.take();
        outcome.map(|()| recording)
    }

    fn launch(&self, graph: &Graph) -> Result<()> {
        self.assert_not_noting();
        self.state().replays += 1;
        graph.0.iter().try_for_each(|operation| operation())
    }
}

impl TensorOps for Recorder {
    fn unary(&self, op: UnaryOp, x: In<'_>, out: Out<'_>) -> Result<()> {
        self.issue(&[Some(x)], out, move |x, out| Reference.unary(op, x[0].unwrap(), out))
    }

    fn unary_backward(&self, _: UnaryOp, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        unreachable!("{NOT_HERE}")
    }

    fn binary(&self, op: BinaryOp, a: In<'_>, b: In<'_>, out: Out<'_>) -> Result<()> {
        self.issue(&[Some(a), Some(b)], out, move |x, out| {
            Reference.binary(op, x[0].unwrap(), x[1].unwrap(), out)
        })
    }

    fn affine(&self, x: In<'_>, mul: f64, add: f64, out: Out<'_>) -> Result<()> {
        self.issue(&[Some(x)], out, move |x, out| Reference.affine(x[0].unwrap(), mul, add, out))
    }

    fn sum(&self, _: In<'_>, _: Out<'_>) -> Result<()> {
        unreachable!("{NOT_HERE}")
    }

    fn matmul(&self, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        unreachable!("{NOT_HERE}")
    }
}

impl NnOps for Recorder {
    fn linear(
        &self,
        x: In<'_>,
        w: In<'_>,
        b: Option<In<'_>>,
        act: Activation,
        y: Out<'_>,
        pre: Option<Out<'_>>,
    ) -> Result<()> {
        assert!(pre.is_none(), "{NOT_HERE}");
        self.issue(&[Some(x), Some(w), b], y, move |x, y| {
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
        unreachable!("{NOT_HERE}")
    }

    fn norm_modulate(&self, args: NormArgs<'_, Self>, y: Out<'_>, stats: Option<Out<'_>>) -> Result<()> {
        assert!(stats.is_none(), "{NOT_HERE}");
        let ((w, b), (scale, shift), eps) = (args.affine.unzip(), args.modulation.unzip(), args.eps);
        self.issue(&[Some(args.x), w, b, scale, shift], y, move |x, y| {
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
        unreachable!("{NOT_HERE}")
    }

    fn gated_residual(
        &self,
        x: In<'_>,
        u: In<'_>,
        gate: Option<In<'_>>,
        dropout: Option<Dropout>,
        y: Out<'_>,
    ) -> Result<()> {
        self.issue(&[Some(x), Some(u), gate], y, move |x, y| {
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
        unreachable!("{NOT_HERE}")
    }

    fn dropout(&self, _: In<'_>, _: Dropout, _: Out<'_>) -> Result<()> {
        unreachable!("{NOT_HERE}")
    }

    fn attention(&self, args: AttentionArgs<'_, Self>, y: Out<'_>, lse: Option<Out<'_>>) -> Result<()> {
        assert!(lse.is_none(), "{NOT_HERE}");
        let (scale, dropout, ends) = (args.scale, args.dropout, args.segment_ends.map(<[_]>::to_vec));
        self.issue(&[Some(args.q), Some(args.k), Some(args.v)], y, move |x, y| {
            let [q, k, v] = [0, 1, 2].map(|i| x[i].unwrap());
            Reference.attention(
                AttentionArgs { q, k, v, scale, segment_ends: ends.as_deref(), dropout },
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
        unreachable!("{NOT_HERE}")
    }

    fn embedding(&self, table: In<'_>, ids: In<'_>, out: Out<'_>) -> Result<()> {
        self.issue(&[Some(table), Some(ids)], out, |x, out| {
            Reference.embedding(x[0].unwrap(), x[1].unwrap(), out)
        })
    }

    fn embedding_backward(&self, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        unreachable!("{NOT_HERE}")
    }

    fn mse(&self, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        unreachable!("{NOT_HERE}")
    }

    fn mse_backward(&self, _: In<'_>, _: In<'_>, _: In<'_>, _: Out<'_>) -> Result<()> {
        unreachable!("{NOT_HERE}")
    }
}

impl ImageOps for Recorder {
    fn images_at_once(&self, pixels: usize) -> usize {
        Reference.images_at_once(pixels)
    }

    fn group_norm(&self, _: In<'_>, _: (In<'_>, In<'_>), _: usize, _: f64, _: Out<'_>) -> Result<()> {
        unreachable!("{NOT_HERE}")
    }

    fn conv2d(&self, _: ConvArgs<'_, Self>, _: Out<'_>) -> Result<()> {
        unreachable!("{NOT_HERE}")
    }
}

impl TrainOps for Recorder {
    fn adamw_step(&self, _: &AdamW, _: &mut [AdamWArgs<'_, Self>]) -> Result<()> {
        unreachable!("{NOT_HERE}")
    }

    fn ema_step(&self, _: f64, _: &mut [(Out<'_>, In<'_>)]) -> Result<()> {
        unreachable!("{NOT_HERE}")
    }

    fn squared_norm(&self, tensors: &[In<'_>]) -> Result<f64> {
        self.assert_not_noting();
        let guards: Vec<_> = tensors.iter().map(|x| x.buffer.read().unwrap()).collect();
        let views: Vec<RefIn<'_>> = tensors
            .iter()
            .zip(&guards)
            .map(|(x, buffer)| View { buffer: &**buffer, layout: x.layout, dtype: x.dtype })
            .collect();
        Reference.squared_norm(&views)
    }
}
