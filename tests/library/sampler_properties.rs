//! Properties of the samplers for any field, seed and setting.
//!
//! Their accuracy is measured in `sampler_accuracy.rs`.

use std::collections::HashSet;
use std::ops::ControlFlow;

use crate::common::cases;
use crate::common::sampling::{Field, Gaussian, Network, NoNoise, any_interpolant};
use proptest::prelude::*;
use transdiff_core::diffusion::{
    AdamsBashforth, ArStep, ConditionalField, Consistency, Euler, EulerMaruyama, ExponentialSde, Guidance,
    GuidedField, Heun, Interpolant, KeyedNoise, NoiseSource, NoopObserver, Preset, Progress, RecordedNoise,
    Sampler, Sampling, SamplingSettings, Schedule, Solver, SolverKind, Timesteps, VelocityField, Work,
};
use transdiff_core::reference::Reference;
use transdiff_core::rng::{Purpose, StreamKey, philox4x32};
use transdiff_core::{Backend, DType, Error, Result, Tensor};
use transdiff_cpu::Cpu;

const ONLY: ArStep = ArStep::ONLY;

/// Any times of `steps` steps.
fn any_timesteps() -> impl Strategy<Value = Timesteps> {
    let listed = prop::collection::vec(0.05..1.0f64, 1..12).prop_map(|lengths| {
        let total: f64 = lengths.iter().sum();
        let left = |i: usize| lengths[i..].iter().sum::<f64>() / total;
        Timesteps::listed([1.0].into_iter().chain((1..=lengths.len()).map(left)).collect::<Vec<_>>()).unwrap()
    });
    let exponents = prop::array::uniform3(0.5..2.0f64);
    prop_oneof![
        (1..12usize).prop_map(|steps| Timesteps::paper(steps).unwrap()),
        (1..12usize).prop_map(|steps| Timesteps::uniform(steps).unwrap()),
        (1..12usize, exponents).prop_map(|(steps, warp)| Timesteps::warped(steps, warp).unwrap()),
        listed,
    ]
}

/// A solver of each kind.
fn solvers(timesteps: &Timesteps, interpolant: Interpolant, order: usize, [s0, s1]: [f64; 2]) -> Vec<Solver> {
    let timesteps = || timesteps.clone();
    let solvers = vec![
        EulerMaruyama::new(timesteps(), interpolant, s0, s1).unwrap().into(),
        ExponentialSde::new(timesteps(), order.min(2), s0, s1).unwrap().into(),
        Euler::new(timesteps(), interpolant).into(),
        Euler::new(timesteps(), interpolant).extrapolated(0.4).unwrap().into(),
        Heun::new(timesteps(), interpolant).into(),
        AdamsBashforth::new(timesteps(), interpolant, order.max(2)).unwrap().into(),
        Consistency::new(timesteps(), interpolant).into(),
    ];
    let kinds: HashSet<SolverKind> = solvers.iter().map(Solver::kind).collect();
    assert_eq!(kinds.len(), SolverKind::ALL.len());
    solvers
}

fn any_solver() -> impl Strategy<Value = Solver> {
    let scales = [0.5..1.2f64, 0.1..1.2f64];
    (any_timesteps(), any_interpolant(), 1..5usize, scales, any::<prop::sample::Index>()).prop_map(
        |(timesteps, interpolant, order, scales, kind)| {
            let mut solvers = solvers(&timesteps, interpolant, order, scales);
            solvers.swap_remove(kind.index(solvers.len()))
        },
    )
}

const TOKENS: usize = 5;
const CHANNELS: usize = 3;

fn network<B: Backend>(backend: &B, seed: u64, dtype: DType) -> Network<B> {
    let values = StreamKey::new(seed, Purpose::Initialisation, 0, 0).normals(CHANNELS * CHANNELS);
    let weight = Tensor::from_f32(backend, &[CHANNELS, CHANNELS], values, dtype).unwrap();
    Network { weight, condition: 0.3 }
}

