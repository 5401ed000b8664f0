//! A wrapper backend that checks the bounds of every write.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use transdiff_core::backend::{
    Activation, AdamW, AdamWArgs, AttentionArgs, AttentionGrads, BinaryOp, ConvArgs, DropoutMask, ImageOps,
    LinearGrads, NnOps, NormArgs, NormGrads, Pooling, Storage, TensorOps, TrainOps, UnaryOp, View, ViewMut,
    Windows,
};
use transdiff_core::rng::Dropout;
use transdiff_core::{Backend, CancellationToken, DType, HostData, Int8Weight, Layout, Result};

/// Value of the elements in the margins; exact in every type.
pub const SENTINEL: f64 = 1984.0;

/// The backend `inner` with a margin of [`SENTINEL`]s before and after the elements of every buffer.
///
/// The margins of all outputs are checked after each operation: one that writes outside of its outputs panics with
/// the names of the operation and of these outputs. Elements are as aligned as the width of the margin, so that an odd
/// width leads kernels that load vectors along their paths for unaligned addresses.
#[derive(Clone, Debug)]
pub struct Guarded<B> {
    inner: B,
    margin: usize,
    /// Position of element 0 in the buffers of `inner`.
    start: usize,
    counter: Option<Counter>,
}

/// Counter of operations, which cancels a token after some of them.
#[derive(Clone, Debug)]
struct Counter {
    operations: Arc<AtomicUsize>,
    limit: usize,
    token: CancellationToken,
}

/// Memory of [`Guarded`]: `len` elements from `start` on between two margins, or a quantised weight, which has none: no
/// operation writes to it.
#[derive(Debug)]
pub struct Buffer<B: Storage> {
    inner: B::Buffer,
    start: usize,
    len: usize,
}

type In<'a, B> = View<'a, Guarded<B>>;
type Out<'a, B> = ViewMut<'a, Guarded<B>>;

/// An input in the inner backend's buffer.
struct Read<'a, B: Storage> {
    buffer: &'a B::Buffer,
    layout: Layout,
    dtype: DType,
}

impl<B: Storage> Read<'_, B> {
    fn view(&self) -> View<'_, B> {
        View { buffer: self.buffer, layout: &self.layout, dtype: self.dtype }
    }
}

/// An output in the inner backend's buffer.
struct Write<'a, B: Storage> {
    buffer: &'a mut Buffer<B>,
    layout: Layout,
    dtype: DType,
}

impl<B: Storage> Write<'_, B> {
    fn view(&mut self) -> ViewMut<'_, B> {
        ViewMut { buffer: &mut self.buffer.inner, layout: &self.layout, dtype: self.dtype }
    }
}

fn shifted(layout: &Layout, by: usize) -> Layout {
    Layout::new(layout.shape(), layout.strides(), layout.offset() + by)
}

fn view<'a, B: Storage>(input: &'a Option<Read<'_, B>>) -> Option<View<'a, B>> {
    input.as_ref().map(Read::view)
}

fn view_mut<'a, B: Storage>(output: &'a mut Option<Write<'_, B>>) -> Option<ViewMut<'a, B>> {
    output.as_mut().map(Write::view)
}

impl<B: Backend> Guarded<B> {
    /// Margins of `margin` elements around the buffers of `inner`; 0 checks nothing.
    pub fn new(inner: B, margin: usize) -> Self {
        Self { inner, margin, start: margin, counter: None }
    }

    /// A guard that places elements at `start`, off the end of the margin: every operation writes into the margins of
    /// all its outputs.
    pub fn misplaced(inner: B, margin: usize, start: usize) -> Self {
        Self { inner, margin, start, counter: None }
    }

    /// The same backend, which cancels `token` when it has done `limit` operations.
    pub fn cancelling(self, token: &CancellationToken, limit: usize) -> Self {
        let counter = Counter { operations: Arc::default(), limit, token: token.clone() };
        Self { counter: Some(counter), ..self }
    }

    /// Counts from 0 again.
    pub fn restart(&self) {
        self.counter.iter().for_each(|counter| counter.operations.store(0, Ordering::Relaxed));
    }

    /// Number of operations since the last restart, of a backend that counts them.
    pub fn operations(&self) -> usize {
        self.counter.as_ref().map_or(0, |counter| counter.operations.load(Ordering::Relaxed))
    }

