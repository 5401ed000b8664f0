//! Times parts of a model and prints one JSON line a measurement, with the keys of `peer/peer_pytorch.py`, the
//! floating-point operations of a run and the largest memory that the process had.
//!
//! `cargo bench --bench measure -- --what sample --steps 4`

#[allow(dead_code, reason = "shared with other benchmarks")]
mod workloads;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use transdiff::models::Model;
use transdiff::models::transdiff::{Mode, Session, Size, TransDiffConfig};
use transdiff::models::vae::VaeConfig;
use transdiff::{Backend, DType, Device, DeviceTask, Result, TransDiff};
use workloads::{
    Autoencoder, DecoderStep, TRAIN_BATCH, TRAIN_MUL, Training, features, flops, preset, sample,
};

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// The autoregressive transformer with guidance, two sequences an image
    Ar,
    /// The same without, one sequence an image
    ArConditional,
    /// A step of the decoder with guidance
    Step,
    /// Generation with guidance, from labels to latents
    Sample,
    /// The same by multi-reference autoregression in 4 groups
    Mrar,
    /// A training step
    Train,
    /// Latents to images
    Vae,
    /// Images to latents
    VaeEncode,
}

#[derive(Clone, Copy, ValueEnum)]
enum Sizes {
    /// Two blocks in each half, 64 wide: to try the programs out
    Tiny,
    Base,
    Large,
    Huge,
}

#[derive(Clone, Copy, ValueEnum)]
enum Computing {
    F32,
    Bf16,
}

#[derive(Parser)]
struct Options {
    /// What to measure, one after another
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ar,ar-conditional,step")]
    what: Vec<What>,
    /// cpu, cuda, cuda:N or auto
    #[arg(long, default_value_t = Device::Cpu)]
    device: Device,
    #[arg(long, value_enum, default_value = "base")]
    preset: Sizes,
    /// What is computed in: the type of the weights, but for training, where they are f32
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Computing,
    /// Images
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Samples of a training step
    #[arg(long, default_value_t = TRAIN_BATCH)]
    train_batch: usize,
    /// Side of the images
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
    /// Count the operations, and measure nothing
    #[arg(long)]
    count: bool,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// The name on the command line.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().expect("no value is left out").get_name().to_owned()
}

impl Options {
    fn dtype(&self) -> DType {
        match self.dtype {
            Computing::F32 => DType::F32,
            Computing::Bf16 => DType::BF16,
        }
    }

    fn config(&self, what: What) -> Result<TransDiffConfig> {
        let mode = if let What::Mrar = what { Mode::MultiReference { groups: 4 } } else { Mode::OneStep };
        let published = |size| TransDiffConfig::published(size, self.res, mode);
        Ok(match self.preset {
            Sizes::Tiny => TransDiffConfig {
                width: 64,
                heads: 4,
                encoder_blocks: 2,
                decoder_blocks: 2,
                ..published(Size::Base)?
            },
            Sizes::Base => published(Size::Base)?,
            Sizes::Large => published(Size::Large)?,
            Sizes::Huge => published(Size::Huge)?,
        })
    }

    /// Operations of a run.
    fn flops(&self, what: What, config: &TransDiffConfig) -> usize {
        let (batch, vae) = (self.batch, VaeConfig::published());
        match what {
            What::Ar => flops::features(config, 2 * batch),
            What::ArConditional => flops::features(config, batch),
            What::Step => flops::velocity(config, 2 * batch, config.feature_tokens),
            What::Sample | What::Mrar => flops::generation(config, batch, self.steps),
            What::Train => flops::training(config, self.train_batch, TRAIN_MUL),
            What::Vae => flops::decoding(&vae, batch, self.res),
            What::VaeEncode => flops::encoding(&vae, batch, self.res),
        }
    }

    /// What the line of a measurement says beside its figures.
    fn about(&self, what: What, config: &TransDiffConfig) -> Value {
        match what {
            What::Ar | What::Step => json!({"note": "guidance: 2 x batch"}),
            What::ArConditional => json!({"note": "1 x batch"}),
            What::Sample | What::Mrar => json!({"steps": self.steps, "cfg": preset(config).guidance}),
            What::Train => json!({"batch": self.train_batch, "mul": TRAIN_MUL}),
            What::Vae | What::VaeEncode => json!({"preset": "kl-16"}),
        }
    }

