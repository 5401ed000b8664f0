//! Updates of parameters by an optimiser: one pass over memory for all tensors.

use half::bf16;
use transdiff_core::backend::{AdamW, AdamWArgs, View, ViewMut};
use transdiff_core::{DType, Result};

use crate::device::Cpu;
use crate::element::{Element, Real};
use crate::row_sums::sum2;
use crate::view::{Float, input, output};

/// Number of elements per task.
const CHUNK: usize = 1 << 14;

/// The float types: tensors of a call may have several.
const TYPES: [DType; 3] = [DType::F32, DType::F64, DType::BF16];

/// Coefficients of a step that are the same for a whole tensor.
#[derive(Clone, Copy)]
struct Coefficients<T> {
    keep: T,
    grad_scale: T,
    betas: [T; 2],
    rests: [T; 2],
    step: T,
    root: T,
    eps: T,
}

impl<T: Real> Coefficients<T> {
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
    fn update<S: Float<Real = T>>(&self, p: &mut S, g: T, m: &mut S, v: &mut S) {
        let first = m.real().fma(self.betas[0], self.rests[0] * g);
        let second = v.real().fma(self.betas[1], self.rests[1] * g * g);
        let next = p.real() * self.keep - self.step * first / second.sqrt().fma(self.root, self.eps);
        (*m, *v, *p) = (S::rounded(first), S::rounded(second), S::rounded(next));
    }
}

simd! {
    fn adamw<T: Float, G: Float<Real = T::Real>>(
        f: &Coefficients<T::Real>, p: &mut [T], g: Option<&[G]>, m: &mut [T], v: &mut [T]
    ) {
        let state = p.iter_mut().zip(m).zip(v);
        match g {
            Some(g) => state.zip(g).for_each(|(((p, m), v), &g)| f.update(p, f.grad_scale * g.real(), m, v)),
            None => state.for_each(|((p, m), v)| f.update(p, T::Real::ZERO, m, v)),
        }
    }
}

simd! {
    /// out ← x, rounded.
    fn round<T: Float, C: Float<Real = T::Real>>(x: &[T], out: &mut [C]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = C::rounded(x.real());
        }
    }
}

simd! {
    fn mix<T: Float>(rate: T::Real, rest: T::Real, average: &mut [T], p: &[T]) {
        for (average, &p) in average.iter_mut().zip(p) {
            *average = T::rounded(average.real().fma(rate, rest * p.real()));
        }
    }
}

simd! {
    fn squares<T: Element>(x: &[T]) -> f64 {
        sum2(x, x, |x, _| x.wide() * x.wide())
    }
}

/// The items of one type; a call may mix types.
fn of_type<S>(items: &mut [S], dtype: impl Fn(&S) -> DType, wanted: DType) -> Vec<&mut S> {
    items.iter_mut().filter(|s| dtype(s) == wanted).collect()
}

