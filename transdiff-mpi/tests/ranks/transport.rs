//! Exchanges between the ranks of a job on this machine.

use std::time::Duration;

use crate::launch::{assert_ranks, bytes_of, on_failing_ranks, on_ranks};
use transdiff_core::distributed::Communicator;
use transdiff_mpi::{Mpi, launched};

/// More than MPI libraries send at once, and larger than a bucket of gradients.
const LARGE: [usize; 2] = [100_003, 40 << 20];

#[test]
fn ranks_of_one_machine_are_local() {
    on_ranks(|mpi| {
        assert!(launched());
        assert_ranks(&mpi);
    });
}

#[test]
fn gather_takes_any_number_of_bytes_from_each() {
    on_ranks(|mpi| {
        let cases: [&dyn Fn(usize) -> usize; 5] =
            [&|_| 0, &|rank| rank, &|rank| 3 - rank, &|rank| usize::from(rank == 0), &|rank| LARGE[0] * rank];
        for len in cases {
            let expected: Vec<Vec<u8>> = (0..mpi.size()).map(|rank| bytes_of(rank, len(rank))).collect();
            assert_eq!(mpi.gather(&expected[mpi.rank()]).unwrap(), expected);
        }
    });
}

#[test]
fn broadcast_sends_the_bytes_of_one_rank() {
    on_ranks(|mpi| {
        for root in 0..mpi.size() {
            for len in [0, 1, 1000, LARGE[0]] {
                let own = bytes_of(mpi.rank(), len + mpi.rank());
                assert!(mpi.broadcast(root, &own).unwrap() == bytes_of(root, len + root), "{len} of {root}");
            }
        }
        let root = mpi.size() - 1;
        let own = if mpi.rank() == root { bytes_of(root, LARGE[1]) } else { Vec::new() };
        assert!(mpi.broadcast(root, &own).unwrap() == bytes_of(root, LARGE[1]));
    });
}

#[test]
fn all_to_all_sends_each_rank_its_part() {
    on_ranks(|mpi| {
        for counts in
            [[0, 0, 0, 0], [0, 5, 0, 1], [7, 0, 3, LARGE[0]], [LARGE[0]; 4], [LARGE[1] / 4, 1, 0, 2]]
        {
            let counts = &counts[..mpi.size()];
            let part = |from: usize, to: usize| bytes_of(4 * from + to, counts[to]);
            let send: Vec<u8> = (0..mpi.size()).flat_map(|to| part(mpi.rank(), to)).collect();
            let expected: Vec<u8> = (0..mpi.size()).flat_map(|from| part(from, mpi.rank())).collect();
            assert!(mpi.all_to_all(&send, counts).unwrap() == expected, "{counts:?}");
        }
    });
}

#[test]
fn barrier_waits_for_the_last_rank() {
    on_ranks(|mpi| {
        let started = std::time::Instant::now();
        let pause = Duration::from_millis(300);
        mpi.barrier().unwrap();
        if mpi.rank() == mpi.size() - 1 {
            std::thread::sleep(pause);
        }
        mpi.barrier().unwrap();
        assert!(started.elapsed() >= pause);
    });
}

#[test]
fn sizes_that_mpi_cannot_count_are_errors_in_all_ranks() {
    on_ranks(|mpi| {
        let mut counts = vec![0; mpi.size()];
        counts[0] = 3 << 30;
        for result in [mpi.all_gather(&[], &counts), mpi.all_to_all(&[], &counts)] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(&(3usize << 30).to_string()) || error.contains("2147483647"), "{error}");
        }
        counts[0] = usize::MAX;
        mpi.all_to_all(&[], &counts).unwrap_err();
        mpi.barrier().unwrap();
    });
}

#[test]
fn wrong_counts_are_errors() {
    on_ranks(|mpi| {
        let counts = vec![2; mpi.size()];
        let error = mpi.all_gather(&[1], &counts).unwrap_err().to_string();
        assert!(error.contains("all_gather") && error.contains("expected 2 bytes to send, got 1"), "{error}");
        let error = mpi.all_to_all(&[1; 9], &counts).unwrap_err().to_string();
        assert!(error.contains(&format!("expected {} bytes to send, got 9", 2 * mpi.size())), "{error}");
        let error = mpi.all_gather(&[1, 2], &[2; 5]).unwrap_err().to_string();
        assert!(error.contains(&format!("a count for each of {} ranks, got 5", mpi.size())), "{error}");
        mpi.barrier().unwrap();
    });
}

#[test]
fn second_start_is_an_error() {
    on_ranks(|mpi| {
        let error = Mpi::new(Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains("MPI has been started in this process before"), "{error}");
        mpi.barrier().unwrap();
    });
}

#[test]
fn launcher_is_recognised_without_starting_mpi() {
    // The test itself may run under a launcher.
    if std::env::vars().all(|(name, _)| !name.contains("PMI") && !name.contains("MPI_")) {
        assert!(!launched());
    }
}

#[test]
fn rank_that_does_not_answer_ends_the_job() {
    let job = on_failing_ranks(4, Duration::from_secs(2), |mpi| {
        mpi.barrier().unwrap();
        if mpi.rank() == 2 {
            std::thread::sleep(Duration::from_secs(100));
        }
        let error = mpi.all_to_all(&bytes_of(0, 4 * LARGE[0]), &[LARGE[0]; 4]).unwrap_err();
        println!("{error}");
        println!("again: {}", mpi.barrier().unwrap_err());
        std::thread::sleep(Duration::from_millis(500));
        mpi.abort(7);
    });
    let Some(job) = job else { return };
    assert!(job.printed.contains("all_to_all"), "{}", job.printed);
    assert!(job.printed.contains("no answer from all of 4 ranks within 2 s"), "{}", job.printed);
    assert!(
        job.printed.contains("again: MPI: backend error: an earlier operation has failed"),
        "{}",
        job.printed
    );
    assert!(job.took < Duration::from_secs(60), "{:?}:\n{}", job.took, job.printed);
}

#[test]
fn abort_ends_all_ranks_with_its_exit_code() {
    let job = on_failing_ranks(3, Duration::from_secs(600), |mpi| {
        if mpi.rank() == 1 {
            mpi.abort(7);
        }
        mpi.barrier().unwrap();
    });
    let Some(job) = job else { return };
    assert_eq!(job.exit_code, Some(7), "{}", job.printed);
}

#[test]
fn killed_rank_ends_the_job() {
    let job = on_failing_ranks(3, Duration::from_secs(600), |mpi| {
        mpi.barrier().unwrap();
        if mpi.rank() == 1 {
            let own = std::process::id().to_string();
            std::process::Command::new("kill").args(["-KILL", &own]).status().unwrap();
        }
        while mpi.all_gather(&bytes_of(mpi.rank(), LARGE[0]), &[LARGE[0]; 3]).is_ok() {}
        // Only the launcher ends this rank.
        std::thread::sleep(Duration::from_secs(100));
    });
    let Some(job) = job else { return };
    assert!(job.took < Duration::from_secs(60), "{:?}:\n{}", job.took, job.printed);
}

#[test]
fn panicking_rank_ends_the_job() {
    let job = on_failing_ranks(3, Duration::from_secs(600), |mpi| {
        assert!(mpi.rank() != 1, "rank 1 is wrong");
        mpi.barrier().unwrap();
    });
    let Some(job) = job else { return };
    assert!(job.printed.contains("rank 1 is wrong"), "{}", job.printed);
}
