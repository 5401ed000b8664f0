//! Collectives by NCCL: the emulator's, or NVIDIA's on a machine with GPUs.

use std::os::unix::fs::symlink;
use std::process::exit;
use std::sync::Arc;
use std::time::Duration;

use transdiff_core::backend::Storage;
use transdiff_core::distributed::{Collectives, Communicator, Pending, Solo, even_counts};
use transdiff_core::{DType, Error, Tensor};
use transdiff_cuda::{Cuda, Nccl};

use crate::emulator::{emulator, file, in_own_process};
use crate::ranks::{Files, in_emulated_ranks, in_ranks};
use crate::workload;

const PATIENT: Duration = Duration::from_secs(60);
const IMPATIENT: Duration = Duration::from_secs(1);

/// Opens the GPU of the rank, and NCCL.
fn open(communicator: &Arc<Files>, timeout: Duration) -> (Cuda, Nccl) {
    let cuda = Cuda::new(communicator.local_rank() as u32).unwrap();
    let nccl = Nccl::new(&cuda, Arc::clone(communicator) as _, timeout).unwrap();
    (cuda, nccl)
}

/// Integers, whose sums over a few ranks are exact in bf16.
fn value(rank: usize, index: usize) -> f64 {
    ((index * 7 + rank * 13) % 61) as f64 - 30.0
}

fn tensor(cuda: &Cuda, rank: usize, len: usize, dtype: DType) -> Tensor<Cuda> {
    Tensor::from_f64(cuda, &[len], (0..len).map(|i| value(rank, i)).collect(), dtype).unwrap()
}

fn sums(ranks: usize, len: usize) -> Vec<f64> {
    (0..len).map(|i| (0..ranks).map(|rank| value(rank, i)).sum()).collect()
}

fn wait(pending: Pending<Cuda>) -> Vec<f64> {
    pending.wait().unwrap().to_f64().unwrap()
}

/// Counts per rank of tensors of `len` elements: equal ones, unequal ones, and zeros.
fn all_counts(len: usize, ranks: usize) -> Vec<Vec<usize>> {
    let only = |rank: usize| (0..ranks).map(|i| if i == rank { len } else { 0 }).collect();
    let mut uneven = even_counts(len, ranks);
    let moved = uneven[0] / 3;
    uneven[0] -= moved;
    uneven[ranks - 1] += moved;
    vec![vec![len; ranks], even_counts(len, ranks), uneven, only(0), only(ranks - 1), vec![0; ranks]]
}

/// All operations, with results that are exact in both types.
fn check_operations(communicator: &Arc<Files>) {
    let (cuda, nccl) = open(communicator, PATIENT);
    let (rank, ranks) = (communicator.rank(), communicator.size());
    for (len, dtype) in [0, 1, 5, 1000, 70_000].into_iter().flat_map(|n| [(n, DType::F32), (n, DType::BF16)])
    {
        let context = format!("{len} elements of {dtype}");
        let got = wait(nccl.all_reduce(tensor(&cuda, rank, len, dtype)).unwrap());
        assert_eq!(got, sums(ranks, len), "all_reduce, {context}");
        for counts in all_counts(len, ranks) {
            let (total, start) = (counts.iter().sum(), counts[..rank].iter().sum::<usize>());
            let values = tensor(&cuda, rank, total, dtype);
            let got = wait(nccl.reduce_scatter(values, &counts).unwrap());
            assert_eq!(got, sums(ranks, total)[start..][..counts[rank]], "{counts:?}, {context}");
            let got = wait(nccl.all_gather(tensor(&cuda, rank, counts[rank], dtype), &counts).unwrap());
            let want: Vec<f64> =
                (0..ranks).flat_map(|i| (0..counts[i]).map(move |index| value(i, index))).collect();
            assert_eq!(got, want, "{counts:?}, {context}");
        }
    }
}

#[test]
fn two_ranks_exchange_sums_and_parts() {
    if let Some(ranks) = in_ranks("nccl::two_ranks_exchange_sums_and_parts", 2, |_, c| c) {
        check_operations(&ranks);
    }
}

#[test]
fn three_ranks_exchange_sums_and_parts() {
    if let Some(ranks) = in_ranks("nccl::three_ranks_exchange_sums_and_parts", 3, |_, c| c) {
        check_operations(&ranks);
    }
}

