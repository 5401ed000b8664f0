//! Device memory: used again, given back, and not enough of it.

use transdiff_core::backend::Storage;
use transdiff_core::{DType, Error, Tensor};
use transdiff_cuda::Cuda;

use crate::emulator::{alone, emulator};
use crate::workload::{self, input};

const MIB: usize = 1 << 20;

fn zeros(cuda: &Cuda, mib: usize) -> Result<Tensor<Cuda>, Error> {
    Tensor::zeros(cuda, &[mib * MIB / DType::F32.size()], DType::F32)
}

#[test]
fn buffers_are_used_again() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let sums = || {
        let (x, y) = (input(&cuda, &[300, 70], 1).unwrap(), input(&cuda, &[300, 70], 2).unwrap());
        x.add(&y).unwrap().mul(&x).unwrap().sum(&[0]).unwrap().to_f64().unwrap()
    };
    let want = sums();
    let made = emulator.count("cuMemAlloc_v2");
    for _ in 0..5 {
        assert_eq!(sums(), want);
    }
    assert_eq!(emulator.count("cuMemAlloc_v2"), made);
    assert_eq!(emulator.count("cuMemFree_v2"), 0);
}

#[test]
fn trimming_gives_back_what_nobody_owns() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let at_first = emulator.used();
    let (kept, dropped) = (zeros(&cuda, 2).unwrap(), zeros(&cuda, 4).unwrap());
    drop(dropped);
    assert_eq!(emulator.used(), at_first + 6 * MIB);
    cuda.trim().unwrap();
    assert_eq!(emulator.used(), at_first + 2 * MIB);
    assert!(kept.to_f32().unwrap().iter().all(|&x| x == 0.0));
}

/// One pool, one stream, and what one of the handles lets go of serves the other.
#[test]
fn handles_share_the_device() {
    let Some(emulator) = emulator() else { return };
    let (one, other) = (Cuda::new(0).unwrap(), Cuda::new(0).unwrap());
    drop(zeros(&one, 2).unwrap());
    let made = emulator.count("cuMemAlloc_v2");
    let x = zeros(&other, 2).unwrap();
    assert_eq!(emulator.count("cuMemAlloc_v2"), made);
    drop((one, other));
    assert!(x.to_f32().unwrap().iter().all(|&x| x == 0.0));
    let again = Cuda::new(0).unwrap();
    assert_eq!([emulator.count("cuStreamCreate"), emulator.count("cublasLtCreate")], [1, 1]);
    drop((x, again));
    emulator.expect_nothing_left("", "after the last tensor");
    workload::expect_usable(&Cuda::new(0).unwrap());
}

/// Others in the process have contexts of their own.
#[test]
fn threads_stay_in_their_contexts() {
    let Some(emulator) = emulator() else { return };
    let in_none = |when| assert!(emulator.current_context().is_null(), "{when}");
    let cuda = Cuda::new(0).unwrap();
    in_none("opened");
    let work = workload::work(&cuda).unwrap();
    in_none("after work");
    emulator.fail("cuLaunchKernel", 1, 999);
    workload::work(&cuda).unwrap_err();
    in_none("after a failure");
    assert_eq!(workload::work(&cuda).unwrap(), work);
    drop(cuda);
    in_none("closed");
}

/// Of 64 MiB, 32 are for matrix products.
#[test]
fn a_small_device() {
    let memory = (64 * MIB).to_string();
    if !alone("memory::a_small_device", |c| c.env("EMULATED_CUDA_MEMORY", memory)) {
        return;
    }
    let emulator = emulator().unwrap();
    let cuda = Cuda::new(0).unwrap();
    let at_first = emulator.used();
    let kept = input(&cuda, &[1000], 3).unwrap();
    let want = kept.to_f64().unwrap();
    match zeros(&cuda, 40) {
        Err(Error::OutOfMemory { op: "alloc", bytes, free }) => {
            assert_eq!((bytes, free), (Some(40 * MIB), Some(64 * MIB - emulator.used())));
        }
        other => panic!("{other:?}"),
    }
    // 20 MiB that nobody owns any more are not enough for 30, but with what is free they are.
    drop(zeros(&cuda, 20).unwrap());
    let before = emulator.count("cuMemFree_v2");
    let large = zeros(&cuda, 30).unwrap();
    assert_eq!(emulator.count("cuMemFree_v2"), before + 1);
    // What is recorded waits for nothing, so memory is given back before it is recorded once more.
    let recorded = || cuda.capture(&mut || zeros(&cuda, 16).map(drop));
    let refused = recorded();
    assert!(matches!(refused, Err(Error::OutOfMemory { .. })), "{refused:?}");
    drop(large);
    assert!(recorded().unwrap().is_some());
    workload::expect_usable(&cuda);
    assert_eq!(kept.to_f64().unwrap(), want);
    drop(kept);
    cuda.trim().unwrap();
    assert_eq!(emulator.used(), at_first);
}

#[test]
fn a_device_without_room_for_the_workspace() {
    let Some(emulator) = emulator() else { return };
    emulator.fail("cuMemAlloc_v2", 1, 2);
    let error = Cuda::new(0).unwrap_err();
    assert!(matches!(error, Error::OutOfMemory { bytes: Some(33_554_432), free: Some(_), .. }), "{error}");
    emulator.expect_nothing_left("cuMemAlloc_v2", "after a refusal");
}

/// A tensor may be dropped after its last use was asked for, by any thread, and the device after the last handle of it.
#[test]
fn tensors_outlive_handles_and_threads() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[100], 4).unwrap();
    let want = x.to_f64().unwrap();
    drop(cuda);
    std::thread::spawn(move || assert_eq!(x.to_f64().unwrap(), want)).join().unwrap();
    emulator.expect_nothing_left("", "after the last tensor");
}