    fn read<'a>(&self, x: In<'a, B>) -> Read<'a, B> {
        Read { buffer: &x.buffer.inner, layout: shifted(x.layout, x.buffer.start), dtype: x.dtype }
    }

    fn write<'a>(&self, out: Out<'a, B>) -> Write<'a, B> {
        Write { layout: shifted(out.layout, out.buffer.start), buffer: out.buffer, dtype: out.dtype }
    }

    fn reborrow<'a>(&self, out: &'a mut Out<'_, B>) -> Write<'a, B> {
        self.write(ViewMut { buffer: out.buffer, layout: out.layout, dtype: out.dtype })
    }

    fn read_pair<'a>(&self, pair: (In<'a, B>, In<'a, B>)) -> (Read<'a, B>, Read<'a, B>) {
        (self.read(pair.0), self.read(pair.1))
    }

    fn write_pair<'a>(&self, pair: Option<(Out<'a, B>, Out<'a, B>)>) -> [Option<Write<'a, B>>; 2] {
        let (first, second) = pair.unzip();
        [first, second].map(|out| out.map(|out| self.write(out)))
    }

    /// Returns whether the margins around an output still hold their sentinels.
    fn is_intact(&self, out: &Write<'_, B>) -> Result<bool> {
        for start in [0, self.margin + out.buffer.len] {
            let layout = Layout::new(&[self.margin], &[1], start);
            let margin = View::<B> { buffer: &out.buffer.inner, layout: &layout, dtype: out.dtype };
            if self.inner.to_host(margin)?.to_f64().iter().any(|&x| x != SENTINEL) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Panics if the operation `op` wrote into the margins of its outputs.
    #[track_caller]
    fn check<'a>(
        &self,
        op: &str,
        outputs: impl IntoIterator<Item = (&'a str, Option<&'a Write<'a, B>>)>,
    ) -> Result<()> {
        if let Some(counter) = &self.counter
            && counter.operations.fetch_add(1, Ordering::Relaxed) + 1 == counter.limit
        {
            counter.token.cancel();
        }
        let mut broken = Vec::new();
        for (name, output) in outputs {
            if let Some(output) = output.filter(|_| self.margin > 0)
                && !self.is_intact(output)?
            {
                broken.push(name);
            }
        }
        assert!(broken.is_empty(), "{op} wrote outside of {}", broken.join(", "));
        Ok(())
    }
}

impl<B: Backend> Storage for Guarded<B> {
    type Buffer = Buffer<B>;
    type Graph = Infallible;

    fn name(&self) -> String {
        self.inner.name()
    }

    fn supports(&self, dtype: DType) -> bool {
        self.inner.supports(dtype)
    }

    /// Sentinels everywhere, so that an element that no operation writes shows.
    fn alloc(&self, dtype: DType, len: usize) -> Result<Buffer<B>> {
        let layout = Layout::contiguous(&[len + 2 * self.margin]);
        let mut inner = self.inner.alloc(dtype, layout.numel())?;
        if self.margin > 0 {
            self.inner.fill(SENTINEL, ViewMut { buffer: &mut inner, layout: &layout, dtype })?;
        }
        Ok(Buffer { inner, start: self.start, len })
    }

    fn from_host(&self, data: &HostData) -> Result<Buffer<B>> {
        let len = data.len();
        let mut values = vec![SENTINEL; len + 2 * self.margin];
        values[self.start..self.start + len].copy_from_slice(&data.to_f64());
        let inner = self.inner.from_host(&HostData::from_f64(values, data.dtype()))?;
        Ok(Buffer { inner, start: self.start, len })
    }

    fn to_host(&self, x: In<'_, B>) -> Result<HostData> {
        self.inner.to_host(self.read(x).view())
    }

    fn fill(&self, value: f64, out: Out<'_, B>) -> Result<()> {
        let mut out = self.write(out);
        self.inner.fill(value, out.view())?;
        self.check("fill", [("out", Some(&out))])
    }

    fn copy(&self, x: In<'_, B>, out: Out<'_, B>) -> Result<()> {
        let mut out = self.write(out);
        self.inner.copy(self.read(x).view(), out.view())?;
        self.check("copy", [("out", Some(&out))])
    }

    fn cast(&self, x: In<'_, B>, out: Out<'_, B>) -> Result<()> {
        let mut out = self.write(out);
        self.inner.cast(self.read(x).view(), out.view())?;
        self.check("cast", [("out", Some(&out))])
    }

    fn supports_int8(&self) -> bool {
        self.inner.supports_int8()
    }

    fn quantized_weight(&self, weight: &Int8Weight, dtype: DType) -> Result<(Buffer<B>, Layout)> {
        let (inner, layout) = self.inner.quantized_weight(weight, dtype)?;
        Ok((Buffer { inner, start: 0, len: layout.numel() }, layout))
    }

    fn sync(&self) -> Result<()> {
        self.inner.sync()
    }

    /// Nothing is captured: each operation is checked as soon as it is done.
    fn capture(&self, _: &mut dyn FnMut() -> Result<()>) -> Result<Option<Infallible>> {
        Ok(None)
    }

    fn launch(&self, graph: &Infallible) -> Result<()> {
        match *graph {}
    }
}

impl<B: Backend> TensorOps for Guarded<B> {
    fn unary(&self, op: UnaryOp, x: In<'_, B>, out: Out<'_, B>) -> Result<()> {
        let mut out = self.write(out);
        self.inner.unary(op, self.read(x).view(), out.view())?;
        self.check("unary", [("out", Some(&out))])
    }

    fn unary_backward(&self, op: UnaryOp, x: In<'_, B>, dy: In<'_, B>, dx: Out<'_, B>) -> Result<()> {
        let mut dx = self.write(dx);
        self.inner.unary_backward(op, self.read(x).view(), self.read(dy).view(), dx.view())?;
        self.check("unary_backward", [("dx", Some(&dx))])
    }

    fn binary(&self, op: BinaryOp, a: In<'_, B>, b: In<'_, B>, out: Out<'_, B>) -> Result<()> {
        let mut out = self.write(out);
        self.inner.binary(op, self.read(a).view(), self.read(b).view(), out.view())?;
        self.check("binary", [("out", Some(&out))])
    }

    fn affine(&self, x: In<'_, B>, mul: f64, add: f64, out: Out<'_, B>) -> Result<()> {
        let mut out = self.write(out);
        self.inner.affine(self.read(x).view(), mul, add, out.view())?;
        self.check("affine", [("out", Some(&out))])
    }

    fn sum(&self, x: In<'_, B>, out: Out<'_, B>) -> Result<()> {
        let mut out = self.write(out);
        self.inner.sum(self.read(x).view(), out.view())?;
        self.check("sum", [("out", Some(&out))])
    }

    fn matmul(&self, a: In<'_, B>, b: In<'_, B>, out: Out<'_, B>) -> Result<()> {
        let mut out = self.write(out);
        self.inner.matmul(self.read(a).view(), self.read(b).view(), out.view())?;
        self.check("matmul", [("out", Some(&out))])
    }
}

impl<B: Backend> NnOps for Guarded<B> {
    fn linear(
        &self,
        x: In<'_, B>,
        w: In<'_, B>,
        b: Option<In<'_, B>>,
        act: Activation,
        y: Out<'_, B>,
        pre: Option<Out<'_, B>>,
    ) -> Result<()> {
        let (x, w, b) = (self.read(x), self.read(w), b.map(|b| self.read(b)));
        let (mut y, mut pre) = (self.write(y), pre.map(|pre| self.write(pre)));
        self.inner.linear(x.view(), w.view(), view(&b), act, y.view(), view_mut(&mut pre))?;
        self.check("linear", [("y", Some(&y)), ("pre", pre.as_ref())])
    }

    fn linear_backward(
        &self,
        x: In<'_, B>,
        w: In<'_, B>,
        act: Activation,
        pre: Option<In<'_, B>>,
        dy: In<'_, B>,
        grads: LinearGrads<'_, Self>,
    ) -> Result<()> {
        let (x, w, pre, dy) = (self.read(x), self.read(w), pre.map(|pre| self.read(pre)), self.read(dy));
        let [mut dx, mut dw, mut db] =
            [grads.dx, grads.dw, grads.db].map(|out| out.map(|out| self.write(out)));
        let grads = LinearGrads { dx: view_mut(&mut dx), dw: view_mut(&mut dw), db: view_mut(&mut db) };
        self.inner.linear_backward(x.view(), w.view(), act, view(&pre), dy.view(), grads)?;
        self.check("linear_backward", [("dx", dx.as_ref()), ("dw", dw.as_ref()), ("db", db.as_ref())])
    }

    fn norm_modulate(
        &self,
        args: NormArgs<'_, Self>,
        y: Out<'_, B>,
        stats: Option<Out<'_, B>>,
    ) -> Result<()> {
        let inputs = NormInputs::new(self, args);
        let (mut y, mut stats) = (self.write(y), stats.map(|stats| self.write(stats)));
        self.inner.norm_modulate(inputs.args(), y.view(), view_mut(&mut stats))?;
        self.check("norm_modulate", [("y", Some(&y)), ("stats", stats.as_ref())])
    }

    fn norm_modulate_backward(
        &self,
        args: NormArgs<'_, Self>,
        stats: In<'_, B>,
        dy: In<'_, B>,
        grads: NormGrads<'_, Self>,
    ) -> Result<()> {
        let (inputs, stats, dy) = (NormInputs::new(self, args), self.read(stats), self.read(dy));
        let (mut dx, residual) = (grads.dx.map(|dx| self.write(dx)), grads.residual.map(|x| self.read(x)));
        let [mut dweight, mut dbias] = self.write_pair(grads.daffine);
        let [mut dscale, mut dshift] = self.write_pair(grads.dmodulation);
        let grads = NormGrads {
            dx: view_mut(&mut dx),
            residual: view(&residual),
            daffine: view_mut(&mut dweight).zip(view_mut(&mut dbias)),
            dmodulation: view_mut(&mut dscale).zip(view_mut(&mut dshift)),
        };
        self.inner.norm_modulate_backward(inputs.args(), stats.view(), dy.view(), grads)?;
        let outputs = [
            ("dx", dx.as_ref()),
            ("dweight", dweight.as_ref()),
            ("dbias", dbias.as_ref()),
            ("dscale", dscale.as_ref()),
            ("dshift", dshift.as_ref()),
        ];
        self.check("norm_modulate_backward", outputs)
    }

    fn gated_residual(
        &self,
        x: In<'_, B>,
        u: In<'_, B>,
        gate: Option<In<'_, B>>,
        dropout: Option<Dropout>,
        y: Out<'_, B>,
    ) -> Result<()> {
        let (x, u, gate, mut y) =
            (self.read(x), self.read(u), gate.map(|gate| self.read(gate)), self.write(y));
        self.inner.gated_residual(x.view(), u.view(), view(&gate), dropout, y.view())?;
        self.check("gated_residual", [("y", Some(&y))])
    }

    fn gated_residual_backward(
        &self,
        u: In<'_, B>,
        gate: Option<In<'_, B>>,
        dropout: Option<Dropout>,
        dy: In<'_, B>,
        du: Out<'_, B>,
        dgate: Option<Out<'_, B>>,
    ) -> Result<()> {
        let (u, gate, dy) = (self.read(u), gate.map(|gate| self.read(gate)), self.read(dy));
        let (mut du, mut dgate) = (self.write(du), dgate.map(|dgate| self.write(dgate)));
        let outputs = (du.view(), view_mut(&mut dgate));
        self.inner.gated_residual_backward(
            u.view(),
            view(&gate),
            dropout,
            dy.view(),
            outputs.0,
            outputs.1,
        )?;
        self.check("gated_residual_backward", [("du", Some(&du)), ("dgate", dgate.as_ref())])
    }

    fn dropout_mask(&self, dropout: Dropout, nkv: usize, kept: Out<'_, B>) -> Result<()> {
        let mut kept = self.write(kept);
        self.inner.dropout_mask(dropout, nkv, kept.view())?;
        self.check("dropout_mask", [("kept", Some(&kept))])
    }

    fn attention(&self, args: AttentionArgs<'_, Self>, y: Out<'_, B>, lse: Option<Out<'_, B>>) -> Result<()> {
        let inputs = AttentionInputs::new(self, args);
        let (mut y, mut lse) = (self.write(y), lse.map(|lse| self.write(lse)));
        self.inner.attention(inputs.args(), y.view(), view_mut(&mut lse))?;
        self.check("attention", [("y", Some(&y)), ("lse", lse.as_ref())])
    }

    fn attention_backward(
        &self,
        args: AttentionArgs<'_, Self>,
        y: In<'_, B>,
        lse: In<'_, B>,
        dy: In<'_, B>,
        grads: AttentionGrads<'_, Self>,
    ) -> Result<()> {
        let inputs = AttentionInputs::new(self, args);
        let (y, lse, dy) = (self.read(y), self.read(lse), self.read(dy));
        let backward = |grads: AttentionGrads<'_, B>| {
            self.inner.attention_backward(inputs.args(), y.view(), lse.view(), dy.view(), grads)
        };
        match grads {
            AttentionGrads::Separate { dq, dk, dv } => {
                let [mut dq, mut dk, mut dv] = [dq, dk, dv].map(|out| self.write(out));
                backward(AttentionGrads::Separate { dq: dq.view(), dk: dk.view(), dv: dv.view() })?;
                self.check("attention_backward", [("dq", Some(&dq)), ("dk", Some(&dk)), ("dv", Some(&dv))])
            }
            AttentionGrads::Joint(joint) => {
                let mut joint = self.write(joint);
                backward(AttentionGrads::Joint(joint.view()))?;
                self.check("attention_backward", [("joint", Some(&joint))])
            }
        }
    }

    fn embedding(&self, table: In<'_, B>, ids: In<'_, B>, out: Out<'_, B>) -> Result<()> {
        let mut out = self.write(out);
        self.inner.embedding(self.read(table).view(), self.read(ids).view(), out.view())?;
        self.check("embedding", [("out", Some(&out))])
    }

    fn embedding_backward(&self, ids: In<'_, B>, dy: In<'_, B>, dtable: Out<'_, B>) -> Result<()> {
        let mut dtable = self.write(dtable);
        self.inner.embedding_backward(self.read(ids).view(), self.read(dy).view(), dtable.view())?;
        self.check("embedding_backward", [("dtable", Some(&dtable))])
    }

    fn mse(&self, a: In<'_, B>, b: In<'_, B>, loss: Out<'_, B>) -> Result<()> {
        let mut loss = self.write(loss);
        self.inner.mse(self.read(a).view(), self.read(b).view(), loss.view())?;
        self.check("mse", [("loss", Some(&loss))])
    }

    fn mse_backward(&self, a: In<'_, B>, b: In<'_, B>, dloss: In<'_, B>, da: Out<'_, B>) -> Result<()> {
        let (a, b, dloss, mut da) = (self.read(a), self.read(b), self.read(dloss), self.write(da));
        self.inner.mse_backward(a.view(), b.view(), dloss.view(), da.view())?;
        self.check("mse_backward", [("da", Some(&da))])
    }
}

