//! Activations of one number.

use crate::element::Real;

/// x·Φ(x).
#[inline(always)]
pub(crate) fn gelu<T: Real>(x: T) -> T {
    let half = T::of(0.5) * x;
    (x * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf().fma(half, half)
}

/// Φ(x) + x·φ(x).
#[inline(always)]
pub(crate) fn gelu_slope<T: Real>(x: T) -> T {
    // 1/√(2π)
    const DENSITY: f64 = 0.398_942_280_401_432_7;
    let phi = (T::of(-0.5) * x * x).exp() * T::of(DENSITY);
    let cdf = (x * T::of(std::f64::consts::FRAC_1_SQRT_2)).erf().fma(T::of(0.5), T::of(0.5));
    x.fma(phi, cdf)
}

/// 1/(1 + e⁻ˣ).
#[inline(always)]
pub(crate) fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gelu_and_its_slope_are_exact_to_rounding() {
        for i in 0..=200_000 {
            let x = -12.0 + 24.0 * i as f32 / 200_000.0;
            let wide = f64::from(x);
            let error = (f64::from(gelu(x)) - gelu(wide)).abs();
            assert!(error < 3e-7 * wide.abs().max(1.0), "gelu({x}) is off by {error}");
            let error = (f64::from(gelu_slope(x)) - gelu_slope(wide)).abs();
            assert!(error < 6e-7, "gelu'({x}) is off by {error}");
        }
    }
}