/// Images from the initial noise of `seeds`, in f32.
fn generate<B: Backend>(
    backend: &B,
    solver: &Solver,
    field: &dyn VelocityField<B>,
    seeds: &[u64],
) -> Result<Vec<f32>> {
    let mut noise = KeyedNoise::new(backend, DType::F32, seeds);
    let x = noise.initial(&[seeds.len(), TOKENS, CHANNELS])?;
    solver.sample(field, x, ONLY, &mut noise, &mut NoopObserver)?.to_f32()
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn guidance_one_equals_no_guidance(
        solver in any_solver(), low in 0.0..1.0f64, share in 0.0..1.0f64, seed: u64,
    ) {
        struct OneBranch(Network<Reference>);
        impl ConditionalField<Reference> for OneBranch {
            fn conditional(&self, x: &Tensor<Reference>, t: f64) -> Result<Tensor<Reference>> {
                self.0.conditional(x, t)
            }
            fn unconditional(&self, _: &Tensor<Reference>, t: f64) -> Result<Tensor<Reference>> {
                panic!("the unconditional branch was evaluated at t = {t}")
            }
        }
        let field = OneBranch(network(&Reference, seed, DType::F32));
        let guidance = Guidance::within(1.0, low, low + (1.0 - low) * share).unwrap();
        let guided = generate(&Reference, &solver, &GuidedField::new(&field, guidance), &[seed, 7]).unwrap();
        let bare = Field(|x: &Tensor<Reference>, t| field.conditional(x, t));
        prop_assert_eq!(guided, generate(&Reference, &solver, &bare, &[seed, 7]).unwrap());
    }

    #[test]
    fn drift_is_affine_in_the_guidance_weight(interpolant in any_interpolant(), t in 0.0..=1.0f64, w in 1.0..10.0f64, seed: u64) {
        let field = network(&Reference, seed, DType::F64);
        let x = KeyedNoise::new(&Reference, DType::F64, &[seed]).initial(&[1, TOKENS, CHANNELS]).unwrap();
        let drift = |v: Tensor<Reference>| interpolant.drift(t).apply(&v, &x).unwrap().to_f64().unwrap();
        let guided = GuidedField::new(&field, Guidance::new(w).unwrap());
        let (c, u) = (drift(field.conditional(&x, t).unwrap()), drift(field.unconditional(&x, t).unwrap()));
        for ((d, c), u) in drift(guided.velocity(&x, t).unwrap()).into_iter().zip(c).zip(u) {
            let expected = u + w * (c - u);
            prop_assert!((d - expected).abs() <= 1e-12 * (1.0 + w * (c.abs() + u.abs())), "{d} {expected}");
        }
    }

    #[test]
    fn zero_noise_scale_draws_no_noise(
        steps in 1..20usize, interpolant in any_interpolant(), s0 in 0.5..1.2f64, seed: u64,
    ) {
        let timesteps = Timesteps::paper(steps).unwrap();
        let field = network(&Reference, seed, DType::F32);
        let field = GuidedField::new(&field, Guidance::NONE);
        // The noise of consistency has no scale.
        let with_scales = |solver: &Solver| solver.kind() != SolverKind::Consistency;
        for solver in solvers(&timesteps, interpolant, 2, [s0, 0.0]).into_iter().filter(with_scales) {
            let x = KeyedNoise::new(&Reference, DType::F32, &[seed]).initial(&[1, TOKENS, CHANNELS]).unwrap();
            let silent = solver.sample(&field, x.clone(), ONLY, &mut NoNoise, &mut NoopObserver).unwrap();
            // Nor does the stream matter.
            let mut other = KeyedNoise::new(&Reference, DType::F32, &[!seed]);
            let noisy = solver.sample(&field, x, ONLY, &mut other, &mut NoopObserver).unwrap();
            prop_assert_eq!(silent.to_f32().unwrap(), noisy.to_f32().unwrap());
        }
    }

    #[test]
    fn images_are_batch_and_order_invariant(
        solver in any_solver(), seeds in prop::collection::vec(any::<u64>(), 1..6), turn in 0..6usize, w in 1.0..3.0f64,
    ) {
        check_batch_invariance(&Reference, &solver, &seeds, turn, w)?;
        check_batch_invariance(&Cpu::new(Some(2)).unwrap(), &solver, &seeds, turn, w)?;
    }

    #[test]
    fn cancelled_runs_leave_no_state(solver in any_solver(), at in 1..12usize, seed: u64) {
        let field = network(&Reference, seed, DType::F32);
        let field = GuidedField::new(&field, Guidance::new(1.3).unwrap());
        let mut noise = KeyedNoise::new(&Reference, DType::F32, &[seed]);
        let x = noise.initial(&[1, TOKENS, CHANNELS]).unwrap();
        let uninterrupted = generate(&Reference, &solver, &field, &[seed]).unwrap();
        let steps = solver.timesteps().steps();
        let mut seen = Vec::new();
        let mut stop = |p: &Progress<'_, Reference>| {
            assert_eq!(p.step.total, steps);
            seen.push((p.step.done, p.step.t));
            if p.step.done == at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let result = solver.sample(&field, x.clone(), ONLY, &mut noise, &mut stop);
        prop_assert_eq!(matches!(result, Err(Error::Cancelled)), at <= steps);
        let expected: Vec<_> = (0..at.min(steps)).map(|i| (i + 1, solver.timesteps().time(i))).collect();
        prop_assert_eq!(seen, expected);
        // The same sampler, field and noise source again.
        let again = solver.sample(&field, x, ONLY, &mut noise, &mut NoopObserver).unwrap();
        prop_assert_eq!(again.to_f32().unwrap(), uninterrupted);
    }

    #[test]
    fn timesteps_fall_strictly_to_zero(steps in 1..3000usize) {
        for (timesteps, last) in [(Timesteps::paper(steps), 0.04), (Timesteps::uniform(steps), 1.0 - (steps - 1) as f64 / steps as f64)] {
            let times: Vec<f64> = timesteps.unwrap().times().collect();
            prop_assert_eq!(times.len(), steps + 1);
            prop_assert!(times.is_sorted_by(|a, b| a > b));
            prop_assert_eq!((times[0], times[steps]), (1.0, 0.0));
            if steps > 1 {
                prop_assert_eq!(times[steps - 1], last);
            }
            let spacing = (1.0 - last) / (steps.max(2) - 1) as f64;
            prop_assert!(times[..steps].windows(2).all(|w| (w[0] - w[1] - spacing).abs() < 1e-15));
        }
    }

    /// Philox can be inverted, so different counters give different blocks; purpose, index, step and block are the four words
    /// of the counter, so the streams of a seed share no block.
    #[test]
    fn philox_is_injective(counter: [u32; 4], key: [u32; 2]) {
        prop_assert_eq!(philox_inverse(philox4x32(counter, key), key), counter);
    }

    /// For Gaussian data the score from the exact velocity is −(x − μ_t)/σ_t².
    #[test]
    fn score_follows_from_the_velocity(interpolant in any_interpolant(), mean in -3.0..3.0f64, std in 0.05..3.0f64, t in 0.01..=1.0f64) {
        let data = Gaussian { interpolant, mean, std };
        let ((vc, vk), (c, k)) = (data.affine(t), data.score(t));
        let score = interpolant.score(t);
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-9 * (1.0 + b.abs());
        prop_assert!(close(score.v * vc, c) && close(score.v * vk + score.x, k));
    }

    /// For Gaussian data the preview is the posterior mean E[x₀ | x] = m + α s² (x − μ_t)/σ_t².
    #[test]
    fn previews_are_posterior_means(interpolant in any_interpolant(), mean in -3.0..3.0f64, std in 0.05..3.0f64, seed: u64) {
        let data = Gaussian { interpolant, mean, std };
        let timesteps = Timesteps::paper(6).unwrap();
        let mut noise = KeyedNoise::new(&Reference, DType::F64, &[seed]);
        let mut x = noise.initial(&[1, 4]).unwrap();
        let start = x.to_f64().unwrap();
        let mut previews = Vec::new();
        let mut observer = |p: &Progress<'_, Reference>| {
            previews.push((p.step.t, p.preview().unwrap().to_f64().unwrap()));
            ControlFlow::Continue(())
        };
        x = Euler::new(timesteps, interpolant).sample(&data, x, ONLY, &mut noise, &mut observer).unwrap();
        // At t = 1 only the mean is known; the last Euler step of the linear interpolant ends at the preview.
        prop_assert!(previews[0].1.iter().all(|p| (p - mean).abs() < 1e-12 * (1.0 + start[0].abs() + mean.abs())));
        if interpolant == Interpolant::Linear {
            prop_assert!(previews[5].1.iter().zip(x.to_f64().unwrap()).all(|(a, b)| (a - b).abs() < 1e-12));
        }
        for (t, x) in previews.iter().map(|p| p.0).zip([0.5, -1.0, 2.0, 0.1, 3.0, 0.0]) {
            let ((vc, vk), (mu, var)) = (data.affine(t), data.marginal(t));
            let clean = interpolant.denoised(t);
            let posterior = mean + interpolant.alpha(t) * std * std * (x - mu) / var;
            prop_assert!((clean.v * (vc + vk * x) + clean.x * x - posterior).abs() < 1e-10);
        }
    }
}

