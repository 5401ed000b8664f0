//! Errors of opening a device.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use transdiff_core::Error;
use transdiff_core::backend::Storage;
use transdiff_cuda::Cuda;

use crate::emulator::{emulator, file, in_own_process};
use crate::workload;

/// The reason why GPU `ordinal` cannot be opened.
fn unavailable_reason(ordinal: u32) -> String {
    match Cuda::new(ordinal) {
        Err(Error::Unavailable { device, reason }) => {
            assert_eq!(device, format!("cuda:{ordinal}"));
            reason
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_unavailable(ordinal: u32, parts: &[&str]) {
    let reason = unavailable_reason(ordinal);
    assert!(parts.iter().all(|part| reason.contains(part)), "{reason}");
}

#[test]
fn missing_driver_is_reported() {
    if in_own_process("opening::missing_driver_is_reported", |c| c.env_remove("LD_LIBRARY_PATH")) {
        let parts = ["there is no CUDA driver", "libcuda.so.1", "cannot open shared object file"];
        assert_unavailable(0, &parts);
        // A second attempt fails in the same way.
        assert_unavailable(1, &parts);
    }
}

#[test]
fn missing_cublaslt_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let in_child = in_own_process("opening::missing_cublaslt_is_reported", |c| {
        symlink(file(), folder.path().join("libcuda.so.1")).unwrap();
        c.env("LD_LIBRARY_PATH", folder.path())
    });
    if in_child {
        assert_unavailable(
            0,
            &["cuBLASLt", "libcublasLt.so.13: cannot open", "libcublasLt.so.12: cannot open"],
        );
    }
}

/// As the library of CUDA 13 with a driver of CUDA 12.
#[test]
fn older_cublaslt_is_used_if_the_newer_fails_to_initialise() {
    let folder = tempfile::tempdir().unwrap();
    let in_child = in_own_process("opening::older_cublaslt_is_used_if_the_newer_fails_to_initialise", |c| {
        for name in ["libcuda.so.1", "libcublasLt.so.13", "libcublasLt.so.12"] {
            symlink(file(), folder.path().join(name)).unwrap();
        }
        c.env("LD_LIBRARY_PATH", folder.path()).env("EMULATED_CUDA_FAIL", "cublasLtCreate:1:1")
    });
    if in_child {
        workload::assert_usable(&Cuda::new(0).unwrap());
    }
}

#[test]
fn initialisation_errors_have_code_and_message() {
    let Some(emulator) = emulator() else { return };
    emulator.fail("cuInit", 1, 100);
    assert_unavailable(0, &["CUDA error 100: no CUDA-capable device is detected"]);
    // A code that the headers of this crate do not list.
    emulator.fail("cuInit", 1, 987);
    assert_unavailable(0, &["CUDA error 987: unknown error"]);
    emulator.fail("cublasLtCreate", 1, 1);
    // The other version is tried, and missing.
    let parts = ["libcublasLt.so.13: cublasLtCreate: cuBLASLt status 1, ", "libcublasLt.so.12: cannot open"];
    assert_unavailable(0, &parts);
    assert_eq!(Cuda::new(0).unwrap().name(), "Emulated GPU");
}

#[test]
fn ordinal_out_of_range_is_reported() {
    let Some(_emulator) = emulator() else { return };
    for ordinal in [1, 7, u32::MAX] {
        assert_unavailable(ordinal, &["the CUDA driver has 1 devices, counted from 0"]);
    }
}

#[test]
fn compute_capability_below_8_is_unavailable() {
    if in_own_process("opening::compute_capability_below_8_is_unavailable", |c| {
        c.env("EMULATED_CUDA_CAPABILITY", "75")
    }) {
        let parts = ["Emulated GPU", "compute capability 7.5", "needs compute capability 8.0 or later"];
        assert_unavailable(0, &parts);
    }
}

#[test]
fn compute_capability_8_is_supported() {
    if in_own_process("opening::compute_capability_8_is_supported", |c| {
        c.env("EMULATED_CUDA_CAPABILITY", "80")
    }) {
        workload::assert_usable(&Cuda::new(0).unwrap());
    }
}

/// Modules are loaded in the order of their names.
#[test]
fn module_load_error_names_the_module() {
    let Some(emulator) = emulator() else { return };
    emulator.fail("cuModuleLoadDataEx", 3, 209);
    assert_unavailable(0, &["conv: CUDA error 209: no kernel image is available"]);
    emulator.assert_no_leaks("", "after a failure");
}

#[test]
fn missing_kernel_is_named() {
    if in_own_process("opening::missing_kernel_is_named", |c| c.env("EMULATED_CUDA_MISSING", "adamw_f32")) {
        let cuda = Cuda::new(0).unwrap();
        let error = workload::run(&cuda).unwrap_err().to_string();
        assert_eq!(
            error,
            "adamw_step: backend error: kernel adamw_f32: CUDA error 500: named symbol not found"
        );
        workload::assert_usable(&cuda);
    }
}

/// Writes a driver without `function` to `folder`: the emulator with that symbol renamed.
fn write_driver_without(folder: &Path, function: &str) {
    let mut bytes = fs::read(file()).unwrap();
    let name = format!("\0{function}\0").into_bytes();
    let places: Vec<usize> =
        (0..bytes.len() - name.len()).filter(|&i| bytes[i..].starts_with(&name)).collect();
    assert!(!places.is_empty(), "{function} is a function of the emulator");
    places.into_iter().for_each(|at| bytes[at + 1] = b'x');
    fs::write(folder.join("libcuda.so.1"), bytes).unwrap();
    symlink("libcuda.so.1", folder.join("libcublasLt.so.13")).unwrap();
}

fn in_own_process_without(function: &str, name: &str) -> bool {
    let folder = tempfile::tempdir().unwrap();
    in_own_process(name, |c| {
        write_driver_without(folder.path(), function);
        c.env("LD_LIBRARY_PATH", folder.path())
    })
}

#[test]
fn old_driver_is_reported_on_opening() {
    if in_own_process_without("cuStreamCreate", "opening::old_driver_is_reported_on_opening") {
        assert_unavailable(0, &["the CUDA driver has no cuStreamCreate:", "older than this library needs"]);
    }
}

#[test]
fn old_driver_is_reported_on_use() {
    let function = "cuGraphInstantiateWithFlags";
    if in_own_process_without(function, "opening::old_driver_is_reported_on_use") {
        let cuda = Cuda::new(0).unwrap();
        let error = workload::run(&cuda).unwrap_err().to_string();
        let message = format!("capture: backend error: the CUDA driver has no {function}");
        assert!(error.contains(&message), "{error}");
        workload::assert_usable(&cuda);
    }
}

/// As drivers before 12.4: only a check of this crate uses the function.
#[test]
fn driver_without_parameter_info_is_supported() {
    if in_own_process_without("cuFuncGetParamInfo", "opening::driver_without_parameter_info_is_supported") {
        workload::run(&Cuda::new(0).unwrap()).unwrap();
    }
}
