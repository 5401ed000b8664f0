//! Plan of what is generated, validated against the file headers before any weights are read.

use std::collections::BTreeSet;
use std::fmt;

use transdiff::HostTensor;
use transdiff::diffusion::{Euler, Guidance, Heun, Interpolant, Solver, Timesteps};
use transdiff::models::transdiff::Preset;
use transdiff::models::transdiff::{Mode, Sampling, TransDiffConfig};
use transdiff::models::vae::VaeConfig;

use super::args::{SampleArgs, SolverArg};
use super::preview::PreviewMode;
use crate::bitmap::read_rgb;
use crate::classes;
use crate::failure::Result;

/// Maximum number of images per command.
const MAX_IMAGES: usize = 1_000_000;

/// Plan of what is generated.
pub struct SamplePlan {
    /// Class and seed of every image, class by class.
    pub images: Vec<(usize, u64)>,
    /// Number of images per class.
    pub seeds_per_class: usize,
    /// Solver and guidance.
    pub sampling: Sampling,
    /// Reference images [1, 3, H, W].
    pub references: Vec<HostTensor>,
    /// Content of the PNG files; `None` if latents are the only output.
    pub preview: Option<PreviewMode>,
    /// Classes with their names.
    class_labels: Vec<String>,
}

impl SamplePlan {
    pub fn new(args: &SampleArgs, config: &TransDiffConfig, codec: Option<&VaeConfig>) -> Result<Self> {
        if let Some(codec) = codec {
            check_channels_match(args, config, codec)?;
        }
        let classes = chosen_classes(args, config)?;
        let seeds = chosen_seeds(args, classes.len())?;
        let preview = match codec {
            Some(_) => Some(PreviewMode::Images),
            None => PreviewMode::for_latents(config.latent_channels),
        };
        if preview.is_none() && args.latents.is_none() && !args.estimate {
            return Err(format!(
                "{}: latents of {} channels cannot be shown as images (expected a square number of channels); \
                 add --codec FILE to decode them or --latents FILE to save them",
                args.model.display(),
                config.latent_channels
            )
            .into());
        }
        Ok(Self {
            images: classes.iter().flat_map(|&class| seeds.iter().map(move |&seed| (class, seed))).collect(),
            seeds_per_class: seeds.len(),
            sampling: sampling(args, config)?,
            references: references(args, config, codec)?,
            preview,
            class_labels: classes.iter().map(|&class| classes::label(class, config.classes)).collect(),
        })
    }
}

impl fmt::Display for SamplePlan {
    /// One line with the classes and the sampling settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "classes: {}; ", self.class_labels.join(", "))?;
        let solver = &self.sampling.solver;
        match solver {
            Solver::EulerMaruyama(s) => {
                let (drift, noise) = (s.drift_scale(), s.noise_scale());
                write!(f, "solver: euler-maruyama, drift scale {drift}, noise scale {noise}")?;
            }
            Solver::Euler(_) => write!(f, "solver: euler")?,
            Solver::Heun(_) => write!(f, "solver: heun")?,
        }
        let scales: Vec<String> = self.sampling.guidance.iter().map(|g| g.scale().to_string()).collect();
        write!(f, ", {} steps; guidance: {}", solver.timesteps().steps(), scales.join(", "))
    }
}

/// Checks that the codec decodes latents with as many channels as the model generates.
fn check_channels_match(args: &SampleArgs, config: &TransDiffConfig, codec: &VaeConfig) -> Result<()> {
    let (expected, got) = (config.latent_channels, codec.latent_channels);
    if expected == got {
        return Ok(());
    }
    let path = args.codec.as_deref().unwrap_or(&args.model).display();
    let model = args.model.display();
    Err(format!(
        "--codec {path}: expected a codec for latents of {expected} channels, which {model} generates, got {got}"
    )
    .into())
}

fn chosen_classes(args: &SampleArgs, config: &TransDiffConfig) -> Result<Vec<usize>> {
    let parse = |text: &String| classes::parse(text, config.classes);
    let classes = args.classes.iter().map(parse).collect::<Result<Vec<_>>>()?;
    check_distinct("--class", &classes)?;
    Ok(classes)
}