struct NormInputs<'a, B: Backend> {
    x: Read<'a, B>,
    affine: Option<(Read<'a, B>, Read<'a, B>)>,
    modulation: Option<(Read<'a, B>, Read<'a, B>)>,
    eps: f64,
}

impl<'a, B: Backend> NormInputs<'a, B> {
    fn new(guard: &Guarded<B>, args: NormArgs<'a, Guarded<B>>) -> Self {
        let pair = |pair| guard.read_pair(pair);
        let (affine, modulation) = (args.affine.map(pair), args.modulation.map(pair));
        Self { x: guard.read(args.x), affine, modulation, eps: args.eps }
    }

    fn args(&self) -> NormArgs<'_, B> {
        NormArgs {
            x: self.x.view(),
            affine: self.affine.as_ref().map(|(weight, bias)| (weight.view(), bias.view())),
            modulation: self.modulation.as_ref().map(|(scale, shift)| (scale.view(), shift.view())),
            eps: self.eps,
        }
    }
}

struct AttentionInputs<'a, B: Backend> {
    q: Read<'a, B>,
    k: Read<'a, B>,
    v: Read<'a, B>,
    kept: Option<Read<'a, B>>,
    args: AttentionArgs<'a, Guarded<B>>,
}

impl<'a, B: Backend> AttentionInputs<'a, B> {
    fn new(guard: &Guarded<B>, args: AttentionArgs<'a, Guarded<B>>) -> Self {
        let kept = args.dropout.map(|mask| guard.read(mask.kept));
        Self { q: guard.read(args.q), k: guard.read(args.k), v: guard.read(args.v), kept, args }
    }

