//! Spread over seeds, and verdicts.

use std::fmt;

use serde::Serialize;

/// 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond, the last is a little too careful.
const T_QUANTILES: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// Mean and spread of a number over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Number of seeds.
    pub seeds: usize,
    /// Mean.
    pub mean: f64,
    /// Standard deviation of the sample, with n − 1 in the denominator; 0 for one seed.
    pub deviation: f64,
}

impl Spread {
    /// Spread of at least one value.
    pub fn of(values: &[f64]) -> Self {
        let seeds = values.len();
        let mean = values.iter().sum::<f64>() / seeds as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = if seeds < 2 { 0.0 } else { (squares / (seeds - 1) as f64).sqrt() };
        Self { seeds, mean, deviation }
    }

    /// Standard error of the mean.
    pub fn standard_error(&self) -> f64 {
        self.deviation / (self.seeds as f64).sqrt()
    }
}

/// Outcome of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The difference has the sign that the paper claims.
    Agrees,
    /// It has the other sign.
    DoesNotAgree,
    /// The seeds do not tell.
    WithinNoise,
}

impl Verdict {
    /// Verdict on the differences of all seeds, counted positive where they are as the paper claims: a mean further from 0
    /// than its standard error times Student's t at 95 % (two-sided), for n − 1 degrees of freedom. One seed has no spread, and
    /// decides nothing.
    pub fn of(differences: &[f64]) -> Self {
        let spread = Spread::of(differences);
        let Some(freedom) = spread.seeds.checked_sub(2) else { return Self::WithinNoise };
        let quantile = T_QUANTILES[freedom.min(T_QUANTILES.len() - 1)];
        let margin = quantile * spread.standard_error();
        match spread.mean {
            mean if mean > margin => Self::Agrees,
            mean if mean < -margin => Self::DoesNotAgree,
            _ => Self::WithinNoise,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agrees => "agrees",
            Self::DoesNotAgree => "does not agree",
            Self::WithinNoise => "within noise",
        })
    }
}

/// Rank correlation (Spearman) of two sequences of one length; 0 if one of them is constant.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> f64 {
    let (a, b) = (ranks(a), ranks(b));
    let mean = (a.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - mean) * (y - mean)).sum::<f64>();
    match (product(&a, &a) * product(&b, &b)).sqrt() {
        0.0 => 0.0,
        norm => product(&a, &b) / norm,
    }
}

/// Rank of each value, from 0; equal values share their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    let rank = |value: &f64| {
        let below = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| *other == value).count();
        below as f64 + (equal as f64 - 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_has_the_deviation_of_a_sample() {
        let spread = Spread::of(&[1.0, 2.0, 6.0]);
        assert_eq!((spread.seeds, spread.mean), (3, 3.0));
        assert!((spread.deviation - 7f64.sqrt()).abs() < 1e-12);
        assert!((spread.standard_error() - (7f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(Spread::of(&[4.0]).deviation, 0.0);
    }

    #[test]
    fn verdicts_come_out_each_way() {
        // Mean 1, standard error 0.1; Student's t for 4 degrees of freedom is 2.776.
        let at = |mean: f64| {
            let deviation = 0.05f64.sqrt();
            Verdict::of(&[-1.0, 1.0, 0.0, 1.0, -1.0].map(|sign| mean + sign * deviation))
        };
        assert_eq!(at(0.28), Verdict::Agrees);
        assert_eq!(at(0.27), Verdict::WithinNoise);
        assert_eq!(at(-0.27), Verdict::WithinNoise);
        assert_eq!(at(-0.28), Verdict::DoesNotAgree);
        assert_eq!(Verdict::of(&[1.0, 1.0]), Verdict::Agrees);
        assert_eq!(Verdict::of(&[0.0; 5]), Verdict::WithinNoise);
    }

    #[test]
    fn few_seeds_decide_little() {
        for one in [1e9, -1e9] {
            assert_eq!(Verdict::of(&[one]), Verdict::WithinNoise);
        }
        // Twice the standard error: decided by 100 seeds, not by 2.
        assert_eq!(Verdict::of(&[0.5, 1.5]), Verdict::WithinNoise);
        let many: Vec<f64> = (0..100).map(|i| if i % 2 == 0 { -3.5 } else { 6.0 }).collect();
        assert_eq!(Verdict::of(&many), Verdict::Agrees);
    }

    #[test]
    fn rank_correlation_ignores_scale_and_shares_ranks() {
        assert_eq!(rank_correlation(&[1.0, 10.0, 100.0], &[-3.0, 0.0, 0.1]), 1.0);
        assert_eq!(rank_correlation(&[1.0, 10.0, 100.0], &[3.0, 2.0, 1.0]), -1.0);
        assert_eq!(rank_correlation(&[1.0, 2.0, 3.0], &[5.0, 5.0, 5.0]), 0.0);
        let tied = rank_correlation(&[1.0, 1.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0]);
        assert!((tied - 0.9f64.sqrt()).abs() < 1e-12, "{tied}");
    }
}
