//! Graph capture: operations that are not allowed, failures, and concurrent use of the device.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use transdiff_core::backend::Storage;
use transdiff_core::{Error, Result, Tensor};
use transdiff_cuda::{Cuda, Graph};

use crate::emulator::emulator;
use crate::workload::{assert_usable, input};

fn capture(cuda: &Cuda, mut work: impl FnMut() -> Result<()>) -> Result<Graph> {
    cuda.capture(&mut work).map(|graph| graph.expect("CUDA supports graphs"))
}

#[test]
fn waiting_during_a_capture_is_an_error() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    let earlier = capture(&cuda, || x.add(&x).map(drop)).unwrap();
    let waiting: [(&str, &dyn Fn() -> Result<()>); 7] = [
        ("from_host", &|| input(&cuda, &[10], 2).map(drop)),
        ("to_host", &|| x.to_f64().map(drop)),
        ("sync", &|| cuda.sync()),
        ("to_host", &|| Tensor::squared_norm(&cuda, &[&x]).map(drop)),
        ("capture", &|| capture(&cuda, || Ok(())).map(drop)),
        ("launch", &|| cuda.launch(&earlier)),
        ("trim", &|| cuda.trim()),
    ];
    for (name, wait) in waiting {
        let mut y = None;
        let graph = capture(&cuda, || {
            let message = wait().unwrap_err().to_string();
            assert_eq!(
                message,
                format!(
                    "{name}: backend error: it waits for the device, which is not possible during a graph capture"
                )
            );
            y = Some(x.affine(3.0, 0.0)?);
            Ok(())
        });
        // If the caller ignores the error, the graph has the remaining work.
        cuda.launch(&graph.unwrap()).unwrap();
        let want: Vec<f64> = x.to_f64().unwrap().iter().map(|x| f64::from(3.0 * *x as f32)).collect();
        assert_eq!(y.unwrap().to_f64().unwrap(), want, "{name}");
        // If the caller returns the error, there is no graph.
        assert!(capture(&cuda, wait).is_err(), "{name}");
        assert_usable(&cuda);
    }
    drop((x, earlier, cuda));
    emulator.assert_no_leaks("", "after all");
}

#[test]
fn failed_capture_leaks_nothing() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    let mut kept = None;
    let failed = capture(&cuda, || {
        kept = Some(x.add(&x)?);
        Err(Error::Cancelled)
    });
    assert!(matches!(failed, Err(Error::Cancelled)));
    assert_usable(&cuda);
    let panicked = catch_unwind(AssertUnwindSafe(|| capture(&cuda, || panic!("in the work"))));
    assert!(panicked.is_err());
    assert_usable(&cuda);
    assert_eq!(emulator.count("cuGraphInstantiateWithFlags"), 0);
    // The graph's memory returns to the device when the last tensor in it is dropped.
    drop((kept, x, cuda));
    emulator.assert_no_leaks("", "after all");
}

/// Each driver call of a capture and of a launch fails once.
#[test]
fn driver_failures_in_capture_and_launch_are_reported() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    let double = || capture(&cuda, || x.add(&x).map(drop));
    let calls = [
        "cuStreamBeginCapture_v2",
        "cuStreamEndCapture",
        "cuGraphInstantiateWithFlags",
        "cuEventCreate",
        "cuLaunchKernel",
    ];
    for function in calls {
        emulator.fail(function, 1, 999);
        let error = double().unwrap_err().to_string();
        assert!(error.contains("CUDA error 999: unknown error"), "{function}: {error}");
        assert_usable(&cuda);
    }
    let graph = double().unwrap();
    for function in ["cuEventSynchronize", "cuEventRecord", "cuGraphLaunch"] {
        emulator.fail(function, 1, 999);
        let error = cuda.launch(&graph).unwrap_err().to_string();
        assert_eq!(error, "launch: backend error: CUDA error 999: unknown error", "{function}");
        cuda.launch(&graph).unwrap();
        assert_usable(&cuda);
    }
}

/// The driver needs memory for the graph itself, which trimming may provide.
#[test]
fn capture_trims_and_retries_if_the_driver_is_out_of_memory() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    let double = || capture(&cuda, || x.add(&x).map(drop));
    drop(x.add(&x).unwrap());
    let frees = emulator.count("cuMemFree_v2");
    emulator.fail("cuGraphInstantiateWithFlags", 1, 2);
    let graph = double().unwrap();
    assert_eq!(emulator.count("cuMemFree_v2"), frees + 1);
    cuda.launch(&graph).unwrap();
    // Both attempts fail.
    emulator.fail("cuGraphInstantiateWithFlags", 1, 2);
    let failed = capture(&cuda, || {
        if emulator.count("cuGraphInstantiateWithFlags") == 3 {
            emulator.fail("cuGraphInstantiateWithFlags", 1, 2);
        }
        x.add(&x).map(drop)
    });
    assert!(
        matches!(failed, Err(Error::OutOfMemory { op: "capture", bytes: None, free: Some(_) })),
        "{failed:?}"
    );
    assert_usable(&cuda);
}

#[test]
fn launch_error_names_operation_and_kernel() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[12], 1).unwrap();
    emulator.fail("cuLaunchKernel", 1, 701);
    let error = x.add(&x).unwrap_err().to_string();
    assert_eq!(
        error,
        "binary: backend error: kernel binary_wide_f32: CUDA error 701: too many resources requested for launch"
    );
    assert_usable(&cuda);
}

/// A graph keeps the device open, and may be dropped by a thread that has never used the device.
#[test]
fn graphs_outlive_handles_and_threads() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    let graph = capture(&cuda, || x.add(&x).map(drop)).unwrap();
    drop((x, cuda));
    assert_eq!(emulator.count("cuDevicePrimaryCtxRelease_v2"), 0);
    thread::spawn(|| drop(graph)).join().unwrap();
    emulator.assert_no_leaks("", "after the graph");
}

/// Other code in the process may use the default stream during a capture, and does not invalidate it.
#[test]
fn default_stream_stays_usable_during_a_capture() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    let graph = capture(&cuda, || {
        assert_eq!(emulator.wait_for_default_stream(), 0);
        x.add(&x).map(drop)
    });
    cuda.launch(&graph.unwrap()).unwrap();
}

/// Work of another thread, transfers included, waits for the lock and is neither captured nor a failure of the capture.
#[test]
fn capture_contains_only_work_of_its_thread() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    let (started, wait_for_start) = mpsc::channel();
    let graph = thread::scope(|scope| {
        let (cuda, x) = (&cuda, &x);
        let other = scope.spawn(move || {
            wait_for_start.recv().unwrap();
            assert_usable(cuda);
        });
        let graph = capture(cuda, || {
            started.send(()).unwrap();
            let y = x.add(x)?;
            // Long enough for the other thread to enqueue work.
            thread::sleep(Duration::from_millis(100));
            y.add(x).map(drop)
        });
        other.join().unwrap();
        graph.unwrap()
    });
    let before = emulator.log().len();
    cuda.launch(&graph).unwrap();
    assert_eq!(emulator.log().len(), before + 2, "the graph has the work of its thread alone");
}

/// The driver may not keep what a launch in progress needs once its graph is destroyed.
#[test]
fn dropped_graph_waits_for_its_last_launch() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    for launches in [0, 1, 2, 3] {
        let graph = capture(&cuda, || x.add(&x).map(drop)).unwrap();
        (0..launches).for_each(|_| cuda.launch(&graph).unwrap());
        emulator.reset();
        drop(graph);
        assert_eq!((emulator.count("cuEventSynchronize"), emulator.count("cuGraphExecDestroy")), (1, 1));
    }
}
