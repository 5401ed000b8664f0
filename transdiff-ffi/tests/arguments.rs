//! Hostile arguments: each is refused with its name, before memory is asked for, and the session goes on as before.

#[path = "../../tests/common/allocation.rs"]
#[allow(dead_code)]
mod allocation;
mod common;

use std::ptr;
use std::sync::Mutex;

use allocation::Counting;
use common::files::{CLASSES, shared};
use common::{Flag, Made, Model, Order, Session, call, in_memory, load_options, no_outputs, refused};
use transcdiff::*;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const ARGUMENT: transcdiff_status = TRANSCDIFF_INVALID_ARGUMENT;
const SHAPE: transcdiff_status = TRANSCDIFF_INVALID_SHAPE;
const STRUCT: transcdiff_status = TRANSCDIFF_INVALID_STRUCT;
/// Sizes that no memory has, or whose products wrap around to small ones.
const ABSURD: [usize; 6] = [usize::MAX, usize::MAX / 4, usize::MAX / 8 + 1, 1 << 63, 1 << 61, (1 << 61) + 1];

/// One test runs at a time: what another allocates would be counted.
static MEASURING: Mutex<()> = Mutex::new(());

/// The call is refused, and asks for no more memory than its error takes.
#[track_caller]
fn frugally_refused(
    status: transcdiff_status,
    subject: &str,
    f: impl FnOnce(*mut *mut transcdiff_error) -> transcdiff_status,
) {
    let ((), peak) = allocation::peak_of(|| refused(status, subject, f));
    assert!(peak < 16 << 20, "{subject}: {peak} bytes for a call that is refused");
}

/// A model with a session, a generation that works, and what it gives.
struct Ground {
    model: Model,
    session: Session,
    order: Order,
    made: Made,
}

impl Ground {
    fn new(file: &[u8], vae: Option<&[u8]>) -> Self {
        let (model, order) = (Model::from_memory(file, vae), Order::of(2, 2));
        let session = model.session();
        let made = session.generate(&order.options(&model)).unwrap();
        Self { model, session, order, made }
    }

    fn options(&self) -> transcdiff_generate_options {
        self.order.options(&self.model)
    }

    /// The changed generation is refused.
    #[track_caller]
    fn refuses(
        &self,
        status: transcdiff_status,
        subject: &str,
        change: impl FnOnce(&mut transcdiff_generate_options, &mut transcdiff_outputs),
    ) {
        let mut latents = vec![0.0; self.made.latents.len()];
        let (mut options, mut outputs) = (self.options(), no_outputs());
        outputs.latents = latents.as_mut_ptr();
        outputs.latents_size = size_of_val(&*latents);
        change(&mut options, &mut outputs);
        // SAFETY: whatever is not refused before it is used is valid.
        frugally_refused(status, subject, |error| unsafe {
            transcdiff_session_generate(self.session.session, &options, &outputs, error)
        });
    }

    fn is_as_before(&self) {
        assert_eq!(self.session.generate(&self.options()).unwrap(), self.made);
    }
}

