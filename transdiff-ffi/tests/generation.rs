//! What comes out of the C ABI, beside what the library gives a Rust program.

mod common;

use std::path::Path;
use std::ptr;

use common::files::{self, model_with, shared, vae_with};
use common::{Made, Model, Order, call, in_memory, no_outputs, refused};
use transcdiff::*;
use transdiff::HostTensor;
use transdiff::checkpoint::WeightFile;
use transdiff::diffusion::{EulerMaruyama, Guidance, Interpolant as FlowPath, Timesteps};
use transdiff::models::transdiff::{LoadHints, Sampling};
use transdiff::models::vae::VaeConfig;
use transdiff::pipeline::{LoadOptions, Pipeline, Request, Source, Wanted};

fn pipeline(model: &'static [u8], vae: Option<&'static [u8]>) -> Pipeline {
    let open = |bytes: &'static [u8]| WeightFile::from_bytes("in memory", bytes).unwrap();
    let options = LoadOptions { threads: Some(1), hints: LoadHints::default(), ..LoadOptions::default() };
    Pipeline::load(&open(model), vae.map(open).as_ref(), &options, &mut |_, _| ()).unwrap()
}

fn request(order: &Order) -> Request {
    let solver =
        EulerMaruyama::new(Timesteps::paper(order.steps as usize).unwrap(), FlowPath::Linear, 1.0, 1.0);
    let sampling = Sampling::new(solver.unwrap(), Guidance::new(1.5).unwrap());
    let classes = order.classes.iter().map(|&class| class as usize).collect();
    Request::new(classes, order.seeds.clone(), sampling)
}

fn values(tensor: &HostTensor) -> Vec<f32> {
    tensor.to_f32()
}

/// The pipeline's own generation, as the ABI's buffers would have it.
fn expected(pipeline: &Pipeline, mut request: Request) -> Made {
    request.wanted = Wanted { images: pipeline.info().vae.is_some(), features: true };
    let made = pipeline.session().generate(&request, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    let images = made.images.map_or(Vec::new(), |images| {
        let format = transdiff::pipeline::PixelFormat::Rgb8Hwc;
        let mut bytes = vec![0; images.to_f32().len()];
        transdiff::pipeline::to_pixels(&images, format, &mut bytes).unwrap();
        bytes
    });
    Made {
        latents: values(&made.latents),
        references: made.references.iter().flat_map(values).collect(),
        features: values(&made.features.unwrap()),
        images,
    }
}

#[test]
fn the_abi_gives_what_the_library_gives() {
    let files = shared();
    let order = Order::of(3, 4);
    for (file, vae) in [(&files.one_step, Some(&*files.vae)), (&files.one_step, None), (&files.mrar, None)] {
        let model = Model::from_memory(file, vae);
        let made = model.session().generate(&order.options(&model)).unwrap();
        assert_eq!(made, expected(&pipeline(file, vae), request(&order)));
        assert!(made.latents.iter().any(|&x| x != made.latents[0]), "a model that does something");
    }
}

#[test]
fn a_batch_of_any_size_gives_the_same_bytes() {
    for (file, vae) in [(&shared().one_step, Some(&*shared().vae)), (&shared().mrar, None)] {
        let model = Model::from_memory(file, vae);
        let order = Order::of(5, 3);
        let all = model.session().generate(&order.options(&model)).unwrap();
        for batch in [1, 2, 5, 7, usize::MAX] {
            let o = transcdiff_generate_options { batch, ..order.options(&model) };
            assert_eq!(model.session().generate(&o).unwrap(), all, "batch {batch}");
        }
        let alone = Order { classes: vec![order.classes[3]], seeds: vec![order.seeds[3]], ..order };
        let one = model.session().generate(&alone.options(&model)).unwrap();
        let latent = model.session().latent();
        assert_eq!(one.latents, all.latents[3 * latent..4 * latent], "alone");
    }
}

#[test]
fn memory_and_path_and_mapping_load_the_same() {
    let file = &shared().one_step;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.model");
    std::fs::write(&path, file).unwrap();
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let from_path = transcdiff_load_options { model_path: path.as_ptr(), ..common::load_options() };
    let order = Order::of(2, 3);
    let generate = |options: &transcdiff_load_options| {
        let model = Model::load(options).unwrap();
        model.session().generate(&order.options(&model)).unwrap()
    };
    let expected = generate(&in_memory(file, None));
    assert_eq!(generate(&from_path), expected);
    assert_eq!(generate(&transcdiff_load_options { map_files: 1, ..from_path }), expected);
    // The file is not needed any more once the model is loaded.
    let copy = file.clone();
    let model = Model::from_memory(&copy, None);
    drop(copy);
    assert_eq!(model.session().generate(&order.options(&model)).unwrap(), expected);
}

/// A checkpoint of the published implementation, and the same weights as this library saves them.
#[test]
fn a_checkpoint_and_its_safetensors_generate_the_same() {
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
        model.session().generate(&Order::of(2, 3).options(&model)).unwrap()
    };
    assert_eq!(generate(&checkpoint), generate(&saved));
}

