//! Pipelines: batches, initial latents, features, encoding and memory estimates.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;

use crate::common::tiny;
use transdiff::checkpoint::WeightFile;
use transdiff::diffusion::Sampling;
use transdiff::diffusion::{EulerMaruyama, Guidance, Interpolant, Timesteps};
use transdiff::models::transdiff::TransDiffConfig;
use transdiff::models::vae::Vae;
use transdiff::models::{CodecFile, CodecRecord, CodecSource, Conditioning, ImageSpec, Model};
use transdiff::pipeline::{LoadOptions, Output, OutputSelection, Pipeline, PipelineSession, Request};
use transdiff::rng::{Purpose, StreamKey};
use transdiff::{Cpu, DType, Error, HostTensor, Result};

fn options() -> LoadOptions {
    LoadOptions { threads: Some(1), ..LoadOptions::default() }
}

fn session(config: &TransDiffConfig) -> PipelineSession {
    let [model, vae] = tiny::files(&Cpu::new(Some(1)).unwrap(), config);
    Pipeline::load(&model, Some(&vae.into()), &options(), &mut |_, _| ()).unwrap().session()
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
    let vae = CodecFile::from(vae);
    let estimate = |vae, images| Pipeline::estimate(&model, vae, &options(), images).unwrap();
    let with = estimate(Some(&vae), 4);
    assert!(with.weights > estimate(None, 4).weights);
    let generation = [0, 1, 4, 1 << 20, usize::MAX].map(|n| estimate(Some(&vae), n).generation);
    assert!(generation.is_sorted() && generation[1] < generation[3], "{generation:?}");
    assert_eq!(generation[4], u64::MAX);
}

/// Writes a model whose file describes its images.
fn save_described(path: &std::path::Path, config: &TransDiffConfig, images: &ImageSpec) {
    let model = tiny::model(&Cpu::new(Some(1)).unwrap(), config, DType::F32);
    model.save_with(path, &images.metadata()).unwrap();
}

fn load(path: &std::path::Path, codec: Option<&CodecFile>, latents_only: bool) -> Result<Pipeline> {
    let options = LoadOptions { latents_only, ..options() };
    Pipeline::load(&WeightFile::open(path).unwrap(), codec, &options, &mut |_, _| ())
}

/// Grey images of patches of 2×2 pixels.
fn grey() -> (TransDiffConfig, ImageSpec) {
    let config = TransDiffConfig { latent_channels: 4, ..tiny::one_step() };
    let classes = ["trouser", "Ankle boot", "bag"].map(String::from).to_vec();
    (config, ImageSpec { codec: CodecRecord::Patch(2), channels: 1, size: 4, classes })
}

#[test]
fn described_patches_are_decoded_to_grey_images() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let (config, images) = grey();
    save_described(&path, &config, &images);
    let pipeline = load(&path, None, false).unwrap();
    let info = pipeline.info();
    assert_eq!((info.image_size(), info.image_channels()), (Some([4, 4]), Some(1)));
    assert_eq!((info.images.as_ref(), info.codec_param_count), (Some(&images), 0));
    let found = ["trouser", "ankle_boot", "2"].map(|text| info.class_names.find(text).unwrap());
    assert_eq!(found, [0, 1, 2]);
    let mut session = pipeline.session();
    let made = generate(&mut session, &request(2));
    let pixels = made.images.unwrap();
    assert_eq!(pixels.shape(), [2, 1, 4, 4]);
    // Row 2·y + i, column 2·x + j of the image is channel 2·i + j of the latent at (y, x).
    let (latents, values) = (made.latents.to_f32(), pixels.to_f32());
    for (index, value) in values.iter().enumerate() {
        let (image, row, column) = (index / 16, index / 4 % 4, index % 4);
        let channel = row % 2 * 2 + column % 2;
        assert_eq!(*value, latents[(image * 4 + channel) * 4 + row / 2 * 2 + column / 2]);
    }
    assert_eq!(session.encode(&pixels, None).unwrap(), made.latents);
    let file = WeightFile::open(&path).unwrap();
    let estimate = |latents_only| {
        Pipeline::estimate(&file, None, &LoadOptions { latents_only, ..options() }, 2).unwrap().weights
    };
    assert_eq!(estimate(true), estimate(false));
    assert_eq!(load(&path, None, true).unwrap().info().image_size(), None);
}

#[test]
fn described_codec_files_are_found_beside_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let [path, vae] = ["model", "vae"].map(|name| folder.path().join(name));
    let save_vae = |seed| {
        let vae_of = Vae::new(&Cpu::new(Some(1)).unwrap(), &tiny::vae(), DType::F32, seed).unwrap();
        vae_of.save(&vae).unwrap();
    };
    save_vae(5);
    let codec = CodecSource::File(vae.clone()).open(3).unwrap();
    let images = ImageSpec { codec: codec.record().unwrap(), channels: 3, size: 4, classes: Vec::new() };
    save_described(&path, &tiny::one_step(), &images);
    let described = generate(&mut load(&path, None, false).unwrap().session(), &request(2));
    let given = generate(&mut load(&path, Some(&codec), false).unwrap().session(), &request(2));
    assert_same(&described, &given);

    let error = |images: &ImageSpec| {
        save_described(&path, &tiny::one_step(), images);
        load(&path, None, false).unwrap_err().to_string()
    };
    let size = error(&ImageSpec { size: 8, ..images.clone() });
    assert!(size.contains("model: transdiff.images: config value size: expected 4"), "{size}");
    let channels = error(&ImageSpec { channels: 1, ..images.clone() });
    assert!(channels.contains("config value channels: expected 3"), "{channels}");
    save_vae(6);
    let other = error(&images);
    assert!(other.contains("vae: not the codec that") && other.contains("expected SHA-256"), "{other}");
    std::fs::remove_file(&vae).unwrap();
    let missing = error(&images);
    assert!(missing.contains("model: its codec's file vae is not beside it"), "{missing}");
    // Latents need no codec, and a codec that is given wins.
    assert!(load(&path, None, true).unwrap().info().codec.is_none());
    save_vae(7);
    let other = CodecSource::File(vae.clone()).open(3).unwrap();
    assert!(load(&path, Some(&other), false).is_ok());
}

#[test]
fn descriptions_that_do_not_go_with_the_model_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model");
    let (config, images) = grey();
    for (spec, named) in [
        (ImageSpec { channels: 3, ..images.clone() }, "config value codec"),
        (ImageSpec { size: 8, ..images.clone() }, "config value size"),
        (ImageSpec { classes: images.classes[1..].to_vec(), ..images.clone() }, "config value classes"),
    ] {
        save_described(&path, &config, &spec);
        for latents_only in [true, false] {
            let error = load(&path, None, latents_only).unwrap_err().to_string();
            assert!(error.contains("model: transdiff.images: ") && error.contains(named), "{error}");
        }
    }
    let model = tiny::model(&Cpu::new(Some(1)).unwrap(), &config, DType::F32);
    let text = [(ImageSpec::METADATA_KEY.to_owned(), "{\"codec\":3}".to_owned())].into();
    model.save_with(&path, &text).unwrap();
    let error = load(&path, None, false).unwrap_err().to_string();
    assert!(error.contains("metadata entry transdiff.images: "), "{error}");
}
