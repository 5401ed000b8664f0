//! Elementwise arithmetic.

use transdiff_core::Result;
use transdiff_core::backend::{BinaryOp, TensorOps, UnaryOp, View, ViewMut};

use crate::activation::sigmoid;
use crate::device::Cpu;
use crate::element::{Element, Real};
use crate::strided::{self, BinaryFunction};
use crate::view::Float;
use crate::{matmul, reduce};

macro_rules! function {
    ($name:ident, |$a:ident, $b:ident| $body:expr) => {
        #[derive(Clone, Copy)]
        struct $name;

        impl<T: Real> BinaryFunction<T> for $name {
            #[inline(always)]
            fn call(self, $a: T, $b: T) -> T {
                $body
            }
        }
    };
}

// Unary functions ignore their second argument; slopes multiply it.
function!(Add, |a, b| a + b);
function!(Sub, |a, b| a - b);
function!(Mul, |a, b| a * b);
function!(Silu, |x, _y| x * sigmoid(x));
function!(SiluSlope, |x, dy| {
    let s = sigmoid(x);
    dy * s * x.fma(T::ONE - s, T::ONE)
});
function!(Square, |x, _y| x * x);
function!(SquareSlope, |x, dy| (x + x) * dy);
function!(Rsqrt, |x, _y| T::ONE / x.sqrt());
function!(RsqrtSlope, |x, dy| T::of(-0.5) / (x * x.sqrt()) * dy);

#[derive(Clone, Copy)]
struct Affine<T>(T, T);

impl<T: Real> BinaryFunction<T> for Affine<T> {
    #[inline(always)]
    fn call(self, x: T, _: T) -> T {
        x.fma(self.0, self.1)
    }
}

fn affine_of<T: Float>(mul: f64, add: f64) -> Affine<T::Real> {
    Affine(T::Real::of(mul), T::Real::of(add))
}

fn apply<T: Float>(
    cpu: &Cpu,
    a: View<'_, Cpu>,
    b: View<'_, Cpu>,
    out: ViewMut<'_, Cpu>,
    f: impl BinaryFunction<T::Real>,
) -> Result<()> {
    let (a_data, b_data) = (T::slice(a.buffer), T::slice(b.buffer));
    strided::zip(cpu, (a_data, a.layout), (b_data, b.layout), (T::slice_mut(out.buffer), out.layout), f);
    Ok(())
}

impl TensorOps for Cpu {
    fn unary(&self, op: UnaryOp, x: View<'_, Self>, out: ViewMut<'_, Self>) -> Result<()> {
        with_float!("unary", x.dtype, T => match op {
            UnaryOp::Silu => apply::<T>(self, x, x, out, Silu),
            UnaryOp::Square => apply::<T>(self, x, x, out, Square),
            UnaryOp::Rsqrt => apply::<T>(self, x, x, out, Rsqrt),
        })
    }

    fn unary_backward(
        &self,
        op: UnaryOp,
        x: View<'_, Self>,
        dy: View<'_, Self>,
        dx: ViewMut<'_, Self>,
    ) -> Result<()> {
        with_float!("unary_backward", x.dtype, T => match op {
            UnaryOp::Silu => apply::<T>(self, x, dy, dx, SiluSlope),
            UnaryOp::Square => apply::<T>(self, x, dy, dx, SquareSlope),
            UnaryOp::Rsqrt => apply::<T>(self, x, dy, dx, RsqrtSlope),
        })
    }

    fn binary(
        &self,
        op: BinaryOp,
        a: View<'_, Self>,
        b: View<'_, Self>,
        out: ViewMut<'_, Self>,
    ) -> Result<()> {
        with_float!("binary", a.dtype, T => match op {
            BinaryOp::Add => apply::<T>(self, a, b, out, Add),
            BinaryOp::Sub => apply::<T>(self, a, b, out, Sub),
            BinaryOp::Mul => apply::<T>(self, a, b, out, Mul),
        })
    }

    fn affine(&self, x: View<'_, Self>, mul: f64, add: f64, out: ViewMut<'_, Self>) -> Result<()> {
        with_float!("affine", x.dtype, T => apply::<T>(self, x, x, out, affine_of::<T>(mul, add)))
    }

    fn sum(&self, x: View<'_, Self>, out: ViewMut<'_, Self>) -> Result<()> {
        with_float!("sum", x.dtype, T => reduce::sum::<T>(self, x, out))
    }

    fn matmul(&self, a: View<'_, Self>, b: View<'_, Self>, out: ViewMut<'_, Self>) -> Result<()> {
        with_float!("matmul", a.dtype, T => matmul::matmul::<T>(self, a, b, out))
    }
}
