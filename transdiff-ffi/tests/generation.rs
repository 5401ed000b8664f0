//! Results of the C ABI compared with those of the Rust library.

mod common;

use std::path::Path;
use std::ptr;

use common::files::{self, model_with, shared, vae_with};
use common::{GenerationRequest, Model, Outputs, call, expect_error, load_from_memory, no_outputs};
use transcdiff::*;
use transdiff::HostTensor;
use transdiff::checkpoint::WeightFile;
use transdiff::diffusion::{
    Consistency, EulerMaruyama, Guidance, Interpolant, Preset, Quality, Sampling, SamplingSettings, Schedule,
    SolverKind, Timesteps,
};
use transdiff::models::transdiff::TransDiffConfig;
use transdiff::models::vae::VaeConfig;
use transdiff::models::{CodecFile, Conditioning, LoadHints, Model as _};
use transdiff::pipeline::{LoadOptions, OutputSelection, Pipeline, Request};

fn pipeline(model: &'static [u8], vae: Option<&'static [u8]>) -> Pipeline {
    let open = |bytes: &'static [u8]| WeightFile::from_bytes("in memory", bytes).unwrap();
    let options = LoadOptions { threads: Some(1), hints: LoadHints::default(), ..LoadOptions::default() };
    let codec = vae.map(|bytes| CodecFile::from(open(bytes)));
    Pipeline::load(&open(model), codec.as_ref(), &options, &mut |_, _| ()).unwrap()
}

fn pipeline_request(request: &GenerationRequest) -> Request {
    let solver =
        EulerMaruyama::new(Timesteps::paper(request.steps as usize).unwrap(), Interpolant::Linear, 1.0, 1.0);
    let sampling = Sampling::new(solver.unwrap(), Guidance::new(1.5).unwrap());
    let classes = request.classes.iter().map(|&class| class as usize).collect();
    Request::new(classes, request.seeds.clone(), sampling)
}

fn values(tensor: &HostTensor) -> Vec<f32> {
    tensor.to_f32()
}