#[test]
fn null_is_refused_by_name() {
    let _one = MEASURING.lock();
    let ground = Ground::new(&shared().one_step, Some(&shared().vae));
    let (session, model) = (ground.session.session, ground.model.0);
    let (mut floats, mut bytes, classes) = ([0.0f32; 64], [0u8; 64], [0u32; 2]);
    let (none, no_flag) = (ptr::null_mut::<f32>(), ptr::null());
    let f = floats.as_mut_ptr();
    let b = bytes.as_mut_ptr().cast::<std::ffi::c_void>();
    // SAFETY: what is not NULL is valid.
    unsafe {
        let mut to_session = ptr::null_mut();
        refused(ARGUMENT, "model", |e| transcdiff_session_new(ptr::null(), &mut to_session, e));
        assert!(to_session.is_null());
        refused(ARGUMENT, "session", |e| transcdiff_session_new(model, ptr::null_mut(), e));
        let mut info: transcdiff_model_info = std::mem::zeroed();
        info.struct_size = size_of_val(&info);
        refused(ARGUMENT, "model", |e| transcdiff_model_get_info(ptr::null(), &mut info, e));
        refused(ARGUMENT, "info", |e| transcdiff_model_get_info(model, ptr::null_mut(), e));

        let mut to_model = ptr::null_mut();
        let load = in_memory(&shared().one_step, None);
        refused(ARGUMENT, "options", |e| transcdiff_model_load(ptr::null(), &mut to_model, e));
        refused(ARGUMENT, "model", |e| transcdiff_model_load(&load, ptr::null_mut(), e));
        refused(ARGUMENT, "model", |e| transcdiff_model_load(&load_options(), &mut to_model, e));
        assert!(to_model.is_null());
        let mut memory: transcdiff_memory = std::mem::zeroed();
        memory.struct_size = size_of_val(&memory);
        refused(ARGUMENT, "options", |e| transcdiff_memory_estimate(ptr::null(), 1, &mut memory, e));
        refused(ARGUMENT, "memory", |e| transcdiff_memory_estimate(&load, 1, ptr::null_mut(), e));

        let (options, outputs) = (ground.options(), no_outputs());
        refused(ARGUMENT, "session", |e| transcdiff_session_generate(ptr::null_mut(), &options, &outputs, e));
        refused(ARGUMENT, "options", |e| transcdiff_session_generate(session, ptr::null(), &outputs, e));
        refused(ARGUMENT, "outputs", |e| transcdiff_session_generate(session, &options, ptr::null(), e));

        let features = |session, classes, references, count, to, e| {
            transcdiff_session_features(session, classes, 1, references, count, no_flag, to, 128, e)
        };
        refused(ARGUMENT, "session", |e| features(ptr::null_mut(), classes.as_ptr(), none, 0, f, e));
        refused(ARGUMENT, "classes", |e| features(session, ptr::null(), none, 0, f, e));
        refused(ARGUMENT, "features", |e| features(session, classes.as_ptr(), none, 0, none, e));
        let unconditional = |session, references, count, to, e| {
            transcdiff_session_unconditional_features(session, 1, references, count, no_flag, to, 128, e)
        };
        refused(ARGUMENT, "session", |e| unconditional(ptr::null_mut(), none, 0, f, e));
        refused(ARGUMENT, "features", |e| unconditional(session, none, 0, none, e));
        refused(ARGUMENT, "references", |e| unconditional(session, none, 1, f, e));
        refused(ARGUMENT, "references", |e| features(session, classes.as_ptr(), none, 1, f, e));

        refused(ARGUMENT, "features", |e| transcdiff_features_cut(none, 1, 2, 2, 1, f, e));
        refused(ARGUMENT, "cut", |e| transcdiff_features_cut(f, 1, 2, 2, 1, none, e));
        let from = floats[32..].as_ptr();
        refused(ARGUMENT, "first", |e| transcdiff_features_mix(none, from, 1, 2, 2, 1, f, e));
        refused(ARGUMENT, "second", |e| transcdiff_features_mix(from, none, 1, 2, 2, 1, f, e));
        refused(ARGUMENT, "mixed", |e| transcdiff_features_mix(from, from, 1, 2, 2, 1, none, e));

        let encode = |session, images, latents, e| {
            transcdiff_session_encode(session, images, 48, 0, 1, 4, 4, ptr::null(), no_flag, latents, 32, e)
        };
        refused(ARGUMENT, "session", |e| encode(ptr::null_mut(), b, f, e));
        refused(ARGUMENT, "images", |e| encode(session, ptr::null(), f, e));
        refused(ARGUMENT, "latents", |e| encode(session, b, none, e));
        let decode = |session, latents, images, e| {
            transcdiff_session_decode(session, latents, 32, 1, 2, 2, 0, no_flag, images, 48, e)
        };
        refused(ARGUMENT, "session", |e| decode(ptr::null_mut(), f, b, e));
        refused(ARGUMENT, "latents", |e| decode(session, none, b, e));
        refused(ARGUMENT, "images", |e| decode(session, f, ptr::null_mut(), e));
    }
    ground.refuses(ARGUMENT, "seeds", |o, _| o.seeds = ptr::null());
    ground.refuses(ARGUMENT, "classes", |o, _| o.classes = ptr::null());
    ground.refuses(ARGUMENT, "step_guidance", |o, _| o.step_guidance_count = 1);
    ground.refuses(ARGUMENT, "references", |o, _| o.reference_count = 1);
    ground.is_as_before();
}

