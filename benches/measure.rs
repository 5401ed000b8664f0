//! Times parts of a model and prints one JSON line a measurement, with the keys of `peer/peer_pytorch.py`, and the
//! largest memory that the process had.
//!
//! `cargo bench --bench measure -- --what sample --steps 4`

#[allow(dead_code, reason = "shared with other benchmarks")]
mod workloads;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use serde_json::{Value, json};
use transdiff::model::Session;
use transdiff::{Cpu, DType, TransDiff};
use workloads::{Autoencoder, DecoderStep, TRAIN_BATCH, TRAIN_MUL, Training, base, features, sample};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

#[derive(Parser)]
struct Options {
    /// ar (two sequences an image), ar-conditional (one), step, sample, train, vae (latents to images), vae-encode
    #[arg(long, value_delimiter = ',', default_value = "ar,ar-conditional,step")]
    what: Vec<String>,
    /// Images
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Side of the autoencoder's images
    #[arg(long, default_value_t = 256)]
    res: usize,
    /// Steps of the sampler
    #[arg(long, default_value_t = 4)]
    steps: usize,
    /// Timed runs, after one to warm up
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Threads (default: one a core)
    #[arg(long)]
    threads: Option<usize>,
    /// Load this model instead of making a random one
    #[arg(long)]
    model: Option<PathBuf>,
    /// Write the model to this file before measuring
    #[arg(long)]
    save: Option<PathBuf>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result {
    let options = Options::parse();
    let backend = Cpu::new(options.threads)?;
    let (autoencoder, model): (Vec<&str>, Vec<&str>) =
        options.what.iter().map(String::as_str).partition(|what| what.starts_with("vae"));
    if !model.is_empty() {
        measure_model(&backend, &model, &options)?;
    }
    if autoencoder.is_empty() {
        return Ok(());
    }
    let workload = Autoencoder::new(&backend, options.batch, options.res)?;
    for what in autoencoder {
        let seconds = match what {
            "vae" => timed(&options, || workload.decode())?,
            "vae-encode" => timed(&options, || workload.encode())?,
            other => return Err(unknown(other)),
        };
        report(what, &options, &seconds, json!({"preset": "kl-16", "res": options.res}));
    }
    Ok(())
}

fn unknown(what: &str) -> Box<dyn Error> {
    format!("{what} is not one of ar, ar-conditional, step, sample, train, vae, vae-encode").into()
}

fn measure_model(backend: &Cpu, whats: &[&str], options: &Options) -> Result {
    let model = match &options.model {
        Some(path) => TransDiff::load(backend, path, DType::F32)?,
        None => base(backend)?,
    };
    if let Some(path) = &options.save {
        model.save(path)?;
    }
    whats.iter().try_for_each(|what| measure(what, &model, options))
}

fn measure(what: &str, model: &TransDiff<Cpu>, options: &Options) -> Result {
    let batch = options.batch;
    let (seconds, line) = match what {
        "ar" => (timed(options, || features(model, 2 * batch))?, json!({"note": "guidance: 2 x batch"})),
        "ar-conditional" => (timed(options, || features(model, batch))?, json!({"note": "1 x batch"})),
        "step" => {
            let step = DecoderStep::new(model, batch)?;
            (timed(options, || step.run())?, json!({"note": "guidance: 2 x batch"}))
        }
        "sample" => {
            let mut session = Session::new(model);
            let seconds = timed(options, || sample(&mut session, batch, options.steps))?;
            (seconds, json!({"steps": options.steps, "cfg": 1.3}))
        }
        "train" => {
            let mut training = Training::new(model.clone())?;
            (timed(options, || training.run())?, json!({"batch": TRAIN_BATCH, "mul": TRAIN_MUL}))
        }
        other => return Err(unknown(other)),
    };
    report(what, options, &seconds, line);
    Ok(())
}

/// Prints the JSON line of a measurement; what `line` has already stands.
fn report(what: &str, options: &Options, seconds: &[f64], mut line: Value) {
    let common = json!({
        "impl": "transdiff-rs", "what": what, "device": "cpu", "preset": "base", "dtype": "f32", "res": 256,
        "batch": options.batch, "median_s": seconds[seconds.len() / 2], "min_s": seconds[0], "peak_mib": peak_mib(),
    });
    if let (Value::Object(line), Value::Object(common)) = (&mut line, common) {
        common.into_iter().for_each(|(key, value)| {
            line.entry(key).or_insert(value);
        });
    }
    println!("{line}");
}

/// Seconds of each run, ascending.
fn timed(options: &Options, mut run: impl FnMut() -> transdiff::Result<()>) -> Result<Vec<f64>> {
    run()?;
    let mut seconds = Vec::new();
    for _ in 0..options.repeat.max(1) {
        let started = Instant::now();
        run()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

/// The largest resident set so far, where the system tells (Linux).
fn peak_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(kib.trim().strip_suffix(" kB")?.parse::<u64>().ok()? / 1024)
}
