//! Tests of the CPU backend on aarch64, on emulated processors with more instruction sets and with fewer.

use clap::Args;

use crate::Result;
use crate::process::{Process, cargo};

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Compiler of C, which links, and emulator of one process.
const PROGRAMS: [&str; 2] = ["aarch64-linux-gnu-gcc", "qemu-aarch64"];
/// Directory of the C library for the emulated processes.
const ROOT: &str = "/usr/aarch64-linux-gnu";
/// Arguments that select the tests of the backend.
const BACKEND: [&str; 3] = ["--package=transdiff-cpu", "--lib", "--"];
/// Arguments for the test of accesses beyond operands, with each instruction set.
const BOUNDS: [&str; 2] = ["--package=transdiff-cpu", "--test=bounds"];
/// Arguments for all operations against the reference implementation, and for models in int8.
const OPERATIONS: [&[&str]; 2] = [
    &["--package=transdiff", "--test=backend_equivalence", "--", "cpu_f32", "cpu_bf16"],
    &["--package=transdiff", "--test=int8"],
];

/// Options of the tests
#[derive(Args)]
pub struct Options {
    /// Also compare all operations with the reference implementation, which takes long in emulation
    #[arg(long)]
    operations: bool,
}

/// Emulated processor.
struct Processor {
    /// Name in QEMU.
    name: &'static str,
    instruction_sets: &'static [&'static str],
    /// Tests with its fastest instruction set, all if there are none.
    tests: &'static [&'static str],
}

/// The processor with all instruction sets.
const FULL: Processor = Processor {
    name: "max",
    instruction_sets: &["portable", "neon", "neon-dotprod", "neon-i8mm", "neon-bf16"],
    tests: &[],
};
const WITH_DOTPROD: Processor = Processor {
    name: "cortex-a76",
    instruction_sets: &["portable", "neon", "neon-dotprod"],
    tests: &["gemm::", "int8_panels::", "instruction_set::"],
};
const BASELINE: Processor =
    Processor { name: "cortex-a72", instruction_sets: &["portable", "neon"], tests: WITH_DOTPROD.tests };

/// Runs Clippy and the tests.
pub fn check(options: &Options) -> Result {
    for program in PROGRAMS {
        Process::new(program).arg("--version").run_quietly().map_err(|error| {
            format!(
                "{error}; expected a cross compiler and an emulator: apt-get install gcc-aarch64-linux-gnu \
                 libc6-dev-arm64-cross qemu-user, and rustup target add {TARGET}"
            )
        })?;
    }
    // On other architectures the kernels are not compiled, so that nothing else reads them.
    let clippy = ["clippy", "--locked", "--all-targets", "--package=transdiff-cpu", "--target", TARGET];
    cargo(&clippy).args(&["--", "-D", "warnings"]).run()?;
    [FULL, WITH_DOTPROD, BASELINE].iter().try_for_each(Processor::check)?;
    FULL.test(&BOUNDS).run()?;
    if options.operations {
        OPERATIONS.iter().try_for_each(|arguments| FULL.test(arguments).run())?;
    }
    Ok(())
}

impl Processor {
    /// Runs the tests, and those of devices from the environment with each instruction set.
    fn check(&self) -> Result {
        println!("{}", self.name);
        self.test(&BACKEND).args(self.tests).run()?;
        for set in self.instruction_sets {
            println!("{}, {set}", self.name);
            self.test(&BACKEND).arg("batch_invariant").env("TRANSDIFF_CPU_ISA", set).run()?;
        }
        Ok(())
    }

    /// `cargo test` on this processor.
    fn test(&self, arguments: &[&str]) -> Process {
        let runner = format!("qemu-aarch64 -cpu {} -L {ROOT}", self.name);
        cargo(&["test", "--locked", "--target", TARGET])
            .args(arguments)
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", PROGRAMS[0])
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", runner)
            // Compile time dominates; the profile optimises numeric code in any case.
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "0")
            .env("TRANSDIFF_EXPECTED_ISA", self.instruction_sets.join(", "))
    }
}