/// Functions that do not return a status take NULL for nothing; those that do need no place for an error.
#[test]
fn null_is_nothing_to_free_and_no_error_is_asked_for() {
    let _one = MEASURING.lock();
    // SAFETY: NULL is allowed everywhere here.
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
            assert_eq!(*text, 0, "an empty text");
        }
        let nothing = ptr::null_mut();
        assert_eq!(transcdiff_session_new(ptr::null(), ptr::null_mut(), nothing), ARGUMENT);
        assert_eq!(transcdiff_model_load(ptr::null(), ptr::null_mut(), nothing), ARGUMENT);
        let none = ptr::null();
        assert_eq!(transcdiff_session_generate(ptr::null_mut(), none, ptr::null(), nothing), ARGUMENT);
        assert_eq!(transcdiff_load_options_init(ptr::null_mut(), 8), ARGUMENT);
        assert_eq!(transcdiff_generate_options_init(ptr::null(), ptr::null_mut(), 8), ARGUMENT);
        assert_eq!(transcdiff_outputs_init(ptr::null_mut(), 8), ARGUMENT);
    }
}

/// Pointers to elements and to places for results; the structs and the error need no alignment.
#[test]
fn misaligned_pointers_are_refused_or_read() {
    let _one = MEASURING.lock();
    let ground = Ground::new(&shared().mrar, None);
    let values = [0.0f64; 64];
    let odd = values.as_ptr().cast::<u8>().wrapping_add(1);
    ground.refuses(ARGUMENT, "classes", |o, _| o.classes = odd.cast());
    ground.refuses(ARGUMENT, "seeds", |o, _| o.seeds = odd.cast());
    ground.refuses(ARGUMENT, "references", |o, _| {
        (o.references, o.reference_count) = (odd.cast(), 1);
    });
    ground.refuses(ARGUMENT, "starting", |o, _| o.starting = odd.cast());
    ground.refuses(ARGUMENT, "step_guidance", |o, _| {
        (o.step_guidance, o.step_guidance_count) = (odd.cast(), 4);
    });
    ground.refuses(ARGUMENT, "features", |o, _| {
        (o.classes, o.features, o.feature_count) = (ptr::null(), odd.cast(), 1);
    });
    ground.refuses(ARGUMENT, "latents", |_, out| out.latents = odd.cast_mut().cast());
    // SAFETY: misaligned places are refused before they are used.
    unsafe {
        let load = in_memory(&shared().one_step, None);
        refused(ARGUMENT, "model", |e| transcdiff_model_load(&load, odd.cast_mut().cast(), e));
        refused(ARGUMENT, "session", |e| transcdiff_session_new(ground.model.0, odd.cast_mut().cast(), e));
    }

    let mut bytes = vec![0u8; 1 + size_of::<transcdiff_generate_options>() + 1 + 16];
    let mut latents = vec![0.0f32; ground.made.latents.len()];
    let outputs = transcdiff_outputs {
        latents: latents.as_mut_ptr(),
        latents_size: size_of_val(&*latents),
        ..no_outputs()
    };
    // SAFETY: the bytes hold the struct, and after it a pointer, both in odd places.
    unsafe {
        let options = bytes.as_mut_ptr().add(1).cast::<transcdiff_generate_options>();
        options.write_unaligned(ground.options());
        let error = bytes.as_mut_ptr().add(2 + size_of::<transcdiff_generate_options>());
        let error = error.cast::<*mut transcdiff_error>();
        let session = ground.session.session;
        assert_eq!(transcdiff_session_generate(session, options, &outputs, error), TRANSCDIFF_OK);
        assert_eq!(transcdiff_session_generate(session, ptr::null(), &outputs, error), ARGUMENT);
        transcdiff_error_free(error.read_unaligned());
    }
    assert_eq!(latents, ground.made.latents);
}

