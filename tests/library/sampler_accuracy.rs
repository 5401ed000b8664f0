//! Accuracy of the samplers: distributions known in closed form, and orders of convergence.
//!
//! Cases are drawn from fixed seeds, so that a statistical bound that holds once always holds.

use crate::common::cases;
use crate::common::sampling::{Gaussian, Logistic, NoNoise, any_interpolant};
use proptest::prelude::*;
use transdiff_core::diffusion::{
    ArStep, Euler, EulerMaruyama, Heun, Interpolant, KeyedNoise, NoiseSource, NoopObserver, Sampler, Solver,
    Timesteps,
};
use transdiff_core::reference::Reference;
use transdiff_core::{Backend, DType, Tensor};

const ONLY: ArStep = ArStep::ONLY;

/// Exact mean and variance of an element after Euler–Maruyama: for Gaussian data every step is
/// x ← g x + d + e z with constants, so the mean goes to g·mean + d and the variance to g²·var + e².
fn propagate(data: &Gaussian, timesteps: Timesteps, s0: f64, s1: f64) -> (f64, f64) {
    let (mut mean, mut var) = (0.0, 1.0);
    for i in 0..timesteps.steps() {
        let (t, dt) = (timesteps.time(i), timesteps.time(i + 1) - timesteps.time(i));
        let (s0, s1) = if i + 1 == timesteps.steps() { (1.0, 0.0) } else { (s0, s1) };
        let ((vc, vk), (c, k)) = (data.affine(t), data.score(t));
        let g = 1.0 + s0 * dt * (vk - t * k);
        mean = g * mean + s0 * dt * (vc - t * c);
        var = g * g * var + s1 * s1 * 2.0 * t * dt.abs();
    }
    (mean, var)
}

/// Mean and unbiased variance.
fn moments(x: &[f64]) -> (f64, f64) {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    (mean, x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0))
}

/// Standard errors of mean and variance for `n` draws from a normal distribution of variance `var`.
fn standard_errors(var: f64, n: usize) -> (f64, f64) {
    ((var / n as f64).sqrt(), var * (2.0 / (n as f64 - 1.0)).sqrt())
}

const DRAWS: usize = 4096;

fn draw<B: Backend>(
    backend: &B,
    dtype: DType,
    data: &Gaussian,
    sampler: &dyn Sampler<B>,
    seed: u64,
) -> (f64, f64) {
    let mut noise = KeyedNoise::new(backend, dtype, &[seed, seed ^ 1]);
    let x = noise.initial(&[2, DRAWS / 2]).unwrap();
    moments(&sampler.sample(data, x, ONLY, &mut noise, &mut NoopObserver).unwrap().to_f64().unwrap())
}

proptest! {
    #![proptest_config(cases(16))]

    /// For all steps and scales, the moments are those of the discrete scheme, which are known exactly.
    #[test]
    fn sampled_moments_match_the_scheme(
        interpolant in any_interpolant(), mean in -3.0..3.0f64, std in 0.1..2.0f64,
        steps in 2..60usize, s0 in 0.8..1.0f64, s1 in 0.0..1.0f64, seed: u64,
    ) {
        let data = Gaussian { interpolant, mean, std };
        let timesteps = Timesteps::paper(steps).unwrap();
        let sampler = EulerMaruyama::new(timesteps, interpolant, s0, s1).unwrap();
        let (m, v) = draw(&Reference, DType::F64, &data, &sampler, seed);
        let (mean, var) = propagate(&data, timesteps, s0, s1);
        let (se_mean, se_var) = standard_errors(var, DRAWS);
        prop_assert!((m - mean).abs() <= 4.0 * se_mean, "mean {m}, of the scheme {mean} ± {se_mean}");
        prop_assert!((v - var).abs() <= 4.0 * se_var, "variance {v}, of the scheme {var} ± {se_var}");
    }

    /// With scales of 1 and steps enough that the scheme's own bias is below half a standard error (checked, not
    /// assumed), the samples have the mean and the variance of the data.
    #[test]
    fn sampled_moments_match_the_data(interpolant in any_interpolant(), mean in -3.0..3.0f64, std in 0.25..2.0f64, seed: u64) {
        let data = Gaussian { interpolant, mean, std };
        let (se_mean, se_var) = standard_errors(std * std, DRAWS);
        let uniform = Timesteps::uniform(600).unwrap();
        let (bias_mean, bias_var) = propagate(&data, uniform, 1.0, 1.0);
        prop_assert!((bias_mean - mean).abs() <= 0.5 * se_mean, "bias of the mean {}", bias_mean - mean);
        prop_assert!((bias_var - std * std).abs() <= 0.5 * se_var, "bias of the variance {}", bias_var - std * std);
        let stochastic = EulerMaruyama::new(uniform, interpolant, 1.0, 1.0).unwrap();
        let deterministic = Heun { timesteps: Timesteps::uniform(100).unwrap(), interpolant };
        for (m, v) in [
            draw(&Reference, DType::F64, &data, &stochastic, seed),
            draw(&Reference, DType::F64, &data, &deterministic, seed),
        ] {
            prop_assert!((m - mean).abs() <= 4.0 * se_mean, "mean {m}, of the data {mean} ± {se_mean}");
            prop_assert!((v - std * std).abs() <= 4.0 * se_var, "variance {v}, of the data {} ± {se_var}", std * std);
        }
    }

    /// The remaining bias shrinks like 1/n, so the scheme converges to the data's distribution.
    #[test]
    fn discretisation_bias_has_order_one(interpolant in any_interpolant(), mean in -3.0..3.0f64, std in 0.2..2.0f64) {
        let data = Gaussian { interpolant, mean, std };
        let error = |n: usize| {
            let (m, v) = propagate(&data, Timesteps::uniform(n).unwrap(), 1.0, 1.0);
            (m - mean).hypot(v - std * std)
        };
        let slope = (error(2000) / error(4000)).log2();
        prop_assert!((slope - 1.0).abs() < 0.1, "slope {slope}");
    }
}

