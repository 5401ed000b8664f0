//! What will be generated, checked against the headers of the files before weights are read.

use std::collections::BTreeSet;
use std::fmt;

use transdiff::HostTensor;
use transdiff::diffusion::{Euler, Guidance, Heun, Interpolant, Solver, Timesteps};
use transdiff::models::transdiff::Preset;
use transdiff::models::transdiff::{Mode, Sampling, TransDiffConfig};
use transdiff::models::vae::VaeConfig;

use super::options::{Options, SolverName};
use crate::classes;
use crate::failure::Result;
use crate::picture::{Look, read_rgb};

/// Images of one call.
const MOST_IMAGES: usize = 1_000_000;

/// What will be generated.
pub struct Plan {
    /// Class and seed of every image: all seeds of the first class, all of the second, ….
    pub images: Vec<(usize, u64)>,
    /// Number of seeds of a class.
    pub seeds: usize,
    /// Solver and guidance.
    pub sampling: Sampling,
    /// Images [1, 3, H, W] to refer to.
    pub references: Vec<HostTensor>,
    /// What the pictures show; nothing, if latents are all that can be had.
    pub look: Option<Look>,
    /// The classes and their names.
    described: Vec<String>,
}

impl Plan {
    pub fn new(options: &Options, config: &TransDiffConfig, vae: Option<&VaeConfig>) -> Result<Self> {
        if let Some(vae) = vae {
            check_match(options, config, vae)?;
        }
        let classes = chosen_classes(options, config)?;
        let seeds = chosen_seeds(options, classes.len())?;
        let look = match vae {
            Some(_) => Some(Look::Pixels),
            None => Look::of_latents(config.latent_channels),
        };
        if look.is_none() && options.latents.is_none() && !options.estimate {
            return Err(format!(
                "{}: latents of {} channels cannot be shown: give --vae FILE, or --latents FILE to keep them",
                options.model.display(),
                config.latent_channels
            )
            .into());
        }
        Ok(Self {
            images: classes.iter().flat_map(|&class| seeds.iter().map(move |&seed| (class, seed))).collect(),
            seeds: seeds.len(),
            sampling: sampling(options, config)?,
            references: references(options, config, vae)?,
            look,
            described: classes.iter().map(|&class| classes::described(class, config.classes)).collect(),
        })
    }
}

impl fmt::Display for Plan {
    /// One line: what is generated, and with which settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "class {}; {} steps", self.described.join(", "), self.sampling.solver.timesteps().steps())?;
        match &self.sampling.solver {
            Solver::EulerMaruyama(s) => {
                write!(
                    f,
                    " of euler-maruyama, drift scale {}, noise scale {}",
                    s.drift_scale(),
                    s.noise_scale()
                )?;
            }
            Solver::Euler(_) => write!(f, " of euler")?,
            Solver::Heun(_) => write!(f, " of heun")?,
        }
        let scales: Vec<String> = self.sampling.guidance.iter().map(|g| g.scale().to_string()).collect();
        write!(f, ", guidance {}", scales.join(","))
    }
}

/// A VAE of other channels would decode nothing.
fn check_match(options: &Options, config: &TransDiffConfig, vae: &VaeConfig) -> Result<()> {
    let (takes, makes) = (vae.latent_channels, config.latent_channels);
    if takes == makes {
        return Ok(());
    }
    let path = options.vae.as_deref().unwrap_or(&options.model).display();
    let model = options.model.display();
    Err(format!("{path}: decodes latents of {takes} channels, and {model} makes latents of {makes}").into())
}

fn chosen_classes(options: &Options, config: &TransDiffConfig) -> Result<Vec<usize>> {
    let parse = |text: &String| classes::parse(text, config.classes);
    let classes = options.classes.iter().map(parse).collect::<Result<Vec<_>>>()?;
    distinct("--class", &classes)?;
    Ok(classes)
}

fn chosen_seeds(options: &Options, classes: usize) -> Result<Vec<u64>> {
    let seeds = options.seeds();
    distinct("--seeds", &seeds)?;
    if options.seeds.is_empty() && seeds.len() != options.count as usize {
        return Err(
            format!("--seed {}: {} seeds from there on pass 2^64", options.seed, options.count).into()
        );
    }
    match seeds.len().saturating_mul(classes) {
        images if images > MOST_IMAGES => {
            Err(format!("--count {}: {images} images, at most {MOST_IMAGES} at once", seeds.len()).into())
        }
        _ => Ok(seeds),
    }
}

/// An image is named by its class and its seed.
fn distinct<T: Copy + Ord + fmt::Display>(flag: &str, values: &[T]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match values.iter().find(|&&value| !seen.insert(value)) {
        Some(twice) => Err(format!("{flag}: {twice} comes twice").into()),
        None => Ok(()),
    }
}

fn sampling(options: &Options, config: &TransDiffConfig) -> Result<Sampling> {
    let preset = Preset::of(config).unwrap_or(Preset::PLAIN);
    Ok(Sampling { solver: solver(options, preset)?, guidance: guidance(options, config, preset)? })
}

fn solver(options: &Options, preset: Preset) -> Result<Solver> {
    let steps = options.steps as usize;
    if options.solver == SolverName::EulerMaruyama {
        let drift_scale = options.drift_scale.unwrap_or(preset.drift_scale);
        let noise_scale = options.noise_scale.unwrap_or(preset.noise_scale);
        return Ok(Preset { drift_scale, noise_scale, ..preset }.sampler(steps)?.into());
    }
    for (flag, given) in [("--drift-scale", options.drift_scale), ("--noise-scale", options.noise_scale)] {
        if given.is_some() {
            return Err(format!("{flag}: goes with --solver euler-maruyama alone").into());
        }
    }
    let (timesteps, interpolant) = (Timesteps::uniform(steps)?, Interpolant::Linear);
    Ok(match options.solver {
        SolverName::Heun => Heun { timesteps, interpolant }.into(),
        _ => Euler { timesteps, interpolant }.into(),
    })
}

fn guidance(options: &Options, config: &TransDiffConfig, preset: Preset) -> Result<Vec<Guidance>> {
    let scales = if options.guidance.is_empty() { vec![preset.guidance] } else { options.guidance.clone() };
    let groups = config.groups();
    if scales.len() != 1 && scales.len() != groups {
        let expected = if groups == 1 { "one number".to_owned() } else { format!("one number, or {groups}") };
        return Err(format!("--guidance: the model takes {expected}, got {}", scales.len()).into());
    }
    let (low, high) = match options.guidance_interval[..] {
        [] => (0.0, 1.0),
        [low, high] => (low, high),
        ref other => {
            return Err(format!("--guidance-interval: expected LOW,HIGH, got {} numbers", other.len()).into());
        }
    };
    Ok(scales
        .into_iter()
        .map(|scale| Guidance::within(scale, low, high))
        .collect::<transdiff::Result<_>>()?)
}

fn references(
    options: &Options,
    config: &TransDiffConfig,
    vae: Option<&VaeConfig>,
) -> Result<Vec<HostTensor>> {
    let most = match config.mode {
        Mode::OneStep => 0,
        Mode::MultiReference { groups } => groups - 1,
    };
    let given = options.references.len();
    if given > most {
        let takes = if most == 0 {
            "makes images in one step and takes none".into()
        } else {
            format!("takes at most {most}")
        };
        return Err(format!("--reference: {} {takes}, got {given}", options.model.display()).into());
    }
    let side = vae.map_or(0, |vae| vae.downsampling() * config.latent_size);
    options.references.iter().map(|path| read_rgb(path, side)).collect()
}
