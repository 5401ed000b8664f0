//! Fuzzing with the stable toolchain: libFuzzer, and the instrumentation of the compiler.

use std::path::Path;

use clap::Args;

use crate::Result;
use crate::process::{Process, cargo, in_parallel};

/// The flags that `cargo fuzz` passes to a nightly compiler, without AddressSanitizer, which stable lacks.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Memory limit of a fuzzer process in MiB: the limit for the largest input, plus the fuzzer's own needs.
const MEMORY_LIMIT_MIB: u32 = 512;
/// Size of the largest input in bytes.
const MAX_INPUT_BYTES: u32 = 1 << 14;

/// Target and duration
#[derive(Args)]
pub struct Options {
    /// Duration per target in seconds
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Name of the target: a file in fuzz/fuzz_targets without its extension [default: all targets]
    target: Option<String>,
}

/// Builds the targets and runs them, one per core at a time. New inputs, beyond those in `fuzz/corpus`, and inputs that fail
/// are written to `fuzz/target/found`.
pub fn run(options: &Options) -> Result {
    let all = targets()?;
    let chosen: Vec<&String> =
        all.iter().filter(|name| options.target.as_ref().is_none_or(|only| only == *name)).collect();
    if chosen.is_empty() {
        let got = options.target.as_deref().unwrap_or_default();
        return Err(format!("expected a fuzz target ({}), got {got}", all.join(", ")).into());
    }
    // Clippy runs here because libFuzzer needs a C++ compiler, and because it shares build products with the targets.
    cargo_on_targets("clippy").args(&["--", "-D", "warnings"]).run()?;
    cargo_on_targets("build").run()?;
    let host = Process::new("rustc").args(&["--print=host-tuple"]).stdout()?;
    in_parallel(chosen, |name| fuzz(host.trim(), name, options.seconds))
}

/// A cargo command on the targets.
fn cargo_on_targets(command: &str) -> Process {
    // With an explicit target triple, build scripts are not instrumented.
    let rest = ["--locked", "--release", "--manifest-path=fuzz/Cargo.toml", "--target=host-tuple"];
    let process = cargo(&[command]).args(&rest).env("CARGO_TARGET_DIR", "fuzz/target");
    process.env("RUSTFLAGS", INSTRUMENTATION)
}

/// Names of all targets.
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
        format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"),
        format!("-malloc_limit_mb={MEMORY_LIMIT_MIB}"),
        format!("-max_len={MAX_INPUT_BYTES}"),
        format!("-artifact_prefix={found}-"),
        "-timeout=10".to_owned(),
        "-print_final_stats=1".to_owned(),
        "-verbosity=0".to_owned(),
        found,
    ];
    // A target whose inputs are not files has no seed corpus.
    flags.extend(Path::new(&corpus).is_dir().then_some(corpus));
    let process = Process::new(program).args(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    // Shown at the end, since targets run at the same time.
    let (code, stderr) = process.code_and_stderr()?;
    println!("fuzz {name}: {seconds} s\n{stderr}");
    if code == Some(0) { Ok(()) } else { Err(format!("{name}: exit code {code:?}").into()) }
}
