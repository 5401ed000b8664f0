//! Our speed beside PyTorch's. The two run in turns, so that a machine that is slower for a while is slower for
//! both, and what counts is the ratio of neighbours.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;

use crate::Result;
use crate::process::{Process, cargo};

/// Where the interpreter may be named instead of on the command line.
const PYTHON: &str = "TRANSDIFF_PYTHON";

#[derive(Args)]
pub struct Options {
    /// A Python with PyTorch; by default what TRANSDIFF_PYTHON names
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// What to measure, one after another
    #[arg(long, value_delimiter = ',', default_value = "ar,step,train")]
    what: Vec<String>,
    /// Images (with guidance, twice as many sequences)
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Turns
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Runs of a turn, after one to warm up; the median counts
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// The opponent: plain (as published) or strong (as a good PyTorch engineer would make it)
    #[arg(long, default_value = "plain")]
    opponent: String,
}

/// One line of either program; the keys are the same.
#[derive(Deserialize)]
struct Measurement {
    what: String,
    median_s: f64,
}

/// Prints a row a turn and the median of the ratios.
pub fn run(options: &Options) -> Result {
    let python = options.python.clone().or_else(|| std::env::var_os(PYTHON).map(PathBuf::from));
    let Some(python) = python else {
        return Err(format!("name a Python that has PyTorch: --python FILE, or {PYTHON}=FILE").into());
    };
    let version = ["-c", "import torch; print(torch.__version__)"];
    let version = Process::new(&python).args(&version).stdout().map_err(|e| format!("no PyTorch: {e}"))?;
    let threads = std::thread::available_parallelism()?.to_string();
    println!("PyTorch {} {}, f32, {threads} threads each", version.trim(), options.opponent);
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
    /// A training step is measured with samples of its own.
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
        .args(&["--impl", &options.opponent, "--what", what, "--batch", &batch, "--repeat", &repeat])
        .env("OMP_NUM_THREADS", threads)
        .stdout()?;
    seconds(&printed, what)
}

fn seconds(printed: &str, what: &str) -> Result<f64> {
    let found = printed.lines().filter_map(|line| serde_json::from_str::<Measurement>(line).ok());
    let found = found.filter(|m| m.what == what).map(|m| m.median_s).next();
    found.ok_or_else(|| format!("no measurement of {what} in:\n{printed}").into())
}
