//! Ranks that a launcher like torchrun has started, connected by NCCL alone.

use std::net::TcpListener;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use transdiff_core::distributed::{Collectives, Communicator};
use transdiff_core::{DType, Result, Tensor};
use transdiff_cuda::{Cuda, Nccl, NcclLaunch, NcclRanks};

use crate::ranks::{in_emulated_ranks, in_ranks};
use crate::workload;

const PATIENT: Duration = Duration::from_secs(60);
const IMPATIENT: Duration = Duration::from_secs(1);

/// Sets torchrun's variables, with a port that no other test uses.
fn torchrun(ranks: usize) -> impl Fn(usize, &mut Command) -> &mut Command {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().min(65_534);
    move |rank, command| {
        command.env("RANK", rank.to_string()).env("WORLD_SIZE", ranks.to_string());
        command.env("LOCAL_RANK", rank.to_string()).env("LOCAL_WORLD_SIZE", ranks.to_string());
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command.env_remove("NCCL_COMM_ID")
    }
}

/// This process's GPU, and what comes of meeting the other ranks.
fn open(timeout: Duration) -> (Cuda, Result<NcclRanks>) {
    let launch = NcclLaunch::from_environment().unwrap().unwrap();
    // SAFETY: the only other thread waits for the end of this one.
    unsafe { launch.announce() };
    let cuda = Cuda::new(launch.local_rank() as u32).unwrap();
    let ranks = NcclRanks::new(&cuda, launch, timeout);
    (cuda, ranks)
}

/// Bytes that `from` sends to `to`.
fn bytes(from: usize, to: usize, count: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 7 + from * 31 + to * 101) as u8).collect()
}

/// Every exchange, with counts that differ, are zero, or exceed what the emulator moves at a time.
fn check_exchanges() {
    let (cuda, ranks) = open(PATIENT);
    let ranks = Arc::new(ranks.unwrap());
    let (rank, size) = (ranks.rank(), ranks.size());
    assert_eq!([ranks.local_rank(), ranks.local_size()], [rank, size]);
    let all_counts =
        [vec![5; size], vec![0; size], (0..size).collect(), (0..size).map(|i| i * 70_001).collect()];
    for counts in all_counts {
        let send: Vec<u8> = (0..size).flat_map(|to| bytes(rank, to, counts[to])).collect();
        let want: Vec<u8> = (0..size).flat_map(|from| bytes(from, rank, counts[rank])).collect();
        assert!(ranks.all_to_all(&send, &counts).unwrap() == want, "all_to_all, {counts:?}");
        let part = bytes(rank, 0, counts[rank]);
        let want: Vec<u8> = (0..size).flat_map(|from| bytes(from, 0, counts[from])).collect();
        assert!(ranks.all_gather(&part, &counts).unwrap() == want, "all_gather, {counts:?}");
    }
    let names: Vec<Vec<u8>> = (0..size).map(|rank| format!("rank {rank}").repeat(rank).into()).collect();
    assert_eq!(ranks.gather(&names[rank]).unwrap(), names);
    assert_eq!(ranks.broadcast(size - 1, &names[rank]).unwrap(), names[size - 1]);
    ranks.barrier().unwrap();

    // The sums of tensors have a communicator of their own, which meets through this one.
    let nccl = Nccl::new(&cuda, Arc::clone(&ranks) as _, PATIENT).unwrap();
    let x = Tensor::from_f64(&cuda, &[2], vec![1.0, rank as f64], DType::F32).unwrap();
    let sum = nccl.all_reduce(x).unwrap().wait().unwrap().to_f64().unwrap();
    assert_eq!(sum, [size as f64, (size * (size - 1) / 2) as f64]);
    ranks.barrier().unwrap();

    let error = ranks.all_gather(&[0], &[1]).unwrap_err().to_string();
    assert_eq!(error, format!("argument counts: expected {size}, one per rank, got 1"));
    let error = ranks.all_to_all(&[0], &vec![1; size]).unwrap_err().to_string();
    assert_eq!(error, format!("argument bytes: expected {size}, as the counts say, got 1"));
    ranks.barrier().unwrap();
}

#[test]
fn two_launched_ranks_exchange_bytes_and_sums() {
    if in_ranks("launched::two_launched_ranks_exchange_bytes_and_sums", 2, torchrun(2)).is_some() {
        check_exchanges();
    }
}

#[test]
fn three_launched_ranks_exchange_bytes_and_sums() {
    if in_ranks("launched::three_launched_ranks_exchange_bytes_and_sums", 3, torchrun(3)).is_some() {
        check_exchanges();
    }
}

#[test]
fn rank_that_does_not_come_is_an_error_of_the_others() {
    let test = "launched::rank_that_does_not_come_is_an_error_of_the_others";
    let Some(files) = in_emulated_ranks(test, 2, torchrun(2)) else { return };
    if files.rank() == 1 {
        return;
    }
    let (cuda, ranks) = open(IMPATIENT);
    let error = ranks.unwrap_err().to_string();
    let address = NcclLaunch::from_environment().unwrap().unwrap().address().to_owned();
    assert!(error.contains(&format!("rank 0 of 2, which meet at {address}: ")), "{error}");
    assert!(error.contains("is not done after 1 s: a rank has ended"), "{error}");
    workload::assert_usable(&cuda);
}

#[test]
fn rank_that_aborts_is_an_error_of_the_others() {
    let test = "launched::rank_that_aborts_is_an_error_of_the_others";
    if in_emulated_ranks(test, 2, torchrun(2)).is_none() {
        return;
    }
    let (cuda, ranks) = open(IMPATIENT);
    let ranks = ranks.unwrap();
    ranks.barrier().unwrap();
    if ranks.rank() == 1 {
        ranks.abort(0);
    }
    let error = ranks.all_gather(&[1, 2], &[2, 3]).unwrap_err().to_string();
    assert!(
        error.starts_with("all_gather: backend error: 2 bytes, 5 received, rank 0 of 2, NCCL "),
        "{error}"
    );
    assert!(error.contains("no result after 1 s: a rank has ended"), "{error}");
    let error = ranks.barrier().unwrap_err().to_string();
    assert!(error.contains("after an earlier error: all_gather of 2 bytes, 5 received"), "{error}");
    drop(ranks);
    workload::assert_usable(&cuda);
}

#[test]
fn ranks_of_one_gpu_are_an_error() {
    let test = "launched::ranks_of_one_gpu_are_an_error";
    let set = torchrun(2);
    let ranks = in_emulated_ranks(test, 2, |rank, c| {
        set(rank, c).env("EMULATED_CUDA_DEVICES", "1").env("LOCAL_RANK", "0")
    });
    if ranks.is_some() {
        let error = open(PATIENT).1.unwrap_err().to_string();
        assert!(error.contains("Duplicate GPU detected"), "{error}");
    }
}

#[test]
fn address_that_is_not_announced_is_an_error() {
    let test = "launched::address_that_is_not_announced_is_an_error";
    if in_emulated_ranks(test, 1, |rank, c| torchrun(2)(rank, c)).is_some() {
        let launch = NcclLaunch::from_environment().unwrap().unwrap();
        let error = NcclRanks::new(&Cuda::new(0).unwrap(), launch, PATIENT).unwrap_err().to_string();
        assert!(error.contains("NCCL_COMM_ID: expected 127.0.0.1:"), "{error}");
    }
}
