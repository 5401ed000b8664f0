//! Accuracy of the samplers: distributions known in closed form, and orders of convergence.
//!
//! Cases are drawn from fixed seeds, so that a statistical bound that holds once always holds.

use crate::common::cases;
use crate::common::sampling::{Gaussian, Logistic, NoNoise, any_interpolant};
use proptest::prelude::*;
use transdiff_core::diffusion::{
    AdamsBashforth, ArStep, Consistency, Euler, EulerMaruyama, ExponentialSde, Heun, Interpolant, KeyedNoise,
    NoiseSource, NoopObserver, RecordedNoise, Sampler, Solver, SolverState, Timesteps, VelocityField,
};
use transdiff_core::reference::Reference;
use transdiff_core::{Backend, DType, Tensor};

const ONLY: ArStep = ArStep::ONLY;

/// Exact mean and variance of an element after Euler–Maruyama: for Gaussian data every step is
/// x ← g x + d + e z with constants, so the mean goes to g·mean + d and the variance to g²·var + e².
fn propagate(data: &Gaussian, timesteps: &Timesteps, s0: f64, s1: f64) -> (f64, f64) {
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
        let sampler = EulerMaruyama::new(timesteps.clone(), interpolant, s0, s1).unwrap();
        let (m, v) = draw(&Reference, DType::F64, &data, &sampler, seed);
        let (mean, var) = propagate(&data, &timesteps, s0, s1);
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
        let (bias_mean, bias_var) = propagate(&data, &uniform, 1.0, 1.0);
        prop_assert!((bias_mean - mean).abs() <= 0.5 * se_mean, "bias of the mean {}", bias_mean - mean);
        prop_assert!((bias_var - std * std).abs() <= 0.5 * se_var, "bias of the variance {}", bias_var - std * std);
        let stochastic = EulerMaruyama::new(uniform, interpolant, 1.0, 1.0).unwrap();
        let deterministic = Heun::new(Timesteps::uniform(100).unwrap(), interpolant);
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
            let (m, v) = propagate(&data, &Timesteps::uniform(n).unwrap(), 1.0, 1.0);
            (m - mean).hypot(v - std * std)
        };
        let slope = (error(2000) / error(4000)).log2();
        prop_assert!((slope - 1.0).abs() < 0.1, "slope {slope}");
    }
}

/// Largest error over a few initial states of the logistic field.
fn logistic_error(solver: &dyn Sampler<Reference>) -> f64 {
    largest_error(solver, &Logistic, |x| Logistic::exact(x, 0.0))
}

/// Largest error over a few initial states of `field`, against `exact`.
fn largest_error(
    solver: &dyn Sampler<Reference>,
    field: &dyn VelocityField<Reference>,
    exact: impl Fn(f64) -> f64,
) -> f64 {
    let start = vec![0.1, 0.3, 0.5, 0.7, 0.9, 1.1];
    let expected: Vec<f64> = start.iter().map(|&x| exact(x)).collect();
    let x = Tensor::from_f64(&Reference, &[start.len(), 1], start, DType::F64).unwrap();
    let out = solver.sample(field, x, ONLY, &mut NoNoise, &mut NoopObserver).unwrap().to_f64().unwrap();
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
        timesteps.into_iter().map(|s| logistic_error(&solver(s))).collect()
    };
    assert_order(
        "Euler",
        1.0,
        &errors(&|timesteps| Solver::Euler(Euler::new(timesteps, Interpolant::Linear))),
    );
    assert_order("Heun", 2.0, &errors(&|timesteps| Solver::Heun(Heun::new(timesteps, Interpolant::Linear))));
}

/// On Gaussian data, whose velocities take x to mean + deviation · x.
#[test]
fn deterministic_solvers_have_their_order_on_gaussian_data() {
    for interpolant in [Interpolant::Linear, Interpolant::Cosine] {
        let field = Gaussian { interpolant, mean: 0.4, std: 0.6 };
        let errors = |solver: &dyn Fn(Timesteps) -> Solver, counts: [usize; 3]| {
            let solver = |n| solver(Timesteps::uniform(n).unwrap());
            counts.map(|n| largest_error(&solver(n), &field, |x| field.mean + field.std * x))
        };
        let euler = |timesteps| Euler::new(timesteps, interpolant);
        let counts = [256, 512, 1024];
        assert_order("Euler", 1.0, &errors(&|times| euler(times).into(), counts));
        let extrapolated = |times| euler(times).extrapolated(0.3).unwrap().into();
        assert_order("extrapolated Euler", 1.0, &errors(&extrapolated, counts));
        assert_order("Heun", 2.0, &errors(&|times| Heun::new(times, interpolant).into(), counts));
        for order in 2..=4 {
            let solver = |times| AdamsBashforth::new(times, interpolant, order).unwrap().into();
            // Of the start, which is Euler's.
            assert_order(&format!("Adams–Bashforth {order}"), 2.0, &errors(&solver, [2048, 4096, 8192]));
        }
    }
}

