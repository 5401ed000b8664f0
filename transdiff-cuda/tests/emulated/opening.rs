//! What keeps a device from being opened, and that the error says so.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use transdiff_core::Error;
use transdiff_core::backend::Storage;
use transdiff_cuda::Cuda;

use crate::emulator::{alone, emulator, file};
use crate::workload;

/// Why GPU `ordinal` cannot be opened.
fn refusal(ordinal: u32) -> String {
    match Cuda::new(ordinal) {
        Err(Error::Unavailable { device, reason }) => {
            assert_eq!(device, format!("cuda:{ordinal}"));
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn expect_refusal(ordinal: u32, words: &[&str]) {
    let reason = refusal(ordinal);
    assert!(words.iter().all(|part| reason.contains(part)), "{reason}");
}

#[test]
fn without_a_driver() {
    if alone("opening::without_a_driver", |c| c.env_remove("LD_LIBRARY_PATH")) {
        let words = ["there is no CUDA driver", "libcuda.so.1", "cannot open shared object file"];
        expect_refusal(0, &words);
        // The second attempt fails alike.
        expect_refusal(1, &words);
    }
}

#[test]
fn without_cublaslt() {
    let folder = tempfile::tempdir().unwrap();
    let here = alone("opening::without_cublaslt", |c| {
        symlink(file(), folder.path().join("libcuda.so.1")).unwrap();
        c.env("LD_LIBRARY_PATH", folder.path())
    });
    if here {
        expect_refusal(0, &["cuBLASLt", "libcublasLt.so.13: cannot open", "libcublasLt.so.12: cannot open"]);
    }
}

/// As the library of CUDA 13 does on the driver of CUDA 12.
#[test]
fn a_cublaslt_that_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let here = alone("opening::a_cublaslt_that_does_not_start", |c| {
        for name in ["libcuda.so.1", "libcublasLt.so.13", "libcublasLt.so.12"] {
            symlink(file(), folder.path().join(name)).unwrap();
        }
        c.env("LD_LIBRARY_PATH", folder.path()).env("EMULATED_CUDA_FAIL", "cublasLtCreate:1:1")
    });
    if here {
        workload::expect_usable(&Cuda::new(0).unwrap());
    }
}

#[test]
fn the_driver_does_not_start() {
    let Some(emulator) = emulator() else { return };
    emulator.fail("cuInit", 1, 100);
    expect_refusal(0, &["CUDA error 100: no CUDA-capable device is detected"]);
    // A number that no header of this crate knows.
    emulator.fail("cuInit", 1, 987);
    expect_refusal(0, &["CUDA error 987: unknown error"]);
    emulator.fail("cublasLtCreate", 1, 1);
    // The other version is tried, which is not there.
    let words = ["libcublasLt.so.13: cublasLtCreate: cuBLASLt status 1, ", "libcublasLt.so.12: cannot open"];
    expect_refusal(0, &words);
    assert_eq!(Cuda::new(0).unwrap().name(), "Emulated GPU");
}

#[test]
fn ordinals_beyond_the_last() {
    let Some(_emulator) = emulator() else { return };
    for ordinal in [1, 7, u32::MAX] {
        expect_refusal(ordinal, &["the CUDA driver has 1 devices, counted from 0"]);
    }
}

#[test]
fn an_old_device() {
    if alone("opening::an_old_device", |c| c.env("EMULATED_CUDA_CAPABILITY", "75")) {
        let words = ["Emulated GPU", "compute capability 7.5", "needs compute capability 8.0 or later"];
        expect_refusal(0, &words);
    }
}

#[test]
fn an_ampere_device() {
    if alone("opening::an_ampere_device", |c| c.env("EMULATED_CUDA_CAPABILITY", "80")) {
        workload::expect_usable(&Cuda::new(0).unwrap());
    }
}

/// Modules are loaded in the order of their names.
#[test]
fn a_module_that_does_not_load() {
    let Some(emulator) = emulator() else { return };
    emulator.fail("cuModuleLoadDataEx", 3, 209);
    expect_refusal(0, &["conv: CUDA error 209: no kernel image is available"]);
    emulator.expect_nothing_left("", "after a refusal");
}

#[test]
fn a_missing_kernel() {
    if alone("opening::a_missing_kernel", |c| c.env("EMULATED_CUDA_MISSING", "adamw_f32")) {
        let cuda = Cuda::new(0).unwrap();
        let error = workload::work(&cuda).unwrap_err().to_string();
        assert_eq!(
            error,
            "adamw_step: backend error: kernel adamw_f32: CUDA error 500: named symbol not found"
        );
        workload::expect_usable(&cuda);
    }
}

/// Makes a driver in `folder` that lacks `function`: the emulator, with another name in its table of symbols.
fn without(folder: &Path, function: &str) {
    let mut bytes = fs::read(file()).unwrap();
    let name = format!("\0{function}\0").into_bytes();
    let places: Vec<usize> =
        (0..bytes.len() - name.len()).filter(|&i| bytes[i..].starts_with(&name)).collect();
    assert!(!places.is_empty(), "{function} is a function of the emulator");
    places.into_iter().for_each(|at| bytes[at + 1] = b'x');
    fs::write(folder.join("libcuda.so.1"), bytes).unwrap();
    symlink("libcuda.so.1", folder.join("libcublasLt.so.13")).unwrap();
}

fn alone_without(function: &str, name: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    alone(name, |c| {
        without(folder.path(), function);
        c.env("LD_LIBRARY_PATH", folder.path())
    })
}

#[test]
fn a_driver_without_a_function_that_opening_needs() {
    if alone_without("cuStreamCreate", "opening::a_driver_without_a_function_that_opening_needs") {
        expect_refusal(0, &["the CUDA driver has no cuStreamCreate:", "older than this library needs"]);
    }
}

#[test]
fn a_driver_without_a_function_that_work_needs() {
    let function = "cuGraphInstantiateWithFlags";
    if alone_without(function, "opening::a_driver_without_a_function_that_work_needs") {
        let cuda = Cuda::new(0).unwrap();
        let error = workload::work(&cuda).unwrap_err().to_string();
        let words = format!("record: backend error: the CUDA driver has no {function}");
        assert!(error.contains(&words), "{error}");
        workload::expect_usable(&cuda);
    }
}

/// As drivers before 12.4 do: nothing but a check of this crate needs the function.
#[test]
fn a_driver_that_cannot_tell_the_size_of_parameters() {
    if alone_without("cuFuncGetParamInfo", "opening::a_driver_that_cannot_tell_the_size_of_parameters") {
        workload::work(&Cuda::new(0).unwrap()).unwrap();
    }
}