#[test]
fn numbers_out_of_range_are_refused() {
    let _one = MEASURING.lock();
    let ground = Ground::new(&shared().mrar, None);
    let latents = ground.made.latents.len();
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
        ground.refuses(ARGUMENT, "guidance", |o, _| o.guidance = bad);
        ground.refuses(ARGUMENT, "guidance_low", |o, _| o.guidance_low = bad);
        ground.refuses(ARGUMENT, "guidance_high", |o, _| o.guidance_high = bad);
        ground.refuses(ARGUMENT, "noise_scale", |o, _| o.noise_scale = bad);
        let each = [1.5, 1.5, bad, 1.5];
        ground.refuses(ARGUMENT, "step_guidance", |o, _| {
            (o.step_guidance, o.step_guidance_count) = (each.as_ptr(), each.len());
        });
    }
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        ground.refuses(ARGUMENT, "drift_scale", |o, _| o.drift_scale = bad);
    }
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![0.0; 3 * latents];
        values[latents - 1] = bad;
        ground.refuses(ARGUMENT, "references", |o, _| {
            (o.references, o.reference_count) = (values.as_ptr(), 1);
        });
        ground.refuses(ARGUMENT, "starting", |o, _| o.starting = values.as_ptr());
        let features = [bad; 2 * 8];
        ground.refuses(ARGUMENT, "features", |o, _| {
            (o.classes, o.features, o.feature_count) = (ptr::null(), features.as_ptr(), 1);
        });
        let (good, bad) = ([0.5; 2 * 8], [bad; 8]);
        ground.refuses(ARGUMENT, "unconditional", |o, _| {
            (o.classes, o.features, o.feature_count) = (ptr::null(), good.as_ptr(), 1);
            (o.unconditional, o.unconditional_images) = (bad.as_ptr(), 1);
        });
    }
    ground.refuses(ARGUMENT, "guidance_low", |o, _| (o.guidance_low, o.guidance_high) = (0.6, 0.5));
    ground.refuses(ARGUMENT, "steps", |o, _| o.steps = 0);
    for bad in [4, 7, u32::MAX] {
        ground.refuses(ARGUMENT, "solver", |o, _| o.solver = bad);
        ground.refuses(ARGUMENT, "pixel_format", |_, out| out.pixel_format = bad);
    }
    ground.refuses(ARGUMENT, "reserved", |_, out| out.reserved = 1);
    ground.refuses(ARGUMENT, "preview_interval", |o, _| {
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
        ground.refuses(ARGUMENT, "class", |o, _| o.classes = classes.as_ptr());
    }
    ground.is_as_before();
}