/// The first step is Euler's, of whose error, of order 2 in the step, that of all orders is at last. Higher orders have smaller
/// errors, and on times whose first steps are short, as short as that error asks for, they have their own order.
#[test]
fn adams_bashforth_converges_with_the_order_of_its_start() {
    let interpolant = Interpolant::Linear;
    let error = |order, timesteps| {
        let solver = AdamsBashforth::new(timesteps, interpolant, order).unwrap();
        logistic_error(&solver)
    };
    let errors = |order| [2048, 4096, 8192].map(|n| error(order, Timesteps::uniform(n).unwrap()));
    for order in 2..=4 {
        assert_order(&format!("Adams–Bashforth {order}"), 2.0, &errors(order));
    }
    for n in [16, 32, 64, 128] {
        let [euler, second, fourth] = [
            logistic_error(&Euler::new(Timesteps::uniform(n).unwrap(), interpolant)),
            error(2, Timesteps::uniform(n).unwrap()),
            error(4, Timesteps::uniform(n).unwrap()),
        ];
        assert!(second < euler / 3.0 && fourth < second, "{n} steps: {euler} {second} {fourth}");
    }
    // Steps that grow from one whose length is that of the others to the power of the order.
    let started = |n: usize, order: usize| {
        let h = 1.0 / n as f64;
        let mut steps = vec![h.powi(order as i32)];
        while steps[steps.len() - 1] < h {
            steps.push((1.3 * steps[steps.len() - 1]).min(h));
        }
        let start: f64 = steps.iter().sum();
        let mut times = vec![1.0];
        steps.iter().for_each(|step| times.push(times[times.len() - 1] - step));
        let even = ((1.0 - start) * n as f64).round() as usize;
        let left = times[times.len() - 1];
        times.extend((1..=even).map(|i| left * (even - i) as f64 / even as f64));
        Timesteps::listed(times).unwrap()
    };
    for order in 3..=4 {
        let errors = [64, 128, 256, 512].map(|n| error(order, started(n, order)));
        assert_order(&format!("Adams–Bashforth {order} from short steps"), order as f64, &errors);
    }
}

/// Exact mean and variance of the state after `steps` steps of `sampler` for a field that is affine in x: the state is affine in
/// the noise then, of which draw 0 is the initial one. Row 0 has none, row 1 + j a 1 in place of draw j.
fn exact_moments(sampler: &dyn Sampler<Reference>, field: &Gaussian, steps: usize) -> (f64, f64) {
    let unit = |j: usize| {
        let values = (0..steps + 2).map(|row| f64::from(u8::from(row == 1 + j))).collect();
        Tensor::from_f64(&Reference, &[steps + 2, 1], values, DType::F64).unwrap()
    };
    let mut state = SolverState::new(unit(0), ONLY).unwrap();
    let mut noise = RecordedNoise::new(unit(0), (1..=steps).map(unit));
    for i in 0..steps {
        sampler.step(i, &mut state, field, &mut noise).unwrap();
    }
    let out = state.x.to_f64().unwrap();
    (out[0], out[1..].iter().map(|x| (x - out[0]).powi(2)).sum())
}