/// Results of the pipeline, in the form of the buffers of the ABI.
fn expected(pipeline: &Pipeline, mut request: Request) -> Outputs {
    request.outputs = OutputSelection { images: pipeline.info().codec.is_some(), features: true };
    let outputs =
        pipeline.session().generate(&request, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    let images = outputs.images.map_or(Vec::new(), |images| {
        let format = transdiff::pipeline::PixelFormat::Rgb8Hwc;
        let mut bytes = vec![0; images.to_f32().len()];
        transdiff::pipeline::to_pixels(&images, format, &mut bytes).unwrap();
        bytes
    });
    Outputs {
        latents: values(&outputs.latents),
        references: outputs.references.iter().flat_map(values).collect(),
        features: values(&outputs.features.unwrap()),
        images,
    }
}

#[test]
fn dtype_selects_the_type_of_the_computation() {
    let files = shared();
    let request = GenerationRequest::new(3, 4);
    let [wide, bf16, int8] = [TRANSCDIFF_F32, TRANSCDIFF_BF16, TRANSCDIFF_INT8].map(|dtype| {
        let options = load_from_memory(&files.one_step, Some(&files.vae));
        let model = Model::load(&transcdiff_load_options { dtype, ..options }).unwrap();
        assert_eq!(model.session().info.dtype, dtype);
        model.session().generate(&request.options(&model)).unwrap().latents
    });
    let largest = wide.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    for narrow in [&bf16, &int8] {
        let error = wide.iter().zip(narrow).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
        // A tiny model with large random weights amplifies rounding more than a trained model does.
        assert!((1e-6..2e-1).contains(&error), "{error:e}");
    }
    assert_ne!(bf16, int8);
}

#[test]
fn results_equal_those_of_the_rust_library() {
    let files = shared();
    let request = GenerationRequest::new(3, 4);
    for (file, vae) in [(&files.one_step, Some(&*files.vae)), (&files.one_step, None), (&files.mrar, None)] {
        let model = Model::from_memory(file, vae);
        let outputs = model.session().generate(&request.options(&model)).unwrap();
        assert_eq!(outputs, expected(&pipeline(file, vae), pipeline_request(&request)));
        assert!(outputs.latents.iter().any(|&x| x != outputs.latents[0]), "the latents vary");
    }
}

#[test]
fn results_are_batch_invariant() {
    for (file, vae) in [(&shared().one_step, Some(&*shared().vae)), (&shared().mrar, None)] {
        let model = Model::from_memory(file, vae);
        let request = GenerationRequest::new(5, 3);
        let all = model.session().generate(&request.options(&model)).unwrap();
        for batch in [1, 2, 5, 7, usize::MAX] {
            let o = transcdiff_generate_options { batch, ..request.options(&model) };
            assert_eq!(model.session().generate(&o).unwrap(), all, "batch {batch}");
        }
        let alone =
            GenerationRequest { classes: vec![request.classes[3]], seeds: vec![request.seeds[3]], ..request };
        let single = model.session().generate(&alone.options(&model)).unwrap();
        let latent = model.session().latent();
        assert_eq!(single.latents, all.latents[3 * latent..4 * latent], "alone");
    }
}

#[test]
fn loading_from_memory_path_and_mapping_is_equivalent() {
    let file = &shared().one_step;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.model");
    std::fs::write(&path, file).unwrap();
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let from_path = transcdiff_load_options { model_path: path.as_ptr(), ..common::load_options() };
    let request = GenerationRequest::new(2, 3);
    let generate = |options: &transcdiff_load_options| {
        let model = Model::load(options).unwrap();
        model.session().generate(&request.options(&model)).unwrap()
    };
    let expected = generate(&load_from_memory(file, None));
    assert_eq!(generate(&from_path), expected);
    assert_eq!(generate(&transcdiff_load_options { map_files: 1, ..from_path }), expected);
    // The memory is not used after the model is loaded.
    let copy = file.clone();
    let model = Model::from_memory(&copy, None);
    drop(copy);
    assert_eq!(model.session().generate(&request.options(&model)).unwrap(), expected);
}

/// Checkpoint of the published implementation, and the same weights saved by this library.
#[test]
fn pytorch_checkpoint_and_safetensors_generate_the_same() {
    let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/pth/checkpoint-last.pth");
    let backend = transdiff::Cpu::new(Some(1)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("model.safetensors");
    let heads = LoadHints { heads: Some(4), ..LoadHints::default() };
    let file = WeightFile::open(&checkpoint).unwrap();
    let source = transdiff::models::transdiff::StoredTransDiff::find(&file, &heads).unwrap();
    source.load(&backend, transdiff::DType::F32).unwrap().save(&saved).unwrap();
    let generate = |path: &Path| {
        let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        let options =
            transcdiff_load_options { model_path: path.as_ptr(), heads: 4, ..common::load_options() };
        let model = Model::load(&options).unwrap();
        model.session().generate(&GenerationRequest::new(2, 3).options(&model)).unwrap()
    };
    assert_eq!(generate(&checkpoint), generate(&saved));
}

/// Features of one call, spliced and truncated, as the input of another.
#[test]
fn truncated_and_spliced_features_generate_as_in_the_rust_library() {
    let model = Model::from_memory(&shared().one_step, None);
    let (session, info) = (model.session(), model.info());
    let (n, k, width) = (2, info.feature_count, info.feature_width);
    let features = |classes: &[u32]| {
        let mut out = vec![f32::NAN; n * k * width];
        let size = size_of_val(&*out);
        // SAFETY: the buffers have the given sizes.
        call(|error| unsafe {
            let (none, to) = (ptr::null(), out.as_mut_ptr());
            transcdiff_session_features(
                session.session,
                classes.as_ptr(),
                n,
                none,
                0,
                ptr::null(),
                to,
                size,
                error,
            )
        })
        .unwrap();
        out
    };
    let (first, second) = (features(&[0, 1]), features(&[2, 2]));
    let mut spliced = vec![f32::NAN; n * k * width];
    let mut truncated = vec![f32::NAN; n * 3 * width];
    // SAFETY: as above.
    unsafe {
        let (a, b) = (first.as_ptr(), second.as_ptr());
        call(|error| transcdiff_features_splice(a, b, n, k, width, 1, spliced.as_mut_ptr(), error)).unwrap();
        call(|error| {
            transcdiff_features_truncate(spliced.as_ptr(), n, k, width, 3, truncated.as_mut_ptr(), error)
        })
        .unwrap();
    }
    let row = |from: &[f32], image: usize, i: usize| from[(image * k + i) * width..][..width].to_vec();
    let by_hand = |image| [row(&first, image, 0), row(&second, image, 1), row(&second, image, 2)].concat();
    assert_eq!(truncated, [by_hand(0), by_hand(1)].concat());

    let request = GenerationRequest::new(n, 4);
    let from_features = transcdiff_generate_options {
        classes: ptr::null(),
        features: truncated.as_ptr(),
        feature_count: 3,
        ..request.options(&model)
    };
    let outputs = session.generate(&from_features).unwrap();
    let features = HostTensor::f32(&[n, 3, width], truncated.clone()).unwrap();
    let conditioning = Conditioning::Features { features, unconditional: None };
    let pipeline = pipeline(&shared().one_step, None);
    assert_eq!(outputs, expected(&pipeline, Request { conditioning, ..pipeline_request(&request) }));

    // Unconditional features of the caller: one set for all images, or one per image.
    let shared_features = [row(&second, 0, 0), row(&second, 0, 1), row(&second, 0, 2)].concat();
    let per_image = [&shared_features[..], &shared_features[..]].concat();
    let with = |unconditional: &[f32], images| {
        let unconditional = unconditional.as_ptr();
        let o = transcdiff_generate_options { unconditional, unconditional_images: images, ..from_features };
        session.generate(&o).unwrap()
    };
    assert_eq!(with(&shared_features, 1), with(&per_image, 2));
    assert_ne!(with(&shared_features, 1).latents, outputs.latents);
}

/// Unconditional features of `n` images.
fn unconditional(session: &common::Session, n: usize) -> Result<Vec<f32>, common::ErrorInfo> {
    let mut out = vec![f32::NAN; n * session.features(session.info.feature_count / session.info.ar_steps)];
    let size = size_of_val(&*out);
    // SAFETY: the buffer has the given size.
    call(|error| unsafe {
        let (none, to) = (ptr::null(), out.as_mut_ptr());
        transcdiff_session_unconditional_features(session.session, n, none, 0, ptr::null(), to, size, error)
    })
    .map(|()| out)
}

#[test]
fn unconditional_features_default_to_those_of_the_model() {
    for (file, vae) in [(&shared().one_step, Some(&*shared().vae)), (&shared().mrar, None)] {
        let model = Model::from_memory(file, vae);
        let (session, request) = (model.session(), GenerationRequest::new(2, 3));
        let features_without_class = unconditional(&session, 2).unwrap();
        let (first, second) = features_without_class.split_at(features_without_class.len() / 2);
        assert_eq!(first, second, "the same for every image");
        let k = model.info().feature_count / model.info().ar_steps;
        let features: Vec<f32> = (0..2 * session.features(k)).map(|i| (i % 7) as f32 / 7.0 - 0.4).collect();
        let o = transcdiff_generate_options {
            classes: ptr::null(),
            features: features.as_ptr(),
            feature_count: k,
            ..request.options(&model)
        };
        let outputs = session.generate(&o).unwrap();
        for images in [1, 2] {
            let given = transcdiff_generate_options {
                unconditional: features_without_class.as_ptr(),
                unconditional_images: images,
                ..o
            };
            assert_eq!(session.generate(&given).unwrap(), outputs, "{images} given");
        }
        let unguided = transcdiff_generate_options { guidance: 1.0, ..o };
        assert_ne!(session.generate(&unguided).unwrap().latents, outputs.latents);
    }
}

#[test]
fn given_references_replace_generated_ones() {
    let model = Model::from_memory(&shared().mrar, None);
    let session = model.session();
    let (request, ar_steps, latent) = (GenerationRequest::new(2, 3), model.info().ar_steps, session.latent());
    let free = session.generate(&request.options(&model)).unwrap();
    assert_eq!(free.references.len(), (ar_steps - 1) * 2 * latent);
    for given in 1..ar_steps {
        // References equal to the generated ones do not change the result.
        let o = transcdiff_generate_options {
            references: free.references.as_ptr(),
            reference_count: given,
            ..request.options(&model)
        };
        assert_eq!(session.generate(&o).unwrap(), free, "{given} references");
    }
    let other: Vec<f32> = free.references.iter().map(|x| 0.5 - x).collect();
    let o = transcdiff_generate_options {
        references: other.as_ptr(),
        reference_count: 1,
        ..request.options(&model)
    };
    let outputs = session.generate(&o).unwrap();
    assert_eq!(outputs.references[..2 * latent], other[..2 * latent]);
    assert_ne!(outputs.latents, free.latents);
    let o = transcdiff_generate_options { reference_count: ar_steps, ..o };
    let too_many = [&other[..], &other[..]].concat();
    let o = transcdiff_generate_options { references: too_many.as_ptr(), ..o };
    assert_eq!(session.generate(&o).unwrap_err().subject, "references");
}

#[test]
fn key_chooses_the_set_of_weights() {
    let files = shared();
    let request = GenerationRequest::new(2, 2);
    let options = load_from_memory(&files.one_step, None);
    let generate = |options: &transcdiff_load_options| {
        let model = Model::load(options).unwrap();
        model.session().generate(&request.options(&model)).unwrap()
    };
    let top_level = transcdiff_load_options { key: c"".as_ptr(), ..options };
    assert_eq!(generate(&top_level), generate(&options));
    let missing = transcdiff_load_options { key: c"nothing.here".as_ptr(), ..options };
    let error = Model::load(&missing).unwrap_err();
    assert_eq!(error.status, TRANSCDIFF_FORMAT);
    assert!(error.message.contains("nothing.here"), "{}", error.message);
}

#[test]
fn guidance_is_set_per_ar_step() {
    let model = Model::from_memory(&shared().mrar, None);
    let (session, request) = (model.session(), GenerationRequest::new(2, 3));
    let with = |scales: &[f64]| {
        let o = transcdiff_generate_options {
            ar_step_guidance: scales.as_ptr(),
            ar_step_guidance_count: scales.len(),
            ..request.options(&model)
        };
        session.generate(&o)
    };
    let all = session.generate(&request.options(&model)).unwrap();
    assert_eq!(with(&[1.5; 4]).unwrap(), all);
    let last = with(&[1.5, 1.5, 1.5, 3.0]).unwrap();
    assert_eq!(last.references, all.references, "the last group's guidance comes after the references");
    assert_ne!(last.latents, all.latents);
    assert_eq!(with(&[1.5; 3]).unwrap_err().subject, "ar_step_guidance_count");
}

/// A distilled model is sampled as it was made for, and what does not go with it is named.
#[test]
fn distilled_models_take_the_consistency_sampler_without_guidance() {
    let bytes: &'static [u8] = Vec::leak(files::model(&TransDiffConfig { distilled: true, ..files::mrar() }));
    let model = Model::from_memory(bytes, None);
    assert_eq!((model.info().distilled, Model::from_memory(&shared().mrar, None).info().distilled), (1, 0));
    let session = model.session();
    let request = GenerationRequest::new(2, 3);
    let (mut own, defaults) = (request.options(&model), model.generate_options());
    assert_eq!((defaults.solver, defaults.steps), (TRANSCDIFF_SOLVER_CONSISTENCY, 2));
    assert_eq!(defaults.guidance, 1.0);
    (own.solver, own.steps, own.guidance) = (defaults.solver, 3, 1.0);
    let mut want = pipeline_request(&request);
    let sampler = Consistency::new(Timesteps::uniform(3).unwrap(), Interpolant::Linear);
    want.sampling = Sampling::new(sampler, Guidance::NONE);
    assert_eq!(session.generate(&own).unwrap(), expected(&pipeline(bytes, None), want));
    // Initialised options are the model's own settings.
    for bytes in [bytes, &shared().mrar] {
        let (model, pipeline) = (Model::from_memory(bytes, None), pipeline(bytes, None));
        let transcdiff_generate_options { images, classes, seeds, .. } = request.options(&model);
        let options = transcdiff_generate_options { images, classes, seeds, ..model.generate_options() };
        let mut want = pipeline_request(&request);
        want.sampling = pipeline.info().generator.settings().build(4).unwrap();
        assert_eq!(model.session().generate(&options).unwrap(), expected(&pipeline, want));
    }
    for (options, subject) in [
        (transcdiff_generate_options { solver: TRANSCDIFF_SOLVER_EULER, ..own }, "solver"),
        (transcdiff_generate_options { quality: TRANSCDIFF_QUALITY_FAST, ..own }, "quality"),
        (transcdiff_generate_options { guidance: 1.5, ..own }, "guidance"),
    ] {
        let error = session.generate(&options).unwrap_err();
        assert_eq!(error.subject, subject, "{error:?}");
    }
    let plain = Model::from_memory(&shared().mrar, None);
    let own = transcdiff_generate_options { solver: TRANSCDIFF_SOLVER_CONSISTENCY, ..own };
    assert_eq!(plain.session().generate(&own).unwrap_err().subject, "solver");
}

/// Number and times of steps, order, warp and extrapolation are those of the pipeline.
#[test]
fn solvers_and_their_steps_are_those_of_the_pipeline() {
    let model = Model::from_memory(&shared().mrar, None);
    let (session, request) = (model.session(), GenerationRequest::new(2, 3));
    let pipeline = pipeline(&shared().mrar, None);
    let settings = |solver, schedule| SamplingSettings {
        schedule,
        guidance: vec![1.5],
        ..SamplingSettings::from(Preset::PLAIN).with_solver(solver)
    };
    let (times, warp, steps) = (vec![1.0, 0.7, 0.2, 0.0], [1.17, 0.8, 1.1], vec![2, 1, 3, 2]);
    let own = request.options(&model);
    let counts: Vec<u32> = steps.iter().map(|&steps| steps as u32).collect();
    let cases = [
        (
            transcdiff_generate_options {
                solver: TRANSCDIFF_SOLVER_EXPONENTIAL_SDE,
                order: 1,
                times: times.as_ptr(),
                time_count: times.len(),
                ..own
            },
            SamplingSettings {
                order: Some(1),
                ..settings(SolverKind::ExponentialSde, Schedule::Times(times.clone()))
            },
        ),
        (
            transcdiff_generate_options {
                solver: TRANSCDIFF_SOLVER_ADAMS_BASHFORTH,
                order: 4,
                warp: warp.as_ptr(),
                ar_step_steps: counts.as_ptr(),
                ar_step_steps_count: counts.len(),
                ..own
            },
            SamplingSettings {
                order: Some(4),
                ..settings(SolverKind::AdamsBashforth, Schedule::Warped(steps.clone(), warp))
            },
        ),
        (
            transcdiff_generate_options {
                solver: TRANSCDIFF_SOLVER_EULER,
                extrapolation: 0.3,
                ar_step_steps: counts.as_ptr(),
                ar_step_steps_count: counts.len(),
                // Ignored.
                order: 7,
                ..own
            },
            SamplingSettings {
                extrapolation: Some(0.3),
                ..settings(SolverKind::Euler, Schedule::Steps(steps.clone()))
            },
        ),
    ];
    let fast = transcdiff_generate_options {
        quality: TRANSCDIFF_QUALITY_FAST,
        // Overridden.
        steps: 1,
        ..own
    };
    let own = SamplingSettings { guidance: vec![1.5], ..Preset::PLAIN.into() };
    let cases = cases.into_iter().chain([(fast, Quality::Fast.apply(own, 4))]);
    for (options, settings) in cases {
        let mut want = pipeline_request(&request);
        want.sampling = settings.build(4).unwrap();
        assert_eq!(session.generate(&options).unwrap(), expected(&pipeline, want), "{settings:?}");
    }
}

fn encode(
    session: &common::Session,
    images: &[u8],
    format: u32,
    (n, height, width): (usize, usize, usize),
    seeds: Option<&[u64]>,
) -> Result<Vec<f32>, common::ErrorInfo> {
    let d = session.info.downsampling;
    let mut latents = vec![f32::NAN; n * session.info.latent_channels * (height / d) * (width / d)];
    let size = size_of_val(&*latents);
    let seeds = seeds.map_or(ptr::null(), <[u64]>::as_ptr);
    // SAFETY: the buffers have the given sizes.
    call(|error| unsafe {
        let (from, to) = (images.as_ptr().cast(), latents.as_mut_ptr());
        transcdiff_session_encode(
            session.session,
            from,
            images.len(),
            format,
            n,
            height,
            width,
            seeds,
            ptr::null(),
            to,
            size,
            error,
        )
    })
    .map(|()| latents)
}

fn decode(
    session: &common::Session,
    latents: &[f32],
    format: u32,
    (n, height, width): (usize, usize, usize),
) -> Result<Vec<u8>, common::ErrorInfo> {
    let d = session.info.downsampling;
    let mut images = vec![0; n * transcdiff_image_bytes(format, height * d, width * d)];
    let size = images.len();
    // SAFETY: as above.
    call(|error| unsafe {
        let (from, to) = (latents.as_ptr(), images.as_mut_ptr().cast());
        transcdiff_session_decode(
            session.session,
            from,
            size_of_val(latents),
            n,
            height,
            width,
            format,
            ptr::null(),
            to,
            size,
            error,
        )
    })
    .map(|()| images)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_ne_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn encode_and_decode_support_every_pixel_format() {
    let files = shared();
    let model = Model::from_memory(&files.one_step, Some(&files.vae));
    let session = model.session();
    // Neither square nor of the model's size.
    let (n, height, width) = (2, 4, 6);
    let bytes: Vec<u8> = (0..n * height * width * 3).map(|i| (i * 37 % 256) as u8).collect();
    let chw = |hwc: &[u8]| -> Vec<u8> {
        let image = |image: &[u8]| -> Vec<u8> {
            (0..3).flat_map(|c| image.iter().skip(c).step_by(3).copied().collect::<Vec<_>>()).collect()
        };
        hwc.chunks_exact(height * width * 3).flat_map(image).collect()
    };
    let floating = |bytes: &[u8]| -> Vec<u8> {
        bytes.iter().flat_map(|&b| (f32::from(b) / 127.5 - 1.0).to_ne_bytes()).collect()
    };
    let size = (n, height, width);
    let latents = encode(&session, &bytes, TRANSCDIFF_RGB8_HWC, size, None).unwrap();
    for (format, images) in [
        (TRANSCDIFF_RGB8_CHW, chw(&bytes)),
        (TRANSCDIFF_F32_HWC, floating(&bytes)),
        (TRANSCDIFF_F32_CHW, floating(&chw(&bytes))),
    ] {
        assert_eq!(encode(&session, &images, format, size, None).unwrap(), latents, "format {format}");
    }
    let drawn = |seeds: &[u64]| encode(&session, &bytes, TRANSCDIFF_RGB8_HWC, size, Some(seeds)).unwrap();
    assert_eq!(drawn(&[1, 2]), drawn(&[1, 2]));
    assert_ne!(drawn(&[1, 2]), drawn(&[1, 3]));
    assert_eq!(drawn(&[1, 2])[..latents.len() / 2], drawn(&[1, 3])[..latents.len() / 2]);

    let size = (n, height / 2, width / 2);
    let planes = floats(&decode(&session, &latents, TRANSCDIFF_F32_CHW, size).unwrap());
    let rows = floats(&decode(&session, &latents, TRANSCDIFF_F32_HWC, size).unwrap());
    let pixel = |image: usize, c: usize, p: usize| planes[(image * 3 + c) * height * width + p];
    let interleaved: Vec<f32> = (0..n * height * width * 3)
        .map(|i| pixel(i / (3 * height * width), i % 3, i / 3 % (height * width)))
        .collect();
    assert_eq!(rows, interleaved);
    let byte = |x: &f32| ((f64::from(*x) + 1.0) * 127.5).clamp(0.0, 255.0).round_ties_even() as u8;
    let as_bytes: Vec<u8> = rows.iter().map(byte).collect();
    assert_eq!(decode(&session, &latents, TRANSCDIFF_RGB8_HWC, size).unwrap(), as_bytes);
    assert_eq!(decode(&session, &latents, TRANSCDIFF_RGB8_CHW, size).unwrap(), chw(&as_bytes));
}

#[test]
fn images_invalid_for_the_codec_are_rejected() {
    let files = shared();
    let model = Model::from_memory(&files.one_step, Some(&files.vae));
    let session = model.session();
    let odd = encode(&session, &[0; 3 * 5 * 4], TRANSCDIFF_RGB8_HWC, (1, 5, 4), None).unwrap_err();
    assert_eq!(odd.status, TRANSCDIFF_INVALID_SHAPE, "{odd:?}");
    assert!(odd.expected.contains("multiples of 2"), "{odd:?}");
    let empty = encode(&session, &[], TRANSCDIFF_RGB8_HWC, (1, 0, 4), None).unwrap_err();
    assert_eq!(empty.status, TRANSCDIFF_INVALID_SHAPE, "{empty:?}");
    let nan = f32::NAN.to_ne_bytes().repeat(3 * 16);
    let nan = encode(&session, &nan, TRANSCDIFF_F32_HWC, (1, 4, 4), None).unwrap_err();
    assert_eq!((nan.status, &*nan.subject), (TRANSCDIFF_INVALID_ARGUMENT, "images"));
    for bad in [f32::NAN, f32::INFINITY] {
        let bad = decode(&session, &[bad; 8], TRANSCDIFF_RGB8_HWC, (1, 2, 2)).unwrap_err();
        assert_eq!((bad.status, &*bad.subject), (TRANSCDIFF_INVALID_ARGUMENT, "latents"));
    }
    let without = Model::from_memory(&files.one_step, None).session();
    let none = transcdiff_model_info { downsampling: 2, ..without.info };
    let without = std::mem::ManuallyDrop::new(common::Session { session: without.session, info: none });
    assert_eq!(encode(&without, &[0; 48], 0, (1, 4, 4), None).unwrap_err().subject, "images");
    assert_eq!(decode(&without, &[0.0; 8], 0, (1, 2, 2)).unwrap_err().subject, "images");
}

#[test]
fn non_finite_weights_are_rejected_by_name() {
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        let mut tensor = None;
        let file = model_with(&files::one_step(), |name, values| {
            if tensor.is_none() && name.contains("blocks") {
                tensor = Some(name.to_owned());
                *values.last_mut().unwrap() = bad;
            }
        });
        let failed = Model::load(&load_from_memory(&file, None)).unwrap_err();
        assert_eq!((failed.status, Some(failed.subject)), (TRANSCDIFF_TENSOR, tensor));
    }
    let file = vae_with(&files::vae(), |name, values| {
        if name == "decoder.conv_in.weight" {
            values[0] = f32::NAN;
        }
    });
    let failed = Model::load(&load_from_memory(&shared().one_step, Some(&file))).unwrap_err();
    assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_TENSOR, "decoder.conv_in.weight"));
}

