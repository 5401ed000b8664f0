//! Graph capture of sampling steps, on the reference implementation with graph capture added.

mod capturing_backend;

use std::ops::ControlFlow;

use crate::common::tiny::{self, bits};
use capturing_backend::CapturingBackend;
use transdiff_core::diffusion::Sampling;
use transdiff_core::diffusion::{
    AdamsBashforth, Consistency, Euler, EulerMaruyama, ExponentialSde, Guidance, Heun, Interpolant,
    KeyedNoise, NoopObserver, Progress, SolverKind, Timesteps,
};
use transdiff_core::models::transdiff::{Session, TransDiffConfig};
use transdiff_core::reference::Reference;
use transdiff_core::{Backend, CancellationToken, DType, Error};

const STEPS: usize = 4;

fn configs() -> [TransDiffConfig; 2] {
    [tiny::one_step(), tiny::mrar()]
}

/// The bits of every latent of a generation.
fn generate<B: Backend>(
    backend: &B,
    config: &TransDiffConfig,
    dtype: DType,
    sampling: &Sampling,
) -> Vec<Vec<u64>> {
    let distilled = sampling.solvers[0].kind() == SolverKind::Consistency;
    let model = tiny::model(backend, &TransDiffConfig { distilled, ..config.clone() }, dtype);
    let mut noise = KeyedNoise::new(backend, DType::F32, &[3, 4]);
    let made = Session::new(&model).generate(&[0, 2], &[], sampling, &mut noise, &mut NoopObserver).unwrap();
    made.references.iter().chain([&made.codes]).map(bits).collect()
}

/// Heun keeps a velocity while it evaluates the next one; guidance within an interval alternates between conditional and
/// guided evaluations; in bf16, the graph includes casts of the inputs.
#[test]
fn graph_launches_are_bitwise_identical_to_eager_evaluation() {
    let (timesteps, interpolant) = (Timesteps::uniform(STEPS).unwrap(), Interpolant::Linear);
    let euler_maruyama = EulerMaruyama::new(timesteps.clone(), interpolant, 0.9, 0.95).unwrap();
    let heun = Heun::new(timesteps.clone(), interpolant);
    let exponential = ExponentialSde::new(timesteps.clone(), 2, 0.9, 0.95).unwrap();
    let adams_bashforth = AdamsBashforth::new(timesteps.clone(), interpolant, 4).unwrap();
    let extrapolated = Euler::new(timesteps.clone(), interpolant).extrapolated(0.3).unwrap();
    let consistency = Consistency::new(timesteps, interpolant);
    // Heun's times are 1, ¾, ¾, ½, ½, ¼, ¼ and 0.
    let half = Guidance::within(1.4, 0.5, 1.0).unwrap();
    let cases = [
        (Sampling::new(euler_maruyama.clone(), Guidance::NONE), 1, 3),
        (Sampling::new(euler_maruyama, Guidance::new(1.4).unwrap()), 1, 3),
        (Sampling::new(heun.clone(), Guidance::new(1.4).unwrap()), 1, 7),
        (Sampling::new(heun, half), 2, 4 + 2),
        // Histories hold velocities of earlier launches.
        (Sampling::new(exponential.clone(), Guidance::NONE), 1, 3),
        (Sampling::new(exponential, half), 1, 2),
        (Sampling::new(adams_bashforth.clone(), Guidance::NONE), 1, 3),
        (Sampling::new(adams_bashforth, Guidance::new(1.4).unwrap()), 1, 3),
        (Sampling::new(extrapolated, Guidance::new(1.4).unwrap()), 1, 3),
        (Sampling::new(consistency, Guidance::NONE), 1, 3),
    ];
    for (config, dtype) in configs().into_iter().zip([DType::F32, DType::BF16]) {
        for (sampling, captures, launches) in &cases {
            let backend = CapturingBackend::default();
            let (got, want) = (
                generate(&backend, &config, dtype, sampling),
                generate(&Reference, &config, dtype, sampling),
            );
            assert_eq!(got, want, "{:?}, {sampling:?}", config.mode);
            let groups = config.groups();
            assert_eq!(backend.counts(), (captures * groups, launches * groups), "{sampling:?}");
        }
    }
}

/// A graph does not check for cancellation; the velocity field does, before each launch.
#[test]
fn cancelled_session_launches_nothing() {
    let (backend, token) = (CapturingBackend::default(), CancellationToken::new());
    let model = tiny::model(&backend, &tiny::one_step(), DType::F32);
    let solver =
        EulerMaruyama::new(Timesteps::uniform(STEPS).unwrap(), Interpolant::Linear, 0.9, 0.95).unwrap();
    let mut session = Session::new(&model);
    session.set_cancellation(&token);
    let mut stop = |progress: &Progress<'_, CapturingBackend>| {
        if progress.step.done == 3 {
            token.cancel();
        }
        ControlFlow::Continue(())
    };
    let mut noise = KeyedNoise::new(&backend, DType::F32, &[3]);
    let sampling = Sampling::new(solver, Guidance::NONE);
    let stopped = session.generate(&[1], &[], &sampling, &mut noise, &mut stop).map(drop);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!(backend.counts(), (1, 2));
}
