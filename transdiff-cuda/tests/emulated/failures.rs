//! Injected failures of every call of the driver and of cuBLASLt.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;

use transdiff_core::Result;
use transdiff_core::backend::Storage;
use transdiff_cuda::Cuda;

use crate::emulator::{Emulator, emulator};
use crate::workload;

/// The functions of cuBLASLt that the backend calls.
const CUBLASLT: [&str; 13] = [
    "cublasLtCreate",
    "cublasLtDestroy",
    "cublasLtMatmulDescCreate",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatmulDescSetAttribute",
    "cublasLtMatrixLayoutCreate",
    "cublasLtMatrixLayoutDestroy",
    "cublasLtMatrixLayoutSetAttribute",
    "cublasLtMatmulPreferenceCreate",
    "cublasLtMatmulPreferenceDestroy",
    "cublasLtMatmulPreferenceSetAttribute",
    "cublasLtMatmulAlgoGetHeuristic",
    "cublasLtMatmul",
];

/// Functions whose failure is not reported: destructors, after which nothing depends on the object, and a check that is
/// then skipped.
const UNREPORTED: [&str; 12] = [
    "cuCtxPopCurrent_v2",
    "cuEventDestroy_v2",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuModuleUnload",
    "cuStreamDestroy_v2",
    "cuFuncGetParamInfo",
    "cublasLtDestroy",
    "cublasLtMatmulDescDestroy",
    "cublasLtMatrixLayoutDestroy",
    "cublasLtMatmulPreferenceDestroy",
    "cuMemFreeHost",
];

/// All functions that the backend may call: the forwarded driver functions and those of cuBLASLt.
fn functions() -> Vec<&'static str> {
    let names = include_str!("../../driver/functions.inc").lines().filter_map(|line| {
        let (name, _) = line.strip_prefix("F(")?.split_once(',')?;
        Some(name)
    });
    names.chain(["cuFuncGetParamInfo"]).chain(CUBLASLT).collect()
}

fn counts(emulator: &Emulator) -> BTreeMap<&'static str, usize> {
    functions().into_iter().map(|name| (name, emulator.count(name))).collect()
}

/// An error code of the library of `function` after which it stays usable, and its message.
fn code(function: &str) -> (u32, &'static str) {
    if function.starts_with("cublas") { (14, "cuBLASLt status 14") } else { (701, "CUDA error 701") }
}

/// Opens the device and runs the workload; if that fails, once more, which must succeed. Calls `before_drop` before the
/// device is dropped. Runs in a new thread, which has no current context.
fn run(before_drop: impl FnOnce() + Send) -> Result<Vec<Vec<u64>>> {
    let work = || {
        let cuda = Cuda::new(0)?;
        let result = workload::run(&cuda);
        if result.is_err() {
            workload::run(&cuda).expect("the device is usable");
        }
        before_drop();
        result
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// Every call fails once: the error has the code, nothing panics or leaks, and the device stays usable.
#[test]
fn failure_of_any_call_is_reported_and_recoverable() {
    let Some(emulator) = emulator() else { return };
    let before_drop = Mutex::new(BTreeMap::new());
    let want = run(|| *before_drop.lock().unwrap() = counts(&emulator)).unwrap();
    let before_drop = before_drop.into_inner().unwrap();
    let total = counts(&emulator);
    emulator.assert_no_leaks("", "without a failure");
    let _context = emulator.context(); // keeps leaked memory allocated
    let mut unreported = Vec::new();
    for (function, nth) in total.into_iter().flat_map(|(name, calls)| (1..=calls).map(move |nth| (name, nth)))
    {
        let (code, message) = code(function);
        let context = format!("call {nth} of {function}");
        let used = emulator.used();
        emulator.reset();
        emulator.fail(function, nth, code);
        match run(|| ()) {
            Ok(got) => {
                if nth <= before_drop[function] && !UNREPORTED.contains(&function) {
                    unreported.push(function);
                }
                assert_eq!(got, want, "{context}");
            }
            Err(error) => assert!(error.to_string().contains(message), "{context}: {error}"),
        }
        emulator.assert_no_leaks(function, &context);
        // A thread without the device's context frees nothing, nor does a failed free.
        if !["cuCtxGetCurrent", "cuCtxPushCurrent_v2", "cuMemFree_v2"].contains(&function) {
            assert_eq!(emulator.used(), used, "{context}");
        }
    }
    // Dropping a graph; and opening the device, where the context is restored at once.
    let expected = ["cuCtxGetCurrent", "cuCtxPushCurrent_v2", "cuCtxSetCurrent", "cuEventSynchronize"];
    assert_eq!(unreported, expected, "failures without an error");
}

/// A faulting kernel makes the context unusable: every operation fails with its code, until the last handle is dropped
/// and the device is opened again.
#[test]
fn corrupted_context_fails_until_reopened() {
    let Some(emulator) = emulator() else { return };
    let want = workload::run(&Cuda::new(0).unwrap()).unwrap();
    for code in [700, 716, 719] {
        emulator.reset();
        let cuda = Cuda::new(0).unwrap();
        let used = emulator.used();
        let x = workload::input(&cuda, &[12], 1).unwrap();
        emulator.fail("cuLaunchKernel", 1, code);
        let message = format!("CUDA error {code}");
        let assert_fails =
            |result: Result<()>| assert!(result.unwrap_err().to_string().contains(&message), "{message}");
        assert_fails(x.add(&x).map(drop));
        assert_fails(x.add(&x).map(drop));
        assert_fails(x.to_f64().map(drop));
        assert_fails(cuda.sync());
        assert_fails(cuda.trim());
        assert_fails(cuda.capture(&mut || Ok(())).map(drop));
        drop((x, cuda));
        let reopened = Cuda::new(0).unwrap();
        assert_eq!(emulator.used(), used, "{message}");
        assert_eq!(workload::run(&reopened).unwrap(), want, "{message}");
    }
}
