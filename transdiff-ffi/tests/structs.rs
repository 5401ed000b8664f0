//! Structs of older and newer callers, and options with arbitrary values.

mod common;

use std::ptr;

use common::files::shared;
use common::{ErrorInfo, GenerationRequest, Model, Session, call, load_from_memory, no_outputs};
use proptest::prelude::*;
use proptest::sample::select;
use transcdiff::*;

/// First `size` bytes of a struct in an allocation of that size, padded with zeros.
fn resized<T>(value: &T, size: usize) -> Vec<u64> {
    let mut words = vec![0u64; size / 8];
    // SAFETY: both have at least this many bytes, and the structs have no padding.
    unsafe {
        ptr::copy_nonoverlapping(
            ptr::from_ref(value).cast::<u8>(),
            words.as_mut_ptr().cast(),
            size.min(size_of::<T>()),
        );
    }
    words[0] = size as u64;
    words
}

fn generate(session: &Session, options: &[u64], outputs: &[u64]) -> Result<(), ErrorInfo> {
    // SAFETY: the words begin with their size, and their pointers are valid.
    call(|error| unsafe {
        let (options, outputs) = (options.as_ptr().cast(), outputs.as_ptr().cast());
        transcdiff_session_generate(session.session, options, outputs, error)
    })
}

#[test]
fn fields_beyond_older_options_take_defaults() {
    let model = Model::from_memory(&shared().one_step, None);
    let (session, request) = (model.session(), GenerationRequest::new(2, 3));
    let full = transcdiff_generate_options { drift_scale: 0.9, batch: 1, ..request.options(&model) };
    let plain = model.generate_options();
    let all = resized(&full, size_of_val(&full));
    let defaults = resized(&plain, size_of_val(&plain));
    let mut latents = vec![0.0f32; 2 * session.latent()];
    let out = transcdiff_outputs {
        latents: latents.as_mut_ptr(),
        latents_size: size_of_val(&*latents),
        ..no_outputs()
    };
    let out = resized(&out, size_of_val(&out));
    for known in 1..=all.len() {
        let cut = resized(&full, 8 * known);
        let mut completed = [&all[..known], &defaults[known..]].concat();
        completed[0] = all[0];
        let result = generate(&session, &cut, &out);
        assert_eq!(result, generate(&session, &completed, &out), "{known} words");
        // The image count, classes and seeds have no defaults.
        assert_eq!(result.is_ok(), known >= 4, "{known} words: {result:?}");
    }
}

#[test]
fn older_outputs_omit_results() {
    let model = Model::from_memory(&shared().one_step, Some(&shared().vae));
    let (session, request) = (model.session(), GenerationRequest::new(1, 2));
    let options = request.options(&model);
    let options = resized(&options, size_of_val(&options));
    let (mut images, mut latents, mut features) = ([9u8; 48], [9.0f32; 8], [9.0f32; 32]);
    let out = transcdiff_outputs {
        images: images.as_mut_ptr().cast(),
        images_size: 48,
        latents: latents.as_mut_ptr(),
        latents_size: 32,
        features: features.as_mut_ptr(),
        features_size: 128,
        ..no_outputs()
    };
    let failed = generate(&session, &options, &resized(&out, 16)).unwrap_err();
    assert_eq!(&*failed.subject, "outputs", "it contains no buffer");
    // Up to the images, up to the latents, and all fields.
    for (words, written) in [(4, [true, false, false]), (6, [true, true, false]), (10, [true; 3])] {
        (images, latents, features) = ([9; 48], [9.0; 8], [9.0; 32]);
        generate(&session, &options, &resized(&out, 8 * words)).unwrap();
        let touched = [images != [9; 48], latents != [9.0; 8], features != [9.0; 32]];
        assert_eq!(touched, written, "{words} words");
    }
}

#[test]
fn older_load_options_load() {
    let file = &shared().one_step;
    let full = load_from_memory(file, None);
    for known in 1..=size_of_val(&full) / 8 {
        let cut = resized(&full, 8 * known);
        let mut model = ptr::null_mut();
        // SAFETY: the words begin with their size, and their pointers are valid.
        let result = call(|e| unsafe { transcdiff_model_load(cut.as_ptr().cast(), &mut model, e) });
        assert_eq!(result.is_ok(), known >= 4, "{known} words: {result:?}");
        drop(Model(model));
    }
}

