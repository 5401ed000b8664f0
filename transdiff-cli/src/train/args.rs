//! Command-line arguments of `transdiff train` and `transdiff distill`, and the settings that they give.

use std::path::{Path, PathBuf};

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use transdiff::Device;
use transdiff::checkpoint::WeightFile;
use transdiff::diffusion::Preset;
use transdiff::models::transdiff::StoredTransDiff;
use transdiff::models::{CodecRecord, LoadHints};
use transdiff_run::settings::{InitWeights, Layers, Result, RunConfig, SettingError, Value};
use transdiff_run::{Given, presets};
use transdiff_terminal::{number, whole};

use crate::job::JobArgs;
use crate::output::print_to_stderr;

/// State that ranks may divide.
#[derive(Clone, Copy, ValueEnum)]
pub enum Shard {
    /// Moments and EMA weights, by parameter
    Optimizer,
}

/// Settings of the run in `directory`.
fn saved(directory: &Path) -> Result<RunConfig> {
    RunConfig::load(&directory.join(transdiff_run::CONFIG_FILE))
}

/// Arguments of every run that trains.
#[derive(Args)]
pub struct RunArgs {
    /// TOML file with settings
    #[arg(long, value_name = "FILE", conflicts_with = "resume", help_heading = "Settings")]
    pub config: Option<PathBuf>,
    /// Value of a key, such as train.batch=32; repeat for further keys
    #[arg(long = "set", value_name = "KEY=VALUE", help_heading = "Settings")]
    pub assignments: Vec<String>,
    /// Number of training steps, 1 to 4294967295: train.steps
    #[arg(long, value_name = "N", value_parser = whole(1..=u64::from(u32::MAX)), allow_negative_numbers = true)]
    #[arg(help_heading = "Settings")]
    pub steps: Option<u64>,
    /// Print the settings and exit
    #[arg(long, help_heading = "Settings")]
    pub dry_run: bool,

    /// Folder of pictures in class folders, or a latent cache: data.path
    #[arg(long, value_name = "PATH", help_heading = "Data", required_unless_present_any = ["resume", "config"])]
    pub data: Option<String>,
    /// Codec between pictures and latents, patch:N or the file of a KL-VAE: data.codec
    #[arg(long, value_name = "CODEC", help_heading = "Data")]
    pub codec: Option<String>,
    /// Side of the square pictures in pixels, at least 1: data.size
    #[arg(long, value_name = "PIXELS", value_parser = whole(1..=1_u64 << 20), allow_negative_numbers = true)]
    #[arg(help_heading = "Data")]
    pub size: Option<u64>,
    /// Index of MRAR samples, a file of JSON lines: data.mrar_index
    #[arg(long, value_name = "FILE", help_heading = "Data")]
    pub mrar_index: Option<String>,

    /// Directory of the run
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    #[arg(required_unless_present_any = ["resume", "dry_run", "estimate"])]
    #[arg(help_heading = "Run")]
    pub out: Option<PathBuf>,
    /// Go on with the run in this directory, with its own settings
    #[arg(long, value_name = "DIR", help_heading = "Run")]
    pub resume: Option<PathBuf>,

    /// Device: cpu, cuda, cuda:N, or auto for the first usable GPU and otherwise the CPU
    #[arg(long, value_name = "NAME", default_value = "auto", help_heading = "Execution")]
    pub device: Device,
    /// Number of CPU threads, at least 1 [default: one per core]
    #[arg(long, value_name = "N", value_parser = whole(1..=usize::MAX), allow_negative_numbers = true)]
    #[arg(help_heading = "Execution")]
    pub threads: Option<usize>,
    /// State that ranks divide: optimizer, for the moments and the EMA weights
    #[arg(long, value_name = "STATE", help_heading = "Ranks")]
    pub shard: Option<Shard>,
    #[command(flatten)]
    pub job: JobArgs,
    /// Number of ranks that an estimate is for, at least 1 [default: those of the job]
    #[arg(long, value_name = "N", value_parser = whole(1..=usize::MAX), allow_negative_numbers = true)]
    #[arg(requires = "estimate", help_heading = "Ranks")]
    pub ranks: Option<usize>,
    /// Print an estimate of memory, per rank, and time and exit
    #[arg(long, help_heading = "Execution")]
    pub estimate: bool,
}

/// Arguments of `transdiff train`.
#[derive(Args)]
#[command(
    after_help = "Settings come from the preset, the file of --config, the flags, and --set, in this order; \
docs/training.md lists the keys. The run's directory keeps them in config.toml.