    fn args(&self) -> AttentionArgs<'_, B> {
        let AttentionArgs { scale, segment_ends, dropout, .. } = self.args;
        let dropout =
            view(&self.kept).zip(dropout).map(|(kept, mask)| DropoutMask { kept, scale: mask.scale });
        AttentionArgs { q: self.q.view(), k: self.k.view(), v: self.v.view(), scale, segment_ends, dropout }
    }
}

impl<B: Backend> ImageOps for Guarded<B> {
    fn images_at_once(&self, pixels: usize) -> usize {
        self.inner.images_at_once(pixels)
    }

    fn group_norm(
        &self,
        x: In<'_, B>,
        affine: (In<'_, B>, In<'_, B>),
        groups: usize,
        eps: f64,
        scale_shift: Out<'_, B>,
    ) -> Result<()> {
        let (x, (weight, bias)) = (self.read(x), self.read_pair(affine));
        let mut scale_shift = self.write(scale_shift);
        self.inner.group_norm(x.view(), (weight.view(), bias.view()), groups, eps, scale_shift.view())?;
        self.check("group_norm", [("scale_shift", Some(&scale_shift))])
    }

    fn conv2d(&self, args: ConvArgs<'_, Self>, y: Out<'_, B>) -> Result<()> {
        let (x, w, b) = (self.read(args.x), self.read(args.w), self.read(args.b));
        let (scale_shift, silu) = args.scale_shift.unzip();
        let [scale_shift, residual] =
            [scale_shift, args.residual].map(|input| input.map(|input| self.read(input)));
        let mut y = self.write(y);
        let args = ConvArgs {
            x: x.view(),
            w: w.view(),
            b: b.view(),
            scale_shift: view(&scale_shift).zip(silu),
            residual: view(&residual),
            relu: args.relu,
            doubled: args.doubled,
            windows: args.windows,
        };
        self.inner.conv2d(args, y.view())?;
        self.check("conv2d", [("y", Some(&y))])
    }

