//! The job that this process is a rank of: the only one, or one of those that a launcher has started.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use transdiff::distributed::{Communicator, Solo, agree};
use transdiff::{Device, Error};
use transdiff_terminal::{INTERRUPTED, whole};

use crate::failure::{Failure, Result};
use crate::output::{print_to_terminal, put_aside};

/// Variables with the number of processes that a launcher has started.
const SIZES: [&str; 5] =
    ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "WORLD_SIZE"];

/// Seconds of waiting for another rank, by default.
const TRAINING_TIMEOUT: u64 = 600;
const EVALUATION_TIMEOUT: u64 = 86_400;

/// Arguments of commands that several processes can do together.
#[derive(Args)]
pub struct JobArgs {
    /// Seconds after which a rank that does not answer ends the job, at least 1 [default: 600 in training; in an evaluation,
    /// whose ranks wait for the slowest, a day]
    #[arg(long, value_name = "SECONDS", value_parser = whole(1..=1_u64 << 32))]
    #[arg(allow_negative_numbers = true, help_heading = "Ranks")]
    pub timeout: Option<u64>,
}

/// The ranks of a job.
pub struct Job {
    communicator: Arc<dyn Communicator>,
    pub timeout: Duration,
}

impl Job {
    /// The job of a training run that this process belongs to. Output of ranks other than 0 is put aside.
    ///
    /// One of several processes that nothing connects is an error: all would do the same work.
    pub fn of_training(args: &JobArgs, device: Device) -> Result<Self> {
        let timeout = Duration::from_secs(args.timeout.unwrap_or(TRAINING_TIMEOUT));
        match connected(device, timeout)? {
            Some(communicator) => Ok(Self::new(communicator, timeout)),
            None => check_alone().map(|()| Self::new(Arc::new(Solo), timeout)),
        }
    }

    /// The job of an evaluation that this process belongs to: a single process if nothing connects it with others, which may
    /// still do a part of the work. Output of ranks other than 0 is put aside.
    ///
    /// Processes that do one part after another, or have no address to meet at, are not connected by NCCL: `together` is false,
    /// or the variables lack it.
    pub fn of_evaluation(args: &JobArgs, device: Device, together: bool) -> Result<Self> {
        let timeout = Duration::from_secs(args.timeout.unwrap_or(EVALUATION_TIMEOUT));
        let addressed = ["MASTER_ADDR", "NCCL_COMM_ID"].iter().any(|name| std::env::var_os(name).is_some());
        let device = if together && addressed { device } else { Device::Cpu };
        Ok(Self::new(connected(device, timeout)?.unwrap_or_else(|| Arc::new(Solo)), timeout))
    }

    fn new(communicator: Arc<dyn Communicator>, timeout: Duration) -> Self {
        if communicator.rank() > 0 {
            put_aside();
        }
        Self { communicator, timeout }
    }

    pub fn communicator(&self) -> &Arc<dyn Communicator> {
        &self.communicator
    }

    pub fn rank(&self) -> usize {
        self.communicator.rank()
    }

    pub fn size(&self) -> usize {
        self.communicator.size()
    }

    /// Returns whether this rank reports, and writes the files that all share.
    pub fn is_main(&self) -> bool {
        self.rank() == 0
    }

    /// Number of CPU threads for this rank if `given` does not say: an equal part of the machine's.
    pub fn threads(&self, given: Option<usize>) -> Option<usize> {
        let part = || {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            (cores / self.communicator.local_size()).max(1)
        };
        given.or_else(|| (self.communicator.local_size() > 1).then(part))
    }

    /// Does the work of this rank. A failure that the other ranks do not know of ends them too.
    pub fn run<T>(self, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let failure = match work(&self) {
            Err(failure) if self.size() > 1 => failure,
            done => return done,
        };
        let code = match &failure {
            Failure::Message(_) => 1,
            Failure::Interrupted(_) => INTERRUPTED.into(),
            Failure::Reported(_) | Failure::OutputClosed => return Err(failure),
            // All ranks end. Rank 0 says why before the launcher sees the first of them end, and ends the others.
            Failure::Agreed(_) | Failure::Stopped(..) => {
                if let Some(line) = failure.stderr_line().filter(|_| self.is_main()) {
                    print_to_terminal(&line);
                }
                self.communicator.barrier()?;
                return Err(Failure::Reported(failure.exit_code()));
            }
        };
        print_to_terminal(&format!("error: rank {} of {}: {failure}", self.rank(), self.size()));
        self.communicator.abort(code)
    }

