//! Invalid arguments: each is rejected by name before memory is allocated for it, and the session remains usable.

#[path = "../../tests/common/allocation.rs"]
#[allow(dead_code)]
mod allocation;
mod common;

use std::ptr;
use std::sync::Mutex;

use allocation::Counting;
use common::files::{CLASSES, shared};
use common::{
    GenerationRequest, Model, Outputs, Session, Token, call, expect_error, load_from_memory, load_options,
    no_outputs,
};
use transcdiff::*;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ARGUMENT: transcdiff_status = TRANSCDIFF_INVALID_ARGUMENT;
const SHAPE: transcdiff_status = TRANSCDIFF_INVALID_SHAPE;
const STRUCT: transcdiff_status = TRANSCDIFF_INVALID_STRUCT;
/// Sizes that exceed any memory, or whose products wrap around to small values.
const OVERFLOWING: [usize; 6] =
    [usize::MAX, usize::MAX / 4, usize::MAX / 8 + 1, 1 << 63, 1 << 61, (1 << 61) + 1];

/// Serialises the tests, because allocations of all threads are counted.
static ALLOCATION_LOCK: Mutex<()> = Mutex::new(());

/// Asserts that the call fails with `status` and `subject`, and allocates no more than its error object needs.
#[track_caller]
fn expect_error_without_allocation(
    status: transcdiff_status,
    subject: &str,
    f: impl FnOnce(*mut *mut transcdiff_error) -> transcdiff_status,
) {
    let ((), peak) = allocation::peak_of(|| expect_error(status, subject, f));
    assert!(peak < 16 << 20, "{subject}: {peak} bytes for a rejected call");
}

/// Model with a session, a valid generation, and its expected results.
struct Fixture {
    model: Model,
    session: Session,
    request: GenerationRequest,
    expected: Outputs,
}

impl Fixture {
    fn new(file: &[u8], vae: Option<&[u8]>) -> Self {
        let (model, request) = (Model::from_memory(file, vae), GenerationRequest::new(2, 2));
        let session = model.session();
        let expected = session.generate(&request.options(&model)).unwrap();
        Self { model, session, request, expected }
    }

    fn options(&self) -> transcdiff_generate_options {
        self.request.options(&self.model)
    }

    /// Asserts that the generation fails with `status` and `subject` after `change`.
    #[track_caller]
    fn expect_error(
        &self,
        status: transcdiff_status,
        subject: &str,
        change: impl FnOnce(&mut transcdiff_generate_options, &mut transcdiff_outputs),
    ) {
        let mut latents = vec![0.0; self.expected.latents.len()];
        let (mut options, mut outputs) = (self.options(), no_outputs());
        outputs.latents = latents.as_mut_ptr();
        outputs.latents_size = size_of_val(&*latents);
        change(&mut options, &mut outputs);
        // SAFETY: every pointer is valid, or rejected before it is used.
        expect_error_without_allocation(status, subject, |error| unsafe {
            transcdiff_session_generate(self.session.session, &options, &outputs, error)
        });
    }

    fn assert_unchanged(&self) {
        assert_eq!(self.session.generate(&self.options()).unwrap(), self.expected);
    }
}

