//! Checks of jobs of several processes on this machine. Default builds need no MPI, so that nothing else builds these packages.

use crate::Result;
use crate::process::{Process, cargo};

/// Programs of an MPI installation, to build with and to run.
const PROGRAMS: [&str; 2] = ["mpicc", "mpirun"];
/// Arguments that select the packages that use MPI.
const PACKAGES: [&str; 1] = ["--package=transdiff-mpi"];
/// Arguments of `cargo test` for the tests that start jobs.
const TESTS: [&[&str]; 1] = [&["--package=transdiff-mpi"]];
/// Scripts for clusters.
const SCRIPTS: [&str; 4] = ["launch.sh", "slurm.sbatch", "ssh.sh", "local.sh"];
/// Open MPI does not run as root without these.
const AS_ROOT: [&str; 2] = ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"];

/// Checks the syntax of the scripts, and runs Clippy, the documentation's build and the tests of the packages that use MPI.
pub fn check() -> Result {
    for script in SCRIPTS {
        Process::new("bash").args(&["-n", &format!("examples/cluster/{script}")]).run()?;
    }
    for program in PROGRAMS {
        Process::new(program).arg("--version").run_quietly().map_err(|error| {
            format!(
                "{error}; expected an MPI library: apt-get install libopenmpi-dev openmpi-bin libclang-dev"
            )
        })?;
    }
    let lints = cargo(&["clippy", "--locked", "--all-targets"]).args(&PACKAGES);
    lints.args(&["--", "-D", "warnings"]).run()?;
    let doc = cargo(&["doc", "--locked", "--no-deps"]).args(&PACKAGES);
    doc.env("RUSTDOCFLAGS", "-D warnings").run()?;
    for arguments in TESTS {
        let test = cargo(&["test", "--locked"]).args(arguments);
        AS_ROOT.iter().fold(test, |test, name| test.env(name, "1")).run()?;
    }
    Ok(())
}
