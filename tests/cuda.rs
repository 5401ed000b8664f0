//! CUDA beside the CPU, from files to images and through a training run. Each test says so and is over if there is no
//! GPU.

mod common;
#[allow(dead_code, reason = "the quickstart uses the rest")]
#[path = "../examples/quickstart/digits.rs"]
mod digits;

use std::ops::ControlFlow;

use common::cuda::device;
use common::golden::relative_error;
use common::tiny;
use digits::{CLASSES, Digits, LATENT_SIDE, to_latent};
use transdiff::data::MemoryDataset;
use transdiff::diffusion::Sampling;
use transdiff::diffusion::{EulerMaruyama, Guidance, Interpolant, Timesteps};
use transdiff::models::Model;
use transdiff::models::transdiff::{Mode, TransDiffConfig};
use transdiff::pipeline::{LoadOptions, Output, Pipeline, Request, Wanted};
use transdiff::train::{LrDecay, LrSchedule, TrainConfig, Trainer};
use transdiff::{Backend, Cpu, DType, Device, HostTensor, TransDiff};

/// Errors of f32 that grew over the steps of a trajectory.
const SINGLE: f64 = 1e-4;
/// The same of bf16. Tiny models with weights as large as these turn roundings into more than trained ones do.
const HALF: f64 = 1e-1;

/// Five images of a pipeline, and what loading it told.
fn generated(config: &TransDiffConfig, device: Device, dtype: DType) -> (Output, Vec<String>) {
    let ([model, vae], mut told) = (tiny::files(&Cpu::new(Some(1)).unwrap(), config), Vec::new());
    let options = LoadOptions { device, dtype, ..LoadOptions::default() };
    let pipeline =
        Pipeline::load(&model, Some(&vae), &options, &mut |_, line| told.push(line.into())).unwrap();
    let solver = EulerMaruyama::new(Timesteps::paper(5).unwrap(), Interpolant::Linear, 0.9, 0.9).unwrap();
    // Guidance within an interval: both kinds of steps are recorded and replayed.
    let sampling = Sampling::new(solver, Guidance::within(1.5, 0.2, 0.8).unwrap());
    let outputs = OutputSelection { images: true, features: true };
    let request = Request { outputs, ..Request::new(vec![0, 1, 2, 0, 1], vec![7, 8, 9, 10, 11], sampling) };
    (pipeline.session().generate(&request, &mut |_| ControlFlow::Continue(())).unwrap(), told)
}

#[track_caller]
fn assert_near(what: &str, got: &HostTensor, want: &HostTensor, bound: f64) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    let error = relative_error(&got.to_f64(), &want.to_f64());
    println!("{what}: {error:.1e} of {bound:.0e}");
    assert!(error <= bound, "{what}: {error:e}");
}

#[test]
fn pictures_are_those_of_the_cpu() {
    if device().is_none() {
        return;
    }
    for config in [tiny::one_step(), tiny::mrar()] {
        let (cpu, _) = generated(&config, Device::Cpu, DType::F32);
        for (dtype, bound) in [(DType::F32, SINGLE), (DType::BF16, HALF)] {
            let (cuda, told) = generated(&config, Device::Cuda(0), dtype);
            assert_eq!(told[0], "device: cuda:0");
            assert_near("features", &cuda.features.unwrap(), cpu.features.as_ref().unwrap(), bound);
            assert_near("latents", &cuda.latents, &cpu.latents, bound);
            assert_near("images", &cuda.images.unwrap(), cpu.images.as_ref().unwrap(), bound);
        }
        // The same call again gives the same bits.
        let [(one, _), (two, _)] = [(); 2].map(|()| generated(&config, Device::Cuda(0), DType::BF16));
        assert_eq!((one.latents, one.images), (two.latents, two.images));
    }
}

#[test]
fn auto_says_what_it_chose() {
    let (made, told) = generated(&tiny::one_step(), Device::Auto, DType::F32);
    match device() {
        Some(_) => assert_eq!(told[0], "device: cuda:0, the first GPU"),
        None => assert!(told[0].starts_with("device: cpu, because cuda:0 cannot be used: "), "{}", told[0]),
    }
    let (cpu, _) = generated(&tiny::one_step(), Device::Cpu, DType::F32);
    assert_near("latents", &made.latents, &cpu.latents, SINGLE);
}

/// Steps of the run that is compared: fewer where `TRANSDIFF_TRAINING_STEPS` says so.
fn training_steps() -> u64 {
    std::env::var("TRANSDIFF_TRAINING_STEPS").map_or(200, |steps| steps.parse().expect("a number of steps"))
}

/// The losses of a training run on the digits, with dropout.
fn losses<B: Backend>(backend: &B, compute: DType) -> Vec<f64> {
    let (train, _) = Digits::load().unwrap();
    let values = train.images.iter().flat_map(to_latent).collect();
    let set = MemoryDataset::new([4, LATENT_SIDE, LATENT_SIDE], values, train.labels.clone()).unwrap();
    let config = TransDiffConfig {
        width: 64,
        heads: 2,
        encoder_blocks: 2,
        decoder_blocks: 2,
        mlp_ratio: 4,
        classes: CLASSES,
        buffer_size: 4,
        feature_tokens: 16,
        latent_channels: 4,
        latent_size: LATENT_SIDE,
        mode: Mode::OneStep,
    };
    let model = TransDiff::new(backend, &config, DType::F32, 0).unwrap();
    let lr = LrSchedule { peak: 1e-3, warmup: 20, total: 200, decay: LrDecay::Constant };
    let train = TrainConfig { batch_mul: 2, dropout: 0.1, compute, lr, ..TrainConfig::new(32, 200) };
    let mut trainer = Trainer::new(model, train).unwrap();
    (0..training_steps()).map(|_| trainer.step(&set).unwrap().loss).collect()
}

/// The largest difference of two runs' losses, as a share of the loss.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|loss| loss.is_finite()), "{a:?} {b:?}");
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max)
}

/// Rounding is another, dropout, noise and samples are the same: the runs stay together.
#[test]
fn training_stays_with_the_cpu() {
    let Some(cuda) = device() else { return };
    let cpu = losses(&Cpu::new(None).unwrap(), DType::F32);
    for (compute, band) in [(DType::F32, 1e-3), (DType::BF16, 2e-2)] {
        let found = distance(&losses(&cuda, compute), &cpu);
        println!("{} steps in {compute}: losses differ by {found:.1e} of {band:.0e}", cpu.len());
        assert!(found <= band, "{compute}: {found:e}");
    }
}
