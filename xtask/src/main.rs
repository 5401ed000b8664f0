//! The project's tasks. `cargo xtask check` runs the checks that need only Rust, cheapest first; each also runs
//! alone.

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
mod process;
mod quickstart;
mod sanitize;

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
    /// The checks that need only Rust, cheapest first
    Check,
    /// Formatting
    Fmt,
    /// Lints, of all targets, as errors
    Clippy,
    /// Language of comments and documentation, and a build of the documentation with warnings as errors
    Doc,
    /// Language of comments and documentation alone: summaries and rates
    Language,
    /// Imports between the files of a crate: no cycles, and the order of layers in transdiff-core
    Imports,
    /// The tests
    Test,
    /// Licences of all dependencies are on deny.toml's list
    Licences,
    /// Writes include/transcdiff.h from the source of the C ABI
    Header {
        /// Compare what is committed, and write nothing
        #[arg(long)]
        check: bool,
    },
    /// Writes include/transcdiff.abi, the layout of the C ABI's structs; needs gcc and clang
    Layout {
        /// Compare what is committed, and write nothing
        #[arg(long)]
        check: bool,
    },
    /// The C ABI from C, C++ and Python: headers, symbols, installation, the examples and their pictures; needs compilers
    Ffi(ffi::Options),
    /// Installs the C ABI: libraries, headers, and the files of pkg-config and CMake
    Install(install::Options),
    /// The quickstart in a short setting: its outputs are complete, and it goes on from its checkpoint
    Quickstart {
        /// Cargo's profile
        #[arg(long, value_enum, default_value_t = install::Profile::Release)]
        profile: install::Profile,
    },
    /// The CUDA backend without a GPU: it compiles, runs without a driver, and is right under an emulator; needs a C++
    /// compiler, and Python's pip where there is no toolkit
    Cuda(cuda::Options),
    /// Fuzzing of what reads files and of the C ABI, on the corpus and beyond
    Fuzz(fuzz::Options),
    /// The C ABI under threads and over time, plain and under AddressSanitizer and ThreadSanitizer
    Sanitize(sanitize::Options),
    /// Speed beside PyTorch, in turns
    Compare(compare::Options),
    /// A folder that tests and measures the CUDA backend on a machine with a GPU and without Rust; needs nvcc and binutils
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
            Self::Fuzz(_) => "fuzz",
            Self::Sanitize(_) => "sanitize",
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
                all.iter().try_for_each(headed)
            }
            Self::Fmt => {
                cargo(&["fmt", "--all", "--check"]).run()?;
                cargo(&["fmt", "--manifest-path=fuzz/Cargo.toml", "--check"]).run()
            }
            Self::Clippy => {
                // What this crate needs is not what the library needs: together they would share features.
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
            Self::Fuzz(options) => fuzz::run(options),
            Self::Sanitize(options) => sanitize::run(options),
            Self::Compare(options) => compare::run(options),
            Self::GpuBundle(options) => gpu::run(options),
        }
    }
}

/// Runs a task under a heading, and says how long it took.
fn headed(task: &Task) -> Result {
    let started = Instant::now();
    println!("\n=== {} ===", task.name());
    task.run()?;
    println!("{}: done in {:.0} s", task.name(), started.elapsed().as_secs_f64());
    Ok(())
}

fn main() -> ExitCode {
    let task = Task::parse();
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is a folder of the workspace");
    let done = std::env::set_current_dir(root).map_err(Into::into).and_then(|()| task.run());
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}: {e}", task.name());
            ExitCode::FAILURE
        }
    }
}