/// Unknown fields must be zero, so that no setting is silently ignored.
#[test]
fn newer_structs_are_accepted_if_unknown_fields_are_zero() {
    let model = Model::from_memory(&shared().one_step, None);
    let (session, request) = (model.session(), GenerationRequest::new(1, 2));
    let options = request.options(&model);
    let (size, out_size) = (size_of_val(&options), size_of::<transcdiff_outputs>());
    let mut newer = resized(&options, size + 24);
    let mut latents = [0.0f32; 8];
    let out = transcdiff_outputs { latents: latents.as_mut_ptr(), latents_size: 32, ..no_outputs() };
    let mut newer_out = resized(&out, out_size + 8);
    generate(&session, &newer, &newer_out).unwrap();
    *newer.last_mut().unwrap() = 1;
    let failed = generate(&session, &newer, &newer_out).unwrap_err();
    assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_INVALID_STRUCT, "transcdiff_generate_options"));
    *newer_out.last_mut().unwrap() = 1 << 63;
    let failed = generate(&session, &resized(&options, size), &newer_out).unwrap_err();
    assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_INVALID_STRUCT, "transcdiff_outputs"));
}

/// Results and defaults fill the caller's struct, with zeros in unknown fields.
#[test]
fn results_stay_within_the_callers_struct() {
    let model = Model::from_memory(&shared().one_step, None);
    let info = model.info();
    let whole = resized(&info, size_of_val(&info));
    for len in 1..=whole.len() + 2 {
        let mut words = vec![u64::MAX; len + 1];
        words[0] = 8 * len as u64;
        // SAFETY: the words begin with a size and are larger than that.
        call(|e| unsafe { transcdiff_model_get_info(model.0, words.as_mut_ptr().cast(), e) }).unwrap();
        let expected = (0..len).map(|i| if i == 0 { 8 * len as u64 } else { *whole.get(i).unwrap_or(&0) });
        assert!(words[..len].iter().copied().eq(expected), "{len} words");
        assert_eq!(words[len], u64::MAX, "nothing beyond {len} words");

        let mut words = vec![u64::MAX; len + 1];
        // SAFETY: the words are larger than the given size.
        let status = unsafe { transcdiff_generate_options_init(model.0, words.as_mut_ptr().cast(), 8 * len) };
        assert_eq!((status, words[0], words[len]), (TRANSCDIFF_OK, 8 * len as u64, u64::MAX));
    }
}

/// Numeric options of a generation; arrays are large enough for small counts.
#[derive(Clone, Debug)]
struct Numbers {
    images: usize,
    steps: u32,
    solver: u32,
    guidance: f64,
    ar_step_guidance_count: usize,
    interval: (f64, f64),
    scales: (f64, f64),
    batch: usize,
    from_features: bool,
    feature_count: usize,
    unconditional_images: Option<usize>,
    reference_count: usize,
    initial_noise: bool,
    pixel_format: u32,
    size_error: usize,
}

const OVERFLOWING: [usize; 3] = [usize::MAX, usize::MAX / 4, 1 << 61];

/// Float, mostly one of `allowed`.
fn float(allowed: &'static [f64]) -> impl Strategy<Value = f64> {
    prop_oneof![
        12 => select(allowed),
        1 => select(&[f64::NAN, f64::INFINITY, -1.0, -0.0, 1e300, f64::MIN_POSITIVE, 2.0][..]),
        1 => any::<f64>(),
    ]
}

fn count(allowed: std::ops::Range<usize>) -> impl Strategy<Value = usize> {
    prop_oneof![12 => allowed, 1 => select(&OVERFLOWING[..])]
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let first = (count(0..4), 0u32..4, 0u32..6, float(&[1.0, 1.5, 4.0]), count(0..2));
    let interval = (float(&[0.0, 0.2, 0.5]), float(&[0.5, 0.9, 1.0]));
    let scales = (float(&[0.8, 1.0]), float(&[0.0, 0.9, 1.0]));
    let source = (any::<bool>(), count(0..6), proptest::option::of(count(0..4)), count(0..2));
    let last = (any::<usize>(), any::<bool>(), 0u32..7, prop_oneof![9 => Just(0), 1 => any::<usize>()]);
    (first, interval, scales, source, last).prop_map(|(first, interval, scales, source, last)| {
        let (images, steps, solver, guidance, ar_step_guidance_count) = first;
        let (from_features, feature_count, unconditional_images, reference_count) = source;
        let (batch, initial_noise, pixel_format, size_error) = last;
        let feature_count = if from_features { feature_count } else { 0 };
        let unconditional_images = unconditional_images.filter(|_| from_features);
        Numbers {
            images,
            steps,
            solver,
            guidance,
            ar_step_guidance_count,
            interval,
            scales,
            batch,
            from_features,
            feature_count,
            unconditional_images,
            reference_count,
            initial_noise,
            pixel_format,
            size_error,
        }
    })
}