/// For Gaussian data of standard deviation 1 and scales of 1, the error of the sampled standard deviation against that of the
/// continuous SDE, which has the data's marginals, with the final step from there. The numbers were computed independently, and
/// are met to their last digit.
#[test]
fn stochastic_solvers_have_their_error_of_the_standard_deviation() {
    let field = Gaussian { interpolant: Interpolant::Linear, mean: 0.4, std: 1.0 };
    // The posterior mean at 0.04 of x with the marginal's deviation √(0.96² + 0.04²).
    let exact = 0.96 / 0.96f64.hypot(0.04);
    let exponential =
        |timesteps, order| Solver::from(ExponentialSde::new(timesteps, order, 1.0, 1.0).unwrap());
    for (n, errors, digits) in [
        (10, [-0.054, -0.17, 0.099], [1e-3, 1e-2, 1e-3]),
        (25, [-0.024, -0.073, 0.016], [1e-3; 3]),
        (50, [-0.013, -0.038, 0.0035], [1e-3, 1e-3, 1e-4]),
        (100, [-0.007, -0.019, 0.0008], [1e-3, 1e-3, 1e-4]),
    ] {
        let timesteps = || Timesteps::paper(n).unwrap();
        let solvers = [
            EulerMaruyama::new(timesteps(), Interpolant::Linear, 1.0, 1.0).unwrap().into(),
            exponential(timesteps(), 1),
            exponential(timesteps(), 2),
        ];
        for ((solver, expected), digit) in solvers.iter().zip(errors).zip(digits) {
            let (mean, var) = exact_moments(solver, &field, n);
            let error = var.sqrt() - exact;
            assert!((error - expected).abs() <= 0.501 * digit, "{solver:?}: {error}, expected {expected}");
            assert!((mean - 0.4).abs() < 0.1, "{solver:?}: mean {mean}");
        }
    }
}

/// Mean and variance at `end` of the paper's SDE with scales s₀ and s₁, dx = s₀ (2 x − (2 − t) x̂₀)/t dt + s₁ √(2t) dW, from
/// N(0, 1) at 1, on the linear interpolant: their equations by the classical Runge–Kutta method in steps enough for 1e-12.
fn continuous_moments(data: &Gaussian, s0: f64, s1: f64, end: f64) -> (f64, f64) {
    const STEPS: usize = 4000;
    // x̂₀ = x − t v with v = c + k x; time falls, so that noise adds to the variance.
    let slopes = |t: f64, [mean, var]: [f64; 2]| {
        let (c, k) = data.affine(t);
        let a = s0 * (2.0 - (2.0 - t) * (1.0 - t * k)) / t;
        [a * mean + s0 * (2.0 - t) * c, 2.0 * a * var - 2.0 * t * s1 * s1]
    };
    let h = (end - 1.0) / STEPS as f64;
    let mut state = [0.0, 1.0];
    for i in 0..STEPS {
        let t = 1.0 + i as f64 * h;
        let along = |slope: [f64; 2], h: f64| [state[0] + h * slope[0], state[1] + h * slope[1]];
        let first = slopes(t, state);
        let second = slopes(t + h / 2.0, along(first, h / 2.0));
        let third = slopes(t + h / 2.0, along(second, h / 2.0));
        let fourth = slopes(t + h, along(third, h));
        for j in 0..2 {
            state[j] += h / 6.0 * (first[j] + 2.0 * second[j] + 2.0 * third[j] + fourth[j]);
        }
    }
    (state[0], state[1])
}

/// The bias of the exponential integrator against the continuous SDE with its scales falls with its order.
#[test]
fn exponential_sde_converges_with_its_order() {
    let data = [(0.4, 1.0), (-2.0, 0.3), (1.0, 0.7)];
    // With s₀ = ½, p = 1 and q = 0.
    let scales = [(1.0, 1.0), (0.87, 0.91), (0.5, 0.7)];
    for ((mean, std), (s0, s1)) in data.into_iter().flat_map(|data| scales.map(|scales| (data, scales))) {
        let field = Gaussian { interpolant: Interpolant::Linear, mean, std };
        // To 0.5, so that the last step, which is of order 1, is left out.
        let (exact_mean, exact_var) = continuous_moments(&field, s0, s1, 0.5);
        if (s0, s1) == (1.0, 1.0) {
            let (mean, var) = field.marginal(0.5);
            assert!((exact_mean - mean).abs() < 1e-11 && (exact_var - var).abs() < 1e-11);
        }
        for order in 1..=2 {
            let errors = [64, 128, 256, 512].map(|n| {
                let timesteps = Timesteps::uniform(2 * n).unwrap();
                let solver = ExponentialSde::new(timesteps, order, s0, s1).unwrap();
                let (mean, var) = exact_moments(&solver, &field, n);
                (mean - exact_mean).hypot(var - exact_var)
            });
            let what = format!("mean {mean}, deviation {std}, scales {s0} and {s1}, order {order}");
            assert_order(&what, order as f64, &errors);
        }
    }
}