    /// Prints the JSON line of a measurement; `figures` are what was measured.
    fn report(&self, what: What, config: &TransDiffConfig, figures: Value) {
        let preset = if self.model.is_some() { "file".to_owned() } else { name(self.preset) };
        let mut line = json!({
            "impl": "transdiff-rs", "what": name(what), "preset": preset, "dtype": name(self.dtype),
            "res": self.res, "batch": self.batch, "tflop": self.flops(what, config) as f64 / 1e12,
        });
        let all = line.as_object_mut().expect("it is an object");
        for more in [self.about(what, config), figures] {
            all.extend(more.as_object().cloned().unwrap_or_default());
        }
        println!("{line}");
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let options = Options::parse();
    if options.count {
        for &what in &options.what {
            options.report(what, &options.config(what)?, json!({}));
        }
        return Ok(());
    }
    let device = options.device.open(options.threads)?;
    // What chose it is not part of the name.
    let name = device.choice().split(',').next().unwrap_or_default().to_owned();
    Ok(device.run(Measuring { options, device: name })?)
}

struct Measuring {
    options: Options,
    device: String,
}

impl DeviceTask for Measuring {
    type Output = ();

    fn run<B: Backend>(self, backend: B) -> Result<()> {
        let mut model = None;
        for &what in &self.options.what {
            match what {
                What::Vae | What::VaeEncode => self.autoencoder(&backend, what)?,
                _ => {
                    let kept = self.model(&backend, what, model.take())?;
                    self.measure(what, model.insert(kept))?;
                }
            }
        }
        Ok(())
    }
}

impl Measuring {
    /// The model that `what` is measured on: the last one if it is such a model.
    fn model<B: Backend>(&self, backend: &B, what: What, last: Option<TransDiff<B>>) -> Result<TransDiff<B>> {
        let config = self.options.config(what)?;
        let dtype = if let What::Train = what { DType::F32 } else { self.options.dtype() };
        if let Some(last) = last.filter(|last| last.config().mode == config.mode && last.dtype() == dtype) {
            return Ok(last);
        }
        let model = match &self.options.model {
            Some(path) => TransDiff::load(backend, path, dtype)?,
            None => TransDiff::new(backend, &config, dtype, 0)?,
        };
        if let Some(path) = &self.options.save {
            model.save(path)?;
        }
        Ok(model)
    }

    fn measure<B: Backend>(&self, what: What, model: &TransDiff<B>) -> Result<()> {
        let (options, backend) = (&self.options, model.backend());
        let batch = options.batch;
        let seconds = match what {
            What::Ar => self.timed(backend, || features(model, 2 * batch))?,
            What::ArConditional => self.timed(backend, || features(model, batch))?,
            What::Step => {
                let step = DecoderStep::new(model, batch)?;
                self.timed(backend, || step.run())?
            }
            What::Train => {
                let mut training = Training::new(model.clone(), options.train_batch, options.dtype())?;
                self.timed(backend, || training.run())?
            }
            _ => {
                let mut session = Session::new(model);
                self.timed(backend, || sample(&mut session, batch, options.steps))?
            }
        };
        self.report(what, model.config(), &seconds);
        Ok(())
    }

    fn autoencoder<B: Backend>(&self, backend: &B, what: What) -> Result<()> {
        let options = &self.options;
        let workload = Autoencoder::new(backend, options.batch, options.res, options.dtype())?;
        let seconds = match what {
            What::VaeEncode => self.timed(backend, || workload.encode())?,
            _ => self.timed(backend, || workload.decode())?,
        };
        self.report(what, &options.config(what)?, &seconds);
        Ok(())
    }

    /// Seconds of each run, ascending, after one to warm up.
    fn timed<B: Backend>(&self, backend: &B, mut run: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
        let mut once = || {
            let started = Instant::now();
            run()?;
            backend.sync()?;
            Ok(started.elapsed().as_secs_f64())
        };
        once()?;
        let mut seconds = (0..self.options.repeat.max(1)).map(|_| once()).collect::<Result<Vec<_>>>()?;
        seconds.sort_by(f64::total_cmp);
        Ok(seconds)
    }

    fn report(&self, what: What, config: &TransDiffConfig, seconds: &[f64]) {
        let (median, min) = (seconds[seconds.len() / 2], seconds[0]);
        let figures = json!({
            "device": self.device, "median_s": median, "min_s": min, "peak_mib": peak_mib(),
        });
        self.options.report(what, config, figures);
    }
}

/// The largest resident set so far, where the system tells (Linux).
fn peak_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(kib.trim().strip_suffix(" kB")?.parse::<u64>().ok()? / 1024)
}
