//! Sessions: concurrent use, cancellation, callbacks, and lifetime beyond the model.

mod common;

use std::ffi::c_void;
use std::ptr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::files::shared;
use common::{GenerationRequest, Model, Token, expect_error, no_outputs, with_progress};
use transcdiff::*;

#[test]
fn running_session_is_busy() {
    let model = Model::from_memory(&shared().one_step, Some(&shared().vae));
    let (session, other, request) = (model.session(), model.session(), GenerationRequest::new(2, 3));
    let plain = request.options(&model);
    let expected = session.generate(&plain).unwrap();
    let mut calls = 0;
    let mut reenter = |_: &transcdiff_progress| {
        calls += 1;
        let (handle, mut floats, mut bytes) = (session.session, [0.0f32; 32], [0u8; 48]);
        let (mut latents, mut outputs) = (vec![0.0f32; expected.latents.len()], no_outputs());
        (outputs.latents, outputs.latents_size) = (latents.as_mut_ptr(), size_of_val(&*latents));
        let (f, b, class) = (floats.as_mut_ptr(), bytes.as_mut_ptr().cast::<c_void>(), [0u32]);
        // SAFETY: the buffers have the given sizes.
        unsafe {
            let none = ptr::null();
            // The session is checked before the arrays.
            let given = transcdiff_generate_options { seeds: ptr::null(), ..plain };
            expect_error(TRANSCDIFF_BUSY, "session", |e| {
                transcdiff_session_generate(handle, &given, &outputs, e)
            });
            expect_error(TRANSCDIFF_BUSY, "session", |e| {
                transcdiff_session_features(handle, class.as_ptr(), 1, ptr::null(), 0, none, f, 128, e)
            });
            expect_error(TRANSCDIFF_BUSY, "session", |e| {
                transcdiff_session_unconditional_features(handle, 1, ptr::null(), 0, none, f, 128, e)
            });
            expect_error(TRANSCDIFF_BUSY, "session", |e| {
                transcdiff_session_encode(handle, b, 48, 0, 1, 4, 4, ptr::null(), none, f, 32, e)
            });
            expect_error(TRANSCDIFF_BUSY, "session", |e| {
                transcdiff_session_decode(handle, ptr::null(), 32, 1, 2, 2, 0, none, b, 48, e)
            });
        }
        // Another session of the same model is free.
        assert_eq!(other.generate(&plain).unwrap(), expected);
        0
    };
    let outputs = session.generate(&with_progress(&plain, &mut reenter)).unwrap();
    assert_eq!(outputs, expected, "rejected calls do not affect the running one");
    assert_eq!(calls, 3);
}

#[test]
fn concurrent_call_from_another_thread_is_busy() {
    let model = Model::from_memory(&shared().one_step, None);
    let (session, request) = (model.session(), GenerationRequest::new(1, 4));
    let expected = session.generate(&request.options(&model)).unwrap();
    let (started, rejected) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            let mut wait = |p: &transcdiff_progress| {
                if p.step == 1 {
                    started.wait();
                    rejected.wait();
                }
                0
            };
            session.generate(&with_progress(&request.options(&model), &mut wait)).unwrap()
        });
        started.wait();
        let second = session.generate(&request.options(&model)).unwrap_err();
        rejected.wait();
        assert_eq!(second.status, TRANSCDIFF_BUSY);
        assert_eq!(first.join().unwrap(), expected);
    });
    assert_eq!(session.generate(&request.options(&model)).unwrap(), expected);
}

#[test]
fn progress_callback_cancels() {
    for file in [&shared().one_step, &shared().mrar] {
        let model = Model::from_memory(file, None);
        let (session, request) = (model.session(), GenerationRequest::new(2, 3));
        let expected = session.generate(&request.options(&model)).unwrap();
        let all = 3 * model.info().ar_steps;
        for last in 1..=all {
            let mut calls = 0;
            let mut stop = |_: &transcdiff_progress| {
                calls += 1;
                i32::from(calls == last) * -7
            };
            let failed = session.generate(&with_progress(&request.options(&model), &mut stop)).unwrap_err();
            assert_eq!(
                (failed.status, calls),
                (TRANSCDIFF_CANCELLED, last),
                "no callback after the one that cancels"
            );
            assert_eq!(session.generate(&request.options(&model)).unwrap(), expected);
        }
    }
}