proptest! {
    #![proptest_config(cases(32))]

    /// For data at a point, the state has the mean and the variance of the continuous SDE with its scales at every time, at
    /// any times; for scales of 1 these are those of x_t, (1 − t) m and t².
    #[test]
    fn exponential_sde_is_exact_for_data_at_a_point(
        mean in -3.0..3.0f64, order in 1..3usize, s0 in 0.0..1.5f64, s1 in 0.0..1.5f64, unit: bool,
        lengths in prop::collection::vec(0.05..1.0f64, 2..12),
    ) {
        let (s0, s1) = if unit { (1.0, 1.0) } else { (s0, s1) };
        let total: f64 = lengths.iter().sum();
        let left = |i: usize| lengths[i..].iter().sum::<f64>() / total;
        let times: Vec<f64> = [1.0].into_iter().chain((1..=lengths.len()).map(left)).collect();
        let last = times[times.len() - 2];
        let field = Gaussian { interpolant: Interpolant::Linear, mean, std: 0.0 };
        let at = |times: Vec<f64>, steps: usize| {
            let solver = ExponentialSde::new(Timesteps::listed(times).unwrap(), order, s0, s1).unwrap();
            exact_moments(&solver, &field, steps)
        };
        // Against formulas of mean and variance that are written out for the step from 1 to the last time.
        let (p, q) = (2.0 * s0, 4.0 * s0 - 2.0);
        let drift = if p == 1.0 { s0 * last * last.ln() } else { s0 * (last - last.powf(p)) / (1.0 - p) };
        let noise = match q {
            0.0 => -2.0 * (s1 * last).powi(2) * last.ln(),
            q => 2.0 * s1 * s1 * (last * last - last.powf(4.0 * s0)) / q,
        };
        let (exact_mean, exact_var) = (mean * (1.0 - last.powf(p) + drift), last.powf(2.0 * p) + noise);
        // All but the final step, against one step to the same time.
        let (m, v) = at(times.clone(), lengths.len() - 1);
        let (m1, v1) = at(vec![1.0, last, 0.0], 1);
        prop_assert!((m - m1).abs() <= 1e-12 * (1.0 + mean.abs()), "mean {m}, in one step {m1}");
        prop_assert!((v - v1).abs() <= 1e-12 * (1.0 + v1), "variance {v}, in one step {v1}");
        // Where a denominator is small the formulas lose digits.
        if (1.0 - p).abs() > 1e-3 {
            prop_assert!((m - exact_mean).abs() <= 1e-9 * (1.0 + mean.abs()), "mean {m}, exact {exact_mean}");
            prop_assert!((v - exact_var).abs() <= 1e-9, "variance {v}, exact {exact_var}");
        }
        if unit {
            prop_assert!((m - (1.0 - last) * mean).abs() <= 1e-12 * (1.0 + mean.abs()), "mean {m}");
            prop_assert!((v - last * last).abs() <= 1e-12, "variance {v}, noise level {last}");
        }
        // Then the data itself.
        let (m, v) = at(times, lengths.len());
        prop_assert!((m - mean).abs() <= 1e-12 * (1.0 + mean.abs()) && v <= 1e-24, "{m} {v}");
    }
}

/// κ extrapolates the predictions of data and noise from the third step on, from those of the step before as they were.
#[test]
fn extrapolated_euler_follows_its_formula() {
    const KAPPA: f64 = 0.35;
    for interpolant in [Interpolant::Linear, Interpolant::Cosine] {
        let field = Gaussian { interpolant, mean: 0.7, std: 0.6 };
        let times = [1.0, 0.8, 0.55, 0.3, 0.1, 0.0];
        let (mut x, mut earlier) = (1.3, None::<[f64; 2]>);
        for (i, pair) in times.windows(2).enumerate() {
            let [t, next] = [pair[0], pair[1]];
            // Posterior means of x₀ and ε, jointly normal with x.
            let (mean, var) = field.marginal(t);
            let data = field.mean + interpolant.alpha(t) * field.std.powi(2) * (x - mean) / var;
            let noise = interpolant.sigma(t) * (x - mean) / var;
            let [data_ahead, noise_ahead] = match earlier {
                Some([data_before, noise_before]) if i >= 2 => {
                    [data + KAPPA * (data - data_before), noise + KAPPA * (noise - noise_before)]
                }
                _ => [data, noise],
            };
            let predicted = interpolant.alpha(next) * data_ahead + interpolant.sigma(next) * noise_ahead;
            // The first two steps are Euler's, which are the same on the linear interpolant.
            let (c, k) = field.affine(t);
            x = if i < 2 { x + (c + k * x) * (next - t) } else { predicted };
            if i < 2 && interpolant == Interpolant::Linear {
                assert!((x - predicted).abs() < 1e-12);
            }
            earlier = Some([data, noise]);
        }
        let solver = Euler::new(Timesteps::listed(times).unwrap(), interpolant).extrapolated(KAPPA).unwrap();
        let start = Tensor::from_f64(&Reference, &[1, 1], vec![1.3], DType::F64).unwrap();
        let out = solver.sample(&field, start, ONLY, &mut NoNoise, &mut NoopObserver).unwrap();
        let out = out.to_f64().unwrap()[0];
        assert!((out - x).abs() < 1e-12, "{interpolant:?}: {out}, expected {x}");
    }
}