#[test]
fn null_arguments_are_rejected_by_name() {
    let _guard = ALLOCATION_LOCK.lock();
    let fixture = Fixture::new(&shared().one_step, Some(&shared().vae));
    let (session, model) = (fixture.session.session, fixture.model.0);
    let (mut floats, mut bytes, classes) = ([0.0f32; 64], [0u8; 64], [0u32; 2]);
    let (none, no_token) = (ptr::null_mut::<f32>(), ptr::null());
    let f = floats.as_mut_ptr();
    let b = bytes.as_mut_ptr().cast::<std::ffi::c_void>();
    // SAFETY: pointers that are not NULL are valid.
    unsafe {
        let mut new_session = ptr::null_mut();
        expect_error(ARGUMENT, "model", |e| transcdiff_session_new(ptr::null(), &mut new_session, e));
        assert!(new_session.is_null());
        expect_error(ARGUMENT, "session", |e| transcdiff_session_new(model, ptr::null_mut(), e));
        let mut info: transcdiff_model_info = std::mem::zeroed();
        info.struct_size = size_of_val(&info);
        expect_error(ARGUMENT, "model", |e| transcdiff_model_get_info(ptr::null(), &mut info, e));
        expect_error(ARGUMENT, "info", |e| transcdiff_model_get_info(model, ptr::null_mut(), e));

        let mut new_model = ptr::null_mut();
        let load = load_from_memory(&shared().one_step, None);
        expect_error(ARGUMENT, "options", |e| transcdiff_model_load(ptr::null(), &mut new_model, e));
        expect_error(ARGUMENT, "model", |e| transcdiff_model_load(&load, ptr::null_mut(), e));
        expect_error(ARGUMENT, "model", |e| transcdiff_model_load(&load_options(), &mut new_model, e));
        assert!(new_model.is_null());
        let mut memory: transcdiff_memory = std::mem::zeroed();
        memory.struct_size = size_of_val(&memory);
        expect_error(ARGUMENT, "options", |e| transcdiff_memory_estimate(ptr::null(), 1, &mut memory, e));
        expect_error(ARGUMENT, "memory", |e| transcdiff_memory_estimate(&load, 1, ptr::null_mut(), e));

        let (options, outputs) = (fixture.options(), no_outputs());
        expect_error(ARGUMENT, "session", |e| {
            transcdiff_session_generate(ptr::null_mut(), &options, &outputs, e)
        });
        expect_error(ARGUMENT, "options", |e| transcdiff_session_generate(session, ptr::null(), &outputs, e));
        expect_error(ARGUMENT, "outputs", |e| transcdiff_session_generate(session, &options, ptr::null(), e));

        let features = |session, classes, references, count, to, e| {
            transcdiff_session_features(session, classes, 1, references, count, no_token, to, 128, e)
        };
        expect_error(ARGUMENT, "session", |e| features(ptr::null_mut(), classes.as_ptr(), none, 0, f, e));
        expect_error(ARGUMENT, "classes", |e| features(session, ptr::null(), none, 0, f, e));
        expect_error(ARGUMENT, "features", |e| features(session, classes.as_ptr(), none, 0, none, e));
        let unconditional = |session, references, count, to, e| {
            transcdiff_session_unconditional_features(session, 1, references, count, no_token, to, 128, e)
        };
        expect_error(ARGUMENT, "session", |e| unconditional(ptr::null_mut(), none, 0, f, e));
        expect_error(ARGUMENT, "features", |e| unconditional(session, none, 0, none, e));
        expect_error(ARGUMENT, "references", |e| unconditional(session, none, 1, f, e));
        expect_error(ARGUMENT, "references", |e| features(session, classes.as_ptr(), none, 1, f, e));

        expect_error(ARGUMENT, "features", |e| transcdiff_features_truncate(none, 1, 2, 2, 1, f, e));
        expect_error(ARGUMENT, "truncated", |e| transcdiff_features_truncate(f, 1, 2, 2, 1, none, e));
        let from = floats[32..].as_ptr();
        expect_error(ARGUMENT, "first", |e| transcdiff_features_splice(none, from, 1, 2, 2, 1, f, e));
        expect_error(ARGUMENT, "second", |e| transcdiff_features_splice(from, none, 1, 2, 2, 1, f, e));
        expect_error(ARGUMENT, "spliced", |e| transcdiff_features_splice(from, from, 1, 2, 2, 1, none, e));

        let encode = |session, images, latents, e| {
            transcdiff_session_encode(session, images, 48, 0, 1, 4, 4, ptr::null(), no_token, latents, 32, e)
        };
        expect_error(ARGUMENT, "session", |e| encode(ptr::null_mut(), b, f, e));
        expect_error(ARGUMENT, "images", |e| encode(session, ptr::null(), f, e));
        expect_error(ARGUMENT, "latents", |e| encode(session, b, none, e));
        let decode = |session, latents, images, e| {
            transcdiff_session_decode(session, latents, 32, 1, 2, 2, 0, no_token, images, 48, e)
        };
        expect_error(ARGUMENT, "session", |e| decode(ptr::null_mut(), f, b, e));
        expect_error(ARGUMENT, "latents", |e| decode(session, none, b, e));
        expect_error(ARGUMENT, "images", |e| decode(session, f, ptr::null_mut(), e));
    }
    fixture.expect_error(ARGUMENT, "seeds", |o, _| o.seeds = ptr::null());
    fixture.expect_error(ARGUMENT, "classes", |o, _| o.classes = ptr::null());
    fixture.expect_error(ARGUMENT, "ar_step_guidance", |o, _| o.ar_step_guidance_count = 1);
    fixture.expect_error(ARGUMENT, "references", |o, _| o.reference_count = 1);
    fixture.assert_unchanged();
}

