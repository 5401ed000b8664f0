//! Matrix products: what is asked of cuBLASLt, and what is done where it refuses.

use transdiff_core::backend::Activation;
use transdiff_core::{DType, Result, Tensor};
use transdiff_cuda::Cuda;

use crate::emulator::{Emulator, emulator};

const HEURISTIC: &str = "cublasLtMatmulAlgoGetHeuristic";
const MATMUL: &str = "cublasLtMatmul";

/// A linear layer of small whole numbers, of which every sum is exact, with its bias 16 bytes behind an address of the
/// driver's.
fn linear(cuda: &Cuda) -> Result<Vec<f64>> {
    let numbers = |shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|i: usize| (i % 5) as f32 - 2.0).collect();
        Tensor::from_f32(cuda, shape, values, DType::F32)
    };
    let bias = numbers(&[12])?.narrow(0, 4, 8)?;
    let (y, _) = numbers(&[3, 4])?.linear(&numbers(&[8, 4])?, Some(&bias), Activation::None, false)?;
    y.to_f64()
}

fn launches_of_biases(emulator: &Emulator) -> usize {
    emulator.log().iter().filter(|line| line.starts_with("bias_activation")).count()
}

#[test]
fn have_the_bias_with_them() {
    let Some(emulator) = emulator() else { return };
    linear(&Cuda::new(0).unwrap()).unwrap();
    assert_eq!((emulator.count(MATMUL), launches_of_biases(&emulator)), (1, 0));
}

/// Found out when it is asked for an algorithm, or not before it is to run: with either status, and not asked again.
#[test]
fn with_an_epilogue_that_the_library_lacks() {
    let Some(emulator) = emulator() else { return };
    let want = linear(&Cuda::new(0).unwrap()).unwrap();
    for (function, status) in [(HEURISTIC, 7), (HEURISTIC, 15), (MATMUL, 7), (MATMUL, 15)] {
        let cuda = Cuda::new(0).unwrap();
        emulator.reset();
        emulator.fail(function, 1, status);
        for time in 1..=2 {
            assert_eq!(linear(&cuda).unwrap(), want, "{function}, {status}");
            assert_eq!((emulator.count(HEURISTIC), launches_of_biases(&emulator)), (2, time));
        }
        drop(cuda);
        assert_eq!(emulator.count("cublasLtMatmulDescCreate"), emulator.count("cublasLtMatmulDescDestroy"));
    }
}

#[test]
fn that_the_library_lacks() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = Tensor::full(&cuda, &[4, 4], 0.5, DType::F32).unwrap();
    emulator.fail(HEURISTIC, 1, 15);
    let error = x.matmul(&x).unwrap_err().to_string();
    assert!(error.contains("matmul: backend error: cuBLASLt has no algorithm for "), "{error}");
}

/// 1 + 2⁻¹² is 1 with ten bits of mantissa.
#[test]
fn are_of_tf32_where_a_handle_allows_it() {
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
    // Another handle of the same device, and the same one again.
    assert_eq!(product(&cuda, DType::F32), exact);
    assert_eq!(product(&allowed.with_tf32(false), DType::F32), exact);
}