#[test]
fn vae_of_neither_grey_nor_coloured_images_is_rejected() {
    let grey = vae_with(&VaeConfig { image_channels: 1, ..files::vae() }, |_, _| ());
    assert_eq!(Model::from_memory(&shared().one_step, Some(&grey)).info().image_channels, 1);
    let file = vae_with(&VaeConfig { image_channels: 2, ..files::vae() }, |_, _| ());
    let failed = Model::load(&load_from_memory(&shared().one_step, Some(&file))).unwrap_err();
    assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_INVALID_CONFIG, "image_channels"));
    assert_eq!((&*failed.expected, &*failed.got), ("1 or 3", "2"));
}

/// Error texts are single lines without control characters, for any names in a file.
#[test]
fn names_from_files_are_escaped() {
    let tensor = HostTensor::f32(&[1], vec![f32::NAN]).unwrap();
    let name = format!("diffdecoder.net.\u{1b}[2J\n\0{}", "x".repeat(1 << 17));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("two\nlines");
    transdiff::checkpoint::write_atomic(&path, [(name, &tensor)], &Default::default()).unwrap();
    let failed = Model::from_path(&path).unwrap_err();
    for text in [&failed.message, &failed.subject] {
        assert!(text.contains("two\\nlines") && !text.chars().any(char::is_control), "{text}");
        assert!(text.chars().count() < 10_000, "{} characters", text.chars().count());
    }
}

