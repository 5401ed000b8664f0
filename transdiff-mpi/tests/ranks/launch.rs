//! Tests that run as the ranks of a job: each starts its own program under `mpirun`.

use std::io::ErrorKind;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use transdiff_core::distributed::Communicator;
use transdiff_mpi::Mpi;

use crate::open_mpi::OPEN_MPI;

/// Variable of the ranks, which tells them from the test that starts them.
const RANK: &str = "TRANSDIFF_TEST_RANK";
/// Seconds after which `mpirun` ends a job that hangs.
const JOB_LIMIT: u64 = 120;
/// Time-out of operations that should succeed.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs `body`, a closure of a test, in the ranks of jobs of 1 to 4. All of them have to succeed.
pub fn on_ranks<F: FnOnce(Arc<Mpi>)>(body: F) {
    if is_rank() {
        return body(Arc::new(Mpi::new(TIMEOUT).unwrap()));
    }
    for ranks in 1..=4 {
        let Some(job) = Job::run(test_of::<F>(), ranks) else { return };
        let passed = job.printed.matches("1 passed").count();
        assert!(job.succeeded && passed == ranks, "{passed} of {ranks} ranks:\n{}", job.printed);
    }
}

/// Runs `body`, a closure of a test, in a job of `ranks` ranks, of which some fail. Returns the job to the test, and nothing to
/// the ranks, or without `mpirun`.
pub fn on_failing_ranks<F: FnOnce(Arc<Mpi>)>(ranks: usize, timeout: Duration, body: F) -> Option<Job> {
    if is_rank() {
        body(Arc::new(Mpi::new(timeout).unwrap()));
        return None;
    }
    let job = Job::run(test_of::<F>(), ranks)?;
    assert!(!job.succeeded && !job.printed.contains("1 passed"), "{}", job.printed);
    Some(job)
}

fn is_rank() -> bool {
    std::env::var_os(RANK).is_some()
}

/// Name of the test that has the closure `F`.
fn test_of<F>() -> &'static str {
    let path = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    path.split_once("::").expect("a test is in a crate").1
}

/// A job that has ended.
pub struct Job {
    succeeded: bool,
    /// Exit code of `mpirun`.
    pub exit_code: Option<i32>,
    /// Standard output and standard error.
    pub printed: String,
    /// Duration.
    pub took: Duration,
}

impl Job {
    /// Runs `test` in `ranks` processes of this program; none without `mpirun`.
    fn run(test: &str, ranks: usize) -> Option<Self> {
        let mut command = Command::new("mpirun");
        command.args(["-np", &ranks.to_string()]).arg(std::env::current_exe().unwrap());
        command.args([test, "--exact", "--nocapture", "--test-threads=1"]).env(RANK, "1");
        command.env("MPIEXEC_TIMEOUT", JOB_LIMIT.to_string()).envs(OPEN_MPI);
        let started = Instant::now();
        let Output { status, stdout, stderr } = match command.output() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                println!("SKIPPED: there is no mpirun");
                return None;
            }
            output => output.unwrap(),
        };
        let printed = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        let took = started.elapsed();
        assert!(took < Duration::from_secs(JOB_LIMIT), "the job hangs:\n{printed}");
        Some(Self { succeeded: status.success(), exit_code: status.code(), printed, took })
    }
}

/// Bytes of rank `rank`, which tell ranks, places and lengths apart.
pub fn bytes_of(rank: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 8) ^ (rank * 97)) as u8).collect()
}

/// Fails in all ranks if `mpi` does not have the ranks that MPI should have given.
pub fn assert_ranks(mpi: &Mpi) {
    let numbers = mpi.gather(&[mpi.rank() as u8, mpi.local_rank() as u8]).unwrap();
    assert_eq!(numbers, (0..mpi.size()).map(|rank| vec![rank as u8; 2]).collect::<Vec<_>>());
    assert_eq!(mpi.local_size(), mpi.size());
}
