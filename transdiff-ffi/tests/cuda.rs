//! Device `cuda` of the C ABI: equality with the CPU, or the reason for which there is no GPU; errors for unsupported data
//! types and out of memory.
#![cfg(feature = "cuda")]

mod common;

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::sync::Mutex;

use common::files::shared;
use common::{ErrorInfo, GenerationRequest, Model, Outputs, load_from_memory};
use libloading::Library;
use transcdiff::*;

/// Serialises the tests, because an injected failure affects the next call of any thread.
static GPU_LOCK: Mutex<()> = Mutex::new(());

/// Maximum absolute difference relative to the maximum absolute value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(b).all(|x| x.is_finite()), "{a:?} {b:?}");
    let largest = b.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0.0f32, |m, (x, y)| m.max((x - y).abs())) / largest
}

fn on(device: &CStr, dtype: u32) -> Result<Model, ErrorInfo> {
    let files = shared();
    let options = load_from_memory(&files.one_step, Some(&files.vae));
    Model::load(&transcdiff_load_options { device: device.as_ptr(), dtype, ..options })
}

fn latents(model: &Model) -> Vec<f32> {
    let request = GenerationRequest::new(2, 3);
    model.session().generate(&request.options(model)).unwrap().latents
}

#[test]
fn cuda_matches_cpu_or_is_unavailable() {
    let _guard = GPU_LOCK.lock();
    let cpu = latents(&on(c"cpu", TRANSCDIFF_F32).unwrap());
    // A tiny model with large random weights amplifies bf16 rounding more than a trained model does.
    for (dtype, bound) in [(TRANSCDIFF_F32, 1e-4), (TRANSCDIFF_BF16, 1e-1)] {
        match on(c"cuda", dtype) {
            Ok(model) => {
                let found = distance(&latents(&model), &cpu);
                assert!(found <= bound, "{found:e} is above {bound:e}");
            }
            Err(failed) => {
                assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_DEVICE_UNAVAILABLE, "cuda:0"));
                println!("SKIPPED: {}", failed.message);
            }
        }
    }
}

/// Runs on the emulator, which fails allocations on request.
#[test]
fn session_remains_usable_after_out_of_memory() {
    let _guard = GPU_LOCK.lock();
    // SAFETY: the library is a driver, which can be loaded at any time.
    let Ok(driver) = (unsafe { Library::new("libcuda.so.1") }) else { return println!("no driver") };
    // SAFETY: the function of the emulator has this signature, and no driver exports this name.
    let Ok(fail) = (unsafe {
        driver.get::<unsafe extern "C" fn(*const c_char, c_int, c_uint)>(b"emulated_cuda_fail\0")
    }) else {
        return println!("the driver is not the emulator");
    };
    let model = on(c"cuda", TRANSCDIFF_F32).unwrap();
    let request = GenerationRequest::new(2, 3);
    let generate = |session: &common::Session| -> Result<Outputs, ErrorInfo> {
        session.generate(&request.options(&model))
    };
    let session = model.session();
    // After the first failure cached memory is freed and the allocation is retried.
    for call in [1, 2] {
        // SAFETY: the name is a C string.
        unsafe { fail(c"cuMemAlloc".as_ptr(), call, 2) };
    }
    let failed = generate(&session).unwrap_err();
    assert_eq!(failed.status, TRANSCDIFF_OUT_OF_MEMORY, "{failed:?}");
    let outputs = generate(&session).unwrap();
    assert_eq!(outputs, generate(&model.session()).unwrap());
}