fn check_batch_invariance<B: Backend>(
    backend: &B,
    solver: &Solver,
    seeds: &[u64],
    turn: usize,
    w: f64,
) -> Result<(), TestCaseError> {
    let field = network(backend, 11, DType::F32);
    let field = GuidedField::new(&field, Guidance::new(w).unwrap());
    let whole = generate(backend, solver, &field, seeds).unwrap();
    let mut order: Vec<usize> = (0..seeds.len()).rev().collect();
    order.rotate_left(turn % seeds.len());
    let reordered: Vec<u64> = order.iter().map(|&i| seeds[i]).collect();
    let shuffled = generate(backend, solver, &field, &reordered).unwrap();
    let size = TOKENS * CHANNELS;
    for (place, &i) in order.iter().enumerate() {
        let alone = generate(backend, solver, &field, &seeds[i..=i]).unwrap();
        prop_assert_eq!(&whole[i * size..][..size], &alone[..]);
        prop_assert_eq!(&shuffled[place * size..][..size], &alone[..]);
    }
    Ok(())
}

/// Inverse of Philox4x32-10.
fn philox_inverse(mut counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    // Newton's iteration doubles the correct bits of an inverse modulo 2³²; a·a = 1 modulo 8 for odd a.
    let inverse = |a: u32| (0..4).fold(a, |x, _| x.wrapping_mul(2u32.wrapping_sub(a.wrapping_mul(x))));
    let multiplier: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    for round in (0..10u32).rev() {
        let k0 = key[0].wrapping_add(0x9E37_79B9u32.wrapping_mul(round));
        let k1 = key[1].wrapping_add(0xBB67_AE85u32.wrapping_mul(round));
        let c0 = counter[3].wrapping_mul(inverse(multiplier[0]));
        let c2 = counter[1].wrapping_mul(inverse(multiplier[1]));
        let high = |m: u32, c: u32| ((u64::from(m) * u64::from(c)) >> 32) as u32;
        let c1 = counter[0] ^ high(multiplier[1], c2) ^ k0;
        let c3 = counter[2] ^ high(multiplier[0], c0) ^ k1;
        counter = [c0, c1, c2, c3];
    }
    counter
}