Examples:
  transdiff train --preset small --data CACHE --out RUN --steps 1500
  transdiff train --data PICTURES --codec patch:4 --size 32 --out RUN \\
      --set train.batch=32 --set train.lr=1e-3
  transdiff train --resume RUN --steps 3000
  transdiff train --preset paper-large-mrar --init L1/model.safetensors \\
      --data CACHE --mrar-index index.jsonl --out LM
  transdiff train --preset paper-large-1step --data CACHE --set train.batch=32 --estimate
  mpirun -np 4 transdiff train --preset small --data CACHE --out RUN --threads 1"
)]
pub struct TrainArgs {
    /// Settings to begin with: small, or paper-{base,large,huge}-{1step,mrar,512} [default: small]
    #[arg(long, value_name = "NAME", conflicts_with = "resume", help_heading = "Settings")]
    pub preset: Option<String>,
    #[command(flatten)]
    pub run: RunArgs,
    /// Model or checkpoint whose weights the run starts from; tensors of other shapes start anew and are named: train.init
    #[arg(long, value_name = "FILE", conflicts_with = "resume", help_heading = "Run")]
    pub init: Option<String>,
    /// Weights to start from: ema or raw for both sets, or published: raw weights from the raw ones, EMA from the EMA:
    /// train.init_weights [default: ema]
    #[arg(long, value_name = "WEIGHTS", requires = "init", help_heading = "Run")]
    #[arg(value_parser = PossibleValuesParser::new(InitWeights::WORDS))]
    pub init_weights: Option<String>,
}

/// Arguments of `transdiff distill`.
#[derive(Args)]
#[command(
    after_help = "Settings come from the preset distill, sizes and guidance of the teacher, the file of --config, the flags, and --set, in this order; \
docs/training.md lists the keys. The run's directory keeps them in config.toml.

Examples:
  transdiff distill --teacher model.safetensors --data CACHE --out RUN
  transdiff distill --teacher model.safetensors --guidance 1.3 --data CACHE --out RUN
  transdiff distill --resume RUN
  transdiff sample --model RUN/model.safetensors --class 3 --count 4"
)]
pub struct DistillArgs {
    /// Model to distil, a model file or checkpoint, of which the EMA weights are taken: distill.teacher
    #[arg(long, value_name = "FILE", conflicts_with = "resume", required_unless_present = "resume")]
    #[arg(help_heading = "Settings")]
    pub teacher: Option<String>,
    /// Guidance scale that the student learns, at least 1: distill.guidance [default: the paper's for models of the
    /// published sizes, otherwise 1]
    #[arg(long, value_name = "W", value_parser = number, allow_negative_numbers = true, conflicts_with = "resume")]
    #[arg(help_heading = "Settings")]
    pub guidance: Option<f64>,
    #[command(flatten)]
    pub run: RunArgs,
}

/// Value of a key, and the flag that gives it.
type FlagValue = (&'static str, Value, &'static str);

/// Arguments of a run, and the settings that it begins with.
pub struct RunSettings<'a> {
    /// Arguments of every run.
    pub args: &'a RunArgs,
    /// Command that goes on with the run.
    pub command: &'static str,
    preset: &'a str,
    /// Values that the file of `--config` and flags may replace.
    defaults: Vec<FlagValue>,
    /// Values of the command's own flags.
    flags: Vec<FlagValue>,
}

impl TrainArgs {
    /// Arguments and settings of the run.
    pub fn settings(&self) -> RunSettings<'_> {
        let texts = [
            ("train.init", &self.init, "--init"),
            ("train.init_weights", &self.init_weights, "--init-weights"),
        ];
        let flags =
            texts.into_iter().filter_map(|(key, value, flag)| Some((key, value.clone()?.into(), flag)));
        RunSettings {
            args: &self.run,
            command: "train",
            preset: self.preset.as_deref().unwrap_or("small"),
            defaults: Vec::new(),
            flags: flags.collect(),
        }
    }
}

