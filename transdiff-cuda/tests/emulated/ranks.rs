//! Tests of several processes, each with a GPU: emulated ones, or those of the machine.

use std::path::PathBuf;
use std::process::{Command, Stdio, exit};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use libloading::Library;
use transdiff_core::distributed::Communicator;
use transdiff_core::{Error, Result};
use transdiff_cuda::Cuda;

use crate::emulator::{CHILD, emulator, skipped};

/// Environment variables of a rank: its number, the number of ranks, and the folder of their messages.
const RANK: &str = "NCCL_TEST_RANK";
const RANKS: &str = "NCCL_TEST_RANKS";
const FOLDER: &str = "NCCL_TEST_FOLDER";

/// Ranks of a machine that exchange files in a folder.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    rank: usize,
    ranks: usize,
    exchanges: AtomicUsize,
}

impl Files {
    /// Sends `bytes` to all ranks. Returns those of each rank.
    fn exchange(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let number = self.exchanges.fetch_add(1, Ordering::Relaxed);
        let file = |rank: usize| self.folder.join(format!("{number}-{rank}"));
        let new = self.folder.join(format!("new-{}", self.rank));
        fs::write(&new, bytes).unwrap();
        fs::rename(&new, file(self.rank)).unwrap();
        let start = Instant::now();
        (0..self.ranks)
            .map(|rank| {
                loop {
                    if let Ok(bytes) = fs::read(file(rank)) {
                        return Ok(bytes);
                    }
                    if start.elapsed() > Duration::from_secs(60) {
                        let message = format!("rank {rank} does not answer");
                        return Err(Error::Backend { op: "exchange", message });
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            })
            .collect()
    }
}

impl Communicator for Files {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.ranks
    }

    fn local_rank(&self) -> usize {
        self.rank
    }

    fn local_size(&self) -> usize {
        self.ranks
    }

    fn all_to_all(&self, send: &[u8], counts: &[usize]) -> Result<Vec<u8>> {
        let (start, count) = (counts[..self.rank].iter().sum::<usize>(), counts[self.rank]);
        Ok(self.exchange(send)?.iter().flat_map(|sent| sent[start..][..count].to_vec()).collect())
    }

    fn all_gather(&self, part: &[u8], _: &[usize]) -> Result<Vec<u8>> {
        Ok(self.exchange(part)?.concat())
    }

    fn abort(&self, exit_code: i32) -> ! {
        exit(exit_code)
    }
}

/// Runs the test `name` in `ranks` processes, with an environment that `configure` sets for each rank. Returns their
/// communicator in these processes; in the parent `None`, once all have passed. They use the emulator, or the GPUs and the NCCL
/// of the machine, if it has enough.
pub fn in_ranks(
    name: &str,
    ranks: usize,
    configure: impl Fn(usize, &mut Command) -> &mut Command,
) -> Option<Arc<Files>> {
    if env::var_os(CHILD).is_none() && emulator().is_none() {
        // SAFETY: NVIDIA's library, which may be opened at any time.
        let nccl = unsafe { Library::new("libnccl.so.2") }.map_err(|error| error.to_string());
        let gpus = || Cuda::new(ranks as u32 - 1).map_err(|error| error.to_string());
        if let Err(reason) = nccl.and_then(|_| gpus()) {
            return skipped(&reason);
        }
    }
    run_ranks(name, ranks, configure)
}

/// As [`in_ranks`], with the emulator only.
pub fn in_emulated_ranks(
    name: &str,
    ranks: usize,
    configure: impl Fn(usize, &mut Command) -> &mut Command,
) -> Option<Arc<Files>> {
    if env::var_os(CHILD).is_none() {
        emulator()?;
    }
    run_ranks(name, ranks, configure)
}

fn run_ranks(
    name: &str,
    ranks: usize,
    configure: impl Fn(usize, &mut Command) -> &mut Command,
) -> Option<Arc<Files>> {
    if env::var_os(CHILD).is_some() {
        let number = |variable| env::var(variable).unwrap().parse().unwrap();
        let (folder, exchanges) = (env::var_os(FOLDER).unwrap().into(), AtomicUsize::new(0));
        return Some(Arc::new(Files { folder, rank: number(RANK), ranks: number(RANKS), exchanges }));
    }
    let folder = tempfile::tempdir().unwrap();
    let start = |rank: usize| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", name, "--nocapture"]).env(CHILD, "1").env(FOLDER, folder.path());
        command.env(RANK, rank.to_string()).env(RANKS, ranks.to_string());
        command.env("EMULATED_CUDA_DEVICES", ranks.to_string());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        configure(rank, &mut command).spawn().unwrap()
    };
    let processes: Vec<_> = (0..ranks).map(start).collect();
    let outputs = processes.into_iter().map(|process| process.wait_with_output().unwrap()).enumerate();
    let mut failures = Vec::new();
    for (rank, output) in outputs {
        let printed = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || printed.contains("SKIPPED") || printed.contains("running 0 tests") {
            let errors = String::from_utf8_lossy(&output.stderr);
            failures.push(format!("rank {rank}, {}: {printed}{errors}", output.status));
        }
    }
    assert!(failures.is_empty(), "{name}: {}", failures.join("\n"));
    None
}