/// Features out of one call, cut and mixed, and into another: as the library does it.
#[test]
fn features_go_out_are_mixed_and_come_in() {
    let model = Model::from_memory(&shared().one_step, None);
    let (session, info) = (model.session(), model.info());
    let (n, k, width) = (2, info.feature_count, info.feature_width);
    let features = |classes: &[u32]| {
        let mut out = vec![f32::NAN; n * k * width];
        let size = size_of_val(&*out);
        // SAFETY: the buffers are as large as they say.
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
    let mut mixed = vec![f32::NAN; n * k * width];
    let mut cut = vec![f32::NAN; n * 3 * width];
    // SAFETY: as above.
    unsafe {
        let (a, b) = (first.as_ptr(), second.as_ptr());
        call(|error| transcdiff_features_mix(a, b, n, k, width, 1, mixed.as_mut_ptr(), error)).unwrap();
        call(|error| transcdiff_features_cut(mixed.as_ptr(), n, k, width, 3, cut.as_mut_ptr(), error))
            .unwrap();
    }
    let row = |from: &[f32], image: usize, i: usize| from[(image * k + i) * width..][..width].to_vec();
    let by_hand = |image| [row(&first, image, 0), row(&second, image, 1), row(&second, image, 2)].concat();
    assert_eq!(cut, [by_hand(0), by_hand(1)].concat());

    let order = Order::of(n, 4);
    let from_features = transcdiff_generate_options {
        classes: ptr::null(),
        features: cut.as_ptr(),
        feature_count: 3,
        ..order.options(&model)
    };
    let made = session.generate(&from_features).unwrap();
    let features = HostTensor::f32(&[n, 3, width], cut.clone()).unwrap();
    let source = Source::Features { features, unconditional: None };
    let pipeline = pipeline(&shared().one_step, None);
    assert_eq!(made, expected(&pipeline, Request { source, ..request(&order) }));

    // Led away from features of the caller's own: one for all, or one for each.
    let against = [row(&second, 0, 0), row(&second, 0, 1), row(&second, 0, 2)].concat();
    let each = [&against[..], &against[..]].concat();
    let with = |unconditional: &[f32], images| {
        let unconditional = unconditional.as_ptr();
        let o = transcdiff_generate_options { unconditional, unconditional_images: images, ..from_features };
        session.generate(&o).unwrap()
    };
    assert_eq!(with(&against, 1), with(&each, 2));
    assert_ne!(with(&against, 1).latents, made.latents);
}

/// The features for no class of `n` images.
fn unconditional(session: &common::Session, n: usize) -> Result<Vec<f32>, common::Failed> {
    let mut out = vec![f32::NAN; n * session.features(session.info.feature_count / session.info.groups)];
    let size = size_of_val(&*out);
    // SAFETY: the buffer is as large as it says.
    call(|error| unsafe {
        let (none, to) = (ptr::null(), out.as_mut_ptr());
        transcdiff_session_unconditional_features(session.session, n, none, 0, ptr::null(), to, size, error)
    })
    .map(|()| out)
}

/// What guidance leads away from unless features are given are those for no class.
#[test]
fn features_for_no_class_are_the_default() {
    for (file, vae) in [(&shared().one_step, Some(&*shared().vae)), (&shared().mrar, None)] {
        let model = Model::from_memory(file, vae);
        let (session, order) = (model.session(), Order::of(2, 3));
        let against = unconditional(&session, 2).unwrap();
        assert_eq!(against[..against.len() / 2], against[against.len() / 2..], "the same for every image");
        let k = model.info().feature_count / model.info().groups;
        let features: Vec<f32> = (0..2 * session.features(k)).map(|i| (i % 7) as f32 / 7.0 - 0.4).collect();
        let o = transcdiff_generate_options {
            classes: ptr::null(),
            features: features.as_ptr(),
            feature_count: k,
            ..order.options(&model)
        };
        let made = session.generate(&o).unwrap();
        for images in [1, 2] {
            let given = transcdiff_generate_options {
                unconditional: against.as_ptr(),
                unconditional_images: images,
                ..o
            };
            assert_eq!(session.generate(&given).unwrap(), made, "{images} given");
        }
        let unguided = transcdiff_generate_options { guidance: 1.0, ..o };
        assert_ne!(session.generate(&unguided).unwrap().latents, made.latents);
    }
}

#[test]
fn references_are_given_and_taken() {
    let model = Model::from_memory(&shared().mrar, None);
    let session = model.session();
    let (order, groups, latent) = (Order::of(2, 3), model.info().groups, session.latent());
    let free = session.generate(&order.options(&model)).unwrap();
    assert_eq!(free.references.len(), (groups - 1) * 2 * latent);
    for given in 1..groups {
        // With the references that it would have made itself, what it makes of them is the same.
        let o = transcdiff_generate_options {
            references: free.references.as_ptr(),
            reference_count: given,
            ..order.options(&model)
        };
        assert_eq!(session.generate(&o).unwrap(), free, "{given} references");
    }
    let other: Vec<f32> = free.references.iter().map(|x| 0.5 - x).collect();
    let o = transcdiff_generate_options {
        references: other.as_ptr(),
        reference_count: 1,
        ..order.options(&model)
    };
    let made = session.generate(&o).unwrap();
    assert_eq!(made.references[..2 * latent], other[..2 * latent]);
    assert_ne!(made.latents, free.latents);
    let o = transcdiff_generate_options { reference_count: groups, ..o };
    let too_many = [&other[..], &other[..]].concat();
    let o = transcdiff_generate_options { references: too_many.as_ptr(), ..o };
    assert_eq!(session.generate(&o).unwrap_err().subject, "references");
}

#[test]
fn every_group_has_its_guidance() {
    let model = Model::from_memory(&shared().mrar, None);
    let (session, order) = (model.session(), Order::of(2, 3));
    let with = |each: &[f64]| {
        let o = transcdiff_generate_options {
            step_guidance: each.as_ptr(),
            step_guidance_count: each.len(),
            ..order.options(&model)
        };
        session.generate(&o)
    };
    let all = session.generate(&order.options(&model)).unwrap();
    assert_eq!(with(&[1.5; 4]).unwrap(), all);
    let last = with(&[1.5, 1.5, 1.5, 3.0]).unwrap();
    assert_eq!(last.references, all.references, "the last group's guidance comes after the references");
    assert_ne!(last.latents, all.latents);
    assert_eq!(with(&[1.5; 3]).unwrap_err().subject, "step_guidance_count");
}

fn encode(
    session: &common::Session,
    images: &[u8],
    format: u32,
    (n, height, width): (usize, usize, usize),
    seeds: Option<&[u64]>,
) -> Result<Vec<f32>, common::Failed> {
    let d = session.info.downsampling;
    let mut latents = vec![f32::NAN; n * session.info.latent_channels * (height / d) * (width / d)];
    let size = size_of_val(&*latents);
    let seeds = seeds.map_or(ptr::null(), <[u64]>::as_ptr);
    // SAFETY: the buffers are as large as they say.
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
) -> Result<Vec<u8>, common::Failed> {
    let d = session.info.downsampling;
    let mut images = vec![0; n * transcdiff_pixel_bytes(format, height * d, width * d)];
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
fn images_are_encoded_and_decoded_in_every_format() {
    let files = shared();
    let model = Model::from_memory(&files.one_step, Some(&files.vae));
    let session = model.session();
    // Neither square nor of the model's own size.
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
fn images_that_the_vae_cannot_take_are_refused() {
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
fn a_weight_that_is_not_finite_is_named() {
    for bad in [f32::NAN, f32::NEG_INFINITY] {
        let mut tensor = None;
        let file = model_with(&files::one_step(), |name, values| {
            if tensor.is_none() && name.contains("blocks") {
                tensor = Some(name.to_owned());
                *values.last_mut().unwrap() = bad;
            }
        });
        let failed = Model::load(&in_memory(&file, None)).unwrap_err();
        assert_eq!((failed.status, Some(failed.subject)), (TRANSCDIFF_TENSOR, tensor));
    }
    let file = vae_with(&files::vae(), |name, values| {
        if name == "decoder.conv_in.weight" {
            values[0] = f32::NAN;
        }
    });
    let failed = Model::load(&in_memory(&shared().one_step, Some(&file))).unwrap_err();
    assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_TENSOR, "decoder.conv_in.weight"));
}

/// Images have three colours: what a VAE of others would make fits no buffer.
#[test]
fn a_vae_of_other_channels_is_refused() {
    let grey = VaeConfig { image_channels: 1, ..files::vae() };
    let file = vae_with(&grey, |_, _| ());
    let failed = Model::load(&in_memory(&shared().one_step, Some(&file))).unwrap_err();
    assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_INVALID_CONFIG, "image_channels"));
    assert_eq!((&*failed.expected, &*failed.got), ("3", "1"));
}