/// Functions without a status ignore NULL, and functions with a status accept a NULL error pointer.
#[test]
fn null_handles_and_error_pointers_are_accepted() {
    let _guard = ALLOCATION_LOCK.lock();
    // SAFETY: all of these functions accept NULL.
    unsafe {
        transcdiff_model_free(ptr::null_mut());
        transcdiff_session_free(ptr::null_mut());
        transcdiff_error_free(ptr::null_mut());
        transcdiff_cancellation_free(ptr::null_mut());
        transcdiff_cancellation_cancel(ptr::null());
        transcdiff_cancellation_reset(ptr::null());
        assert_eq!(transcdiff_cancellation_is_cancelled(ptr::null()), 0);
        assert_eq!(transcdiff_error_status(ptr::null()), TRANSCDIFF_OK);
        for text in [
            transcdiff_error_message(ptr::null()),
            transcdiff_error_subject(ptr::null()),
            transcdiff_error_expected(ptr::null()),
            transcdiff_error_got(ptr::null()),
            transcdiff_model_device(ptr::null()),
        ] {
            assert_eq!(*text, 0, "an empty string");
        }
        let no_error = ptr::null_mut();
        assert_eq!(transcdiff_session_new(ptr::null(), ptr::null_mut(), no_error), ARGUMENT);
        assert_eq!(transcdiff_model_load(ptr::null(), ptr::null_mut(), no_error), ARGUMENT);
        let none = ptr::null();
        assert_eq!(transcdiff_session_generate(ptr::null_mut(), none, ptr::null(), no_error), ARGUMENT);
        assert_eq!(transcdiff_load_options_init(ptr::null_mut(), 8), ARGUMENT);
        assert_eq!(transcdiff_generate_options_init(ptr::null(), ptr::null_mut(), 8), ARGUMENT);
        assert_eq!(transcdiff_outputs_init(ptr::null_mut(), 8), ARGUMENT);
    }
}

/// Arrays, buffers and handle pointers must be aligned; structs and the error pointer need not be.
#[test]
fn misaligned_arrays_are_rejected_and_misaligned_structs_are_read() {
    let _guard = ALLOCATION_LOCK.lock();
    let fixture = Fixture::new(&shared().mrar, None);
    let values = [0.0f64; 64];
    let odd = values.as_ptr().cast::<u8>().wrapping_add(1);
    fixture.expect_error(ARGUMENT, "classes", |o, _| o.classes = odd.cast());
    fixture.expect_error(ARGUMENT, "seeds", |o, _| o.seeds = odd.cast());
    fixture.expect_error(ARGUMENT, "references", |o, _| {
        (o.references, o.reference_count) = (odd.cast(), 1);
    });
    fixture.expect_error(ARGUMENT, "initial_noise", |o, _| o.initial_noise = odd.cast());
    fixture.expect_error(ARGUMENT, "ar_step_guidance", |o, _| {
        (o.ar_step_guidance, o.ar_step_guidance_count) = (odd.cast(), 4);
    });
    fixture.expect_error(ARGUMENT, "features", |o, _| {
        (o.classes, o.features, o.feature_count) = (ptr::null(), odd.cast(), 1);
    });
    fixture.expect_error(ARGUMENT, "latents", |_, out| out.latents = odd.cast_mut().cast());
    // SAFETY: misaligned pointers are rejected before they are used.
    unsafe {
        let load = load_from_memory(&shared().one_step, None);
        expect_error(ARGUMENT, "model", |e| transcdiff_model_load(&load, odd.cast_mut().cast(), e));
        expect_error(ARGUMENT, "session", |e| {
            transcdiff_session_new(fixture.model.0, odd.cast_mut().cast(), e)
        });
    }

    let mut bytes = vec![0u8; 1 + size_of::<transcdiff_generate_options>() + 1 + 16];
    let mut latents = vec![0.0f32; fixture.expected.latents.len()];
    let outputs = transcdiff_outputs {
        latents: latents.as_mut_ptr(),
        latents_size: size_of_val(&*latents),
        ..no_outputs()
    };
    // SAFETY: the bytes hold the struct, followed by a pointer, both at odd offsets.
    unsafe {
        let options = bytes.as_mut_ptr().add(1).cast::<transcdiff_generate_options>();
        options.write_unaligned(fixture.options());
        let error = bytes.as_mut_ptr().add(2 + size_of::<transcdiff_generate_options>());
        let error = error.cast::<*mut transcdiff_error>();
        let session = fixture.session.session;
        assert_eq!(transcdiff_session_generate(session, options, &outputs, error), TRANSCDIFF_OK);
        assert_eq!(transcdiff_session_generate(session, ptr::null(), &outputs, error), ARGUMENT);
        transcdiff_error_free(error.read_unaligned());
    }
    assert_eq!(latents, fixture.expected.latents);
}