    fn pool2d(&self, x: In<'_, B>, pooling: Pooling, windows: Windows, y: Out<'_, B>) -> Result<()> {
        let (x, mut y) = (self.read(x), self.write(y));
        self.inner.pool2d(x.view(), pooling, windows, y.view())?;
        self.check("pool2d", [("y", Some(&y))])
    }
}

impl<B: Backend> TrainOps for Guarded<B> {
    fn adamw_step(&self, hyper: &AdamW, params: &mut [AdamWArgs<'_, Self>]) -> Result<()> {
        let mut guarded: Vec<_> = params
            .iter_mut()
            .map(|args| {
                let written = [&mut args.param, &mut args.m, &mut args.v].map(|out| self.reborrow(out));
                let cast = args.cast.as_mut().map(|out| self.reborrow(out));
                (written, cast, args.grad.map(|grad| self.read(grad)), args.weight_decay)
            })
            .collect();
        let mut inner = Vec::with_capacity(guarded.len());
        for ([param, m, v], cast, grad, weight_decay) in &mut guarded {
            let (param, m, v) = (param.view(), m.view(), v.view());
            let cast = view_mut(cast);
            inner.push(AdamWArgs { param, grad: view(grad), m, v, cast, weight_decay: *weight_decay });
        }
        self.inner.adamw_step(hyper, &mut inner)?;
        let outputs = guarded.iter().flat_map(|([param, m, v], cast, ..)| {
            [("param", Some(param)), ("m", Some(m)), ("v", Some(v)), ("cast", cast.as_ref())]
        });
        self.check("adamw_step", outputs)
    }

    fn ema_step(&self, decay: f64, pairs: &mut [(Out<'_, B>, In<'_, B>)]) -> Result<()> {
        let mut guarded: Vec<_> =
            pairs.iter_mut().map(|(average, param)| (self.reborrow(average), self.read(*param))).collect();
        let mut inner: Vec<_> =
            guarded.iter_mut().map(|(average, param)| (average.view(), param.view())).collect();
        self.inner.ema_step(decay, &mut inner)?;
        self.check("ema_step", guarded.iter().map(|(average, _)| ("average", Some(average))))
    }

    fn squared_norms(&self, tensors: &[In<'_, B>]) -> Result<Vec<f64>> {
        let tensors: Vec<_> = tensors.iter().map(|&x| self.read(x)).collect();
        self.inner.squared_norms(&tensors.iter().map(Read::view).collect::<Vec<_>>())
    }
}
