//! CUDA compared with the reference implementation, in f32 and bf16, and so with the CPU.

#[path = "../common/cuda.rs"]
mod gpu;

use transdiff_core::DType;

use crate::{bounds, check_all};

/// Error bound of an operation in f32: the CPU's, except where the hardware rounds differently.
fn f32_bound(op: &str) -> f64 {
    match op {
        // exp and similar functions have errors of 2 units in the last place, of the result or of an exponent.
        "unary" | "attention" | "attention_backward" | "strided outputs" => 2.0 * bounds(op).0,
        _ => bounds(op).0,
    }
}

/// Error bound of an operation in bf16. Half a unit in the last place is up to 2⁻⁸ = 3.9e-3 of an element, and about
/// 1.7e-3 of a vector: most operations round once, at the end.
fn bf16_bound(op: &str) -> f64 {
    match op {
        // Copies, without arithmetic.
        "copy" | "embedding" => 0.0,
        // In f64 whatever the type.
        "squared_norm" => 1e-12,
        // A mean rounds the sum, and then the quotient.
        "sum" => 8e-3,
        // Two roundings: of the probabilities, and of the result.
        "attention" => 5e-3,
        // Two roundings: of the scaled and shifted input, and of the result. In some cases few elements are left by ReLU,
        // small ones, whose sums cancelled.
        "conv2d" => 2e-2,
        "attention, scores in the hundreds" => 2e-2,
        // Products of rounded values, with partial cancellation.
        "attention_backward" => 2e-2,
        // The tanh form of GELU, and a gradient that is rounded before the product.
        "linear" | "linear_backward" => 6e-3,
        _ => 4e-3,
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
