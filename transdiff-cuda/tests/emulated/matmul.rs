//! Matrix products: calls of cuBLASLt, and fallbacks for what it does not support.

use transdiff_core::backend::Activation;
use transdiff_core::{DType, Result, Tensor};
use transdiff_cuda::Cuda;

use crate::emulator::{Emulator, emulator, in_own_process};

const HEURISTIC: &str = "cublasLtMatmulAlgoGetHeuristic";
const MATMUL: &str = "cublasLtMatmul";
/// Algorithms that the emulator finds for a product.
const ALGORITHMS: usize = 2;

/// A linear layer of small integers, whose sums are exact, with a bias at an offset of 16 bytes in its allocation.
fn linear(cuda: &Cuda) -> Result<Vec<f64>> {
    let integers = |shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|i: usize| (i % 5) as f32 - 2.0).collect();
        Tensor::from_f32(cuda, shape, values, DType::F32)
    };
    let bias = integers(&[12])?.narrow(0, 4, 8)?;
    let (y, _) = integers(&[3, 4])?.linear(&integers(&[8, 4])?, Some(&bias), Activation::None, false)?;
    y.to_f64()
}

fn bias_kernel_launches(emulator: &Emulator) -> usize {
    emulator.log().iter().filter(|line| line.starts_with("bias_activation")).count()
}

#[test]
fn bias_is_fused() {
    let Some(emulator) = emulator() else { return };
    linear(&Cuda::new(0).unwrap()).unwrap();
    assert_eq!((emulator.count(MATMUL), bias_kernel_launches(&emulator)), (1, 0));
}

/// The library may reject an epilogue in the heuristic or in all products, with any of three statuses; it is not tried again.
#[test]
fn unsupported_epilogue_falls_back_to_a_kernel() {
    let Some(emulator) = emulator() else { return };
    let want = linear(&Cuda::new(0).unwrap()).unwrap();
    for (function, times) in [(HEURISTIC, 1), (MATMUL, ALGORITHMS)] {
        for status in [7, 8, 15] {
            let cuda = Cuda::new(0).unwrap();
            emulator.reset();
            (1..=times).for_each(|call| emulator.fail(function, call, status));
            for time in 1..=2 {
                assert_eq!(linear(&cuda).unwrap(), want, "{function}, {status}");
                assert_eq!((emulator.count(HEURISTIC), bias_kernel_launches(&emulator)), (2, time));
            }
            drop(cuda);
            assert_eq!(
                emulator.count("cublasLtMatmulDescCreate"),
                emulator.count("cublasLtMatmulDescDestroy")
            );
        }
    }
}

#[test]
fn refused_algorithm_is_replaced_by_the_next() {
    let Some(emulator) = emulator() else { return };
    let want = linear(&Cuda::new(0).unwrap()).unwrap();
    let cuda = Cuda::new(0).unwrap();
    emulator.reset();
    emulator.fail(MATMUL, 1, 15);
    for products in [2, 3] {
        assert_eq!(linear(&cuda).unwrap(), want);
        assert_eq!((emulator.count(MATMUL), bias_kernel_launches(&emulator)), (products, 0));
    }
}

/// Gradients of a linear layer of small integers, in bf16, and an output with GELU.
fn layer(cuda: &Cuda) -> Vec<Vec<f64>> {
    let integers = |shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|i: usize| (i % 5) as f32 - 2.0).collect();
        Tensor::from_f32(cuda, shape, values, DType::BF16).unwrap()
    };
    let (x, w, b) = (integers(&[3, 8]), integers(&[16, 8]), integers(&[16]));
    let grads = x.linear_backward(&w, Activation::None, None, &integers(&[3, 16]), [true; 3]).unwrap();
    let (y, _) = x.linear(&w, Some(&b), Activation::Gelu, false).unwrap();
    grads.into_iter().flatten().chain([y]).map(|t| t.to_f64().unwrap()).collect()
}

#[test]
fn epilogues_are_timed_once() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let want = layer(&cuda);
    assert_eq!(cuda.unfused_products(), [""; 0]);
    let timed = emulator.count("cuEventElapsedTime");
    // Two products, each fused and unfused, three times.
    assert_eq!(timed, 12);
    assert_eq!(layer(&cuda), want);
    assert_eq!(emulator.count("cuEventElapsedTime"), timed, "known products are not timed again");
}

/// An epilogue that takes 5 us longer than the 1 us of any other work. A layer with GELU has the epilogue of its bias in both
/// forms, and stays fused.
#[test]
fn slow_epilogues_are_not_fused() {
    let test = "matmul::slow_epilogues_are_not_fused";
    if !in_own_process(test, |command| command.env("EMULATED_CUBLASLT_EPILOGUE", "5")) {
        return;
    }
    let emulator = emulator().unwrap();
    let cuda = Cuda::new(0).unwrap();
    let first = layer(&cuda);
    let unfused = cuda.unfused_products();
    assert_eq!(unfused, ["RowSumsA of [3, 16]^T x [3, 8] in bf16: 0.006 ms fused, 0.002 ms unfused"]);
    emulator.reset();
    assert_eq!(layer(&cuda), first);
    let launched = |name: &str| emulator.log().iter().filter(|line| line.starts_with(name)).count();
    assert_eq!((launched("bias_activation"), launched("sum_columns"), emulator.count(MATMUL)), (0, 1, 3));
}

#[test]
fn unsupported_product_is_an_error() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = Tensor::full(&cuda, &[4, 4], 0.5, DType::F32).unwrap();
    emulator.fail(HEURISTIC, 1, 15);
    let error = x.matmul(&x).unwrap_err().to_string();
    assert!(error.contains("matmul: backend error: cuBLASLt has no algorithm for "), "{error}");
}

/// 1 + 2⁻¹² rounds to 1 with ten bits of mantissa.
#[test]
fn tf32_is_used_only_by_handles_that_allow_it() {
    let Some(_emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let product = |cuda: &Cuda, dtype| {
        let tensor = |value| Tensor::from_f32(cuda, &[1, 1], vec![value], dtype).unwrap();
        tensor(1.0 + 2f32.powi(-12)).matmul(&tensor(4.0)).unwrap().to_f64().unwrap()[0]
    };
    let (exact, rounded) = (4.0 + 2f64.powi(-10), 4.0);
    assert_eq!(product(&cuda, DType::F32), exact);
    let allowed = cuda.clone().with_tf32(true);
    assert_eq!(product(&allowed, DType::F32), rounded);
    // Another handle of the same device, and the same handle with TF32 off again.
    assert_eq!(product(&cuda, DType::F32), exact);
    assert_eq!(product(&allowed.with_tf32(false), DType::F32), exact);
}