/// No step follows the one during whose callback another thread cancels the token.
#[test]
fn cancellation_from_another_thread_takes_effect_within_a_step() {
    let model = Model::from_memory(&shared().mrar, None);
    let (session, request, token) = (model.session(), GenerationRequest::new(2, 50), Token::new());
    let (reached, set) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            reached.wait();
            token.cancel();
            set.wait();
        });
        let mut calls = 0;
        let mut count = |p: &transcdiff_progress| {
            calls += 1;
            if (p.ar_step, p.step) == (1, 20) {
                reached.wait();
                set.wait();
            }
            0
        };
        let o = transcdiff_generate_options { cancellation: token.0, ..request.options(&model) };
        let failed = session.generate(&with_progress(&o, &mut count)).unwrap_err();
        assert_eq!((failed.status, calls), (TRANSCDIFF_CANCELLED, 70));
    });
    // The token stays cancelled until it is reset, and affects only calls with this token.
    let request = GenerationRequest::new(1, 2);
    let o = transcdiff_generate_options { cancellation: token.0, ..request.options(&model) };
    assert_eq!(session.generate(&o).unwrap_err().status, TRANSCDIFF_CANCELLED);
    assert!(token.is_cancelled());
    let expected = session.generate(&request.options(&model)).unwrap();
    token.reset();
    assert_eq!(session.generate(&o).unwrap(), expected);
}

#[test]
fn token_cancels_all_sessions_that_share_it() {
    let model = Model::from_memory(&shared().one_step, None);
    let (request, token, running) = (GenerationRequest::new(1, 1_000_000), Token::new(), AtomicUsize::new(0));
    thread::scope(|scope| {
        let work = || {
            let mut arrive = |p: &transcdiff_progress| {
                if p.step == 1 && running.fetch_add(1, Ordering::Relaxed) == 3 {
                    token.cancel();
                }
                0
            };
            let o = transcdiff_generate_options { cancellation: token.0, ..request.options(&model) };
            model.session().generate(&with_progress(&o, &mut arrive)).unwrap_err().status
        };
        let workers = [(); 4].map(|()| scope.spawn(work));
        assert_eq!(workers.map(|worker| worker.join().unwrap()), [TRANSCDIFF_CANCELLED; 4]);
    });
}

/// Freeing a token before the call has returned violates the contract, but is harmless within a callback: the call holds a
/// reference to it.
#[test]
fn token_freed_in_a_callback_does_not_affect_the_call() {
    let model = Model::from_memory(&shared().one_step, None);
    let (session, request) = (model.session(), GenerationRequest::new(1, 3));
    let mut token = Some(Token::new());
    let o =
        transcdiff_generate_options { cancellation: token.as_ref().unwrap().0, ..request.options(&model) };
    let mut free = |_: &transcdiff_progress| {
        token.take();
        0
    };
    let outputs = session.generate(&with_progress(&o, &mut free)).unwrap();
    assert_eq!(outputs, session.generate(&request.options(&model)).unwrap());
}

/// Arguments of the callbacks, in order.
#[derive(Default)]
struct CallbackLog {
    steps: Vec<transcdiff_progress>,
    previews: Vec<(usize, usize, usize)>,
    last_preview: Vec<f32>,
    messages: Vec<String>,
}

unsafe extern "C" fn record_step(progress: *const transcdiff_progress, record: *mut c_void) -> i32 {
    // SAFETY: `user_data` is the test's recorder, here and below.
    unsafe { (*record.cast::<CallbackLog>()).steps.push(*progress) };
    0
}

unsafe extern "C" fn record_preview(
    progress: *const transcdiff_progress,
    latents: *const f32,
    count: usize,
    record: *mut c_void,
) -> i32 {
    // SAFETY: as above.
    unsafe {
        let (record, p) = (&mut *record.cast::<CallbackLog>(), &*progress);
        let last = record.steps.last().expect("progress comes before the preview of its step");
        assert_eq!((last.first_image, last.ar_step, last.step), (p.first_image, p.ar_step, p.step));
        record.previews.push((p.first_image, p.step, count));
        record.last_preview = std::slice::from_raw_parts(latents, count).to_vec();
    }
    0
}

unsafe extern "C" fn record_message(level: u32, message: *const std::ffi::c_char, record: *mut c_void) {
    assert_eq!(level, TRANSCDIFF_LOG_INFO);
    // SAFETY: as above.
    unsafe {
        let message = std::ffi::CStr::from_ptr(message).to_str().unwrap().to_owned();
        (*record.cast::<CallbackLog>()).messages.push(message);
    }
}