/// No block of words occurs twice among neighbouring keys and seeds.
#[test]
fn streams_of_different_keys_share_no_block() {
    let mut blocks = HashSet::new();
    for seed in [0, 1, 1 << 32, u64::MAX] {
        for purpose in
            [Purpose::InitialNoise, Purpose::InjectedNoise, Purpose::TrainingNoise, Purpose::Dropout]
        {
            for (index, step) in (0..8).flat_map(|i| (0..16).map(move |s| (i, s))) {
                let key = StreamKey::new(seed, purpose, index, step);
                assert!((0..8).all(|b| blocks.insert(key.block(b))), "{key:?}");
            }
        }
    }
    assert_eq!(blocks.len(), 4 * 4 * 8 * 16 * 8);
}

#[test]
fn ar_steps_share_only_their_initial_noise() {
    let mut noise = KeyedNoise::new(&Reference, DType::F32, &[3, 4]);
    let shape = [2, 6];
    let start = noise.initial(&shape).unwrap().to_f32().unwrap();
    assert_eq!(start, noise.initial(&shape).unwrap().to_f32().unwrap());
    let mut rows = HashSet::new();
    let mut insert = |values: Vec<f32>| {
        values.chunks(6).all(|row| rows.insert(row.iter().map(|x| x.to_bits()).collect::<Vec<_>>()))
    };
    assert!(insert(start));
    for (index, step) in (0..4).flat_map(|i| (0..10).map(move |s| (i, s))) {
        let draw = noise.injected(ArStep { index, count: 4, given: 0 }, step, &shape).unwrap();
        assert!(insert(draw.to_f32().unwrap()), "ar_step {index}, step {step} repeats a draw");
    }
}

