//! Times passes of a model and prints one JSON line per measurement, with the keys of `peer/peer_pytorch.py`, the
//! floating-point operations of a run and the peak memory of the process.
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
use transdiff::diffusion::Quality;
use transdiff::models::Model;
use transdiff::models::transdiff::{Mode, Session, Size, TransDiffConfig};
use transdiff::models::vae::VaeConfig;
use transdiff::{Backend, DType, Device, DeviceTask, Precision, Result, TransDiff};
use workloads::{
    Codec, DecoderStep, TRAIN_BATCH, TRAIN_MUL, Training, features, flops, generate, preset, random, sample,
};

/// A pass that is measured.
#[derive(Clone, Copy, ValueEnum)]
enum Pass {
    /// AR transformer with guidance, two sequences per image
    Ar,
    /// AR transformer without guidance, one sequence per image
    ArConditional,
    /// Decoder evaluation of a sampling step with guidance
    Step,
    /// Generation with guidance, from labels to latents
    Sample,
    /// Generation by multi-reference autoregression with 4 groups
    Mrar,
    /// Training step
    Train,
    /// Images of each named quality, labels to images with the KL-VAE; a line for each, with its time as a share of the paper's
    Qualities,
    /// KL-VAE decoder, latents to images
    Vae,
    /// KL-VAE encoder, images to latents
    VaeEncode,
}

#[derive(Clone, Copy, ValueEnum)]
enum ModelSize {
    /// Two blocks each in transformer and decoder, width 64: for trying the programs out
    Tiny,
    Base,
    Large,
    Huge,
}

#[derive(Clone, Copy, ValueEnum)]
enum ComputeType {
    F32,
    Bf16,
    /// 8-bit integers in AR transformer and decoder, bf16 in the codec; not for training
    Int8,
}

#[derive(Parser)]
struct Options {
    /// Passes to measure, in this order
    #[arg(long = "what", value_enum, value_delimiter = ',', default_value = "ar,ar-conditional,step")]
    passes: Vec<Pass>,
    /// Device: cpu, cuda, cuda:N or auto
    #[arg(long, default_value_t = Device::Cpu)]
    device: Device,
    /// Model size
    #[arg(long, value_enum, default_value = "base")]
    preset: ModelSize,
    /// Compute type, and the type of the weights except in training, where they are f32
    #[arg(long, value_enum, default_value = "f32")]
    dtype: ComputeType,
    /// Images per pass
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Samples per training step
    #[arg(long, default_value_t = TRAIN_BATCH)]
    train_batch: usize,
    /// Side of the images in pixels
    #[arg(long, default_value_t = 256)]
    res: usize,
    /// Sampling steps per AR step
    #[arg(long, default_value_t = 4)]
    steps: usize,
    /// Timed runs, after a warm-up run; half as many of `sample` and `mrar`
    #[arg(long, default_value_t = 3)]
    repeat: usize,
    /// Time a single run after the warm-up, without a graph, within the range of `ncu --profile-from-start off`
    #[arg(long)]
    profile: bool,
    /// CPU threads [default: one per core]
    #[arg(long)]
    threads: Option<usize>,
    /// Model file [default: random weights]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Write the model to this file before measuring
    #[arg(long)]
    save: Option<PathBuf>,
    /// Count floating-point operations without measuring
    #[arg(long)]
    count: bool,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// Name of a value on the command line.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().expect("no value is skipped").get_name().to_owned()
}

impl Options {
    fn precision(&self) -> Precision {
        match self.dtype {
            ComputeType::F32 => DType::F32.into(),
            ComputeType::Bf16 => DType::BF16.into(),
            ComputeType::Int8 => Precision::INT8,
        }
    }

    /// Type of tensors.
    fn dtype(&self) -> DType {
        self.precision().dtype()
    }

