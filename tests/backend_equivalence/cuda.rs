//! CUDA against the oracle, in f32 and bf16, and against the CPU through it.

#[path = "../common/cuda.rs"]
mod gpu;

use transdiff_core::DType;

use crate::{bounds, check_all};

/// What an operation may err by in f32: as the CPU, but for what the hardware rounds otherwise.
fn single(op: &str) -> f64 {
    match op {
        // exp and its kin have errors of 2 units in the last place, of the result or of an exponent.
        "unary" | "attention" | "attention_backward" | "strided outputs" => 2.0 * bounds(op).0,
        _ => bounds(op).0,
    }
}

/// What an operation may err by in bf16. Half a unit in the last place is up to 2⁻⁸ = 3.9e-3 of a number, and some 1.7e-3
/// of a vector: most operations round once, at the end.
fn half(op: &str) -> f64 {
    match op {
        // Bits are moved.
        "copy" | "embedding" => 0.0,
        // In f64 whatever the type.
        "squared_norm" => 1e-12,
        // A mean rounds its sum, and then the sum's part.
        "sum" => 8e-3,
        // Two roundings: of the probabilities, and of the result.
        "attention" => 5e-3,
        // Two as well: of the mapped input, and of the result, which is a single number in some cases.
        "conv2d" => 6e-3,
        "attention, scores in the hundreds" => 2e-2,
        // Products of rounded numbers that partly cancel.
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
fn cuda_f32() {
    check(DType::F32, single);
}

#[test]
fn cuda_bf16() {
    check(DType::BF16, half);
}