#[test]
fn numbers_out_of_range_are_rejected() {
    let _guard = ALLOCATION_LOCK.lock();
    let fixture = Fixture::new(&shared().mrar, None);
    let latents = fixture.expected.latents.len();
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
        fixture.expect_error(ARGUMENT, "guidance", |o, _| o.guidance = bad);
        fixture.expect_error(ARGUMENT, "guidance_low", |o, _| o.guidance_low = bad);
        fixture.expect_error(ARGUMENT, "guidance_high", |o, _| o.guidance_high = bad);
        fixture.expect_error(ARGUMENT, "noise_scale", |o, _| o.noise_scale = bad);
        let each = [1.5, 1.5, bad, 1.5];
        fixture.expect_error(ARGUMENT, "ar_step_guidance", |o, _| {
            (o.ar_step_guidance, o.ar_step_guidance_count) = (each.as_ptr(), each.len());
        });
    }
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        fixture.expect_error(ARGUMENT, "drift_scale", |o, _| o.drift_scale = bad);
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![0.0; 3 * latents];
        values[latents - 1] = bad;
        fixture.expect_error(ARGUMENT, "references", |o, _| {
            (o.references, o.reference_count) = (values.as_ptr(), 1);
        });
        fixture.expect_error(ARGUMENT, "initial_noise", |o, _| o.initial_noise = values.as_ptr());
        let features = [bad; 2 * 8];
        fixture.expect_error(ARGUMENT, "features", |o, _| {
            (o.classes, o.features, o.feature_count) = (ptr::null(), features.as_ptr(), 1);
        });
        let (good, bad) = ([0.5; 2 * 8], [bad; 8]);
        fixture.expect_error(ARGUMENT, "unconditional", |o, _| {
            (o.classes, o.features, o.feature_count) = (ptr::null(), good.as_ptr(), 1);
            (o.unconditional, o.unconditional_images) = (bad.as_ptr(), 1);
        });
    }
    fixture.expect_error(ARGUMENT, "guidance_low", |o, _| (o.guidance_low, o.guidance_high) = (0.6, 0.5));
    fixture.expect_error(ARGUMENT, "steps", |o, _| o.steps = 0);
    for bad in [f64::NAN, f64::INFINITY, -1.0] {
        fixture.expect_error(ARGUMENT, "extrapolation", |o, _| {
            (o.solver, o.extrapolation) = (TRANSCDIFF_SOLVER_EULER, bad);
        });
        let (times, warp) = ([1.0, bad, 0.0], [1.0, bad, 1.0]);
        fixture.expect_error(ARGUMENT, "times", |o, _| (o.times, o.time_count) = (times.as_ptr(), 3));
        fixture.expect_error(ARGUMENT, "warp", |o, _| o.warp = warp.as_ptr());
    }
    let (times, warp, steps) = ([1.0, 0.5, 0.0], [1.0; 3], [2, 2, 0, 2]);
    fixture.expect_error(ARGUMENT, "times", |o, _| (o.times, o.time_count) = (times.as_ptr(), 2));
    fixture.expect_error(ARGUMENT, "times", |o, _| o.time_count = 3);
    fixture.expect_error(ARGUMENT, "times", |o, _| {
        (o.times, o.time_count, o.warp) = (times.as_ptr(), 3, warp.as_ptr());
    });
    fixture.expect_error(ARGUMENT, "ar_step_steps", |o, _| {
        (o.ar_step_steps, o.ar_step_steps_count) = (steps.as_ptr(), 4);
    });
    fixture.expect_error(ARGUMENT, "ar_step_steps_count", |o, _| {
        (o.ar_step_steps, o.ar_step_steps_count) = (steps.as_ptr(), 2);
    });
    for (solver, order) in [(TRANSCDIFF_SOLVER_EXPONENTIAL_SDE, 3), (TRANSCDIFF_SOLVER_ADAMS_BASHFORTH, 5)] {
        fixture.expect_error(ARGUMENT, "order", |o, _| (o.solver, o.order) = (solver, order));
    }
    fixture.expect_error(ARGUMENT, "quality", |o, _| o.quality = 4);
    for bad in [6, 7, u32::MAX] {
        fixture.expect_error(ARGUMENT, "solver", |o, _| o.solver = bad);
        fixture.expect_error(ARGUMENT, "pixel_format", |_, out| out.pixel_format = bad);
    }
    fixture.expect_error(ARGUMENT, "reserved", |_, out| out.reserved = 1);
    fixture.expect_error(ARGUMENT, "preview_interval", |o, _| {
        unsafe extern "C" fn preview(
            _: *const transcdiff_progress,
            _: *const f32,
            _: usize,
            _: *mut std::ffi::c_void,
        ) -> i32 {
            0
        }
        o.preview = Some(preview);
        o.preview_interval = 0;
    });
    for bad in [CLASSES as u32, u32::MAX] {
        let classes = [0, bad];
        fixture.expect_error(ARGUMENT, "class", |o, _| o.classes = classes.as_ptr());
    }
    fixture.assert_unchanged();
}