    fn config(&self, pass: Pass) -> Result<TransDiffConfig> {
        let mode = if let Pass::Mrar = pass { Mode::MultiReference { groups: 4 } } else { Mode::OneStep };
        let published = |size| TransDiffConfig::published(size, self.res, mode);
        Ok(match self.preset {
            ModelSize::Tiny => TransDiffConfig {
                width: 64,
                heads: 4,
                encoder_blocks: 2,
                decoder_blocks: 2,
                ..published(Size::Base)?
            },
            ModelSize::Base => published(Size::Base)?,
            ModelSize::Large => published(Size::Large)?,
            ModelSize::Huge => published(Size::Huge)?,
        })
    }

    /// Number of timed runs: half as many of whole generations, which take as long as many of the other passes.
    fn runs(&self, pass: Pass) -> usize {
        let repeat = if let Pass::Sample | Pass::Mrar = pass { self.repeat / 2 } else { self.repeat };
        repeat.max(1)
    }

    /// Floating-point operations of a run.
    fn flops(&self, pass: Pass, config: &TransDiffConfig) -> usize {
        let (batch, vae) = (self.batch, VaeConfig::published());
        match pass {
            Pass::Ar => flops::features(config, 2 * batch),
            Pass::ArConditional => flops::features(config, batch),
            Pass::Step => flops::velocity(config, 2 * batch, config.feature_tokens),
            Pass::Sample | Pass::Mrar => flops::generation(config, batch, self.steps),
            // Each line has its own passes.
            Pass::Qualities => flops::decoding(&vae, batch, self.res),
            Pass::Train => flops::training(config, self.train_batch, TRAIN_MUL),
            Pass::Vae => flops::decoding(&vae, batch, self.res),
            Pass::VaeEncode => flops::encoding(&vae, batch, self.res),
        }
    }

    /// Parameters in the line of a measurement.
    fn parameters(&self, pass: Pass, config: &TransDiffConfig) -> Value {
        match pass {
            Pass::Ar | Pass::Step => json!({"note": "guidance: 2 x batch"}),
            Pass::ArConditional => json!({"note": "1 x batch"}),
            Pass::Sample | Pass::Mrar => json!({"steps": self.steps, "cfg": preset(config).guidance}),
            Pass::Train => json!({"batch": self.train_batch, "mul": TRAIN_MUL}),
            Pass::Vae | Pass::VaeEncode => json!({"preset": "kl-16"}),
            Pass::Qualities => json!({"cfg": preset(config).guidance}),
        }
    }

    /// Prints the JSON line of a measurement with its `results`.
    fn report(&self, pass: Pass, config: &TransDiffConfig, results: Value) {
        let preset = if self.model.is_some() { "file".to_owned() } else { name(self.preset) };
        let mut line = json!({
            "impl": "transdiff-rs", "what": name(pass), "preset": preset, "dtype": name(self.dtype),
            "res": self.res, "batch": self.batch, "tflop": self.flops(pass, config) as f64 / 1e12,
        });
        let all = line.as_object_mut().expect("json! of an object");
        for more in [self.parameters(pass, config), results] {
            all.extend(more.as_object().cloned().unwrap_or_default());
        }
        println!("{line}");
    }
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    let options = Options::parse();
    if options.count {
        for &pass in &options.passes {
            options.report(pass, &options.config(pass)?, json!({}));
        }
        return Ok(());
    }
    let device = options.device.open(options.threads)?;
    // The reason for the choice is not part of the name.
    let name = device.choice().split(',').next().unwrap_or_default().to_owned();
    Ok(device.run(Measurement { options, device: name })?)
}

struct Measurement {
    options: Options,
    device: String,
}

impl DeviceTask for Measurement {
    type Output = ();

    fn run<B: Backend>(self, backend: B) -> Result<()> {
        let mut model = None;
        for &pass in &self.options.passes {
            match pass {
                Pass::Vae | Pass::VaeEncode => self.measure_codec(&backend, pass)?,
                Pass::Qualities => {
                    let kept = self.model(&backend, pass, model.take())?;
                    self.measure_qualities(model.insert(kept))?;
                }
                _ => {
                    let kept = self.model(&backend, pass, model.take())?;
                    self.measure(pass, model.insert(kept))?;
                }
            }
        }
        Ok(())
    }
}