/// Every kernel, copy and operation waits before it runs, and the host does not. Buffers of the same size are freed and written
/// again while operations are in progress.
#[test]
fn operations_and_kernels_wait_for_each_other() {
    let test = "nccl::operations_and_kernels_wait_for_each_other";
    let Some(communicator) = in_ranks(test, 2, |_, c| c.env("EMULATED_CUDA_ASYNC", "3000")) else { return };
    let (cuda, nccl) = open(&communicator, PATIENT);
    let (len, rank) = (1000, communicator.rank());
    let x = tensor(&cuda, rank, len, DType::F32);
    let scaled = |factor: usize| x.affine(factor as f64, 0.0).unwrap();
    let counts = [len - 10, 10];
    let pending: Vec<[Pending<Cuda>; 3]> = (1..5)
        .map(|factor| {
            let all_reduce = nccl.all_reduce(scaled(factor)).unwrap();
            let scatter = nccl.reduce_scatter(scaled(factor), &counts).unwrap();
            let part = scaled(factor).narrow(0, 0, counts[rank]).unwrap();
            let gather = nccl.all_gather(part, &counts).unwrap();
            drop(scaled(1000));
            [all_reduce, scatter, gather]
        })
        .collect();
    let sums = sums(2, len);
    for (factor, [all_reduce, scatter, gather]) in (1..5).zip(pending) {
        let times = |values: &[f64]| -> Vec<f64> { values.iter().map(|x| x * f64::from(factor)).collect() };
        let doubled = all_reduce.wait().unwrap().affine(2.0, 0.0).unwrap();
        drop(scaled(1000));
        assert_eq!(doubled.affine(0.5, 0.0).unwrap().to_f64().unwrap(), times(&sums), "times {factor}");
        let part = if rank == 0 { &sums[..counts[0]] } else { &sums[counts[0]..] };
        assert_eq!(wait(scatter), times(part), "times {factor}");
        let parts: Vec<f64> =
            (0..2).flat_map(|rank| (0..counts[rank]).map(move |i| value(rank, i))).collect();
        assert_eq!(wait(gather), times(&parts), "times {factor}");
    }
}

/// A tensor that others share is not changed by a sum, and one with strides is summed in its order.
#[test]
fn shared_and_strided_tensors_are_copied() {
    let Some(communicator) = in_ranks("nccl::shared_and_strided_tensors_are_copied", 2, |_, c| c) else {
        return;
    };
    let (cuda, nccl) = open(&communicator, PATIENT);
    let rank = communicator.rank();
    let x = tensor(&cuda, rank, 12, DType::F32);
    assert_eq!(wait(nccl.all_reduce(x.clone()).unwrap()), sums(2, 12));
    let column = x.reshape(&[4, 3]).unwrap().narrow(1, 1, 1).unwrap().transpose().unwrap();
    let column = column.reshape(&[4]).unwrap();
    let want: Vec<f64> = (0..4).map(|i| sums(2, 12)[3 * i + 1]).collect();
    assert_eq!(wait(nccl.all_reduce(column.clone()).unwrap()), want);
    assert_eq!(wait(nccl.reduce_scatter(column, &[4, 0]).unwrap()), if rank == 0 { want } else { vec![] });
    assert_eq!(x.to_f64().unwrap(), (0..12).map(|i| value(rank, i)).collect::<Vec<_>>());
}

/// Results that nobody waits for leave the communicator usable, and are freed.
#[test]
fn abandoned_operations_are_executed() {
    let Some(communicator) = in_ranks("nccl::abandoned_operations_are_executed", 2, |_, c| c) else { return };
    let (cuda, nccl) = open(&communicator, PATIENT);
    for len in [100, 100_000] {
        drop(nccl.all_reduce(tensor(&cuda, communicator.rank(), len, DType::F32)).unwrap());
    }
    let got = wait(nccl.all_reduce(tensor(&cuda, communicator.rank(), 10, DType::F32)).unwrap());
    assert_eq!(got, sums(2, 10));
    drop(nccl.all_reduce(tensor(&cuda, communicator.rank(), 100_000, DType::F32)).unwrap());
    communicator.barrier().unwrap();
}

#[test]
fn operation_without_a_peer_times_out() {
    let Some(communicator) = in_ranks("nccl::operation_without_a_peer_times_out", 2, |_, c| c) else {
        return;
    };
    let (cuda, nccl) = open(&communicator, IMPATIENT);
    let rank = communicator.rank();
    assert_eq!(wait(nccl.all_reduce(tensor(&cuda, rank, 10, DType::F32)).unwrap()), sums(2, 10));
    if rank == 1 {
        exit(0);
    }
    let [first, second] = [20, 30].map(|len| nccl.all_reduce(tensor(&cuda, rank, len, DType::F32)).unwrap());
    let error = first.wait().unwrap_err().to_string();
    let expected =
        format!("all_reduce: backend error: 20 elements of f32, rank 0 of 2, NCCL {}: ", nccl.version());
    assert!(error.starts_with(&expected), "{error}");
    // NVIDIA's library may notice before the time is up.
    assert!(error.contains("no result after 1 s: a rank has ended") || error.contains("remote"), "{error}");
    for error in [
        second.wait().unwrap_err(),
        nccl.all_gather(tensor(&cuda, rank, 1, DType::F32), &[1, 1]).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("after an earlier error: all_reduce of 20 elements of f32: "), "{error}");
    }
    drop(nccl);
    workload::assert_usable(&cuda);
}