#[test]
fn contradictory_options_are_rejected() {
    let _guard = ALLOCATION_LOCK.lock();
    let fixture = Fixture::new(&shared().one_step, None);
    let features = [0.5; 2 * 4 * 8];
    let from_features = |o: &mut transcdiff_generate_options| {
        (o.classes, o.features, o.feature_count) = (ptr::null(), features.as_ptr(), 4);
    };
    fixture.expect_error(ARGUMENT, "images", |o, _| o.images = 0);
    fixture.expect_error(ARGUMENT, "classes", |o, _| {
        let classes = o.classes;
        from_features(o);
        o.classes = classes;
    });
    // Without a buffer no size confirms the image count.
    fixture.expect_error(ARGUMENT, "outputs", |o, out| {
        (o.images, out.latents) = (usize::MAX / 64, ptr::null_mut())
    });
    let nowhere = ptr::dangling_mut::<std::ffi::c_void>();
    fixture.expect_error(ARGUMENT, "images", |o, out| {
        (o.images, out.latents, out.images) = (usize::MAX / 64, ptr::null_mut(), nowhere);
    });
    for offset in [1usize, 2] {
        fixture
            .expect_error(ARGUMENT, "latents", |_, out| out.latents = out.latents.wrapping_byte_add(offset));
        fixture.expect_error(ARGUMENT, "features", |_, out| {
            (out.features, out.features_size) = (out.latents.wrapping_byte_add(offset), 2 * 4 * 8 * 4);
        });
    }
    fixture.expect_error(ARGUMENT, "classes", |o, _| o.classes = ptr::null());
    fixture.expect_error(ARGUMENT, "feature_count", |o, _| o.feature_count = 4);
    fixture.expect_error(ARGUMENT, "unconditional_images", |o, _| {
        from_features(o);
        o.unconditional_images = 1;
    });
    fixture.expect_error(ARGUMENT, "unconditional", |o, _| {
        (o.unconditional, o.unconditional_images) = (features.as_ptr(), 1);
    });
    fixture.expect_error(ARGUMENT, "references", |o, _| {
        from_features(o);
        (o.references, o.reference_count) = (features.as_ptr(), 1);
    });
    fixture.expect_error(ARGUMENT, "references", |o, _| {
        (o.references, o.reference_count) = (features.as_ptr(), 1);
    });
    fixture.expect_error(ARGUMENT, "ar_step_guidance_count", |o, _| {
        (o.ar_step_guidance, o.ar_step_guidance_count) = ([1.5; 2].as_ptr(), 2);
    });
    for images in [0, 3] {
        fixture.expect_error(ARGUMENT, "unconditional_images", |o, _| {
            from_features(o);
            (o.unconditional, o.unconditional_images) = (features.as_ptr(), images);
            (o.feature_count, o.features) = (1, features.as_ptr());
        });
    }
    for count in [0, 5] {
        let many = [0.5; 2 * 5 * 8];
        fixture.expect_error(ARGUMENT, "feature_count", |o, _| {
            from_features(o);
            (o.feature_count, o.features) = (count, many.as_ptr());
        });
    }
    fixture.assert_unchanged();
}