/// Whatever a file's names are, an error is one line that does not steer a terminal.
#[test]
fn names_from_files_are_written_out() {
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
fn what_overflows_is_named_by_its_stage() {
    let huge = |_: &str, values: &mut Vec<f32>| values.iter_mut().for_each(|x| *x *= 1e25);
    let order = Order::of(1, 2);
    let model = Model::from_memory(&model_with(&files::one_step(), huge), None);
    let failed = model.session().generate(&order.options(&model)).unwrap_err();
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
    let failed = session.generate(&order.options(&model)).unwrap_err();
    assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_NON_FINITE, "vae decoder"));
    let failed = encode(&session, &[9; 48], TRANSCDIFF_RGB8_HWC, (1, 4, 4), None).unwrap_err();
    assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_NON_FINITE, "vae encoder"));
    // Latents alone are fine still.
    let mut latents = vec![0.0; session.latent()];
    let out = transcdiff_outputs {
        latents: latents.as_mut_ptr(),
        latents_size: size_of_val(&*latents),
        ..no_outputs()
    };
    session.run(&order.options(&model), &out).unwrap();
}

/// Outputs are untouched by a call that fails, whatever it fails at.
#[test]
fn a_failed_call_writes_nothing() {
    let model = Model::from_memory(&shared().one_step, None);
    let (session, order) = (model.session(), Order::of(2, 3));
    let mut latents = vec![7.5; 2 * session.latent()];
    let out = transcdiff_outputs {
        latents: latents.as_mut_ptr(),
        latents_size: size_of_val(&*latents),
        ..no_outputs()
    };
    let mut stop = |p: &transcdiff_progress| i32::from(p.step == p.steps);
    let o = common::watched(&order.options(&model), &mut stop);
    assert_eq!(session.run(&o, &out).unwrap_err().status, TRANSCDIFF_CANCELLED);
    refused(TRANSCDIFF_INVALID_ARGUMENT, "classes", |error| {
        let o = transcdiff_generate_options { classes: ptr::null(), ..order.options(&model) };
        // SAFETY: the pointers are valid or NULL.
        unsafe { transcdiff_session_generate(session.session, &o, &out, error) }
    });
    assert!(latents.iter().all(|&x| x == 7.5));
}