fn chosen_seeds(args: &SampleArgs, classes: usize) -> Result<Vec<u64>> {
    let seeds = args.seeds();
    check_distinct("--seeds", &seeds)?;
    let (seed, count) = (args.seed, args.count as usize);
    if args.seeds.is_empty() && seeds.len() != count {
        let max = u64::MAX;
        return Err(format!("--seed {seed} --count {count}: the last seed exceeds the maximum, {max}").into());
    }
    let images = seeds.len().saturating_mul(classes);
    if images > MAX_IMAGES {
        let flag = if args.seeds.is_empty() { "--count" } else { "--seeds" };
        return Err(format!("{flag}: expected at most {MAX_IMAGES} images in total, got {images}").into());
    }
    Ok(seeds)
}

/// Checks that `values` are distinct: the class and the seed of an image make its file name.
fn check_distinct<T: Copy + Ord + fmt::Display>(flag: &str, values: &[T]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match values.iter().find(|&&value| !seen.insert(value)) {
        Some(value) => Err(format!("{flag}: expected distinct values, got {value} twice").into()),
        None => Ok(()),
    }
}

fn sampling(args: &SampleArgs, config: &TransDiffConfig) -> Result<Sampling> {
    let preset = Preset::of(config).unwrap_or(Preset::PLAIN);
    Ok(Sampling { solver: solver(args, preset)?, guidance: guidance(args, config, preset)? })
}

fn solver(args: &SampleArgs, preset: Preset) -> Result<Solver> {
    let steps = args.steps as usize;
    if args.solver == SolverArg::EulerMaruyama {
        let drift_scale = args.drift_scale.unwrap_or(preset.drift_scale);
        let noise_scale = args.noise_scale.unwrap_or(preset.noise_scale);
        return Ok(Preset { drift_scale, noise_scale, ..preset }.sampler(steps)?.into());
    }
    for (flag, given) in [("--drift-scale", args.drift_scale), ("--noise-scale", args.noise_scale)] {
        if given.is_some() {
            return Err(
                format!("{flag}: requires --solver euler-maruyama, got {}", args.solver.name()).into()
            );
        }
    }
    let (timesteps, interpolant) = (Timesteps::uniform(steps)?, Interpolant::Linear);
    Ok(match args.solver {
        SolverArg::Heun => Heun { timesteps, interpolant }.into(),
        _ => Euler { timesteps, interpolant }.into(),
    })
}

fn guidance(args: &SampleArgs, config: &TransDiffConfig, preset: Preset) -> Result<Vec<Guidance>> {
    let scales = if args.guidance.is_empty() { vec![preset.guidance] } else { args.guidance.clone() };
    let groups = config.groups();
    if scales.len() != 1 && scales.len() != groups {
        let expected = if groups == 1 {
            "1 scale".to_owned()
        } else {
            format!("1 scale, or {groups} (one per AR step)")
        };
        return Err(format!("--guidance: expected {expected}, got {}", scales.len()).into());
    }
    let (low, high) = match args.guidance_interval[..] {
        [] => (0.0, 1.0),
        [low, high] => (low, high),
        ref other => {
            return Err(
                format!("--guidance-interval: expected 2 numbers LOW,HIGH, got {}", other.len()).into()
            );
        }
    };
    Ok(scales
        .into_iter()
        .map(|scale| Guidance::within(scale, low, high))
        .collect::<transdiff::Result<_>>()?)
}

fn references(
    args: &SampleArgs,
    config: &TransDiffConfig,
    codec: Option<&VaeConfig>,
) -> Result<Vec<HostTensor>> {
    let max = match config.mode {
        Mode::OneStep => 0,
        Mode::MultiReference { groups } => groups - 1,
    };
    let (given, model) = (args.references.len(), args.model.display());
    if given > max {
        let expected = match max {
            0 => format!("no reference images for the 1-step model {model}"),
            _ => format!("at most {max} reference images for {model}"),
        };
        return Err(format!("--reference: expected {expected}, got {given}").into());
    }
    let side = codec.map_or(0, |codec| codec.downsampling() * config.latent_size);
    args.references.iter().map(|path| read_rgb(path, side)).collect()
}
