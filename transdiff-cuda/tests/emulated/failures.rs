//! Every call of the driver and of cuBLASLt fails once.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;

use transdiff_core::Result;
use transdiff_core::backend::Storage;
use transdiff_cuda::Cuda;

use crate::emulator::{Emulator, emulator};
use crate::workload;

/// Functions of cuBLASLt that are called.
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

/// Whose failure nobody is told of: what they were to give back is lost, and nothing depends on it; or a check that is not
/// made then.
const QUIET: [&str; 12] = [
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

/// Every function of a driver that this crate links to.
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

/// A code of the library that `function` is of, after which it can be used.
fn code(function: &str) -> (u32, &'static str) {
    if function.starts_with("cublas") { (14, "cuBLASLt status 14") } else { (701, "CUDA error 701") }
}

/// Opens the device, works on it, and works again if that failed, which must succeed then. `opened` is called when all is
/// done but the dropping. A thread of its own: each begins in no context.
fn run(opened: impl FnOnce() + Send) -> Result<Vec<Vec<u64>>> {
    let work = || {
        let cuda = Cuda::new(0)?;
        let done = workload::work(&cuda);
        if done.is_err() {
            workload::work(&cuda).expect("the device is usable");
        }
        opened();
        done
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// An error that names the code, no panic, a device that works afterwards and nothing that is left of it.
#[test]
fn every_call_fails_once() {
    let Some(emulator) = emulator() else { return };
    let before_dropping = Mutex::new(BTreeMap::new());
    let want = run(|| *before_dropping.lock().unwrap() = counts(&emulator)).unwrap();
    let before_dropping = before_dropping.into_inner().unwrap();
    let total = counts(&emulator);
    emulator.expect_nothing_left("", "without a failure");
    let _context = emulator.context(); // what is not given back stays in use
    let mut untold = Vec::new();
    for (function, nth) in total.into_iter().flat_map(|(name, calls)| (1..=calls).map(move |nth| (name, nth)))
    {
        let (code, words) = code(function);
        let context = format!("call {nth} of {function}");
        let used = emulator.used();
        emulator.reset();
        emulator.fail(function, nth, code);
        match run(|| ()) {
            Ok(got) => {
                if nth <= before_dropping[function] && !QUIET.contains(&function) {
                    untold.push(function);
                }
                assert_eq!(got, want, "{context}");
            }
            Err(error) => assert!(error.to_string().contains(words), "{context}: {error}"),
        }
        emulator.expect_nothing_left(function, &context);
        // Nothing is given back by a thread that cannot get to the device, nor what could not be.
        if !["cuCtxGetCurrent", "cuCtxPushCurrent_v2", "cuMemFree_v2"].contains(&function) {
            assert_eq!(emulator.used(), used, "{context}");
        }
    }
    // When a recording is dropped; and when the device is opened, in a context that is left at once.
    let expected = ["cuCtxGetCurrent", "cuCtxPushCurrent_v2", "cuCtxSetCurrent"];
    assert_eq!(untold, expected, "failed, and nobody was told");
}

/// What a kernel did to memory that is not its own ends the context: whatever is asked for says so, and who opens the
/// device again, when nobody has it any more, has one that works.
#[test]
fn a_context_that_is_ruined() {
    let Some(emulator) = emulator() else { return };
    let want = workload::work(&Cuda::new(0).unwrap()).unwrap();
    for code in [700, 716, 719] {
        emulator.reset();
        let cuda = Cuda::new(0).unwrap();
        let used = emulator.used();
        let x = workload::input(&cuda, &[12], 1).unwrap();
        emulator.fail("cuLaunchKernel", 1, code);
        let said = format!("CUDA error {code}");
        let refused = |result: Result<()>| assert!(result.unwrap_err().to_string().contains(&said), "{said}");
        refused(x.add(&x).map(drop));
        refused(x.add(&x).map(drop));
        refused(x.to_f64().map(drop));
        refused(cuda.sync());
        refused(cuda.trim());
        refused(cuda.capture(&mut || Ok(())).map(drop));
        drop((x, cuda));
        let again = Cuda::new(0).unwrap();
        assert_eq!(emulator.used(), used, "{said}");
        assert_eq!(workload::work(&again).unwrap(), want, "{said}");
    }
}
