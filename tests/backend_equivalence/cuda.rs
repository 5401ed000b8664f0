//! CUDA compared with the reference implementation, in f32 and bf16, and so with the CPU.

#[path = "../common/cuda.rs"]
mod gpu;

use transdiff_core::DType;

use crate::{bf16_bound, bounds, check_all};

/// Error bound of an operation in f32: the CPU's, except where the hardware rounds differently.
fn f32_bound(op: &str) -> f64 {
    match op {
        // exp and similar functions have errors of 2 units in the last place, of the result or of an exponent.
        "unary" | "attention" | "attention_backward" | "strided outputs" => 2.0 * bounds(op).0,
        _ => bounds(op).0,
    }
}

fn check(dtype: DType, bound: fn(&str) -> f64) {
    let Some(cuda) = gpu::device() else { return };
    for (op, error) in check_all(&cuda, dtype, bound).worst {
        println!("{op:36} {dtype} {error:.1e} of {:.1e}", bound(op));
    }
}

#[test]
fn cuda_f32_matches_the_reference() {
    check(DType::F32, f32_bound);
}

#[test]
fn cuda_bf16_matches_the_reference() {
    check(DType::BF16, bf16_bound);
}
