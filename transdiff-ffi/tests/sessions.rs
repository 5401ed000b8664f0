//! Sessions at work: busy ones, cancelled ones, what callbacks are told, and models that are freed before them.

mod common;

use std::ffi::c_void;
use std::ptr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use common::files::shared;
use common::{Flag, Model, Order, no_outputs, refused, watched};
use transcdiff::*;

#[test]
fn a_session_at_work_is_busy() {
    let model = Model::from_memory(&shared().one_step, Some(&shared().vae));
    let (session, other, order) = (model.session(), model.session(), Order::of(2, 3));
    let plain = order.options(&model);
    let expected = session.generate(&plain).unwrap();
    let mut calls = 0;
    let mut intrude = |_: &transcdiff_progress| {
        calls += 1;
        let (handle, mut floats, mut bytes) = (session.session, [0.0f32; 32], [0u8; 48]);
        let (mut latents, mut wanted) = (vec![0.0f32; expected.latents.len()], no_outputs());
        (wanted.latents, wanted.latents_size) = (latents.as_mut_ptr(), size_of_val(&*latents));
        let (f, b, class) = (floats.as_mut_ptr(), bytes.as_mut_ptr().cast::<c_void>(), [0u32]);
        // SAFETY: the buffers are as large as they say.
        unsafe {
            let none = ptr::null();
            // Before the arrays are looked at.
            let given = transcdiff_generate_options { seeds: ptr::null(), ..plain };
            refused(TRANSCDIFF_BUSY, "session", |e| transcdiff_session_generate(handle, &given, &wanted, e));
            refused(TRANSCDIFF_BUSY, "session", |e| {
                transcdiff_session_features(handle, class.as_ptr(), 1, ptr::null(), 0, none, f, 128, e)
            });
            refused(TRANSCDIFF_BUSY, "session", |e| {
                transcdiff_session_unconditional_features(handle, 1, ptr::null(), 0, none, f, 128, e)
            });
            refused(TRANSCDIFF_BUSY, "session", |e| {
                transcdiff_session_encode(handle, b, 48, 0, 1, 4, 4, ptr::null(), none, f, 32, e)
            });
            refused(TRANSCDIFF_BUSY, "session", |e| {
                transcdiff_session_decode(handle, ptr::null(), 32, 1, 2, 2, 0, none, b, 48, e)
            });
        }
        // Another session of the same model is free.
        assert_eq!(other.generate(&plain).unwrap(), expected);
        0
    };
    let made = session.generate(&watched(&plain, &mut intrude)).unwrap();
    assert_eq!(made, expected, "whoever was refused disturbed nothing");
    assert_eq!(calls, 3);
}

#[test]
fn two_threads_cannot_use_one_session() {
    let model = Model::from_memory(&shared().one_step, None);
    let (session, order) = (model.session(), Order::of(1, 4));
    let expected = session.generate(&order.options(&model)).unwrap();
    let (started, refused) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        let first = scope.spawn(|| {
            let mut wait = |p: &transcdiff_progress| {
                if p.step == 1 {
                    started.wait();
                    refused.wait();
                }
                0
            };
            session.generate(&watched(&order.options(&model), &mut wait)).unwrap()
        });
        started.wait();
        let second = session.generate(&order.options(&model)).unwrap_err();
        refused.wait();
        assert_eq!(second.status, TRANSCDIFF_BUSY);
        assert_eq!(first.join().unwrap(), expected);
    });
    assert_eq!(session.generate(&order.options(&model)).unwrap(), expected);
}

#[test]
fn a_callback_cancels() {
    for file in [&shared().one_step, &shared().mrar] {
        let model = Model::from_memory(file, None);
        let (session, order) = (model.session(), Order::of(2, 3));
        let expected = session.generate(&order.options(&model)).unwrap();
        let all = 3 * model.info().groups;
        for last in 1..=all {
            let mut calls = 0;
            let mut stop = |_: &transcdiff_progress| {
                calls += 1;
                i32::from(calls == last) * -7
            };
            let failed = session.generate(&watched(&order.options(&model), &mut stop)).unwrap_err();
            assert_eq!(
                (failed.status, calls),
                (TRANSCDIFF_CANCELLED, last),
                "no call after the one that stops"
            );
            assert_eq!(session.generate(&order.options(&model)).unwrap(), expected);
        }
    }
}