#[test]
fn callbacks_receive_every_step_in_order() {
    let model = Model::from_memory(&shared().mrar, None);
    let (session, request, ar_steps) = (model.session(), GenerationRequest::new(5, 7), model.info().ar_steps);
    let mut record = CallbackLog::default();
    let o = transcdiff_generate_options {
        batch: 2,
        progress: Some(record_step),
        preview: Some(record_preview),
        preview_interval: 3,
        log: Some(record_message),
        user_data: ptr::from_mut(&mut record).cast(),
        ..request.options(&model)
    };
    session.generate(&o).unwrap();
    let mut expected = Vec::new();
    for (first, images) in [(0, 2), (2, 2), (4, 1)] {
        for ar_step in 0..ar_steps {
            expected.extend((1..=7).map(|step| (first, images, ar_step, ar_steps, step, 7)));
        }
    }
    let counters =
        |p: &transcdiff_progress| (p.first_image, p.images, p.ar_step, p.ar_steps, p.step, p.steps);
    assert_eq!(record.steps.iter().map(counters).collect::<Vec<_>>(), expected);
    assert!(record.steps.iter().all(|p| p.struct_size == size_of::<transcdiff_progress>()));
    assert!(record.steps.is_sorted_by(|a, b| a.fraction < b.fraction));
    assert_eq!(record.steps.last().unwrap().fraction, 1.0);
    let one = record.steps[0].fraction;
    assert!((one - 2.0 / 5.0 / (7.0 * ar_steps as f64)).abs() < 1e-12, "{one}");
    assert!(record.steps.chunks(7).all(|run| run[0].t == 1.0 && run.is_sorted_by(|a, b| a.t > b.t)));
    assert!(record.steps.iter().all(|p| p.t > 0.0));
    let previews: Vec<_> = expected
        .iter()
        .filter(|(.., step, _)| step % 3 == 0)
        .map(|&(first, images, .., step, _)| (first, step, images * session.latent()))
        .collect();
    assert_eq!(record.previews, previews);
    assert_eq!(record.messages, [format!("generating 5 images in {} evaluations each", 7 * ar_steps)]);
    // Of a quality, which overrides the steps, and without a reference that is given.
    let reference = vec![0.5; 5 * session.latent()];
    record.messages.clear();
    let o = transcdiff_generate_options {
        quality: TRANSCDIFF_QUALITY_DRAFT,
        references: reference.as_ptr(),
        reference_count: 1,
        progress: None,
        preview: None,
        ..o
    };
    session.generate(&o).unwrap();
    assert_eq!(
        record.messages,
        [format!("generating 5 images in {} evaluations each", 6 * (ar_steps - 2) + 8)]
    );
}

/// AR steps replaced by given references do not count.
#[test]
fn progress_excludes_given_references() {
    let model = Model::from_memory(&shared().mrar, None);
    let (session, request, ar_steps) = (model.session(), GenerationRequest::new(2, 4), model.info().ar_steps);
    let references = session.generate(&request.options(&model)).unwrap().references;
    for given in 0..ar_steps {
        let mut fractions = Vec::new();
        let mut on_step = |p: &transcdiff_progress| {
            fractions.push(p.fraction);
            0
        };
        let o = transcdiff_generate_options {
            references: references.as_ptr(),
            reference_count: given,
            ..request.options(&model)
        };
        session.generate(&with_progress(&o, &mut on_step)).unwrap();
        let steps = 4 * (ar_steps - given);
        assert_eq!((fractions.len(), *fractions.last().unwrap()), (steps, 1.0));
        assert!((fractions[0] - 1.0 / steps as f64).abs() < 1e-12, "{given} given: {fractions:?}");
    }
}

/// Without injected noise the final step ends at its prediction.
#[test]
fn last_preview_of_a_deterministic_solver_is_the_result() {
    let model = Model::from_memory(&shared().one_step, None);
    let (request, mut record) = (GenerationRequest::new(2, 6), CallbackLog::default());
    let o = transcdiff_generate_options {
        solver: TRANSCDIFF_SOLVER_EULER,
        progress: Some(record_step),
        preview: Some(record_preview),
        preview_interval: 1,
        user_data: ptr::from_mut(&mut record).cast(),
        ..request.options(&model)
    };
    let outputs = model.session().generate(&o).unwrap();
    assert_eq!(record.previews.len(), 6);
    for (a, b) in record.last_preview.iter().zip(&outputs.latents) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn sessions_outlive_their_model() {
    let model = Model::from_memory(&shared().one_step, Some(&shared().vae));
    let (session, request) = (model.session(), GenerationRequest::new(2, 2));
    let o = request.options(&model);
    let expected = session.generate(&o).unwrap();
    let other = model.session();
    drop(model);
    assert_eq!(session.generate(&o).unwrap(), expected);
    drop(session);
    let outputs = thread::spawn(move || {
        // A session can move between threads, and can be freed on any of them.
        other.generate(&request.plain_options()).unwrap()
    });
    assert_eq!(outputs.join().unwrap(), expected);
}
