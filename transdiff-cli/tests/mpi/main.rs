//! `transdiff train` as the ranks of jobs on this machine. Needs `mpirun`.

// Ranks are found in /proc.
#![cfg(target_os = "linux")]

mod broken;
#[path = "../../../examples/quickstart/cache.rs"]
mod cache;
#[allow(dead_code)] // the quickstart uses the rest
#[path = "../../../examples/quickstart/digits.rs"]
mod digits;
#[allow(dead_code)] // tests of the command use the rest
#[path = "../command/drawing.rs"]
mod drawing;
mod evaluate;
#[allow(dead_code)] // tests of the command use the rest
#[path = "../command/files.rs"]
mod files;
#[path = "../../../tests/common/inception.rs"]
mod inception;
mod job;
mod kills;
mod launch;
mod mismatches;
#[path = "../../../tests/common/open_mpi.rs"]
mod open_mpi;
#[allow(dead_code)] // tests of the command use the rest
#[path = "../command/process.rs"]
mod process;
#[path = "../command/runs.rs"]
mod runs;
mod signals;
mod weights;