/// A flag that another thread sets while a step is reported: the step after it is not made.
#[test]
fn another_thread_cancels_within_a_step() {
    let model = Model::from_memory(&shared().mrar, None);
    let (session, order, flag) = (model.session(), Order::of(2, 50), Flag::new());
    let (reached, set) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| {
        scope.spawn(|| {
            reached.wait();
            flag.cancel();
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
        let o = transcdiff_generate_options { cancellation: flag.0, ..order.options(&model) };
        let failed = session.generate(&watched(&o, &mut count)).unwrap_err();
        assert_eq!((failed.status, calls), (TRANSCDIFF_CANCELLED, 70));
    });
    // The flag stays set until it is reset, for whoever watches it, and for nobody else.
    let order = Order::of(1, 2);
    let o = transcdiff_generate_options { cancellation: flag.0, ..order.options(&model) };
    assert_eq!(session.generate(&o).unwrap_err().status, TRANSCDIFF_CANCELLED);
    assert!(flag.is_set());
    let expected = session.generate(&order.options(&model)).unwrap();
    flag.reset();
    assert_eq!(session.generate(&o).unwrap(), expected);
}

/// One flag, many sessions.
#[test]
fn one_flag_stops_all_who_watch_it() {
    let model = Model::from_memory(&shared().one_step, None);
    let (order, flag, running) = (Order::of(1, 1_000_000), Flag::new(), AtomicUsize::new(0));
    thread::scope(|scope| {
        let work = || {
            let mut arrive = |p: &transcdiff_progress| {
                if p.step == 1 && running.fetch_add(1, Ordering::Relaxed) == 3 {
                    flag.cancel();
                }
                0
            };
            let o = transcdiff_generate_options { cancellation: flag.0, ..order.options(&model) };
            model.session().generate(&watched(&o, &mut arrive)).unwrap_err().status
        };
        let workers = [(); 4].map(|()| scope.spawn(work));
        assert_eq!(workers.map(|worker| worker.join().unwrap()), [TRANSCDIFF_CANCELLED; 4]);
    });
}

/// A flag must not be freed before the call has returned. If a callback does it nevertheless, the call goes on: it has its
/// own share of the flag.
#[test]
fn a_flag_that_is_freed_too_early_harms_nobody() {
    let model = Model::from_memory(&shared().one_step, None);
    let (session, order) = (model.session(), Order::of(1, 3));
    let mut flag = Some(Flag::new());
    let o = transcdiff_generate_options { cancellation: flag.as_ref().unwrap().0, ..order.options(&model) };
    let mut free = |_: &transcdiff_progress| {
        flag.take();
        0
    };
    let made = session.generate(&watched(&o, &mut free)).unwrap();
    assert_eq!(made, session.generate(&order.options(&model)).unwrap());
}

/// What callbacks were told, in their order.
#[derive(Default)]
struct Heard {
    steps: Vec<transcdiff_progress>,
    previews: Vec<(usize, usize, usize)>,
    last_preview: Vec<f32>,
    messages: usize,
}

unsafe extern "C" fn hear_step(progress: *const transcdiff_progress, heard: *mut c_void) -> i32 {
    // SAFETY: it is called with what the test gave, here and below.
    unsafe { (*heard.cast::<Heard>()).steps.push(*progress) };
    0
}

unsafe extern "C" fn hear_preview(
    progress: *const transcdiff_progress,
    latents: *const f32,
    count: usize,
    heard: *mut c_void,
) -> i32 {
    // SAFETY: as above.
    unsafe {
        let (heard, p) = (&mut *heard.cast::<Heard>(), &*progress);
        let told = heard.steps.last().expect("progress comes before the preview of its step");
        assert_eq!((told.first_image, told.ar_step, told.step), (p.first_image, p.ar_step, p.step));
        heard.previews.push((p.first_image, p.step, count));
        heard.last_preview = std::slice::from_raw_parts(latents, count).to_vec();
    }
    0
}

unsafe extern "C" fn hear_message(level: u32, message: *const std::ffi::c_char, heard: *mut c_void) {
    assert_eq!(level, TRANSCDIFF_LOG_INFO);
    // SAFETY: as above.
    unsafe {
        assert_ne!(*message, 0);
        (*heard.cast::<Heard>()).messages += 1;
    }
}

#[test]
fn callbacks_hear_every_step_in_order() {
    let model = Model::from_memory(&shared().mrar, None);
    let (session, order, groups) = (model.session(), Order::of(5, 7), model.info().groups);
    let mut heard = Heard::default();
    let o = transcdiff_generate_options {
        batch: 2,
        progress: Some(hear_step),
        preview: Some(hear_preview),
        preview_interval: 3,
        log: Some(hear_message),
        user_data: ptr::from_mut(&mut heard).cast(),
        ..order.options(&model)
    };
    session.generate(&o).unwrap();
    let mut expected = Vec::new();
    for (first, images) in [(0, 2), (2, 2), (4, 1)] {
        for ar_step in 0..groups {
            expected.extend((1..=7).map(|step| (first, images, ar_step, groups, step, 7)));
        }
    }
    let told = |p: &transcdiff_progress| (p.first_image, p.images, p.ar_step, p.ar_steps, p.step, p.steps);
    assert_eq!(heard.steps.iter().map(told).collect::<Vec<_>>(), expected);
    assert!(heard.steps.iter().all(|p| p.struct_size == size_of::<transcdiff_progress>()));
    assert!(heard.steps.is_sorted_by(|a, b| a.fraction < b.fraction));
    assert_eq!(heard.steps.last().unwrap().fraction, 1.0);
    let one = heard.steps[0].fraction;
    assert!((one - 2.0 / 5.0 / (7.0 * groups as f64)).abs() < 1e-12, "{one}");
    assert!(heard.steps.chunks(7).all(|run| run[0].t == 1.0 && run.is_sorted_by(|a, b| a.t > b.t)));
    assert!(heard.steps.iter().all(|p| p.t > 0.0));
    let previews: Vec<_> = expected
        .iter()
        .filter(|(.., step, _)| step % 3 == 0)
        .map(|&(first, images, .., step, _)| (first, step, images * session.latent()))
        .collect();
    assert_eq!(heard.previews, previews);
    assert!(heard.messages > 0);
}

/// References that are given are not counted: progress begins with what is computed.
#[test]
fn progress_begins_after_what_is_given() {
    let model = Model::from_memory(&shared().mrar, None);
    let (session, order, groups) = (model.session(), Order::of(2, 4), model.info().groups);
    let references = session.generate(&order.options(&model)).unwrap().references;
    for given in 0..groups {
        let mut fractions = Vec::new();
        let mut hear = |p: &transcdiff_progress| {
            fractions.push(p.fraction);
            0
        };
        let o = transcdiff_generate_options {
            references: references.as_ptr(),
            reference_count: given,
            ..order.options(&model)
        };
        session.generate(&watched(&o, &mut hear)).unwrap();
        let steps = 4 * (groups - given);
        assert_eq!((fractions.len(), *fractions.last().unwrap()), (steps, 1.0));
        assert!((fractions[0] - 1.0 / steps as f64).abs() < 1e-12, "{given} given: {fractions:?}");
    }
}

/// Without noise the last step goes straight to what is predicted there.
#[test]
fn the_last_preview_of_a_deterministic_sampler_is_the_result() {
    let model = Model::from_memory(&shared().one_step, None);
    let (order, mut heard) = (Order::of(2, 6), Heard::default());
    let o = transcdiff_generate_options {
        solver: TRANSCDIFF_SOLVER_EULER,
        progress: Some(hear_step),
        preview: Some(hear_preview),
        preview_interval: 1,
        user_data: ptr::from_mut(&mut heard).cast(),
        ..order.options(&model)
    };
    let made = model.session().generate(&o).unwrap();
    assert_eq!(heard.previews.len(), 6);
    for (a, b) in heard.last_preview.iter().zip(&made.latents) {
        assert!((a - b).abs() <= 1e-5 * b.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn sessions_outlive_their_model() {
    let model = Model::from_memory(&shared().one_step, Some(&shared().vae));
    let (session, order) = (model.session(), Order::of(2, 2));
    let o = order.options(&model);
    let expected = session.generate(&o).unwrap();
    let other = model.session();
    drop(model);
    assert_eq!(session.generate(&o).unwrap(), expected);
    drop(session);
    let made = thread::spawn(move || {
        // A session can move between threads, and be freed on another one than it was made on.
        other.generate(&order.plain_options()).unwrap()
    });
    assert_eq!(made.join().unwrap(), expected);
}