pub(crate) fn adamw_step(cpu: &Cpu, hyper: &AdamW, slots: &mut [AdamWArgs<'_, Cpu>]) -> Result<()> {
    // By the types of the parameter and of the gradient.
    macro_rules! update {
        ($wanted:expr, $T:ty, $G:ty, $C:ty) => {
            let of_types = slots.iter_mut().filter(|slot| {
                let param = slot.param.dtype;
                [param, slot.grad.as_ref().map_or(param, |grad| grad.dtype)] == $wanted
            });
            adamw_of::<$T, $G, $C>(cpu, hyper, of_types.collect());
        };
    }
    update!([DType::F32; 2], f32, f32, bf16);
    update!([DType::F32, DType::BF16], f32, bf16, bf16);
    update!([DType::F64; 2], f64, f64, f64);
    update!([DType::BF16; 2], bf16, bf16, bf16);
    Ok(())
}

/// The elements of an output that is reborrowed: its owner uses it again.
fn reborrow<'a, T: Float>(view: &'a mut ViewMut<'_, Cpu>) -> &'a mut [T] {
    output(ViewMut { buffer: &mut *view.buffer, layout: view.layout, dtype: view.dtype })
}

/// Parameters of type T with gradients of type G, and casts to C.
fn adamw_of<T: Float, G: Float<Real = T::Real>, C: Float<Real = T::Real>>(
    cpu: &Cpu,
    hyper: &AdamW,
    slots: Vec<&mut AdamWArgs<'_, Cpu>>,
) {
    let total = slots.iter().map(|s| s.param.layout.numel()).sum();
    let parts = slots.into_iter().flat_map(|slot| {
        let coefficients = Coefficients::<T::Real>::new(hyper, slot.weight_decay);
        let mut grad = slot.grad.as_ref().map(|g| input::<G>(g).chunks(CHUNK));
        let mut cast = slot.cast.as_mut().map(|cast| reborrow::<C>(cast).chunks_mut(CHUNK));
        let p = reborrow::<T>(&mut slot.param).chunks_mut(CHUNK);
        let (m, v) =
            (reborrow::<T>(&mut slot.m).chunks_mut(CHUNK), reborrow::<T>(&mut slot.v).chunks_mut(CHUNK));
        p.zip(m).zip(v).map(move |((p, m), v)| {
            let (grad, cast) =
                (grad.as_mut().and_then(Iterator::next), cast.as_mut().and_then(Iterator::next));
            (coefficients, p, grad, m, v, cast)
        })
    });
    cpu.for_each(parts, total, |(coefficients, p, grad, m, v, cast)| {
        adamw(&coefficients, p, grad, m, v);
        if let Some(cast) = cast {
            round(p, cast);
        }
    });
}

pub(crate) fn ema_step(cpu: &Cpu, rate: f64, pairs: &mut [(ViewMut<'_, Cpu>, View<'_, Cpu>)]) -> Result<()> {
    for dtype in TYPES {
        let pairs = of_type(pairs, |p| p.0.dtype, dtype);
        with_float!("ema_step", dtype, T => {
            ema_of::<T>(cpu, rate, pairs);
            Ok(())
        })?;
    }
    Ok(())
}

fn ema_of<T: Float>(cpu: &Cpu, rate: f64, pairs: Vec<&mut (ViewMut<'_, Cpu>, View<'_, Cpu>)>) {
    let total: usize = pairs.iter().map(|p| p.0.layout.numel()).sum();
    let parts = pairs
        .into_iter()
        .flat_map(|(average, p)| reborrow::<T>(average).chunks_mut(CHUNK).zip(input::<T>(p).chunks(CHUNK)));
    cpu.for_each(parts, total / 2, |(average, p)| {
        mix(T::Real::of(rate), T::Real::of(1.0 - rate), average, p)
    });
}

pub(crate) fn squared_norms(cpu: &Cpu, tensors: &[View<'_, Cpu>]) -> Result<Vec<f64>> {
    let total: usize = tensors.iter().map(|t| t.layout.numel()).sum();
    // Chunks as (tensor, first element, number of elements).
    let chunks = tensors.iter().flat_map(|t| {
        let len = t.layout.numel();
        (0..len).step_by(CHUNK).map(move |from| (t, from, CHUNK.min(len - from)))
    });
    let counts = tensors.iter().map(|t| t.layout.numel().div_ceil(CHUNK));
    let mut sums = vec![0.0; counts.clone().sum()];
    cpu.for_each(sums.iter_mut().zip(chunks), total / 2, |(sum, (t, from, len))| {
        let squares =
            with_float!("squared_norms", t.dtype, T => Ok(squares(&input::<T>(t)[from..from + len])));
        *sum = squares.expect("core checks the type");
    });
    let mut rest = &sums[..];
    Ok(counts.map(|count| rest.split_off(..count).into_iter().flatten().sum()).collect())
}
