//! Pipelines: batches, initial latents, features, encoding and memory estimates.

mod common;

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use common::tiny;
use transdiff::diffusion::Sampling;
use transdiff::diffusion::{EulerMaruyama, Guidance, Interpolant, Timesteps};
use transdiff::models::Conditioning;
use transdiff::models::transdiff::TransDiffConfig;
use transdiff::pipeline::{LoadOptions, Output, OutputSelection, Pipeline, PipelineSession, Request};
use transdiff::rng::{Purpose, StreamKey};
use transdiff::{Cpu, Error, HostTensor};

fn options() -> LoadOptions {
    LoadOptions { threads: Some(1), ..LoadOptions::default() }
}

fn session(config: &TransDiffConfig) -> PipelineSession {
    let [model, vae] = tiny::files(&Cpu::new(Some(1)).unwrap(), config);
    Pipeline::load(&model, Some(&vae), &options(), &mut |_, _| ()).unwrap().session()
}

fn request(n: usize) -> Request {
    let solver = EulerMaruyama::new(Timesteps::paper(3).unwrap(), Interpolant::Linear, 0.9, 0.9).unwrap();
    let sampling = Sampling::new(solver, Guidance::new(1.5).unwrap());
    let classes = (0..n).map(|i| i % 3).collect();
    let outputs = OutputSelection { images: true, features: true };
    Request { outputs, ..Request::new(classes, (0..n as u64).collect(), sampling) }
}

fn generate(session: &mut PipelineSession, request: &Request) -> Output {
    session.generate(request, &mut |_| ControlFlow::Continue(())).unwrap()
}

#[track_caller]
fn assert_same(a: &Output, b: &Output) {
    assert_eq!((&a.latents, &a.references), (&b.latents, &b.references));
    assert_eq!((&a.features, &a.images), (&b.features, &b.images));
}

fn normals(shape: &[usize], seed: u64) -> HostTensor {
    let values = StreamKey::new(seed, Purpose::Data, 0, 0).normals(shape.iter().product());
    HostTensor::f32(shape, values).unwrap()
}

#[test]
fn output_is_independent_of_the_batch_size() {
    let mut session = session(&tiny::mrar_of_singles());
    let noise = normals(&[5, 2, 2, 2], 1);
    for initial_noise in [None, Some(noise)] {
        let whole = Request { initial_noise, ..request(5) };
        let expected = generate(&mut session, &whole);
        assert_eq!(expected.references.len(), 3);
        for batch in [1, 2, 5, 9] {
            let parts = Request { batch: NonZeroUsize::new(batch), ..whole.clone() };
            assert_same(&generate(&mut session, &parts), &expected);
        }
    }
}

#[test]
fn initial_latents_replace_the_seeds_noise() {
    let mut session = session(&tiny::one_step());
    let free = generate(&mut session, &request(2));
    let from = |seed| Request { initial_noise: Some(normals(&[2, 2, 2, 2], seed)), ..request(2) };
    let (one, other) = (generate(&mut session, &from(1)), generate(&mut session, &from(2)));
    assert_ne!(one.latents, free.latents);
    assert_ne!(one.latents, other.latents);
    assert_same(&generate(&mut session, &from(1)), &one);
    assert_eq!(one.features, free.features, "features come before the noise");
    // Injected noise still follows the seeds.
    let reseeded = Request { seeds: vec![7, 8], ..from(1) };
    assert_ne!(generate(&mut session, &reseeded).latents, one.latents);
}

#[test]
fn returned_features_reproduce_the_output() {
    let mut session = session(&tiny::one_step());
    let made = generate(&mut session, &request(3));
    let conditioning =
        Conditioning::Features { features: made.features.clone().unwrap(), unconditional: None };
    assert_same(&generate(&mut session, &Request { conditioning, ..request(3) }), &made);
}

#[test]
fn posterior_samples_have_one_seed_per_image() {
    let mut session = session(&tiny::one_step());
    let images =
        HostTensor::f32(&[2, 3, 4, 6], (0..144).map(|i| (i % 7) as f32 / 4.0 - 0.8).collect()).unwrap();
    let mean = session.encode(&images, None).unwrap();
    assert_eq!(mean.shape(), [2, 2, 2, 3]);
    let drawn = session.encode(&images, Some(&[1, 2])).unwrap();
    assert_ne!(drawn, mean);
    let swapped = session.encode(&images, Some(&[1, 3])).unwrap();
    let half = drawn.to_f32().len() / 2;
    assert_eq!(drawn.to_f32()[..half], swapped.to_f32()[..half]);
    assert_ne!(drawn.to_f32()[half..], swapped.to_f32()[half..]);
    for seeds in [&[][..], &[1], &[1, 2, 3]] {
        let error = session.encode(&images, Some(seeds)).unwrap_err();
        assert!(matches!(error, Error::Argument { argument: "seeds", .. }), "{error}");
    }
    let nan = HostTensor::f32(&[1, 3, 2, 2], vec![f32::NAN; 12]).unwrap();
    assert!(matches!(session.encode(&nan, None), Err(Error::Argument { argument: "images", .. })));
    let nan = HostTensor::f32(&[1, 2, 1, 1], vec![f32::NAN; 2]).unwrap();
    assert!(matches!(session.decode(&nan), Err(Error::Argument { argument: "latents", .. })));
}

#[test]
fn estimates_grow_with_the_batch_and_saturate() {
    let [model, vae] = tiny::files(&Cpu::new(Some(1)).unwrap(), &tiny::one_step());
    let estimate = |vae, images| Pipeline::estimate(&model, vae, &options(), images).unwrap();
    let with = estimate(Some(&vae), 4);
    assert!(with.weights > estimate(None, 4).weights);
    let generation = [0, 1, 4, 1 << 20, usize::MAX].map(|n| estimate(Some(&vae), n).generation);
    assert!(generation.is_sorted() && generation[1] < generation[3], "{generation:?}");
    assert_eq!(generation[4], u64::MAX);
}
