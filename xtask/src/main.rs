//! The project's tasks. `cargo xtask check` runs the checks that need only Rust, cheapest first; each also runs alone.

mod aarch64;
mod compare;
mod cuda;
mod ffi;
mod fuzz;
mod gpu;
mod header;
mod imports;
mod install;
mod language;
mod licences;
mod mpi;
mod process;
mod quickstart;
mod sanitize;
mod tensorboard;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use process::cargo;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

/// The project's tasks
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Run the checks that need only Rust, cheapest first
    Check,
    /// Check the formatting
    Fmt,
    /// Run Clippy on all targets, with warnings as errors
    Clippy,
    /// Check the language of comments, and build the documentation with warnings as errors
    Doc,
    /// Check the language of comments and Markdown: summary lines and rates
    Language,
    /// Check the imports between the files of each crate: no cycles, and the order of layers in transdiff-core
    Imports,
    /// Run the tests
    Test,
    /// Check the licences of all dependencies against the list in deny.toml
    Licences,
    /// Generate include/transcdiff.h from the source of the C ABI
    Header {
        /// Compare with the committed file instead of writing it
        #[arg(long)]
        check: bool,
    },
    /// Generate include/transcdiff.abi, the layout of the C ABI's structs; needs gcc and clang
    Layout {
        /// Compare with the committed file instead of writing it
        #[arg(long)]
        check: bool,
    },
    /// Check the C ABI from C, C++ and Python: headers, symbols, installation, examples and their images; needs compilers
    Ffi(ffi::Options),
    /// Install the C library: libraries, headers, pkg-config and CMake files
    Install(install::Options),
    /// Check the quickstart on a short run: complete outputs, and training that resumes from its checkpoint
    Quickstart {
        /// Cargo profile
        #[arg(long, value_enum, default_value_t = install::Profile::Release)]
        profile: install::Profile,
    },
    /// Check the CUDA backend without a GPU: it compiles, loads without a driver, and passes its tests under an emulator;
    /// needs a C++ compiler, and Python's pip where there is no toolkit
    Cuda(cuda::Options),
    /// Check jobs of several processes on this machine: lints, documentation and tests of what uses MPI; needs an MPI library
    Mpi,
    /// Test the CPU backend on emulated aarch64 processors; needs a cross compiler and QEMU
    Aarch64(aarch64::Options),
    /// Fuzz the file readers and the C ABI, starting from the corpus
    Fuzz(fuzz::Options),
    /// Run the C ABI's stress test, plain and under AddressSanitizer and ThreadSanitizer
    Sanitize(sanitize::Options),
    /// Test the event files of training runs with TensorBoard's reader; needs Python's pip
    Tensorboard,
    /// Compare speed and memory with PyTorch or OpenVINO, alternating runs
    Compare(compare::Options),
    /// Build a directory that tests and measures the CUDA backend on a GPU machine without Rust; needs nvcc and binutils
    GpuBundle(gpu::Options),
}

impl Task {
    fn name(&self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Doc => "doc",
            Self::Language => "language",
            Self::Imports => "imports",
            Self::Test => "test",
            Self::Licences => "licences",
            Self::Header { .. } => "header",
            Self::Layout { .. } => "layout",
            Self::Ffi(_) => "ffi",
            Self::Install(_) => "install",
            Self::Quickstart { .. } => "quickstart",
            Self::Cuda(_) => "cuda",
            Self::Mpi => "mpi",
            Self::Aarch64(_) => "aarch64",
            Self::Fuzz(_) => "fuzz",
            Self::Sanitize(_) => "sanitize",
            Self::Tensorboard => "tensorboard",
            Self::Compare(_) => "compare",
            Self::GpuBundle(_) => "gpu-bundle",
        }
    }

    fn run(&self) -> Result {
        match self {
            Self::Check => {
                let all = [
                    Self::Fmt,
                    Self::Licences,
                    Self::Imports,
                    Self::Clippy,
                    Self::Doc,
                    Self::Test,
                    Self::Quickstart { profile: install::Profile::Release },
                ];
                all.iter().try_for_each(run_with_heading)
            }
            Self::Fmt => {
                cargo(&["fmt", "--all", "--check"]).run()?;
                cargo(&["fmt", "--manifest-path=fuzz/Cargo.toml", "--check"]).run()
            }
            Self::Clippy => {
                // Separately, or the features of this crate's dependencies would be unified with the library's.
                cargo(&["clippy", "--locked", "--all-targets", "--", "-D", "warnings"]).run()?;
                let own =
                    ["clippy", "--locked", "--all-targets", "--package", "xtask", "--", "-D", "warnings"];
                cargo(&own).run()
            }
            Self::Doc => {
                language::check()?;
                cargo(&["doc", "--locked", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings").run()
            }
            Self::Language => language::check(),
            Self::Imports => imports::check(),
            Self::Test => cargo(&["test", "--locked"]).run(),
            Self::Licences => licences::check(),
            Self::Header { check } => header::run(*check),
            Self::Layout { check } => ffi::layout::run(*check),
            Self::Ffi(options) => ffi::check(options),
            Self::Install(options) => install::run(options).map(drop),
            Self::Quickstart { profile } => quickstart::check(Path::new("target/quickstart-check"), *profile),
            Self::Cuda(options) => cuda::check(options),
            Self::Mpi => mpi::check(),
            Self::Aarch64(options) => aarch64::check(options),
            Self::Fuzz(options) => fuzz::run(options),
            Self::Sanitize(options) => sanitize::run(options),
            Self::Tensorboard => tensorboard::check(),
            Self::Compare(options) => compare::run(options),
            Self::GpuBundle(options) => gpu::run(options),
        }
    }
}

/// Runs a task under a heading and prints its duration.
fn run_with_heading(task: &Task) -> Result {
    let started = Instant::now();
    println!("\n=== {} ===", task.name());
    task.run()?;
    println!("{}: done in {:.0} s", task.name(), started.elapsed().as_secs_f64());
    Ok(())
}

fn main() -> ExitCode {
    let task = Task::parse();
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a directory of the workspace");
    let result = std::env::set_current_dir(root).map_err(Into::into).and_then(|()| task.run());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}: {e}", task.name());
            ExitCode::FAILURE
        }
    }
}