#[test]
fn what_contradicts_itself_is_refused() {
    let _one = MEASURING.lock();
    let ground = Ground::new(&shared().one_step, None);
    let features = [0.5; 2 * 4 * 8];
    let from_features = |o: &mut transcdiff_generate_options| {
        (o.classes, o.features, o.feature_count) = (ptr::null(), features.as_ptr(), 4);
    };
    ground.refuses(ARGUMENT, "images", |o, _| o.images = 0);
    ground.refuses(ARGUMENT, "classes", |o, _| {
        let classes = o.classes;
        from_features(o);
        o.classes = classes;
    });
    // Without a buffer nothing bears out how many images there are.
    ground
        .refuses(ARGUMENT, "outputs", |o, out| (o.images, out.latents) = (usize::MAX / 64, ptr::null_mut()));
    let nowhere = ptr::dangling_mut::<std::ffi::c_void>();
    ground.refuses(ARGUMENT, "images", |o, out| {
        (o.images, out.latents, out.images) = (usize::MAX / 64, ptr::null_mut(), nowhere);
    });
    for misplaced in [1usize, 2] {
        ground.refuses(ARGUMENT, "latents", |_, out| out.latents = out.latents.wrapping_byte_add(misplaced));
        ground.refuses(ARGUMENT, "features", |_, out| {
            (out.features, out.features_size) = (out.latents.wrapping_byte_add(misplaced), 2 * 4 * 8 * 4);
        });
    }
    ground.refuses(ARGUMENT, "classes", |o, _| o.classes = ptr::null());
    ground.refuses(ARGUMENT, "feature_count", |o, _| o.feature_count = 4);
    ground.refuses(ARGUMENT, "unconditional_images", |o, _| {
        from_features(o);
        o.unconditional_images = 1;
    });
    ground.refuses(ARGUMENT, "unconditional", |o, _| {
        (o.unconditional, o.unconditional_images) = (features.as_ptr(), 1);
    });
    ground.refuses(ARGUMENT, "references", |o, _| {
        from_features(o);
        (o.references, o.reference_count) = (features.as_ptr(), 1);
    });
    ground.refuses(ARGUMENT, "references", |o, _| {
        (o.references, o.reference_count) = (features.as_ptr(), 1);
    });
    ground.refuses(ARGUMENT, "step_guidance_count", |o, _| {
        (o.step_guidance, o.step_guidance_count) = ([1.5; 2].as_ptr(), 2);
    });
    for images in [0, 3] {
        ground.refuses(ARGUMENT, "unconditional_images", |o, _| {
            from_features(o);
            (o.unconditional, o.unconditional_images) = (features.as_ptr(), images);
            (o.feature_count, o.features) = (1, features.as_ptr());
        });
    }
    for count in [0, 5] {
        let many = [0.5; 2 * 5 * 8];
        ground.refuses(ARGUMENT, "feature_count", |o, _| {
            from_features(o);
            (o.feature_count, o.features) = (count, many.as_ptr());
        });
    }
    ground.is_as_before();
}

