//! Device memory: reuse, trimming, and out of memory.

use transdiff_core::backend::Storage;
use transdiff_core::{DType, Error, Tensor};
use transdiff_cuda::Cuda;

use crate::emulator::{emulator, in_own_process};
use crate::workload::{self, input};

const MIB: usize = 1 << 20;

fn zeros(cuda: &Cuda, mib: usize) -> Result<Tensor<Cuda>, Error> {
    Tensor::zeros(cuda, &[mib * MIB / DType::F32.size()], DType::F32)
}

#[test]
fn freed_buffers_are_reused() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let sums = || {
        let (x, y) = (input(&cuda, &[300, 70], 1).unwrap(), input(&cuda, &[300, 70], 2).unwrap());
        x.add(&y).unwrap().mul(&x).unwrap().sum(&[0]).unwrap().to_f64().unwrap()
    };
    let want = sums();
    let allocations = emulator.count("cuMemAlloc_v2");
    for _ in 0..5 {
        assert_eq!(sums(), want);
    }
    assert_eq!(emulator.count("cuMemAlloc_v2"), allocations);
    assert_eq!(emulator.count("cuMemFree_v2"), 0);
}

#[test]
fn trim_returns_cached_memory_to_the_driver() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let initial = emulator.used();
    let (kept, dropped) = (zeros(&cuda, 2).unwrap(), zeros(&cuda, 4).unwrap());
    drop(dropped);
    assert_eq!(emulator.used(), initial + 6 * MIB);
    cuda.trim().unwrap();
    assert_eq!(emulator.used(), initial + 2 * MIB);
    assert!(kept.to_f32().unwrap().iter().all(|&x| x == 0.0));
}

/// One allocator and one stream: memory freed through one handle is reused by the other.
#[test]
fn handles_share_the_device() {
    let Some(emulator) = emulator() else { return };
    let (one, other) = (Cuda::new(0).unwrap(), Cuda::new(0).unwrap());
    drop(zeros(&one, 2).unwrap());
    let allocations = emulator.count("cuMemAlloc_v2");
    let x = zeros(&other, 2).unwrap();
    assert_eq!(emulator.count("cuMemAlloc_v2"), allocations);
    drop((one, other));
    assert!(x.to_f32().unwrap().iter().all(|&x| x == 0.0));
    let third = Cuda::new(0).unwrap();
    assert_eq!([emulator.count("cuStreamCreate"), emulator.count("cublasLtCreate")], [1, 1]);
    drop((x, third));
    emulator.assert_no_leaks("", "after the last tensor");
    workload::assert_usable(&Cuda::new(0).unwrap());
}

/// Other code in the process may use other contexts.
#[test]
fn current_context_is_left_unchanged() {
    let Some(emulator) = emulator() else { return };
    let assert_no_context = |when| assert!(emulator.current_context().is_null(), "{when}");
    let cuda = Cuda::new(0).unwrap();
    assert_no_context("opened");
    let want = workload::run(&cuda).unwrap();
    assert_no_context("after work");
    emulator.fail("cuLaunchKernel", 1, 999);
    workload::run(&cuda).unwrap_err();
    assert_no_context("after a failure");
    assert_eq!(workload::run(&cuda).unwrap(), want);
    drop(cuda);
    assert_no_context("closed");
}

/// A device with 64 MiB, of which 32 MiB are the workspace of matrix products.
#[test]
fn out_of_memory_is_an_error_after_trimming() {
    let memory = (64 * MIB).to_string();
    if !in_own_process("memory::out_of_memory_is_an_error_after_trimming", |c| {
        c.env("EMULATED_CUDA_MEMORY", memory)
    }) {
        return;
    }
    let emulator = emulator().unwrap();
    let cuda = Cuda::new(0).unwrap();
    let initial = emulator.used();
    let kept = input(&cuda, &[1000], 3).unwrap();
    let want = kept.to_f64().unwrap();
    match zeros(&cuda, 40) {
        Err(Error::OutOfMemory { op: "alloc", bytes, free }) => {
            assert_eq!((bytes, free), (Some(40 * MIB), Some(64 * MIB - emulator.used())));
        }
        other => panic!("{other:?}"),
    }
    // 20 MiB of cached memory are too small for 30 MiB, but with the free memory they suffice.
    drop(zeros(&cuda, 20).unwrap());
    let before = emulator.count("cuMemFree_v2");
    let large = zeros(&cuda, 30).unwrap();
    assert_eq!(emulator.count("cuMemFree_v2"), before + 1);
    // A capture cannot wait for the device, so memory is trimmed between two attempts to capture.
    let capture = || cuda.capture(&mut || zeros(&cuda, 16).map(drop));
    let failed = capture();
    assert!(matches!(failed, Err(Error::OutOfMemory { .. })), "{failed:?}");
    drop(large);
    assert!(capture().unwrap().is_some());
    workload::assert_usable(&cuda);
    assert_eq!(kept.to_f64().unwrap(), want);
    drop(kept);
    cuda.trim().unwrap();
    assert_eq!(emulator.used(), initial);
}

#[test]
fn opening_fails_without_memory_for_the_workspace() {
    let Some(emulator) = emulator() else { return };
    emulator.fail("cuMemAlloc_v2", 1, 2);
    let error = Cuda::new(0).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { bytes: Some(33_554_432), free: Some(_), .. }), "{error}");
    emulator.assert_no_leaks("cuMemAlloc_v2", "after a failure");
}

/// A tensor may be dropped as soon as its last use is enqueued, by any thread, and keeps the device open.
#[test]
fn tensors_outlive_handles_and_threads() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[100], 4).unwrap();
    let want = x.to_f64().unwrap();
    drop(cuda);
    std::thread::spawn(move || assert_eq!(x.to_f64().unwrap(), want)).join().unwrap();
    emulator.assert_no_leaks("", "after the last tensor");
}
