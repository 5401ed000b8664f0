//! Recordings: what is not allowed in them, what their failure leaves, and who else uses the device meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use transdiff_core::backend::Storage;
use transdiff_core::{Error, Result, Tensor};
use transdiff_cuda::{Cuda, Graph};

use crate::emulator::emulator;
use crate::workload::{expect_usable, input};

fn recorded(cuda: &Cuda, mut work: impl FnMut() -> Result<()>) -> Result<Graph> {
    cuda.capture(&mut work).map(|recording| recording.expect("a GPU records"))
}

#[test]
fn what_waits_is_an_error() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    let earlier = recorded(&cuda, || x.add(&x).map(drop)).unwrap();
    let waiting: [(&str, &dyn Fn() -> Result<()>); 7] = [
        ("from_host", &|| input(&cuda, &[10], 2).map(drop)),
        ("to_host", &|| x.to_f64().map(drop)),
        ("sync", &|| cuda.sync()),
        ("to_host", &|| Tensor::squared_norm(&cuda, &[&x]).map(drop)),
        ("record", &|| recorded(&cuda, || Ok(())).map(drop)),
        ("replay", &|| cuda.launch(&earlier)),
        ("trim", &|| cuda.trim()),
    ];
    for (name, wait) in waiting {
        let mut y = None;
        let recording = recorded(&cuda, || {
            let message = wait().unwrap_err().to_string();
            assert_eq!(
                message,
                format!("{name}: backend error: work that is recorded cannot wait for the device")
            );
            y = Some(x.affine(3.0, 0.0)?);
            Ok(())
        });
        // Who goes on after the error has a recording of the rest.
        cuda.launch(&recording.unwrap()).unwrap();
        let want: Vec<f64> = x.to_f64().unwrap().iter().map(|x| f64::from(3.0 * *x as f32)).collect();
        assert_eq!(y.unwrap().to_f64().unwrap(), want, "{name}");
        // And who hands the error on has none.
        assert!(recorded(&cuda, wait).is_err(), "{name}");
        expect_usable(&cuda);
    }
    drop((x, earlier, cuda));
    emulator.expect_nothing_left("", "after all");
}

#[test]
fn failing_work_leaves_nothing() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    let mut kept = None;
    let failed = recorded(&cuda, || {
        kept = Some(x.add(&x)?);
        Err(Error::Cancelled)
    });
    assert!(matches!(failed, Err(Error::Cancelled)));
    expect_usable(&cuda);
    let panicked = catch_unwind(AssertUnwindSafe(|| recorded(&cuda, || panic!("in the work"))));
    assert!(panicked.is_err());
    expect_usable(&cuda);
    assert_eq!(emulator.count("cuGraphInstantiateWithFlags"), 0);
    // The memory is the recording's own until all of it is dropped, and then the device's.
    drop((kept, x, cuda));
    emulator.expect_nothing_left("", "after all");
}

/// The parts of making a recording and of replaying it, failing one after the other.
#[test]
fn a_driver_that_fails_to_record() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    let double = || recorded(&cuda, || x.add(&x).map(drop));
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
        expect_usable(&cuda);
    }
    let recording = double().unwrap();
    for function in ["cuEventSynchronize", "cuEventRecord", "cuGraphLaunch"] {
        emulator.fail(function, 1, 999);
        let error = cuda.launch(&recording).unwrap_err().to_string();
        assert_eq!(error, "replay: backend error: CUDA error 999: unknown error", "{function}");
        cuda.launch(&recording).unwrap();
        expect_usable(&cuda);
    }
}

/// The driver wants memory for a graph as well, and gets what nobody owns.
#[test]
fn a_driver_without_room_for_a_graph() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    let double = || recorded(&cuda, || x.add(&x).map(drop));
    drop(x.add(&x).unwrap());
    let given_back = emulator.count("cuMemFree_v2");
    emulator.fail("cuGraphInstantiateWithFlags", 1, 2);
    let recording = double().unwrap();
    assert_eq!(emulator.count("cuMemFree_v2"), given_back + 1);
    cuda.launch(&recording).unwrap();
    // Both times.
    emulator.fail("cuGraphInstantiateWithFlags", 1, 2);
    let refused = recorded(&cuda, || {
        if emulator.count("cuGraphInstantiateWithFlags") == 3 {
            emulator.fail("cuGraphInstantiateWithFlags", 1, 2);
        }
        x.add(&x).map(drop)
    });
    assert!(
        matches!(refused, Err(Error::OutOfMemory { op: "record", bytes: None, free: Some(_) })),
        "{refused:?}"
    );
    expect_usable(&cuda);
}

/// A launch that is refused is the operation's error, with the kernel's name.
#[test]
fn a_launch_that_fails() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[12], 1).unwrap();
    emulator.fail("cuLaunchKernel", 1, 701);
    let error = x.add(&x).unwrap_err().to_string();
    assert_eq!(
        error,
        "binary: backend error: kernel binary_wide_f32: CUDA error 701: too many resources requested for launch"
    );
    expect_usable(&cuda);
}

/// A recording keeps the driver, and may be dropped by a thread that has never used it.
#[test]
fn recordings_outlive_handles_and_threads() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    let recording = recorded(&cuda, || x.add(&x).map(drop)).unwrap();
    drop((x, cuda));
    assert_eq!(emulator.count("cuDevicePrimaryCtxRelease_v2"), 0);
    thread::spawn(|| drop(recording)).join().unwrap();
    emulator.expect_nothing_left("", "after the recording");
}

/// Whoever else in the process uses the driver's default stream is not kept from it while one records, and does not end
/// the recording.
#[test]
fn the_default_stream_is_others() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    let recording = recorded(&cuda, || {
        assert_eq!(emulator.wait_for_default_stream(), 0);
        x.add(&x).map(drop)
    });
    cuda.launch(&recording.unwrap()).unwrap();
}

/// What one thread records, another neither joins nor disturbs: it waits for its turn, exchange with the host included.
#[test]
fn other_threads_use_the_device_as_ever() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let x = input(&cuda, &[10], 1).unwrap();
    let (recording_now, is_recording) = mpsc::channel();
    let recording = thread::scope(|scope| {
        let (cuda, x) = (&cuda, &x);
        let other = scope.spawn(move || {
            is_recording.recv().unwrap();
            expect_usable(cuda);
        });
        let recording = recorded(cuda, || {
            recording_now.send(()).unwrap();
            let y = x.add(x)?;
            // Long enough for the other to ask.
            thread::sleep(Duration::from_millis(100));
            y.add(x).map(drop)
        });
        other.join().unwrap();
        recording.unwrap()
    });
    let before = emulator.log().len();
    cuda.launch(&recording).unwrap();
    assert_eq!(emulator.log().len(), before + 2, "the recording holds its own work alone");
}