#[test]
fn buffers_of_wrong_size_are_rejected() {
    let _guard = ALLOCATION_LOCK.lock();
    let fixture = Fixture::new(&shared().one_step, Some(&shared().vae));
    let mut scratch = vec![0u8; 4096];
    let (bytes, floats) = (scratch.as_mut_ptr(), scratch.as_mut_ptr().cast::<f32>());
    let (latents, features) =
        (size_of_val(&*fixture.expected.latents), size_of_val(&*fixture.expected.features));
    let images = fixture.expected.images.len();
    let wrong = |right: usize| [0, right - 1, right + 1, right / 2, 2 * right, usize::MAX];
    for size in wrong(latents) {
        fixture.expect_error(SHAPE, "latents", |_, out| out.latents_size = size);
    }
    for size in wrong(features) {
        fixture.expect_error(SHAPE, "features", |_, out| (out.features, out.features_size) = (floats, size));
    }
    for size in wrong(images) {
        fixture.expect_error(SHAPE, "images", |_, out| (out.images, out.images_size) = (bytes.cast(), size));
    }
    // There are no references in 1-step mode.
    fixture.expect_error(SHAPE, "references", |_, out| {
        (out.references, out.references_size) = (floats, latents)
    });

    let (session, no_token) = (fixture.session.session, ptr::null());
    // SAFETY: wrong sizes are rejected before the buffers are used.
    unsafe {
        let classes = [0u32, 1];
        let (c, none) = (classes.as_ptr(), ptr::null());
        for size in wrong(2 * 4 * 8 * 4) {
            expect_error_without_allocation(SHAPE, "features", |e| {
                transcdiff_session_features(session, c, 2, none, 0, no_token, floats, size, e)
            });
        }
        let (from, seeds) = (bytes.cast_const().cast(), ptr::null());
        for size in wrong(48) {
            expect_error_without_allocation(SHAPE, "images", |e| {
                transcdiff_session_encode(session, from, size, 0, 1, 4, 4, seeds, no_token, floats, 32, e)
            });
            expect_error_without_allocation(SHAPE, "images", |e| {
                transcdiff_session_decode(session, floats, 32, 1, 2, 2, 0, no_token, bytes.cast(), size, e)
            });
        }
        for size in wrong(32) {
            expect_error_without_allocation(SHAPE, "latents", |e| {
                transcdiff_session_encode(session, from, 48, 0, 1, 4, 4, seeds, no_token, floats, size, e)
            });
            expect_error_without_allocation(SHAPE, "latents", |e| {
                transcdiff_session_decode(session, floats, size, 1, 2, 2, 0, no_token, bytes.cast(), 48, e)
            });
        }
        let to = bytes.cast();
        let (argument, e) = ("pixel_format", ptr::null_mut());
        expect_error(ARGUMENT, argument, |e| {
            transcdiff_session_encode(session, from, 48, 9, 1, 4, 4, seeds, no_token, floats, 32, e)
        });
        expect_error(ARGUMENT, argument, |e| {
            transcdiff_session_decode(session, floats, 32, 1, 2, 2, 9, no_token, to, 48, e)
        });
        let classes = [CLASSES as u32];
        let c = classes.as_ptr();
        let status = transcdiff_session_features(session, c, 1, none, 0, no_token, floats, 128, e);
        assert_eq!(status, ARGUMENT, "unknown class");
    }
    fixture.assert_unchanged();
}

#[test]
fn overflowing_counts_allocate_nothing() {
    let _guard = ALLOCATION_LOCK.lock();
    let fixture = Fixture::new(&shared().one_step, Some(&shared().vae));
    let values = [0.5f32; 1024];
    let v = values.as_ptr();
    for n in OVERFLOWING {
        fixture.expect_error(ARGUMENT, "images", |o, _| o.images = n);
        fixture.expect_error(ARGUMENT, "images", |o, out| {
            (o.images, out.latents) = (n, ptr::null_mut());
            (out.images, out.images_size) = (v.cast_mut().cast(), 48);
        });
        fixture.expect_error(ARGUMENT, "references", |o, _| (o.references, o.reference_count) = (v, n));
        fixture.expect_error(ARGUMENT, "ar_step_guidance_count", |o, _| {
            (o.ar_step_guidance, o.ar_step_guidance_count) = (v.cast(), n);
        });
        fixture.expect_error(ARGUMENT, "feature_count", |o, _| {
            (o.classes, o.features, o.feature_count) = (ptr::null(), v, n);
        });
        fixture.expect_error(ARGUMENT, "unconditional_images", |o, _| {
            (o.classes, o.features, o.feature_count) = (ptr::null(), v, 1);
            (o.unconditional, o.unconditional_images) = (v, n);
        });
    }
    let (session, no_token, none) = (fixture.session.session, ptr::null(), ptr::null());
    let (to, classes, seeds) = (v.cast_mut(), [0u32; 2], ptr::null());
    // SAFETY: overflowing sizes are rejected before any pointer is used.
    unsafe {
        for n in OVERFLOWING {
            let c = classes.as_ptr();
            expect_error_without_allocation(ARGUMENT, "references", |e| {
                transcdiff_session_features(session, c, n, none, 0, no_token, to, 256, e)
            });
            expect_error_without_allocation(ARGUMENT, "references", |e| {
                transcdiff_session_features(session, c, 1, v, n, no_token, to, 256, e)
            });
            for (n, h, w) in [(n, 2, 2), (1, n, 2), (1, 2, n), (n, n, n), (2, n / 2, 3)] {
                expect_error_without_allocation(ARGUMENT, "images", |e| {
                    transcdiff_session_encode(session, v.cast(), 48, 0, n, h, w, seeds, no_token, to, 32, e)
                });
                expect_error_without_allocation(ARGUMENT, "latents", |e| {
                    transcdiff_session_decode(session, v, 32, n, h, w, 0, no_token, to.cast(), 48, e)
                });
                assert_eq!(if n == 1 { transcdiff_image_bytes(2, h, w) } else { 0 }, 0);
            }
            expect_error_without_allocation(ARGUMENT, "features", |e| {
                transcdiff_features_truncate(v, n, 2, 2, 1, to, e)
            });
            expect_error_without_allocation(ARGUMENT, "features", |e| {
                transcdiff_features_truncate(v, 2, n, 2, 1, to, e)
            });
            expect_error_without_allocation(ARGUMENT, "features", |e| {
                transcdiff_features_truncate(v, 2, 2, n, 1, to, e)
            });
            expect_error_without_allocation(ARGUMENT, "k", |e| {
                transcdiff_features_truncate(v, 1, 2, 2, n, to, e)
            });
            expect_error_without_allocation(ARGUMENT, "k", |e| {
                transcdiff_features_truncate(v, 1, 2, 2, 0, to, e)
            });
            expect_error_without_allocation(ARGUMENT, "features", |e| {
                transcdiff_features_splice(v, v, n, 2, 2, 1, to, e)
            });
            expect_error_without_allocation(ARGUMENT, "features", |e| {
                transcdiff_features_splice(v, v, 2, n, 2, 1, to, e)
            });
            expect_error_without_allocation(ARGUMENT, "k", |e| {
                transcdiff_features_splice(v, v, 1, 2, 2, n, to, e)
            });
        }
        // Empty arrays are valid: no images, and features of no values.
        call(|e| transcdiff_features_truncate(none, 0, 2, 2, 1, ptr::null_mut(), e)).unwrap();
        call(|e| transcdiff_features_splice(none, none, 3, 2, 0, 1, ptr::null_mut(), e)).unwrap();
    }
    fixture.assert_unchanged();
}