#[test]
fn buffers_of_another_size_are_refused() {
    let _one = MEASURING.lock();
    let ground = Ground::new(&shared().one_step, Some(&shared().vae));
    let mut try_with_capacity = vec![0u8; 4096];
    let (bytes, floats) = (try_with_capacity.as_mut_ptr(), try_with_capacity.as_mut_ptr().cast::<f32>());
    let (latents, features) = (size_of_val(&*ground.made.latents), size_of_val(&*ground.made.features));
    let images = ground.made.images.len();
    let wrong = |right: usize| [0, right - 1, right + 1, right / 2, 2 * right, usize::MAX];
    for size in wrong(latents) {
        ground.refuses(SHAPE, "latents", |_, out| out.latents_size = size);
    }
    for size in wrong(features) {
        ground.refuses(SHAPE, "features", |_, out| (out.features, out.features_size) = (floats, size));
    }
    for size in wrong(images) {
        ground.refuses(SHAPE, "images", |_, out| (out.images, out.images_size) = (bytes.cast(), size));
    }
    // There are no references in one step.
    ground.refuses(SHAPE, "references", |_, out| (out.references, out.references_size) = (floats, latents));

    let (session, no_flag) = (ground.session.session, ptr::null());
    // SAFETY: sizes are refused before the buffers are used.
    unsafe {
        let classes = [0u32, 1];
        let (c, none) = (classes.as_ptr(), ptr::null());
        for size in wrong(2 * 4 * 8 * 4) {
            frugally_refused(SHAPE, "features", |e| {
                transcdiff_session_features(session, c, 2, none, 0, no_flag, floats, size, e)
            });
        }
        let (from, seeds) = (bytes.cast_const().cast(), ptr::null());
        for size in wrong(48) {
            frugally_refused(SHAPE, "images", |e| {
                transcdiff_session_encode(session, from, size, 0, 1, 4, 4, seeds, no_flag, floats, 32, e)
            });
            frugally_refused(SHAPE, "images", |e| {
                transcdiff_session_decode(session, floats, 32, 1, 2, 2, 0, no_flag, bytes.cast(), size, e)
            });
        }
        for size in wrong(32) {
            frugally_refused(SHAPE, "latents", |e| {
                transcdiff_session_encode(session, from, 48, 0, 1, 4, 4, seeds, no_flag, floats, size, e)
            });
            frugally_refused(SHAPE, "latents", |e| {
                transcdiff_session_decode(session, floats, size, 1, 2, 2, 0, no_flag, bytes.cast(), 48, e)
            });
        }
        let to = bytes.cast();
        let (argument, e) = ("pixel_format", ptr::null_mut());
        refused(ARGUMENT, argument, |e| {
            transcdiff_session_encode(session, from, 48, 9, 1, 4, 4, seeds, no_flag, floats, 32, e)
        });
        refused(ARGUMENT, argument, |e| {
            transcdiff_session_decode(session, floats, 32, 1, 2, 2, 9, no_flag, to, 48, e)
        });
        let classes = [CLASSES as u32];
        let c = classes.as_ptr();
        let status = transcdiff_session_features(session, c, 1, none, 0, no_flag, floats, 128, e);
        assert_eq!(status, ARGUMENT, "a class that is none");
    }
    ground.is_as_before();
}

#[test]
fn absurd_counts_take_no_memory() {
    let _one = MEASURING.lock();
    let ground = Ground::new(&shared().one_step, Some(&shared().vae));
    let values = [0.5f32; 1024];
    let v = values.as_ptr();
    for n in ABSURD {
        ground.refuses(ARGUMENT, "images", |o, _| o.images = n);
        ground.refuses(ARGUMENT, "images", |o, out| {
            (o.images, out.latents) = (n, ptr::null_mut());
            (out.images, out.images_size) = (v.cast_mut().cast(), 48);
        });
        ground.refuses(ARGUMENT, "references", |o, _| (o.references, o.reference_count) = (v, n));
        ground.refuses(ARGUMENT, "step_guidance_count", |o, _| {
            (o.step_guidance, o.step_guidance_count) = (v.cast(), n);
        });
        ground.refuses(ARGUMENT, "feature_count", |o, _| {
            (o.classes, o.features, o.feature_count) = (ptr::null(), v, n);
        });
        ground.refuses(ARGUMENT, "unconditional_images", |o, _| {
            (o.classes, o.features, o.feature_count) = (ptr::null(), v, 1);
            (o.unconditional, o.unconditional_images) = (v, n);
        });
    }
    let (session, no_flag, none) = (ground.session.session, ptr::null(), ptr::null());
    let (to, classes, seeds) = (v.cast_mut(), [0u32; 2], ptr::null());
    // SAFETY: sizes are refused before anything is used.
    unsafe {
        for n in ABSURD {
            let c = classes.as_ptr();
            frugally_refused(ARGUMENT, "references", |e| {
                transcdiff_session_features(session, c, n, none, 0, no_flag, to, 256, e)
            });
            frugally_refused(ARGUMENT, "references", |e| {
                transcdiff_session_features(session, c, 1, v, n, no_flag, to, 256, e)
            });
            for (n, h, w) in [(n, 2, 2), (1, n, 2), (1, 2, n), (n, n, n), (2, n / 2, 3)] {
                frugally_refused(ARGUMENT, "images", |e| {
                    transcdiff_session_encode(session, v.cast(), 48, 0, n, h, w, seeds, no_flag, to, 32, e)
                });
                frugally_refused(ARGUMENT, "latents", |e| {
                    transcdiff_session_decode(session, v, 32, n, h, w, 0, no_flag, to.cast(), 48, e)
                });
                assert_eq!(if n == 1 { transcdiff_pixel_bytes(2, h, w) } else { 0 }, 0);
            }
            frugally_refused(ARGUMENT, "features", |e| transcdiff_features_cut(v, n, 2, 2, 1, to, e));
            frugally_refused(ARGUMENT, "features", |e| transcdiff_features_cut(v, 2, n, 2, 1, to, e));
            frugally_refused(ARGUMENT, "features", |e| transcdiff_features_cut(v, 2, 2, n, 1, to, e));
            frugally_refused(ARGUMENT, "k", |e| transcdiff_features_cut(v, 1, 2, 2, n, to, e));
            frugally_refused(ARGUMENT, "k", |e| transcdiff_features_cut(v, 1, 2, 2, 0, to, e));
            frugally_refused(ARGUMENT, "features", |e| transcdiff_features_mix(v, v, n, 2, 2, 1, to, e));
            frugally_refused(ARGUMENT, "features", |e| transcdiff_features_mix(v, v, 2, n, 2, 1, to, e));
            frugally_refused(ARGUMENT, "k", |e| transcdiff_features_mix(v, v, 1, 2, 2, n, to, e));
        }
        // Nothing of something, and something of nothing.
        call(|e| transcdiff_features_cut(none, 0, 2, 2, 1, ptr::null_mut(), e)).unwrap();
        call(|e| transcdiff_features_mix(none, none, 3, 2, 0, 1, ptr::null_mut(), e)).unwrap();
    }
    ground.is_as_before();
}