#[test]
fn overflow_errors_name_the_stage() {
    let huge = |_: &str, values: &mut Vec<f32>| values.iter_mut().for_each(|x| *x *= 1e25);
    let request = GenerationRequest::new(1, 2);
    let model = Model::from_memory(&model_with(&files::one_step(), huge), None);
    let failed = model.session().generate(&request.options(&model)).unwrap_err();
    assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_NON_FINITE, "sampler"));
    let failed = unconditional(&model.session(), 1).unwrap_err();
    assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_NON_FINITE, "features"));

    let vae = vae_with(&files::vae(), |name, values| {
        if name.starts_with("decoder.conv_out") || name.starts_with("encoder.conv_out") {
            values.fill(3e38);
        }
    });
    let model = Model::from_memory(&shared().one_step, Some(&vae));
    let session = model.session();
    let failed = session.generate(&request.options(&model)).unwrap_err();
    assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_NON_FINITE, "vae decoder"));
    let failed = encode(&session, &[9; 48], TRANSCDIFF_RGB8_HWC, (1, 4, 4), None).unwrap_err();
    assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_NON_FINITE, "vae encoder"));
    // Latents alone do not overflow.
    let mut latents = vec![0.0; session.latent()];
    let out = transcdiff_outputs {
        latents: latents.as_mut_ptr(),
        latents_size: size_of_val(&*latents),
        ..no_outputs()
    };
    session.run(&request.options(&model), &out).unwrap();
}

#[test]
fn failed_call_leaves_outputs_unchanged() {
    let model = Model::from_memory(&shared().one_step, None);
    let (session, request) = (model.session(), GenerationRequest::new(2, 3));
    let mut latents = vec![7.5; 2 * session.latent()];
    let out = transcdiff_outputs {
        latents: latents.as_mut_ptr(),
        latents_size: size_of_val(&*latents),
        ..no_outputs()
    };
    let mut stop = |p: &transcdiff_progress| i32::from(p.step == p.steps);
    let o = common::with_progress(&request.options(&model), &mut stop);
    assert_eq!(session.run(&o, &out).unwrap_err().status, TRANSCDIFF_CANCELLED);
    expect_error(TRANSCDIFF_INVALID_ARGUMENT, "classes", |error| {
        let o = transcdiff_generate_options { classes: ptr::null(), ..request.options(&model) };
        // SAFETY: the pointers are valid or NULL.
        unsafe { transcdiff_session_generate(session.session, &o, &out, error) }
    });
    assert!(latents.iter().all(|&x| x == 7.5));
}