/// Asserts that `result` is [`Error::Argument`] for `name`.
fn refused<T>(name: &str, result: Result<T>) {
    match result.map(|_| ()) {
        Err(Error::Argument { argument, .. }) => assert_eq!(argument, name),
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn invalid_arguments_are_refused_by_name() {
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.999_999, 0.0, -1.3] {
        refused("guidance", Guidance::new(bad));
    }
    for (low, high, name) in [
        (0.0, 1.1, "guidance_high"),
        (0.0, f64::NAN, "guidance_high"),
        (0.0, -0.1, "guidance_high"),
        (-0.1, 1.0, "guidance_low"),
        (f64::NAN, 1.0, "guidance_low"),
        (0.7, 0.6, "guidance_low"),
    ] {
        refused(name, Guidance::within(1.5, low, high));
    }
    for steps in [0, 1 << 32, usize::MAX] {
        refused("steps", Timesteps::paper(steps));
        refused("steps", Timesteps::uniform(steps));
        refused("steps", SamplingSettings::from(Preset::BASE).with_steps(steps).build(1));
    }
    for last in [0.0, -0.04, 1.0, 2.0, f64::NAN, f64::INFINITY] {
        refused("last", Timesteps::with_final_step(10, last));
    }
    let timesteps = Timesteps::paper(4).unwrap();
    for bad in [-1e-9, -1.0, f64::NAN, f64::INFINITY] {
        let timesteps = || timesteps.clone();
        refused("drift_scale", EulerMaruyama::new(timesteps(), Interpolant::Linear, bad, 1.0));
        refused("noise_scale", EulerMaruyama::new(timesteps(), Interpolant::Linear, 1.0, bad));
        refused("drift_scale", ExponentialSde::new(timesteps(), 2, bad, 1.0));
        refused("noise_scale", ExponentialSde::new(timesteps(), 2, 1.0, bad));
        for bad in [bad, 1.0] {
            refused("extrapolation", Euler::new(timesteps(), Interpolant::Linear).extrapolated(bad));
        }
    }
    for order in [0, 3, usize::MAX] {
        refused("order", ExponentialSde::new(timesteps.clone(), order, 1.0, 1.0));
    }
    for order in [0, 1, 5, usize::MAX] {
        refused("order", AdamsBashforth::new(timesteps.clone(), Interpolant::Linear, order));
    }
    for times in [
        &[][..],
        &[1.0],
        &[1.0, 0.5],
        &[0.9, 0.0],
        &[1.0, 0.5, 0.5, 0.0],
        &[1.0, f64::NAN, 0.0],
        &[1.0, 0.2, 0.3, 0.0],
    ] {
        refused("times", Timesteps::listed(times));
    }
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300, 1e300] {
        refused("warp", Timesteps::warped(8, [1.0, bad, 1.0]));
    }
    for steps in [0, 1 << 32, usize::MAX] {
        refused("steps", Timesteps::warped(steps, [1.0; 3]));
    }
    // The allowed extremes.
    assert!(Guidance::within(1.0, 0.0, 0.0).is_ok() && Guidance::within(f64::MAX, 1.0, 1.0).is_ok());
    let most = Timesteps::paper(u32::MAX as usize).unwrap();
    assert!(
        [0, 1, 1 << 20, most.steps() - 2, most.steps() - 1].iter().all(|&i| most.time(i) > most.time(i + 1))
    );
}