impl Measurement {
    /// Model for the pass `pass`: `last` if its mode and type agree, or else a new one.
    fn model<B: Backend>(&self, backend: &B, pass: Pass, last: Option<TransDiff<B>>) -> Result<TransDiff<B>> {
        let config = self.options.config(pass)?;
        let precision = if let Pass::Train = pass { DType::F32.into() } else { self.options.precision() };
        let fits = |last: &TransDiff<B>| last.config().mode == config.mode && last.precision() == precision;
        if let Some(last) = last.filter(fits) {
            return Ok(last);
        }
        let model = match &self.options.model {
            Some(path) => TransDiff::load(backend, path, precision)?,
            None => random::<B, TransDiff<B>>(backend, &config, precision)?,
        };
        if let Some(path) = &self.options.save {
            model.save(path)?;
        }
        Ok(model)
    }

    fn measure<B: Backend>(&self, pass: Pass, model: &TransDiff<B>) -> Result<()> {
        let (options, backend) = (&self.options, model.backend());
        let batch = options.batch;
        let seconds = match pass {
            Pass::Ar => self.timed(pass, backend, || features(model, 2 * batch))?,
            Pass::ArConditional => self.timed(pass, backend, || features(model, batch))?,
            Pass::Step => {
                let step = match options.profile {
                    true => DecoderStep::eager(model, batch)?,
                    false => DecoderStep::new(model, batch)?,
                };
                self.timed(pass, backend, || step.run())?
            }
            Pass::Train => {
                let mut training = Training::new(model.clone(), options.train_batch, options.dtype())?;
                self.timed(pass, backend, || training.run())?
            }
            _ => {
                let mut session = Session::new(model);
                self.timed(pass, backend, || sample(&mut session, batch, options.steps))?
            }
        };
        self.report(pass, model.config(), &seconds);
        Ok(())
    }

    /// Times the qualities in alternation, after a warm-up image of the fastest.
    fn measure_qualities<B: Backend>(&self, model: &TransDiff<B>) -> Result<()> {
        let (options, config) = (&self.options, model.config());
        let codec = Codec::new(model.backend(), options.batch, options.res, options.dtype())?;
        let mut session = Session::new(model);
        let mut image = |quality: Quality| -> Result<f64> {
            let started = Instant::now();
            let settings = quality.apply(preset(config).into(), config.groups());
            generate(&mut session, options.batch, &settings.build(config.groups())?)?;
            codec.decode()?;
            model.backend().sync()?;
            Ok(started.elapsed().as_secs_f64())
        };
        image(Quality::Draft)?;
        let mut seconds = Quality::ALL.map(|_| Vec::new());
        for _ in 0..options.runs(Pass::Qualities) {
            for (seconds, quality) in seconds.iter_mut().zip(Quality::ALL) {
                seconds.push(image(quality)?);
            }
        }
        let medians = seconds.map(|mut seconds| {
            seconds.sort_by(f64::total_cmp);
            seconds[seconds.len() / 2]
        });
        let paper = medians[Quality::ALL.len() - 1];
        for (quality, median) in Quality::ALL.into_iter().zip(medians) {
            let settings = quality.apply(preset(config).into(), config.groups());
            let sampling = settings.build(config.groups())?;
            let work = sampling.work(config.groups(), 0)?;
            let latents = config.generation_flops(&sampling, 0)? as f64 * options.batch as f64;
            let vae = flops::decoding(&VaeConfig::published(), options.batch, options.res);
            let tflop = (latents + vae as f64) / 1e12;
            let results = json!({
                "tflop": tflop, "quality": quality.name(), "evaluations": work.evaluations, "passes": work.passes,
                "device": self.device, "median_s": median, "times_faster_than_paper": paper / median,
            });
            self.options.report(Pass::Qualities, config, results);
        }
        Ok(())
    }