#[test]
fn invalid_load_options_are_rejected() {
    let _guard = ALLOCATION_LOCK.lock();
    let file = &shared().one_step;
    let load = |change: fn(&mut transcdiff_load_options)| {
        let mut options = load_from_memory(file, None);
        change(&mut options);
        Model::load(&options).unwrap_err()
    };
    let expect = |failed: common::ErrorInfo, status, subject: &str| {
        assert_eq!((failed.status, &*failed.subject), (status, subject), "{failed:?}");
    };
    expect(load(|o| o.dtype = 3), ARGUMENT, "dtype");
    expect(load(|o| o.weights = 3), ARGUMENT, "weights");
    expect(load(|o| o.reserved = 1), ARGUMENT, "reserved");
    expect(load(|o| o.device = c"quantum".as_ptr()), ARGUMENT, "device");
    expect(load(|o| o.device = c"\xff".as_ptr()), ARGUMENT, "device");
    expect(load(|o| o.device = c"cuda:77".as_ptr()), TRANSCDIFF_DEVICE_UNAVAILABLE, "cuda:77");
    expect(load(|o| o.model_path = c"somewhere".as_ptr()), ARGUMENT, "model");
    expect(load(|o| o.model_data = ptr::null()), ARGUMENT, "model");
    expect(load(|o| o.model_size = usize::MAX), ARGUMENT, "model");
    expect(load(|o| o.model_size = 0), TRANSCDIFF_FORMAT, "model in memory");
    expect(load(|o| o.model_size -= 1), TRANSCDIFF_FORMAT, "model in memory");
    expect(load(|o| (o.codec_path, o.codec_data) = (c"v".as_ptr(), o.model_data)), ARGUMENT, "codec");
    expect(load(|o| o.codec_path = c"/nowhere/vae".as_ptr()), TRANSCDIFF_IO, "/nowhere/vae");
    expect(load(|o| o.weights = TRANSCDIFF_WEIGHTS_EMA), TRANSCDIFF_FORMAT, "model in memory");
    let missing = Model::from_path(std::path::Path::new("/nowhere/model")).unwrap_err();
    expect(missing, TRANSCDIFF_IO, "/nowhere/model");
    expect(load(|o| o.heads = 5), TRANSCDIFF_FORMAT, "model in memory");
    expect(load(|o| o.heads = u32::MAX), TRANSCDIFF_FORMAT, "model in memory");
    // A model file as the codec.
    expect(
        Model::load(&load_from_memory(file, Some(file))).unwrap_err(),
        TRANSCDIFF_FORMAT,
        "codec in memory",
    );
}

#[test]
fn memory_estimate_of_huge_batches_is_large_and_allocates_nothing() {
    let _guard = ALLOCATION_LOCK.lock();
    for vae in [None, Some(&*shared().vae)] {
        let options = load_from_memory(&shared().one_step, vae);
        for images in OVERFLOWING {
            let mut memory = transcdiff_memory {
                struct_size: size_of::<transcdiff_memory>(),
                weights: 0,
                loading: 0,
                generation: 0,
            };
            let estimate = || {
                // SAFETY: the pointers are valid.
                call(|e| unsafe { transcdiff_memory_estimate(&options, images, &mut memory, e) }).unwrap();
            };
            let ((), peak) = allocation::peak_of(estimate);
            assert!(peak < 16 << 20, "{peak} bytes");
            assert!(memory.generation >= images as u64, "{} for {images}", memory.generation);
        }
    }
}