#[test]
fn guidance_intervals_include_their_ends() {
    let guidance = Guidance::within(1.5, 0.21, 0.69).unwrap();
    let active = [0.0, 0.2, 0.21, 0.5, 0.69, 0.7, 1.0].map(|t| guidance.is_active(t));
    assert_eq!(active, [false, false, true, true, true, false, false]);
    assert!([0.0, 0.5, 1.0].iter().all(|&t| !Guidance::NONE.is_active(t)));
}

/// The sampler of a preset in `steps` steps.
fn solver(preset: Preset, steps: usize) -> Solver {
    SamplingSettings::from(preset).with_steps(steps).build(1).unwrap().solvers.remove(0)
}

#[test]
fn failed_runs_return_typed_errors() {
    let sampler = solver(Preset::LARGE, 3);
    let start = || Tensor::zeros(&Reference, &[2, 3], DType::F32).unwrap();
    let still = Field(|x: &Tensor<Reference>, _| x.affine(0.0, 0.0));
    let mut noise = KeyedNoise::new(&Reference, DType::F32, &[1, 2]);

    let wrong_shape = Field(|x: &Tensor<Reference>, _| x.narrow(0, 0, 1));
    let result = sampler.sample(&wrong_shape, start(), ONLY, &mut noise, &mut NoopObserver);
    assert!(matches!(result, Err(Error::Shape { .. })), "a velocity that merely broadcasts: {result:?}");

    let pole = Field(|x: &Tensor<Reference>, t| x.affine(0.0, if t < 0.1 { f64::NAN } else { 1.0 }));
    let result = sampler.sample(&pole, start(), ONLY, &mut noise, &mut NoopObserver);
    assert!(matches!(result, Err(Error::NonFinite { stage: "sampler" })), "{result:?}");

    let whole = Tensor::zeros(&Reference, &[2, 3], DType::I32).unwrap();
    let result = sampler.sample(&still, whole, ONLY, &mut noise, &mut NoopObserver);
    assert!(matches!(result, Err(Error::DType { .. })), "{result:?}");

    let one = noise.injected(ONLY, 0, &[2, 3]).unwrap();
    let mut short = RecordedNoise::new(start(), [one]);
    refused("noise", sampler.sample(&still, start(), ONLY, &mut short, &mut NoopObserver));
    let mut wrong = RecordedNoise::new(start(), [start().narrow(0, 0, 1).unwrap()]);
    let result = sampler.sample(&still, start(), ONLY, &mut wrong, &mut NoopObserver);
    assert!(matches!(result, Err(Error::Shape { .. })), "{result:?}");

    let result = KeyedNoise::new(&Reference, DType::F32, &[1]).initial(&[2, 3]);
    assert!(matches!(result, Err(Error::Shape { .. })), "{result:?}");
    for (index, count, given) in [(1, 1, 0), (0, 2, 1)] {
        let none = ArStep { index, count, given };
        refused("ar_step", sampler.sample(&still, start(), none, &mut noise, &mut NoopObserver));
    }
}