/// The reason why NCCL is not available on any rank.
#[track_caller]
fn assert_unavailable(cuda: &Cuda, communicator: &Arc<Files>, parts: &[&str]) {
    match Nccl::new(cuda, Arc::clone(communicator) as _, IMPATIENT) {
        Err(Error::Unavailable { device, reason }) => {
            assert_eq!(device, format!("cuda:{}", cuda.ordinal()));
            assert!(parts.iter().all(|part| reason.contains(part)), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    workload::assert_usable(cuda);
}

#[test]
fn missing_library_of_one_rank_is_reported_by_all() {
    let test = "nccl::missing_library_of_one_rank_is_reported_by_all";
    let folder = tempfile::tempdir().unwrap();
    let communicator = in_emulated_ranks(test, 3, |rank, c| {
        if rank == 0 {
            for name in ["libcuda.so.1", "libcublasLt.so.13"] {
                symlink(file(), folder.path().join(name)).unwrap();
            }
        }
        if rank == 0 { c } else { c.env("LD_LIBRARY_PATH", folder.path()) }
    });
    if let Some(communicator) = communicator {
        let cuda = Cuda::new(communicator.local_rank() as u32).unwrap();
        let parts =
            ["rank 1: device cuda:1: NCCL cannot be loaded: libnccl.so.2: cannot open", "Install NCCL"];
        assert_unavailable(&cuda, &communicator, &parts);
    }
}

#[test]
fn same_gpu_of_two_ranks_is_refused() {
    let Some(communicator) = in_ranks("nccl::same_gpu_of_two_ranks_is_refused", 2, |_, c| c) else { return };
    let cuda = Cuda::new(0).unwrap();
    assert_unavailable(&cuda, &communicator, &["ranks 0 and 1 use the same GPU, GPU-"]);
}

#[test]
fn different_versions_are_refused() {
    let communicator = in_emulated_ranks("nccl::different_versions_are_refused", 2, |rank, c| {
        c.env("EMULATED_NCCL_VERSION", ["22703", "21901"][rank])
    });
    if let Some(communicator) = communicator {
        let cuda = Cuda::new(communicator.local_rank() as u32).unwrap();
        let reason = "rank 0 has NCCL 2.27.3 and rank 1 NCCL 2.19.1";
        assert_unavailable(&cuda, &communicator, &[reason]);
    }
}

#[test]
fn rank_that_cannot_join_is_reported_by_all() {
    let communicator = in_emulated_ranks("nccl::rank_that_cannot_join_is_reported_by_all", 2, |rank, c| {
        if rank == 1 { c.env("EMULATED_CUDA_FAIL", "ncclCommInitRankConfig:1:2") } else { c }
    });
    if let Some(communicator) = communicator {
        let cuda = Cuda::new(communicator.local_rank() as u32).unwrap();
        // Rank 0 waits for it, in vain.
        let parts = ["rank 0: Nccl::new: ", "NCCL 2.27.3: ncclCommInitRankConfig is not done after 1 s"];
        assert_unavailable(&cuda, &communicator, &parts);
    }
}

/// The second operation of rank 0 fails while it is executed, as when a connection breaks.
#[test]
fn asynchronous_error_is_that_of_its_operation() {
    let test = "nccl::asynchronous_error_is_that_of_its_operation";
    let communicator =
        in_emulated_ranks(
            test,
            2,
            |rank, c| {
                if rank == 0 { c.env("EMULATED_NCCL_ASYNC_ERROR", "2:6") } else { c }
            },
        );
    let Some(communicator) = communicator else { return };
    // Rank 1 waits until its time is up, rank 0 does not.
    let rank = communicator.rank();
    let (cuda, nccl) = open(&communicator, [PATIENT, IMPATIENT][rank]);
    let pending = [10, 20].map(|len| nccl.all_reduce(tensor(&cuda, rank, len, DType::F32)).unwrap());
    let [first, second] = pending;
    assert_eq!(wait(first), sums(2, 10));
    let error = second.wait().unwrap_err().to_string();
    let reasons = ["status 6, remote process exited or there was a network error", "no result after 1 s"];
    assert!(error.contains(reasons[rank]), "{error}");
    assert!(rank == 1 || error.contains("last message of NCCL: injected error of operation 2"), "{error}");
}

#[test]
fn different_operations_are_reported() {
    let Some(communicator) = in_emulated_ranks("nccl::different_operations_are_reported", 2, |_, c| c) else {
        return;
    };
    let (cuda, nccl) = open(&communicator, IMPATIENT);
    let rank = communicator.rank();
    let pending = nccl.all_reduce(tensor(&cuda, rank, 10 + rank, DType::F32)).unwrap();
    let error = pending.wait().unwrap_err().to_string();
    let (own, other) = (format!("rank {rank}: AllReduce of {} elements", 10 + rank), 11 - rank);
    assert!(error.contains(&own) && error.contains(&format!("AllReduce of {other} elements")), "{error}");
}

#[test]
fn arguments_are_checked() {
    if !in_own_process("nccl::arguments_are_checked", |c| c) {
        return;
    }
    let cuda = Cuda::new(0).unwrap();
    let nccl = Nccl::new(&cuda, Arc::new(Solo), IMPATIENT).unwrap();
    let x = || tensor(&cuda, 0, 10, DType::F32);
    let errors = [
        (nccl.reduce_scatter(x(), &[9]), "reduce_scatter: expected 9 elements, got shape [10]"),
        (nccl.all_gather(x(), &[11]), "all_gather: expected 11 elements, got shape [10]"),
        (nccl.reduce_scatter(x(), &[5, 5]), "argument counts: expected 1, one per rank, got 2"),
        (nccl.all_gather(x(), &[]), "argument counts: expected 1, one per rank, got 0"),
        (nccl.all_reduce(tensor(&cuda, 0, 2, DType::F64)), "all_reduce: expected f32 or bf16, got f64"),
    ];
    for (result, want) in errors {
        assert_eq!(result.unwrap_err().to_string(), want);
    }
    // An operation that other ranks take part in cannot be part of a graph.
    let values = x();
    let graph = cuda.capture(&mut || nccl.all_reduce(values.clone()).map(drop));
    assert!(graph.unwrap_err().to_string().contains("not possible during a graph capture"));
    assert_eq!(wait(nccl.all_reduce(x()).unwrap()), sums(1, 10));
}

/// Functions whose failure is not reported: those that end the communicator.
const UNREPORTED: [&str; 2] = ["ncclCommFinalize", "ncclCommDestroy"];

/// Every call fails once, on a single rank.
#[test]
fn failure_of_any_call_is_reported() {
    let Some(emulator) = emulator() else { return };
    let run = || -> Result<(), Error> {
        let cuda = Cuda::new(0)?;
        let nccl = Nccl::new(&cuda, Arc::new(Solo), PATIENT)?;
        let x = || tensor(&cuda, 0, 10, DType::F32);
        for pending in [nccl.all_reduce(x()), nccl.reduce_scatter(x(), &[10]), nccl.all_gather(x(), &[10])] {
            assert_eq!(pending?.wait()?.to_f64()?, sums(1, 10));
        }
        Ok(())
    };
    // With the number of calls that fail: how often it is polled varies after the first ones.
    let functions = [
        ("ncclGetVersion", 1),
        ("ncclGetUniqueId", 1),
        ("ncclCommInitRankConfig", 1),
        ("ncclCommGetAsyncError", 3),
        ("ncclCommFinalize", 1),
        ("ncclCommDestroy", 1),
        ("ncclAllReduce", 1),
        ("ncclReduceScatter", 1),
        ("ncclAllGather", 1),
        ("cuDeviceGetUuid_v2", 1),
        ("cuStreamWaitEvent", 3),
        ("cuEventQuery", 1),
    ];
    run().unwrap();
    for (function, calls) in functions {
        let count = emulator.count(function);
        assert!(count >= calls, "{count} calls of {function}");
    }
    let calls = functions.into_iter().flat_map(|(name, calls)| (1..=calls).map(move |nth| (name, nth)));
    for (function, nth) in calls {
        let context = format!("call {nth} of {function}");
        emulator.reset();
        let (code, message) = match function.strip_prefix("nccl") {
            Some(_) => (3, "status 3, internal error"),
            None => (701, "CUDA error 701"),
        };
        emulator.fail(function, nth, code);
        match run() {
            Ok(()) => assert!(UNREPORTED.contains(&function), "{context}"),
            Err(error) => assert!(error.to_string().contains(message), "{context}: {error}"),
        }
        emulator.assert_no_leaks(function, &context);
        let ended = emulator.count("ncclCommDestroy") + emulator.count("ncclCommAbort");
        let joined = usize::from(function != "ncclCommInitRankConfig");
        assert_eq!(emulator.count("ncclCommInitRankConfig").min(joined), ended, "{context}");
        run().unwrap_or_else(|error| panic!("after {context}: {error}"));
    }
}