impl DistillArgs {
    /// Arguments and settings of the run: sizes and guidance of a new one are the teacher's.
    pub fn settings(&self) -> Result<RunSettings<'_>> {
        const TEACHER: &str = "--teacher";
        let (mut defaults, mut flags) = (Vec::new(), Vec::new());
        if let Some(path) = &self.teacher {
            let named = |error: transdiff::Error| SettingError::new(TEACHER, error.to_string());
            let file = WeightFile::open(path).map_err(named)?;
            let stored = StoredTransDiff::find(&file, &LoadHints::default()).map_err(named)?;
            let config = stored.config();
            for (key, size) in [
                ("model.width", config.width),
                ("model.heads", config.heads),
                ("model.encoder_blocks", config.encoder_blocks),
                ("model.decoder_blocks", config.decoder_blocks),
                ("model.mlp_ratio", config.mlp_ratio),
                ("model.buffer_size", config.buffer_size),
                ("model.groups", config.groups()),
                ("model.feature_tokens", config.feature_tokens),
                ("model.classes", config.classes),
                ("model.latent_channels", config.latent_channels),
                ("model.latent_size", config.latent_size),
            ] {
                defaults.push((key, Value::from(size as i64), TEACHER));
            }
            if let Some(images) = stored.images() {
                defaults.push(("data.size", Value::from(images.size as i64), TEACHER));
                defaults.push(("data.channels", Value::from(images.channels as i64), TEACHER));
                if let CodecRecord::Patch(side) = images.codec {
                    defaults.push(("data.codec", Value::from(format!("patch:{side}")), TEACHER));
                }
            }
            let guidance = config.preset().unwrap_or(Preset::PLAIN).guidance;
            defaults.push(("distill.guidance", guidance.into(), TEACHER));
            flags.push(("distill.teacher", path.clone().into(), TEACHER));
        }
        flags.extend(self.guidance.map(|scale| ("distill.guidance", scale.into(), "--guidance")));
        Ok(RunSettings { args: &self.run, command: "distill", preset: "distill", defaults, flags })
    }
}

impl RunSettings<'_> {
    /// Settings of the run.
    pub fn resolved(&self) -> Result<RunConfig> {
        let settings = match &self.args.resume {
            None => self.new_run()?,
            Some(directory) => {
                let before = saved(directory)?;
                let mut layers = Layers::of(&before);
                self.add_flags(&mut layers)?;
                let after = layers.resolve("settings")?;
                // Before the data is compared with settings that a run keeps.
                after.changes_from(&before)?;
                after
            }
        };
        if (self.command, self.preset) == ("train", "distill") {
            return Err(SettingError::new("--preset", "distill is the preset of transdiff distill"));
        }
        let command = if settings.distill.teacher.is_some() { "distill" } else { "train" };
        if command == self.command {
            return Ok(settings);
        }
        let message =
            format!("expected settings of transdiff {}, got some of transdiff {command}", self.command);
        Err(SettingError::new("distill.teacher", message))
    }

    /// Prints the settings that differ from those of the run that is resumed.
    pub fn print_changes(&self, settings: &RunConfig) -> Result<()> {
        if let Some(directory) = &self.args.resume {
            let changes = settings.changes_from(&saved(directory)?)?;
            changes.iter().for_each(|change| print_to_stderr(&format!("changed: {change}")));
        }
        Ok(())
    }

    /// Settings of a step's passes that the flags, or a file that is not of a run, give for each rank; `settings` are those without
    /// what follows from the data.
    pub fn given(&self, settings: &RunConfig) -> Result<Given> {
        let mut file = Layers::default();
        self.args.config.iter().try_for_each(|path| file.add_file(path))?;
        let mut flags = Layers::default();
        self.add_flags(&mut flags)?;
        let given = |key| flags.has(key) || (file.has(key) && !file.has("train.ranks"));
        let batch = given("train.batch");
        // A batch that is given is not accumulated, unless a preset says so.
        let accumulate = given("train.accumulate") || (batch && settings.train.accumulate.is_none());
        Ok(Given { batch, accumulate })
    }

    /// Settings of a new run.
    fn new_run(&self) -> Result<RunConfig> {
        let mut layers = presets::layers(self.preset)?;
        add(&mut layers, &self.defaults)?;
        if let Some(file) = &self.args.config {
            layers.add_file(file)?;
        }
        self.add_flags(&mut layers)?;
        layers.resolve("settings")
    }

    fn add_flags(&self, layers: &mut Layers) -> Result<()> {
        let args = self.args;
        let texts = [
            ("data.path", &args.data, "--data"),
            ("data.codec", &args.codec, "--codec"),
            ("data.mrar_index", &args.mrar_index, "--mrar-index"),
        ];
        for (key, value, flag) in texts {
            value.iter().try_for_each(|value| layers.add_value(key, value.as_str(), flag))?;
        }
        for (key, value, flag) in [("data.size", args.size, "--size"), ("train.steps", args.steps, "--steps")]
        {
            value.iter().try_for_each(|&value| layers.add_value(key, value as i64, flag))?;
        }
        add(layers, &self.flags)?;
        args.assignments.iter().try_for_each(|assignment| layers.add_assignment(assignment))
    }
}

fn add(layers: &mut Layers, values: &[FlagValue]) -> Result<()> {
    values.iter().try_for_each(|(key, value, flag)| layers.add_value(key, value.clone(), flag))
}