/// A model may compute in bf16, and recorded noise may be f64: the state keeps its own type.
#[test]
fn the_state_keeps_its_type() {
    let sampler = solver(Preset::LARGE, 4);
    let x = Tensor::full(&Reference, &[1, 2], 0.7, DType::F32).unwrap();
    let run = |velocity: DType, noise: DType| {
        // 0.5 is exact in every type, so the results must be equal.
        let field = Field(|x: &Tensor<Reference>, _| x.affine(0.0, 0.5)?.cast(velocity));
        let mut noise =
            RecordedNoise::new(x.clone(), vec![Tensor::full(&Reference, &[1, 2], 0.25, noise).unwrap(); 3]);
        let out = sampler.sample(&field, x.clone(), ONLY, &mut noise, &mut NoopObserver).unwrap();
        assert_eq!(out.dtype(), DType::F32);
        out.to_f32().unwrap()
    };
    assert_eq!(run(DType::BF16, DType::F64), run(DType::F32, DType::F32));
}

#[test]
fn empty_batches_are_allowed() {
    let mut noise = KeyedNoise::new(&Reference, DType::F32, &[]);
    let x = noise.initial(&[0, 4]).unwrap();
    let field = Gaussian { interpolant: Interpolant::Linear, mean: 0.0, std: 1.0 };
    let out = solver(Preset::BASE, 3).sample(&field, x, ONLY, &mut noise, &mut NoopObserver).unwrap();
    assert_eq!(out.shape(), [0, 4]);
}

#[test]
fn work_counts_evaluations_and_network_passes() {
    let settings = |solver, schedule| SamplingSettings {
        schedule,
        guidance_interval: (0.3, 1.0),
        ..SamplingSettings::from(Preset::BASE).with_solver(solver)
    };
    // Uniform times of four steps: 1, ¾, ½ and ¼, the first three of which are guided; Heun evaluates all but the first and the
    // last twice, and at 0.
    for (solver, evaluations, passes) in
        [(SolverKind::Euler, 4, 7), (SolverKind::AdamsBashforth, 4, 7), (SolverKind::Heun, 8, 13)]
    {
        let sampling = settings(solver, Schedule::Steps(vec![4])).build(1).unwrap();
        assert_eq!(sampling.work(1, 0).unwrap(), Work { evaluations, passes });
    }
    let times =
        settings(SolverKind::ExponentialSde, Schedule::Times(vec![1.0, 0.3, 0.2, 0.0])).build(4).unwrap();
    assert_eq!(times.work(4, 1).unwrap(), Work { evaluations: 9, passes: 15 });
    let each = settings(SolverKind::Euler, Schedule::Steps(vec![1, 1, 2, 4])).build(4).unwrap();
    assert_eq!(each.work(4, 0).unwrap(), Work { evaluations: 8, passes: 15 });
    assert_eq!(each.work(4, 2).unwrap(), Work { evaluations: 6, passes: 11 });
    refused("solvers", each.work(3, 0));
}

/// Table of Appendix F of the paper.
#[test]
fn presets_match_the_paper() {
    for (preset, guidance, s0, s1) in [
        (Preset::BASE, 1.30, 0.87, 0.91),
        (Preset::LARGE, 1.30, 0.89, 0.95),
        (Preset::HUGE, 1.23, 0.87, 0.93),
        (Preset::BASE_MRAR, 1.30, 0.87, 0.91),
        (Preset::LARGE_MRAR, 1.30, 0.925, 0.95),
        (Preset::HUGE_MRAR, 1.28, 0.87, 0.91),
        (Preset::LARGE_512, 1.30, 0.87, 0.87),
    ] {
        let Sampling { solvers, guidance: guidances } = SamplingSettings::from(preset).build(1).unwrap();
        let [Solver::EulerMaruyama(sampler)] = &solvers[..] else { panic!("{solvers:?}") };
        assert_eq!(solvers[0].timesteps(), &Timesteps::paper(100).unwrap());
        assert_eq!((sampler.drift_scale(), sampler.noise_scale()), (s0, s1));
        assert_eq!(guidances, [Guidance::new(guidance).unwrap()]);
    }
}