/// Invalid struct sizes, including sizes that later versions might have.
#[test]
fn invalid_struct_sizes_are_rejected() {
    let _guard = ALLOCATION_LOCK.lock();
    let fixture = Fixture::new(&shared().one_step, None);
    for size in [0, 4, 12, 8192, usize::MAX] {
        fixture.expect_error(STRUCT, "transcdiff_generate_options", |o, _| o.struct_size = size);
        fixture.expect_error(STRUCT, "transcdiff_outputs", |_, out| out.struct_size = size);
        let options =
            transcdiff_load_options { struct_size: size, ..load_from_memory(&shared().one_step, None) };
        assert_eq!(Model::load(&options).unwrap_err().subject, "transcdiff_load_options");
        // SAFETY: invalid sizes are rejected before the structs are written.
        unsafe {
            let mut info: transcdiff_model_info = std::mem::zeroed();
            info.struct_size = size;
            let get = |e: *mut _| transcdiff_model_get_info(fixture.model.0, &mut info, e);
            expect_error(STRUCT, "transcdiff_model_info", get);
            let (mut o, mut out) = (fixture.options(), no_outputs());
            assert_eq!(transcdiff_generate_options_init(ptr::null(), &mut o, size), STRUCT);
            assert_eq!(transcdiff_outputs_init(&mut out, size), STRUCT);
            assert_eq!(transcdiff_load_options_init(&mut load_options(), size), STRUCT);
        }
    }
    fixture.assert_unchanged();
}

#[test]
fn invalid_load_settings_are_rejected_without_allocation() {
    let _guard = ALLOCATION_LOCK.lock();
    let file = &*shared().one_step;
    let expect_argument_error = |subject: &str, change: &dyn Fn(&mut transcdiff_load_options)| {
        let mut options = load_from_memory(file, None);
        change(&mut options);
        let mut model = ptr::null_mut();
        // SAFETY: the pointers are valid.
        expect_error_without_allocation(ARGUMENT, subject, |e| unsafe {
            transcdiff_model_load(&options, &mut model, e)
        });
        assert!(model.is_null());
    };
    expect_argument_error("threads", &|o| o.threads = u32::MAX);
    expect_argument_error("dtype", &|o| o.dtype = 7);
    expect_argument_error("weights", &|o| o.weights = 9);
    expect_argument_error("reserved", &|o| o.reserved = 1);
    expect_argument_error("model", &|o| (o.model_data, o.model_size) = (ptr::null(), 0));
    // A size with a NULL pointer is an error, not an unset file.
    expect_argument_error("model", &|o| o.model_data = ptr::null());
    expect_argument_error("codec", &|o| o.codec_size = 8);
}

#[test]
fn cancelled_token_stops_every_call_until_reset() {
    let _guard = ALLOCATION_LOCK.lock();
    let fixture = Fixture::new(&shared().one_step, Some(&shared().vae));
    let token = Token::new();
    token.cancel();
    let options = transcdiff_generate_options { cancellation: token.0, ..fixture.options() };
    let mut latents = vec![0.0f32; fixture.expected.latents.len()];
    let outputs = transcdiff_outputs {
        latents: latents.as_mut_ptr(),
        latents_size: size_of_val(&*latents),
        ..no_outputs()
    };
    let (session, mut floats, mut bytes) = (fixture.session.session, [0.0f32; 64], [0u8; 64]);
    let (f, b, class) = (floats.as_mut_ptr(), bytes.as_mut_ptr().cast::<std::ffi::c_void>(), [0u32]);
    let statuses = || {
        // SAFETY: the buffers have the given sizes.
        unsafe {
            let e = ptr::null_mut();
            [
                transcdiff_session_generate(session, &options, &outputs, e),
                transcdiff_session_features(session, class.as_ptr(), 1, ptr::null(), 0, token.0, f, 128, e),
                transcdiff_session_encode(session, b, 48, 0, 1, 4, 4, ptr::null(), token.0, f, 32, e),
                transcdiff_session_decode(session, f, 32, 1, 2, 2, 0, token.0, b, 48, e),
            ]
        }
    };
    assert_eq!(statuses(), [TRANSCDIFF_CANCELLED; 4]);
    assert_eq!(statuses(), [TRANSCDIFF_CANCELLED; 4], "the token stays cancelled");
    token.reset();
    assert!(!token.is_cancelled());
    assert_eq!(statuses(), [TRANSCDIFF_OK; 4]);
    fixture.assert_unchanged();
}
