//! Checks of jobs of several processes on this machine. Default builds need no MPI, so that nothing else builds these packages.

use std::fs;
use std::path::Path;

use crate::Result;
use crate::process::{Process, cargo};

/// Programs of an MPI installation, to build with and to run.
const PROGRAMS: [&str; 2] = ["mpicc", "mpirun"];
/// Arguments that select the packages that use MPI.
const PACKAGES: [&str; 3] =
    ["--package=transdiff-mpi", "--package=transdiff-cli", "--features=transdiff-cli/mpi"];
/// Tests of those packages: units and jobs, and examples in the documentation.
const TESTS: [&[&str]; 2] = [&["--lib", "--test=ranks", "--test=mpi"], &["--doc"]];
/// Scripts for clusters.
const SCRIPTS: [&str; 4] = ["launch.sh", "slurm.sbatch", "ssh.sh", "local.sh"];
/// Open MPI does not run as root without these.
const AS_ROOT: [&str; 2] = ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"];
/// Directory of the script that trains in two processes, emptied first.
const OUT: &str = "target/cluster-check";

/// Checks the syntax of the scripts, runs Clippy, the documentation's build and the tests of the packages that use MPI, and
/// trains by the script for this machine.
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
    let doc = cargo(&["doc", "--locked", "--no-deps", "--package=transdiff"]).args(&PACKAGES);
    doc.env("RUSTDOCFLAGS", "-D warnings").run()?;
    for arguments in TESTS {
        let test = cargo(&["test", "--locked"]).args(&PACKAGES).args(arguments);
        AS_ROOT.iter().fold(test, |test, name| test.env(name, "1")).run()?;
    }
    check_local_script()
}

/// Trains two steps by the script for this machine, and then a third.
fn check_local_script() -> Result {
    let out = Path::new(OUT);
    if out.exists() {
        fs::remove_dir_all(out)?;
    }
    // The tests have built it.
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    let program = std::path::absolute(Path::new(&target).join("debug/transdiff"))?;
    for steps in ["2", "3"] {
        let script = Process::new("examples/cluster/local.sh").arg(OUT);
        let script = script.env("RANKS", "2").env("PROFILE", "dev").env("STEPS", steps);
        script.env("TRANSDIFF", &program).run()?;
        let checkpoint = out.join(format!("run/checkpoint-0000000{steps}.safetensors"));
        if !checkpoint.exists() {
            return Err(format!("examples/cluster/local.sh has not written {}", checkpoint.display()).into());
        }
    }
    Ok(())
}