    fn measure_codec<B: Backend>(&self, backend: &B, pass: Pass) -> Result<()> {
        let options = &self.options;
        let workload = Codec::new(backend, options.batch, options.res, options.dtype())?;
        let seconds = match pass {
            Pass::VaeEncode => self.timed(pass, backend, || workload.encode())?,
            _ => self.timed(pass, backend, || workload.decode())?,
        };
        self.report(pass, &options.config(pass)?, &seconds);
        Ok(())
    }

    /// Seconds of each run after a warm-up run, in ascending order.
    fn timed<B: Backend>(
        &self,
        pass: Pass,
        backend: &B,
        mut run: impl FnMut() -> Result<()>,
    ) -> Result<Vec<f64>> {
        let mut once = || -> Result<f64> {
            let started = Instant::now();
            run()?;
            backend.sync()?;
            Ok(started.elapsed().as_secs_f64())
        };
        once()?;
        if self.options.profile {
            return profiler::profiled(self.options.device, once).map(|seconds| vec![seconds]);
        }
        let mut seconds = (0..self.options.runs(pass)).map(|_| once()).collect::<Result<Vec<_>>>()?;
        seconds.sort_by(f64::total_cmp);
        Ok(seconds)
    }

    fn report(&self, pass: Pass, config: &TransDiffConfig, seconds: &[f64]) {
        let (median, min) = (seconds[seconds.len() / 2], seconds[0]);
        let results = json!({
            "device": self.device, "median_s": median, "min_s": min, "peak_mib": peak_mib(),
        });
        self.options.report(pass, config, results);
    }
}

/// Peak resident set of the process in MiB, where the system reports it (Linux).
fn peak_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(kib.trim().strip_suffix(" kB")?.parse::<u64>().ok()? / 1024)
}

/// The range that Nsight Compute measures.
mod profiler {
    use transdiff::Device;

    #[cfg(feature = "cuda")]
    use driver::Range;

    /// Calls `work`, on a GPU within the range of `ncu --profile-from-start off`.
    pub fn profiled<T>(device: Device, work: impl FnOnce() -> T) -> T {
        #[cfg(feature = "cuda")]
        let _range = match device {
            Device::Cpu => None,
            Device::Cuda(ordinal) => Some(Range::start(ordinal)),
            _ => Some(Range::start(0)),
        };
        #[cfg(not(feature = "cuda"))]
        let _ = device;
        work()
    }

    #[cfg(feature = "cuda")]
    mod driver {
        use std::ffi::{c_int, c_uint, c_void};
        use std::ptr;

        // Of the driver, by way of the forwarders in transdiff-cuda.
        unsafe extern "C" {
            fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_uint;
            fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, device: c_int) -> c_uint;
            fn cuCtxSetCurrent(context: *mut c_void) -> c_uint;
            fn cuProfilerStart() -> c_uint;
            fn cuProfilerStop() -> c_uint;
        }

        /// A range that ends when it is dropped.
        pub struct Range;

        impl Range {
            /// Starts profiling on a GPU that is open, whose context becomes the current one of this thread.
            pub fn start(ordinal: u32) -> Self {
                let (mut device, mut context) = (0, ptr::null_mut());
                // SAFETY: the pointers are valid, and each call uses what the one before it returned.
                let code = unsafe {
                    [
                        cuDeviceGet(&mut device, ordinal as c_int),
                        cuDevicePrimaryCtxRetain(&mut context, device),
                        cuCtxSetCurrent(context),
                        cuProfilerStart(),
                    ]
                };
                if code != [0; 4] {
                    eprintln!("warning: profiling does not start: errors {code:?} of the driver");
                }
                Self
            }
        }

        impl Drop for Range {
            fn drop(&mut self) {
                // SAFETY: the function has no arguments. A failure leaves profiling on, until the process ends.
                unsafe { cuProfilerStop() };
            }
        }
    }
}