/// Numbers computed independently.
#[test]
fn warped_times_follow_their_formula() {
    let times = |steps, warp| Timesteps::warped(steps, warp).unwrap().times().collect::<Vec<_>>();
    let close =
        |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12);
    let expected = [1.0, 0.8655029606318, 0.6599149254794237, 0.39545419221713185, 0.0];
    assert!(close(&times(4, [1.17, 0.8, 1.1]), &expected), "{:?}", times(4, [1.17, 0.8, 1.1]));
    let uniform: Vec<f64> = Timesteps::uniform(7).unwrap().times().collect();
    assert!(close(&times(7, [1.0; 3]), &uniform));
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
    let errors = timesteps
        .clone()
        .map(|timesteps| largest_error(&Euler::new(timesteps, interpolant), &Logistic, |x| limit(x, &euler)));
    assert_order("Euler", 1.0, &errors);
    let errors = timesteps
        .map(|timesteps| largest_error(&Heun::new(timesteps, interpolant), &Logistic, |x| limit(x, &heun)));
    assert_order("Heun", 2.0, &errors);
}

/// Field F of the consistency function of Gaussian data, f(x, t) = x − t F(x, t) (linear interpolant): trajectories keep their place
/// among the standard deviations, so that f = mean + std · (x − μ_t) / σ_t.
struct ConsistencyOf(Gaussian);

impl<B: Backend> VelocityField<B> for ConsistencyOf {
    fn velocity(&self, x: &Tensor<B>, t: f64) -> transdiff_core::Result<Tensor<B>> {
        let (mean, var) = self.0.marginal(t);
        let k = self.0.std / var.sqrt();
        x.affine((1.0 - k) / t, (k * mean - self.0.mean) / t)
    }
}

#[test]
fn consistency_sampling_is_exact_in_any_number_of_steps() {
    let data = Gaussian { interpolant: Interpolant::Linear, mean: 0.4, std: 0.7 };
    for steps in [1, 2, 5] {
        let sampler = Consistency::new(Timesteps::uniform(steps).unwrap(), Interpolant::Linear);
        let mut noise = KeyedNoise::new(&Reference, DType::F64, &[3, 4]);
        let x = noise.initial(&[2, 4 * DRAWS]).unwrap();
        let made = sampler.sample(&ConsistencyOf(data), x, ONLY, &mut noise, &mut NoopObserver).unwrap();
        let (mean, var) = moments(&made.to_f64().unwrap());
        let (mean_error, var_error) = standard_errors(0.49, 8 * DRAWS);
        assert!((mean - 0.4).abs() < 4.0 * mean_error, "{steps} steps: mean {mean}");
        assert!((var - 0.49).abs() < 4.0 * var_error, "{steps} steps: variance {var}");
    }
    // The exact consistency function of one step, from given noise.
    let sampler = Consistency::new(Timesteps::uniform(1).unwrap(), Interpolant::Linear);
    let x = Tensor::from_f64(&Reference, &[1, 3], vec![-1.0, 0.0, 2.0], DType::F64).unwrap();
    let made = sampler.sample(&ConsistencyOf(data), x, ONLY, &mut NoNoise, &mut NoopObserver).unwrap();
    for (got, x) in made.to_f64().unwrap().into_iter().zip([-1.0, 0.0, 2.0]) {
        assert!((got - (0.4 + 0.7 * x)).abs() < 1e-12);
    }
}
