//! Every operation of a backend, forward and backward, against the f64 reference implementation, on random shapes and
//! layouts.
//!
//! Inputs are views into buffers that are NaN elsewhere, outputs lie between sentinels (see [`guarded`]), and both are
//! checked after every operation, so that kernels that read or write past their tensors are caught. The error of an output
//! is ‖got − want‖ / ‖want‖, with the reference on the same values, so that each operation has one bound for all shapes. A
//! new backend needs one line: `check_all(&backend, dtype, bound)`.

mod attention;
mod cancellation;
#[cfg(feature = "cuda")]
mod cuda;
mod elementwise;
mod embedding;
mod errors;
#[path = "../common/guarded.rs"]
mod guarded;
mod guards;
mod harness;
mod image;
mod linear;
mod norm;
mod optim;
mod rows;
mod storage;

use std::cell::RefCell;

use harness::{Report, Suite};
use transdiff_core::reference::Reference;
use transdiff_core::{Backend, DType};
use transdiff_cpu::{Cpu, InstructionSet};

/// Checks `backend` in `dtype`. `bound` is the largest error of each operation.
fn check_all<B: Backend>(backend: &B, dtype: DType, bound: impl Fn(&str) -> f64) -> Report {
    let suite = Suite { backend, dtype, bound: &bound, report: RefCell::default() };
    storage::check_all(&suite);
    elementwise::check_all(&suite);
    linear::check_all(&suite);
    norm::check_all(&suite);
    attention::check_all(&suite);
    embedding::check_all(&suite);
    image::check_all(&suite);
    optim::check_all(&suite);
    errors::check_all(backend, dtype);
    suite.finish()
}

/// The reference is bitwise identical for all layouts, which tests the harness and core's views.
#[test]
fn reference_is_independent_of_layouts() {
    check_all(&Reference, DType::F64, |_| 0.0);
}

/// In bf16 the reference computes in f64 and rounds its results to 8 bits, by at most half a unit in the last place, which
/// is the smallest bound of a backend in bf16.
#[test]
fn reference_bf16_rounds_results_only() {
    check_all(&Reference, DType::BF16, |_| 2f64.powi(-8));
}

/// Largest errors of the CPU in f32 and f64, about three times the measured ones. Half a unit in the last
/// place is 6e-8 in f32 and 1.1e-16 in f64.
const BOUNDS: &[(&str, f64, f64)] = &[
    // Exact.
    ("copy", 0.0, 0.0),
    ("embedding", 0.0, 0.0),
    // A few roundings.
    ("affine", 2e-7, 5e-16),
    ("binary", 2e-7, 5e-16),
    ("ema", 2e-7, 5e-16),
    ("gated_residual", 2e-7, 5e-16),
    ("mse_backward", 2e-7, 5e-16),
    ("pool2d", 5e-7, 1e-15),
    // An exponential; a backward pass multiplies three factors of that kind.
    ("unary", 3e-7, 1e-15),
    ("unary_backward", 1e-6, 3e-15),
    ("strided outputs", 3e-7, 2e-15),
    // Sums of up to a thousand terms that do not cancel: errors grow with the root of the length at most, and
    // lanes make them shorter.
    ("embedding_backward", 5e-7, 1e-15),
    ("gated_residual_backward", 5e-7, 1e-15),
    ("conv2d", 1e-6, 3e-15),
    ("linear", 1e-6, 3e-15),
    ("linear_backward", 2e-6, 3e-15),
    ("matmul", 1e-6, 3e-15),
    // Rows of up to 8,201, summed sequentially by the reference.
    ("norm_modulate", 5e-7, 8e-15),
    ("norm_modulate_backward", 1e-6, 3e-15),
    // The mean is rounded at 300 times the deviation.
    ("norm_modulate, mean 300", 1e-4, 5e-13),
    // 20,000 terms, summed sequentially by the reference.
    ("group_norm", 5e-7, 2e-14),
    // Scores enter an exponent, so their absolute error counts: around 5, and around 500.
    ("attention", 2e-6, 5e-15),
    ("attention, scores in the hundreds", 1e-5, 1e-13),
    // Where one of two keys takes nearly all, the gradient is a difference of nearly equal numbers.
    ("attention_backward", 1.5e-5, 4e-14),
    // Half of a step is a ratio of a rounded root and rounded powers.
    ("adamw", 2e-6, 3e-15),
    ("adamw, mixed", 2e-6, 3e-15),
    // Among them 60,000 equal numbers, whose roundings all err to one side, in f64 on the reference too.
    ("sum", 2e-5, 3e-12),
    // Summed in f64 for all types; 200,000 terms, summed sequentially by the reference.
    ("mse", 2e-7, 1e-13),
    ("squared_norm", 1e-12, 1e-12),
];

fn bounds(op: &str) -> (f64, f64) {
    let row = BOUNDS.iter().find(|(name, ..)| *name == op);
    row.map(|&(_, single, double)| (single, double)).unwrap_or_else(|| panic!("{op} has a bound"))
}

/// Error bound of an operation in bf16. Half a unit in the last place is up to 2⁻⁸ = 3.9e-3 of an element, and about
/// 1.7e-3 of a vector: most operations round once, at the end.
fn bf16_bound(op: &str) -> f64 {
    match op {
        // Copies, without arithmetic.
        "copy" | "embedding" => 0.0,
        // Sums in f32, not rounded.
        "gated_residual, stream" => 2e-7,
        // In f32, as the other types.
        "adamw, mixed" => 2e-6,
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

/// Instruction sets with a micro-kernel for a type; others have that of the set before them.
fn instruction_sets(dtype: DType) -> &'static [InstructionSet] {
    use InstructionSet::{Avx512, Avx512Bf16, Neon, NeonBf16, Portable};
    match dtype {
        DType::F32 => &[Portable, Avx512, Neon],
        DType::BF16 => &[Portable, Avx512, Avx512Bf16, Neon, NeonBf16],
        _ => &[Portable],
    }
}

/// With one thread and with two, and with each micro-kernel.
fn check_cpu(dtype: DType, bound: impl Fn(&str) -> f64) {
    for &set in instruction_sets(dtype) {
        if !set.is_available() {
            println!("SKIPPED: this processor does not have {set}");
            continue;
        }
        let [one, two] = [1, 2].map(|threads| Cpu::with_instruction_set(Some(threads), set).unwrap());
        let [report, again] = [&one, &two].map(|cpu| check_all(cpu, dtype, &bound));
        for (a, b) in report.digests.iter().zip(&again.digests) {
            assert_eq!(a, b, "bitwise identical with one thread and with two");
        }
        for (op, error) in report.worst {
            println!("{op:36} {dtype} {set} {error:.1e} of {:.1e}", bound(op));
        }
        let suite = Suite { backend: &two, dtype, bound: &bound, report: RefCell::default() };
        rows::check_all(&suite);
        suite.finish();
    }
}

#[test]
fn cpu_f32_matches_the_reference() {
    check_cpu(DType::F32, |op| bounds(op).0);
}

#[test]
fn cpu_bf16_matches_the_reference() {
    check_cpu(DType::BF16, bf16_bound);
}

#[test]
fn cpu_f64_matches_the_reference() {
    check_cpu(DType::F64, |op| bounds(op).1);
}