impl Numbers {
    /// Returns whether the header allows the numbers for the 1-step model.
    fn are_valid(&self) -> bool {
        let (low, high) = self.interval;
        let within = |x: f64| (0.0..=1.0).contains(&x);
        let stochastic =
            [TRANSCDIFF_SOLVER_EULER_MARUYAMA, TRANSCDIFF_SOLVER_EXPONENTIAL_SDE].contains(&self.solver);
        let features = !self.from_features
            || ((1..=4).contains(&self.feature_count)
                && self.unconditional_images.is_none_or(|n| n == 1 || n == self.images));
        (1..4).contains(&self.images)
            && self.steps > 0
            && self.solver <= TRANSCDIFF_SOLVER_ADAMS_BASHFORTH // The last is for distilled models.
            && (self.ar_step_guidance_count == 1 || (self.guidance.is_finite() && self.guidance >= 1.0))
            && self.ar_step_guidance_count <= 1
            && within(low)
            && within(high)
            && low <= high
            && (!stochastic || [self.scales.0, self.scales.1].iter().all(|x| x.is_finite() && *x >= 0.0))
            && features
            && self.reference_count == 0
            && self.pixel_format <= TRANSCDIFF_GRAY_F32
            && self.size_error == 0
    }

    /// Returns whether the numbers are too small for results to overflow; otherwise overflow is a valid result.
    fn are_moderate(&self) -> bool {
        [self.guidance, self.scales.0, self.scales.1].iter().all(|x| x.abs() <= 4.0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0xAB1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn options_succeed_if_and_only_if_they_are_valid(numbers in numbers()) {
        static MODEL: std::sync::OnceLock<Model> = std::sync::OnceLock::new();
        let model = MODEL.get_or_init(|| Model::from_memory(&shared().one_step, None));
        let session = model.session();
        let (classes, seeds, floats, guidances) = ([1u32; 4], [3u64; 4], [0.25f32; 256], [1.5f64; 2]);
        let mut latents = [0.0f32; 32];
        let given = |is: bool, from: *const f32| if is { from } else { ptr::null() };
        let features = numbers.from_features;
        let options = transcdiff_generate_options {
            images: numbers.images,
            classes: if features { ptr::null() } else { classes.as_ptr() },
            seeds: seeds.as_ptr(),
            steps: numbers.steps,
            solver: numbers.solver,
            guidance: numbers.guidance,
            ar_step_guidance: guidances.as_ptr(),
            ar_step_guidance_count: numbers.ar_step_guidance_count,
            guidance_low: numbers.interval.0,
            guidance_high: numbers.interval.1,
            drift_scale: numbers.scales.0,
            noise_scale: numbers.scales.1,
            batch: numbers.batch,
            features: given(features, floats.as_ptr()),
            feature_count: numbers.feature_count,
            unconditional: given(numbers.unconditional_images.is_some(), floats.as_ptr()),
            unconditional_images: numbers.unconditional_images.unwrap_or(0),
            references: given(numbers.reference_count > 0, floats.as_ptr()),
            reference_count: numbers.reference_count,
            initial_noise: given(numbers.initial_noise, floats.as_ptr()),
            ..model.generate_options()
        };
        let outputs = transcdiff_outputs {
            pixel_format: numbers.pixel_format,
            latents: latents.as_mut_ptr(),
            latents_size: numbers.images.wrapping_mul(32).wrapping_add(numbers.size_error),
            ..no_outputs()
        };
        let result = session.run(&options, &outputs);
        match &result {
            Ok(()) => prop_assert!(numbers.are_valid()),
            Err(failed) if numbers.are_valid() => {
                prop_assert!(failed.status == TRANSCDIFF_NON_FINITE && !numbers.are_moderate(), "{failed:?}");
            }
            Err(failed) => prop_assert!(
                [TRANSCDIFF_INVALID_ARGUMENT, TRANSCDIFF_INVALID_SHAPE].contains(&failed.status),
                "{failed:?}"
            ),
        }
    }
}
