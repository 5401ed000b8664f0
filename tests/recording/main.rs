//! Recorded denoising steps, on a device that records: it is the oracle, and notes its operations where it is asked to.

#[path = "../common/mod.rs"]
mod common;
mod recorder;

use std::ops::ControlFlow;

use common::tiny::{self, bits};
use recorder::Recorder;
use transdiff_core::diffusion::Sampling;
use transdiff_core::diffusion::{
    EulerMaruyama, Guidance, Heun, Interpolant, KeyedNoise, NoopObserver, Progress, Timesteps,
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
    let model = tiny::model(backend, config, dtype);
    let mut noise = KeyedNoise::new(backend, DType::F32, &[3, 4]);
    let made = Session::new(&model).generate(&[0, 2], &[], sampling, &mut noise, &mut NoopObserver).unwrap();
    made.references.iter().chain([&made.codes]).map(bits).collect()
}

/// Heun holds a velocity while it asks for the next one; guidance within an interval changes between evaluations with
/// the condition alone and with both; in bf16, inputs are cast in what is recorded.
#[test]
fn replays_give_what_evaluations_give() {
    let (timesteps, interpolant) = (Timesteps::uniform(STEPS).unwrap(), Interpolant::Linear);
    let euler_maruyama = EulerMaruyama::new(timesteps, interpolant, 0.9, 0.95).unwrap();
    let heun = Heun { timesteps, interpolant };
    // Heun's times are 1, ¾, ¾, ½, ½, ¼, ¼ and 0.
    let half = Guidance::within(1.4, 0.5, 1.0).unwrap();
    let cases = [
        (Sampling::new(euler_maruyama, Guidance::NONE), 1, 3),
        (Sampling::new(euler_maruyama, Guidance::new(1.4).unwrap()), 1, 3),
        (Sampling::new(heun, Guidance::new(1.4).unwrap()), 1, 7),
        (Sampling::new(heun, half), 2, 4 + 2),
    ];
    for (config, dtype) in configs().into_iter().zip([DType::F32, DType::BF16]) {
        for (sampling, recordings, replays) in &cases {
            let recorder = Recorder::default();
            let (got, want) = (
                generate(&recorder, &config, dtype, sampling),
                generate(&Reference, &config, dtype, sampling),
            );
            assert_eq!(got, want, "{:?}, {sampling:?}", config.mode);
            let groups = config.groups();
            assert_eq!(recorder.counts(), (recordings * groups, replays * groups), "{sampling:?}");
        }
    }
}

/// What is replayed asks nobody whether to go on: the field does.
#[test]
fn a_cancelled_session_replays_nothing() {
    let (recorder, flag) = (Recorder::default(), CancellationToken::new());
    let model = tiny::model(&recorder, &tiny::one_step(), DType::F32);
    let solver =
        EulerMaruyama::new(Timesteps::uniform(STEPS).unwrap(), Interpolant::Linear, 0.9, 0.95).unwrap();
    let mut session = Session::new(&model);
    session.set_cancellation(&flag);
    let mut stop = |progress: &Progress<'_, Recorder>| {
        if progress.step.done == 3 {
            flag.cancel();
        }
        ControlFlow::Continue(())
    };
    let mut noise = KeyedNoise::new(&recorder, DType::F32, &[3]);
    let sampling = Sampling::new(solver, Guidance::NONE);
    let stopped = session.generate(&[1], &[], &sampling, &mut noise, &mut stop).map(drop);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!(recorder.counts(), (1, 2));
}