/// Largest error over a few initial states of the logistic field, against `exact`.
fn logistic_error(solver: &dyn Sampler<Reference>, exact: impl Fn(f64) -> f64) -> f64 {
    let start = vec![0.1, 0.3, 0.5, 0.7, 0.9, 1.1];
    let expected: Vec<f64> = start.iter().map(|&x| exact(x)).collect();
    let x = Tensor::from_f64(&Reference, &[start.len(), 1], start, DType::F64).unwrap();
    let out = solver.sample(&Logistic, x, ONLY, &mut NoNoise, &mut NoopObserver).unwrap().to_f64().unwrap();
    assert_eq!(out.len(), expected.len());
    // NaN is the largest in this order.
    out.iter().zip(expected).map(|(a, b)| (a - b).abs()).max_by(f64::total_cmp).unwrap_or(0.0)
}

fn assert_order(what: &str, order: f64, errors: &[f64]) {
    for pair in errors.windows(2) {
        let slope = (pair[0] / pair[1]).log2();
        assert!((slope - order).abs() < 0.1, "{what}: slope {slope:.3} over a doubling, errors {errors:?}");
    }
}

#[test]
fn deterministic_solvers_have_their_order_of_convergence() {
    let errors = |solver: &dyn Fn(Timesteps) -> Solver| -> Vec<f64> {
        let timesteps = [32, 64, 128, 256].map(|n| Timesteps::uniform(n).unwrap());
        timesteps.iter().map(|&s| logistic_error(&solver(s), |x| Logistic::exact(x, 0.0))).collect()
    };
    assert_order(
        "Euler",
        1.0,
        &errors(&|timesteps| Solver::Euler(Euler { timesteps, interpolant: Interpolant::Linear })),
    );
    assert_order(
        "Heun",
        2.0,
        &errors(&|timesteps| Solver::Heun(Heun { timesteps, interpolant: Interpolant::Linear })),
    );
}

/// With the paper's timesteps the final step, 0.04 → 0, does not shrink: the solvers converge, with their order, to the
/// exact state at 0.04 followed by that step.
#[test]
fn the_papers_final_step_limits_convergence() {
    const LAST: f64 = 0.04;
    let euler = |x: f64| x - LAST * Logistic::slope(x, LAST);
    let heun = |x: f64| x - LAST / 2.0 * (Logistic::slope(x, LAST) + Logistic::slope(euler(x), 0.0));
    let timesteps = [32, 64, 128, 256].map(|n| Timesteps::paper(n + 1).unwrap());
    let interpolant = Interpolant::Linear;
    let limit = |x: f64, step: &dyn Fn(f64) -> f64| step(Logistic::exact(x, LAST));
    let errors =
        timesteps.map(|timesteps| logistic_error(&Euler { timesteps, interpolant }, |x| limit(x, &euler)));
    assert_order("Euler", 1.0, &errors);
    let errors =
        timesteps.map(|timesteps| logistic_error(&Heun { timesteps, interpolant }, |x| limit(x, &heun)));
    assert_order("Heun", 2.0, &errors);
}
