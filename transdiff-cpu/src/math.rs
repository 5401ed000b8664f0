//! Elementary functions of f32 that vectorise.

/// log₂ e, and ln 2 in two parts: multiples of the first by small integers are exact.
const LOG2_E: f32 = std::f32::consts::LOG2_E;
const LN2_HIGH: f32 = 0.693_359_4;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Adding 1.5·2²³ leaves the nearest integer in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// eˣ within 2 ulp. 0 below e⁻⁸⁶·⁹, where the normal numbers end, ∞ above that of finite ones, NaN for NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Comparisons in this form propagate a NaN.
    let low = if x < -86.9 { -86.9 } else { x };
    let clamped = if low > 88.72 { 88.72 } else { low };
    let shifted = clamped.mul_add(LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    // Taylor coefficients, economised over |r| ≤ ln 2 / 2 (Cephes, expf).
    let p = 1.987_569_1e-4_f32
        .mul_add(r, 1.398_199_9e-3)
        .mul_add(r, 8.333_452e-3)
        .mul_add(r, 4.166_579_6e-2)
        .mul_add(r, 1.666_666_5e-1)
        .mul_add(r, 0.5);
    let p = (r * r).mul_add(p, r) + 1.0;
    // 2ⁿ as 2 · 2ⁿ⁻¹, for n may be 128.
    let half = f32::from_bits((shifted.to_bits() << 23).wrapping_add(126 << 23));
    let y = p * half * 2.0;
    let y = if x < -86.9 { 0.0 } else { y };
    if x > 88.72 { f32::INFINITY } else { y }
}

/// erf x, within a few ulp: x·P(x²)/Q(x²) up to |x| = 4, beyond which it is ±1 in f32.
#[inline(always)]
pub(crate) fn erf(x: f32) -> f32 {
    let low = if x < -4.0 { -4.0 } else { x };
    let x = if low > 4.0 { 4.0 } else { low };
    let s = x * x;
    let p = (-2.726_142_3e-10_f32)
        .mul_add(s, 2.770_681_4e-8)
        .mul_add(s, -2.101_024e-6)
        .mul_add(s, -5.692_506_5e-5)
        .mul_add(s, -7.349_906_3e-4)
        .mul_add(s, -2.954_6e-3)
        .mul_add(s, -1.609_603_3e-2);
    let q = (-1.456_607_2e-5_f32)
        .mul_add(s, -2.133_740_6e-4)
        .mul_add(s, -1.682_827e-3)
        .mul_add(s, -7.373_329_2e-3)
        .mul_add(s, -1.426_473_9e-2);
    x * p / q
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(from: f32, to: f32) -> impl Iterator<Item = f32> {
        (0..=200_000).map(move |i| from + (to - from) * i as f32 / 200_000.0)
    }

    /// Distance in units of the last place of `want`.
    fn ulps(got: f32, want: f64) -> f64 {
        let nearest = (want as f32).abs().max(f32::MIN_POSITIVE);
        let unit = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
        (f64::from(got) - want).abs() / unit
    }

    #[test]
    fn exp_is_within_two_ulp() {
        for x in grid(-86.8, 88.7) {
            let error = ulps(exp(x), libm::exp(f64::from(x)));
            assert!(error < 2.0, "exp({x}) is off by {error} ulp");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(200.0), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn erf_is_within_a_few_ulp() {
        for x in grid(-6.0, 6.0) {
            let error = ulps(erf(x), libm::erf(f64::from(x)));
            assert!(error < 6.0, "erf({x}) is off by {error} ulp");
        }
        assert!(erf(f32::NAN).is_nan());
    }
}
