//! The device `cuda` of the C ABI: the CPU's pictures where there is a GPU, and the reason where there is none; what it
//! says where memory is short or a type is none of the device's.
#![cfg(feature = "cuda")]

mod common;

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::sync::Mutex;

use common::files::shared;
use common::{Failed, Made, Model, Order, in_memory};
use libloading::Library;
use transcdiff::*;

/// One test has the GPU at a time: a failure that is asked for comes to whoever calls next.
static TURN: Mutex<()> = Mutex::new(());

/// The largest difference, as a share of the largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|x| x.is_finite()), "{a:?} {b:?}");
    let largest = b.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0.0f32, |m, (x, y)| m.max((x - y).abs())) / largest
}

fn on(device: &CStr, dtype: u32) -> Result<Model, Failed> {
    let files = shared();
    let options = in_memory(&files.one_step, Some(&files.vae));
    Model::load(&transcdiff_load_options { device: device.as_ptr(), dtype, ..options })
}

fn latents(model: &Model) -> Vec<f32> {
    let order = Order::of(2, 3);
    model.session().generate(&order.options(model)).unwrap().latents
}

#[test]
fn a_gpu_makes_the_pictures_of_the_cpu_or_is_said_to_be_absent() {
    let _turn = TURN.lock();
    let cpu = latents(&on(c"cpu", TRANSCDIFF_F32).unwrap());
    // A tiny model of large random weights turns bf16's roundings into more than a trained one does.
    for (dtype, bound) in [(TRANSCDIFF_F32, 1e-4), (TRANSCDIFF_BF16, 1e-1)] {
        match on(c"cuda", dtype) {
            Ok(model) => {
                let found = distance(&latents(&model), &cpu);
                assert!(found <= bound, "{found:e}");
            }
            Err(failed) => {
                assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_DEVICE_UNAVAILABLE, "cuda:0"));
                println!("SKIPPED: {}", failed.message);
            }
        }
    }
}

#[test]
fn the_cpu_does_not_compute_in_bf16() {
    let failed = on(c"cpu", TRANSCDIFF_BF16).unwrap_err();
    assert_eq!(failed.status, TRANSCDIFF_INVALID_DTYPE, "{failed:?}");
    assert!(failed.got.contains("bf16"), "{failed:?}");
}

/// The session that ran out of memory is as good as another one. On the emulator, which refuses what it is told to.
#[test]
fn memory_that_the_gpu_has_not() {
    let _turn = TURN.lock();
    // SAFETY: a driver, which may be opened at any time.
    let Ok(driver) = (unsafe { Library::new("libcuda.so.1") }) else { return println!("no driver") };
    // SAFETY: the emulator's function has this signature; no driver has one of this name.
    let Ok(fail) = (unsafe {
        driver.get::<unsafe extern "C" fn(*const c_char, c_int, c_uint)>(b"emulated_cuda_fail\0")
    }) else {
        return println!("the driver is not the emulator");
    };
    let model = on(c"cuda", TRANSCDIFF_F32).unwrap();
    let order = Order::of(2, 3);
    let generate =
        |session: &common::Session| -> Result<Made, Failed> { session.generate(&order.options(&model)) };
    let session = model.session();
    // What is free is given back after the first refusal, and the driver is asked again.
    for call in [1, 2] {
        // SAFETY: the name is a string.
        unsafe { fail(c"cuMemAlloc".as_ptr(), call, 2) };
    }
    let failed = generate(&session).unwrap_err();
    assert_eq!(failed.status, TRANSCDIFF_OUT_OF_MEMORY, "{failed:?}");
    let made = generate(&session).unwrap();
    assert_eq!(made, generate(&model.session()).unwrap());
}