    /// Exchanges the outcomes of all ranks. A failure of one is one of all.
    pub fn agree<T: Serialize + DeserializeOwned>(&self, outcome: Result<T>) -> Result<Vec<T>> {
        if self.size() == 1 {
            return outcome.map(|value| vec![value]);
        }
        let rank = self.rank();
        let outcome = outcome.map_err(|failure| Error::Rank { rank, message: failure.to_string() });
        Ok(agree(&*self.communicator, outcome)?)
    }

    /// Does on each rank what may fail on one. A failure of one is one of all.
    pub fn each<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut done = None;
        self.agree(work().map(|value| done = Some(value)))?;
        Ok(done.expect("it has not failed"))
    }

    /// A failure that all ranks have found alike.
    pub fn known_to_all(&self, message: String) -> Failure {
        if self.size() > 1 { Failure::Agreed(message) } else { Failure::Message(message) }
    }

    /// The value that rank 0 makes; a failure to make it is one of all ranks.
    pub fn made_by_main<T: Serialize + DeserializeOwned>(
        &self,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        // A list, because JSON does not tell a missing value from one that is `None`.
        let outcome = if self.is_main() { make().map(|value| vec![value]) } else { Ok(Vec::new()) };
        let made = self.agree(outcome)?.into_iter().flatten().next();
        Ok(made.expect("rank 0 has made it"))
    }
}

/// The ranks of the job, if a launcher has started this process, and MPI or NCCL connects it with the others.
fn connected(device: Device, timeout: Duration) -> Result<Option<Arc<dyn Communicator>>> {
    // Of torchrun itself, which `srun` may have started, like an MPI job.
    let torchrun = std::env::var_os("TORCHELASTIC_RUN_ID").is_some();
    match if torchrun { None } else { mpi(timeout)? } {
        Some(ranks) => Ok(Some(ranks)),
        None => nccl(device, timeout),
    }
}

/// The ranks of the job, if a launcher like torchrun has started this process, and it computes on a GPU.
#[cfg(feature = "cuda")]
fn nccl(device: Device, timeout: Duration) -> Result<Option<Arc<dyn Communicator>>> {
    use transdiff::{Cuda, NcclLaunch, NcclRanks};
    if device == Device::Cpu {
        return Ok(None);
    }
    let Some(launch) = NcclLaunch::from_environment()? else { return Ok(None) };
    // SAFETY: a command finds its job first; there is no other thread yet.
    unsafe { launch.announce() };
    let cuda = match device.of_local_rank(launch.local_rank(), launch.local_size())? {
        Device::Cuda(ordinal) => Cuda::new(ordinal)?,
        // Which of the ranks have a GPU is not known: one without is no reason to do the work alone.
        _ => Cuda::new(0)?,
    };
    Ok(Some(Arc::new(NcclRanks::new(&cuda, launch, timeout)?)))
}

/// The ranks of the job, if a launcher like torchrun has started this process, and it computes on a GPU.
#[cfg(not(feature = "cuda"))]
fn nccl(_: Device, _: Duration) -> Result<Option<Arc<dyn Communicator>>> {
    Ok(None)
}

/// The ranks of the job, if an MPI launcher has started this process.
#[cfg(feature = "mpi")]
fn mpi(timeout: Duration) -> Result<Option<Arc<dyn Communicator>>> {
    Ok(match transdiff::mpi::launched() {
        true => Some(Arc::new(transdiff::mpi::Mpi::new(timeout)?)),
        false => None,
    })
}

/// The ranks of the job, if an MPI launcher has started this process.
#[cfg(not(feature = "mpi"))]
fn mpi(_: Duration) -> Result<Option<Arc<dyn Communicator>>> {
    Ok(None)
}

/// Fails in one of several processes.
fn check_alone() -> Result<()> {
    let size = |name: &str| std::env::var(name).ok()?.trim().parse::<usize>().ok();
    let Some((name, size)) =
        SIZES.iter().find_map(|&name| Some((name, size(name).filter(|&size| size > 1)?)))
    else {
        return Ok(());
    };
    let remedy = match cfg!(feature = "mpi") {
        true => "no MPI launcher has started it; mpirun, or srun --mpi=pmix, does",
        false => "this command was built without MPI; cargo build --features mpi builds it",
    };
    let torchrun = match name {
        "WORLD_SIZE" => {
            ". Processes of torchrun need a GPU each, and a build with --features cuda; on CPUs, only MPI connects them"
        }
        _ => "",
    };
    Err(format!("{name}: expected a single process, got one of {size}; {remedy}{torchrun}").into())
}
