//! Speed compared with PyTorch. The two run alternately, so that a machine that is slower for a while is slower for
//! both; the result is the ratio of neighbouring runs.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;

use crate::Result;
use crate::process::{Process, cargo};

/// Environment variable with the default of --python.
const PYTHON: &str = "TRANSDIFF_PYTHON";

#[derive(Args)]
pub struct Options {
    /// Python interpreter with PyTorch [default: TRANSDIFF_PYTHON]
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Passes to measure, as the --what of the benchmark `measure`
    #[arg(long, value_delimiter = ',', default_value = "ar,step,train")]
    what: Vec<String>,
    /// Images per pass; with guidance, twice as many sequences
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Rounds; each measures both programs
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Timed runs per round, after a warm-up run; the median counts
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// PyTorch baseline: plain (as published) or strong (optimised, torch.compile)
    #[arg(long, alias = "opponent", default_value = "plain")]
    baseline: String,
}

/// Line of output of either program; the keys are the same.
#[derive(Deserialize)]
struct Measurement {
    what: String,
    median_s: f64,
}

/// Prints one row per round and the median of the ratios.
pub fn run(options: &Options) -> Result {
    let python = options.python.clone().or_else(|| std::env::var_os(PYTHON).map(PathBuf::from));
    let Some(python) = python else {
        return Err(format!(
            "expected a Python interpreter with PyTorch: pass --python FILE or set {PYTHON}=FILE"
        )
        .into());
    };
    let version = ["-c", "import torch; print(torch.__version__)"];
    let version =
        Process::new(&python).args(&version).stdout().map_err(|e| format!("cannot import torch: {e}"))?;
    let threads = std::thread::available_parallelism()?.to_string();
    println!("PyTorch {} {}, f32, {threads} threads", version.trim(), options.baseline);
    println!("{:<8} {:>5} {:>10} {:>10} {:>7}", "what", "batch", "ours, s", "theirs, s", "ratio");
    for what in &options.what {
        let mut ratios = Vec::new();
        for _ in 0..options.rounds.max(1) {
            let ours = ours(options, what, &threads)?;
            let theirs = theirs(options, &python, what, &threads)?;
            ratios.push(theirs / ours);
            let batch = options.batch_of(what);
            println!("{what:<8} {batch:>5} {ours:>10.3} {theirs:>10.3} {:>7.2}", theirs / ours);
        }
        println!("{what:<8} median ratio {:.2}", median(&mut ratios));
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (values[(n - 1) / 2] + values[n / 2]) / 2.0
}

impl Options {
    /// Batch size of a pass; a training step has its own.
    fn batch_of(&self, what: &str) -> usize {
        if what == "train" { 2 } else { self.batch }
    }
}

fn ours(options: &Options, what: &str, threads: &str) -> Result<f64> {
    let (batch, repeat) = (options.batch.to_string(), options.repeat.to_string());
    let printed = cargo(&["bench", "--quiet", "--locked", "--bench", "measure", "--"])
        .args(&["--what", what, "--batch", &batch, "--repeat", &repeat, "--threads", threads])
        .stdout()?;
    seconds(&printed, what)
}

fn theirs(options: &Options, python: &PathBuf, what: &str, threads: &str) -> Result<f64> {
    let (batch, repeat) = (options.batch.to_string(), options.repeat.to_string());
    let printed = Process::new(python)
        .args(&["benches/peer/peer_pytorch.py", "--device", "cpu", "--preset", "base", "--dtype", "f32"])
        .args(&["--impl", &options.baseline, "--what", what, "--batch", &batch, "--repeat", &repeat])
        .env("OMP_NUM_THREADS", threads)
        .stdout()?;
    seconds(&printed, what)
}

fn seconds(printed: &str, what: &str) -> Result<f64> {
    let found = printed.lines().filter_map(|line| serde_json::from_str::<Measurement>(line).ok());
    let found = found.filter(|m| m.what == what).map(|m| m.median_s).next();
    found.ok_or_else(|| format!("expected a measurement of {what}, got:\n{printed}").into())
}