#[test]
fn load_options_are_checked() {
    let _one = MEASURING.lock();
    let file = &shared().one_step;
    let load = |change: fn(&mut transcdiff_load_options)| {
        let mut options = in_memory(file, None);
        change(&mut options);
        Model::load(&options).unwrap_err()
    };
    let expect = |failed: common::Failed, status, subject: &str| {
        assert_eq!((failed.status, &*failed.subject), (status, subject), "{failed:?}");
    };
    expect(load(|o| o.dtype = 2), ARGUMENT, "dtype");
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
    expect(load(|o| (o.vae_path, o.vae_data) = (c"v".as_ptr(), o.model_data)), ARGUMENT, "vae");
    expect(load(|o| o.vae_path = c"/nowhere/vae".as_ptr()), TRANSCDIFF_IO, "/nowhere/vae");
    expect(load(|o| o.weights = TRANSCDIFF_WEIGHTS_EMA), TRANSCDIFF_FORMAT, "model in memory");
    let missing = Model::from_path(std::path::Path::new("/nowhere/model")).unwrap_err();
    expect(missing, TRANSCDIFF_IO, "/nowhere/model");
    expect(load(|o| o.heads = 5), TRANSCDIFF_FORMAT, "model in memory");
    expect(load(|o| o.heads = u32::MAX), TRANSCDIFF_FORMAT, "model in memory");
    // A model where a VAE is wanted.
    expect(Model::load(&in_memory(file, Some(file))).unwrap_err(), TRANSCDIFF_FORMAT, "vae in memory");
}

