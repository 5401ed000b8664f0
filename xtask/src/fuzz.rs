//! Fuzzing, with the toolchain that builds everything else: libFuzzer and the compiler's own instrumentation.

use std::path::Path;

use clap::Args;

use crate::Result;
use crate::process::{Process, cargo};

/// What `cargo fuzz` passes to a nightly compiler, but for the address sanitizer, which stable has not.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";
/// MiB that a process may take: what the largest input warrants, and what the fuzzer needs for itself.
const MEMORY_LIMIT: u32 = 512;
/// Bytes of the largest input.
const INPUT_LIMIT: u32 = 1 << 14;

/// What to fuzz, and for how long
#[derive(Args)]
pub struct Options {
    /// Seconds for each target
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// The target, a file of fuzz/fuzz_targets without its extension; all of them unless given
    target: Option<String>,
}

/// Builds the targets and runs them one after another; what they find beyond `fuzz/corpus`, and what makes them fail,
/// is left in `fuzz/target/found`.
pub fn run(options: &Options) -> Result {
    let all = targets()?;
    let chosen: Vec<&String> =
        all.iter().filter(|name| options.target.as_ref().is_none_or(|only| only == *name)).collect();
    if chosen.is_empty() {
        return Err(format!("no such target; there are {}", all.join(", ")).into());
    }
    // Here, because what it checks needs a C++ compiler, and because it shares what has to be built for that.
    compiled("clippy").args(&["--", "-D", "warnings"]).run()?;
    compiled("build").run()?;
    let host = Process::new("rustc").args(&["--print=host-tuple"]).stdout()?;
    chosen.iter().try_for_each(|name| fuzz(host.trim(), name, options.seconds))
}

/// A command of cargo on the targets.
fn compiled(command: &str) -> Process {
    // With a target named, build scripts are not instrumented.
    let rest = ["--locked", "--release", "--manifest-path=fuzz/Cargo.toml", "--target=host-tuple"];
    let process = cargo(&[command]).args(&rest).env("CARGO_TARGET_DIR", "fuzz/target");
    process.env("RUSTFLAGS", INSTRUMENTATION)
}

/// The names of all targets.
fn targets() -> Result<Vec<String>> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir("fuzz/fuzz_targets")? {
        out.extend(entry?.path().file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
    }
    out.sort();
    Ok(out)
}

fn fuzz(host: &str, name: &str, seconds: u32) -> Result {
    let found = format!("fuzz/target/found/{name}");
    std::fs::create_dir_all(&found)?;
    let program = Path::new("fuzz/target").join(host).join("release").join(name);
    let corpus = format!("fuzz/corpus/{name}");
    let mut flags = vec![
        format!("-max_total_time={seconds}"),
        format!("-rss_limit_mb={MEMORY_LIMIT}"),
        format!("-malloc_limit_mb={MEMORY_LIMIT}"),
        format!("-max_len={INPUT_LIMIT}"),
        format!("-artifact_prefix={found}-"),
        "-timeout=10".to_owned(),
        "-print_final_stats=1".to_owned(),
        "-verbosity=0".to_owned(),
        found,
    ];
    // A target whose inputs are no files starts from nothing.
    flags.extend(Path::new(&corpus).is_dir().then_some(corpus));
    println!("fuzz {name}: {seconds} s");
    Process::new(program).args(&flags.iter().map(String::as_str).collect::<Vec<_>>()).run()
}
