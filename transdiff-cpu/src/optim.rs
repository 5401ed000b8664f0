//! What an optimiser does to parameters: one pass over memory for all tensors.

use transdiff_core::backend::{AdamW, AdamWArgs, View, ViewMut};
use transdiff_core::{DType, Error, Result};

use crate::Cpu;
use crate::element::{Real, input, output};
use crate::pool::Shared;

/// Elements handled by one task.
const CHUNK: usize = 1 << 14;

/// Chunks of many tensors as (tensor, first element, number of elements).
fn chunks(lengths: impl Iterator<Item = usize>) -> (Vec<(usize, usize, usize)>, usize) {
    let (mut out, mut total) = (Vec::new(), 0);
    for (tensor, len) in lengths.enumerate() {
        out.extend((0..len).step_by(CHUNK).map(|from| (tensor, from, CHUNK.min(len - from))));
        total += len;
    }
    (out, total)
}

/// The numbers of a step that are the same for a whole tensor.
struct Factors<T> {
    keep: T,
    grad_scale: T,
    betas: [T; 2],
    rests: [T; 2],
    step: T,
    root: T,
    eps: T,
}

impl<T: Real> Factors<T> {
    fn new(hyper: &AdamW, weight_decay: f64) -> Self {
        let correction = |beta: f64| 1.0 - beta.powf(hyper.step as f64);
        Self {
            keep: T::of(1.0 - hyper.lr * weight_decay),
            grad_scale: T::of(hyper.grad_scale),
            betas: [T::of(hyper.beta1), T::of(hyper.beta2)],
            rests: [T::of(1.0 - hyper.beta1), T::of(1.0 - hyper.beta2)],
            step: T::of(hyper.lr / correction(hyper.beta1)),
            root: T::of(1.0 / correction(hyper.beta2).sqrt()),
            eps: T::of(hyper.eps),
        }
    }

    #[inline(always)]
    fn update(&self, p: &mut T, g: T, m: &mut T, v: &mut T) {
        *m = m.fma(self.betas[0], self.rests[0] * g);
        *v = v.fma(self.betas[1], self.rests[1] * g * g);
        *p = *p * self.keep - self.step * *m / v.sqrt().fma(self.root, self.eps);
    }
}

simd! {
    fn adamw<T: Real>(f: &Factors<T>, p: &mut [T], g: Option<&[T]>, m: &mut [T], v: &mut [T]) {
        let state = p.iter_mut().zip(m).zip(v);
        match g {
            Some(g) => state.zip(g).for_each(|(((p, m), v), &g)| f.update(p, f.grad_scale * g, m, v)),
            None => state.for_each(|((p, m), v)| f.update(p, T::ZERO, m, v)),
        }
    }
}

simd! {
    fn mix<T: Real>(rate: T, rest: T, average: &mut [T], p: &[T]) {
        for (average, &p) in average.iter_mut().zip(p) {
            *average = average.fma(rate, rest * p);
        }
    }
}

simd! {
    fn squares<T: Real>(x: &[T]) -> f64 {
        crate::math::sum2_wide(x, x, |x, _| x.wide() * x.wide())
    }
}

fn expect_real(op: &'static str, got: DType) -> Result<()> {
    match got {
        DType::F32 | DType::F64 => Ok(()),
        _ => Err(Error::DType { op, expected: "f32 or f64".into(), got }),
    }
}

/// The tensors of one type; a call may mix types.
fn of_type<S>(items: &mut [S], dtype: impl Fn(&S) -> DType, wanted: DType) -> Vec<&mut S> {
    items.iter_mut().filter(|s| dtype(s) == wanted).collect()
}

pub(crate) fn adamw_step(cpu: &Cpu, hyper: &AdamW, slots: &mut [AdamWArgs<'_, Cpu>]) -> Result<()> {
    for slot in slots.iter() {
        expect_real("adamw_step", slot.param.dtype)?;
    }
    adamw_of::<f32>(cpu, hyper, of_type(slots, |s| s.param.dtype, DType::F32));
    adamw_of::<f64>(cpu, hyper, of_type(slots, |s| s.param.dtype, DType::F64));
    Ok(())
}

fn reborrow<'a, T: Real>(view: &'a mut ViewMut<'_, Cpu>) -> Shared<'a, T> {
    Shared::new(output(ViewMut { buffer: &mut *view.buffer, layout: view.layout, dtype: view.dtype }))
}

fn adamw_of<T: Real>(cpu: &Cpu, hyper: &AdamW, mut slots: Vec<&mut AdamWArgs<'_, Cpu>>) {
    let (chunks, total) = chunks(slots.iter().map(|s| s.param.layout.numel()));
    let slots: Vec<_> = slots
        .iter_mut()
        .map(|s| {
            let grad = s.grad.as_ref().map(input::<T>);
            let factors = Factors::new(hyper, s.weight_decay);
            (factors, grad, reborrow::<T>(&mut s.param), reborrow::<T>(&mut s.m), reborrow::<T>(&mut s.v))
        })
        .collect();
    cpu.run(chunks.len(), total, |i| {
        let (slot, from, len) = chunks[i];
        let (factors, grad, p, m, v) = &slots[slot];
        // SAFETY: chunks of a tensor do not overlap.
        let (p, m, v) = unsafe { (p.part(from, len), m.part(from, len), v.part(from, len)) };
        adamw(factors, p, grad.map(|g| &g[from..from + len]), m, v);
    });
}

pub(crate) fn ema_step(cpu: &Cpu, rate: f64, pairs: &mut [(ViewMut<'_, Cpu>, View<'_, Cpu>)]) -> Result<()> {
    for pair in pairs.iter() {
        expect_real("ema_step", pair.0.dtype)?;
    }
    ema_of::<f32>(cpu, rate, of_type(pairs, |p| p.0.dtype, DType::F32));
    ema_of::<f64>(cpu, rate, of_type(pairs, |p| p.0.dtype, DType::F64));
    Ok(())
}

fn ema_of<T: Real>(cpu: &Cpu, rate: f64, mut pairs: Vec<&mut (ViewMut<'_, Cpu>, View<'_, Cpu>)>) {
    let (chunks, total) = chunks(pairs.iter().map(|p| p.0.layout.numel()));
    let pairs: Vec<_> = pairs.iter_mut().map(|p| (reborrow::<T>(&mut p.0), input::<T>(&p.1))).collect();
    cpu.run(chunks.len(), total / 2, |i| {
        let (pair, from, len) = chunks[i];
        let (average, p) = &pairs[pair];
        // SAFETY: chunks of a tensor do not overlap.
        let average = unsafe { average.part(from, len) };
        mix(T::of(rate), T::of(1.0 - rate), average, &p[from..from + len]);
    });
}

pub(crate) fn squared_norm(cpu: &Cpu, tensors: &[View<'_, Cpu>]) -> Result<f64> {
    for t in tensors {
        expect_real("squared_norm", t.dtype)?;
    }
    let (chunks, total) = chunks(tensors.iter().map(|t| t.layout.numel()));
    let mut sums = vec![0.0; chunks.len()];
    cpu.chunks(&mut sums, 1, total / 2, |i, sum| {
        let (tensor, from, len) = chunks[i];
        let t = &tensors[tensor];
        sum[0] = match t.dtype {
            DType::F32 => squares(&input::<f32>(t)[from..from + len]),
            _ => squares(&input::<f64>(t)[from..from + len]),
        };
    });
    Ok(sums.iter().sum())
}