#[test]
fn an_estimate_of_absurd_counts_is_large_and_costs_nothing() {
    let _one = MEASURING.lock();
    for vae in [None, Some(&*shared().vae)] {
        let options = in_memory(&shared().one_step, vae);
        for images in ABSURD {
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

/// Structs of sizes that are none, and of sizes that later versions may have.
#[test]
fn sizes_of_structs_are_checked() {
    let _one = MEASURING.lock();
    let ground = Ground::new(&shared().one_step, None);
    for size in [0, 4, 12, 8192, usize::MAX] {
        ground.refuses(STRUCT, "transcdiff_generate_options", |o, _| o.struct_size = size);
        ground.refuses(STRUCT, "transcdiff_outputs", |_, out| out.struct_size = size);
        let options = transcdiff_load_options { struct_size: size, ..in_memory(&shared().one_step, None) };
        assert_eq!(Model::load(&options).unwrap_err().subject, "transcdiff_load_options");
        // SAFETY: the structs are larger than any size that is written.
        unsafe {
            let mut info: transcdiff_model_info = std::mem::zeroed();
            info.struct_size = size;
            let get = |e: *mut _| transcdiff_model_get_info(ground.model.0, &mut info, e);
            refused(STRUCT, "transcdiff_model_info", get);
            let (mut o, mut out) = (ground.options(), no_outputs());
            assert_eq!(transcdiff_generate_options_init(ptr::null(), &mut o, size), STRUCT);
            assert_eq!(transcdiff_outputs_init(&mut out, size), STRUCT);
            assert_eq!(transcdiff_load_options_init(&mut load_options(), size), STRUCT);
        }
    }
    ground.is_as_before();
}

#[test]
fn loading_takes_sensible_settings_alone() {
    let _one = MEASURING.lock();
    let file = &*shared().one_step;
    let refuses = |subject: &str, change: &dyn Fn(&mut transcdiff_load_options)| {
        let mut options = in_memory(file, None);
        change(&mut options);
        let mut model = ptr::null_mut();
        // SAFETY: the pointers are valid.
        frugally_refused(ARGUMENT, subject, |e| unsafe { transcdiff_model_load(&options, &mut model, e) });
        assert!(model.is_null());
    };
    refuses("threads", &|o| o.threads = u32::MAX);
    refuses("dtype", &|o| o.dtype = 7);
    refuses("weights", &|o| o.weights = 9);
    refuses("reserved", &|o| o.reserved = 1);
    refuses("model", &|o| (o.model_data, o.model_size) = (ptr::null(), 0));
    // A size without memory is an empty file that somebody took the address of, not no file.
    refuses("model", &|o| o.model_data = ptr::null());
    refuses("vae", &|o| o.vae_size = 8);
}

#[test]
fn a_flag_that_is_set_stops_every_call() {
    let _one = MEASURING.lock();
    let ground = Ground::new(&shared().one_step, Some(&shared().vae));
    let flag = Flag::new();
    flag.cancel();
    let options = transcdiff_generate_options { cancellation: flag.0, ..ground.options() };
    let mut latents = vec![0.0f32; ground.made.latents.len()];
    let wanted = transcdiff_outputs {
        latents: latents.as_mut_ptr(),
        latents_size: size_of_val(&*latents),
        ..no_outputs()
    };
    let (session, mut floats, mut bytes) = (ground.session.session, [0.0f32; 64], [0u8; 64]);
    let (f, b, class) = (floats.as_mut_ptr(), bytes.as_mut_ptr().cast::<std::ffi::c_void>(), [0u32]);
    let statuses = || {
        // SAFETY: the buffers are as large as they say.
        unsafe {
            let e = ptr::null_mut();
            [
                transcdiff_session_generate(session, &options, &wanted, e),
                transcdiff_session_features(session, class.as_ptr(), 1, ptr::null(), 0, flag.0, f, 128, e),
                transcdiff_session_encode(session, b, 48, 0, 1, 4, 4, ptr::null(), flag.0, f, 32, e),
                transcdiff_session_decode(session, f, 32, 1, 2, 2, 0, flag.0, b, 48, e),
            ]
        }
    };
    assert_eq!(statuses(), [TRANSCDIFF_CANCELLED; 4]);
    assert_eq!(statuses(), [TRANSCDIFF_CANCELLED; 4], "it stays set");
    flag.reset();
    assert!(!flag.is_set());
    assert_eq!(statuses(), [TRANSCDIFF_OK; 4]);
    ground.is_as_before();
}
