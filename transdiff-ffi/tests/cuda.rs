//! The device `cuda` of the C ABI: the CPU's pictures where there is a GPU, and the reason where there is none.
#![cfg(feature = "cuda")]

mod common;

use common::files::shared;
use common::{Model, Order, in_memory};
use transcdiff::*;

/// The largest difference, as a share of the largest value.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let largest = b.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0.0f32, |m, (x, y)| m.max((x - y).abs())) / largest
}

fn latents(model: &Model) -> Vec<f32> {
    let order = Order::of(2, 3);
    model.session().generate(&order.options(model)).unwrap().latents
}

#[test]
fn a_gpu_makes_the_pictures_of_the_cpu_or_is_said_to_be_absent() {
    let files = shared();
    let on = |device: &std::ffi::CStr, dtype| {
        let options = in_memory(&files.one_step, Some(&files.vae));
        Model::load(&transcdiff_load_options { device: device.as_ptr(), dtype, ..options })
    };
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
