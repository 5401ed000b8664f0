//! Plan of what is generated, validated against the file headers before any weights are read.

use std::collections::BTreeSet;
use std::fmt;

use transdiff::HostTensor;
use transdiff::diffusion::{Sampling, SamplingSettings, Solver, SolverKind};
use transdiff::models::{CodecInfo, GeneratorInfo};
use transdiff_terminal::MAX_COUNT;

use super::args::SampleArgs;
use super::preview::PreviewMode;
use super::reference::read_reference;
use crate::classes;
use crate::failure::Result;

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
    pub fn new(args: &SampleArgs, generator: &GeneratorInfo, codec: Option<&CodecInfo>) -> Result<Self> {
        if let Some(codec) = codec {
            check_channels_match(args, generator, codec)?;
        }
        let classes = chosen_classes(args, generator)?;
        let seeds = chosen_seeds(args, classes.len())?;
        let preview = match codec {
            Some(codec) => Some(PreviewMode::Images { downsampling: codec.downsampling }),
            None => PreviewMode::for_latents(generator.code_shape[0]),
        };
        if preview.is_none() && args.latents.is_none() && !args.estimate {
            return Err(format!(
                "{}: latents of {} channels cannot be shown as images (expected a square number of channels); \
                 add --codec FILE to decode them or --latents FILE to save them",
                args.model.display(),
                generator.code_shape[0]
            )
            .into());
        }
        Ok(Self {
            images: classes.iter().flat_map(|&class| seeds.iter().map(move |&seed| (class, seed))).collect(),
            seeds_per_class: seeds.len(),
            sampling: sampling(args, generator)?,
            references: references(args, generator, codec)?,
            preview,
            class_labels: classes.iter().map(|&class| classes::label(class, generator.classes)).collect(),
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
fn check_channels_match(args: &SampleArgs, generator: &GeneratorInfo, codec: &CodecInfo) -> Result<()> {
    let (expected, got) = (generator.code_shape[0], codec.code_channels);
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

fn chosen_classes(args: &SampleArgs, generator: &GeneratorInfo) -> Result<Vec<usize>> {
    let parse = |text: &String| classes::parse(text, generator.classes);
    let classes = args.classes.iter().map(parse).collect::<Result<Vec<_>>>()?;
    check_distinct("--class", &classes)?;
    Ok(classes)
}

fn chosen_seeds(args: &SampleArgs, classes: usize) -> Result<Vec<u64>> {
    let (flag, per_class) = match args.seeds.is_empty() {
        true => ("--count", args.count),
        false => ("--seeds", args.seeds.len() as u64),
    };
    // Checked before the seeds are listed: a count takes no memory, its seeds do. An estimate may have no classes.
    let images = u128::from(per_class) * classes.max(1) as u128;
    if images > MAX_COUNT as u128 {
        return Err(format!("{flag}: expected at most {MAX_COUNT} images in total, got {images}").into());
    }
    if !args.seeds.is_empty() {
        check_distinct("--seeds", &args.seeds)?;
        return Ok(args.seeds.clone());
    }
    let (first, count, max) = (args.seed, args.count, u64::MAX);
    match first.checked_add(count - 1) {
        Some(last) => Ok((first..=last).collect()),
        None => {
            Err(format!("--seed {first} --count {count}: the last seed exceeds the maximum, {max}").into())
        }
    }
}

/// Checks that `values` are distinct: the class and the seed of an image make its file name.
fn check_distinct<T: Copy + Ord + fmt::Display>(flag: &str, values: &[T]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match values.iter().find(|&&value| !seen.insert(value)) {
        Some(value) => Err(format!("{flag}: expected distinct values, got {value} twice").into()),
        None => Ok(()),
    }
}

fn sampling(args: &SampleArgs, generator: &GeneratorInfo) -> Result<Sampling> {
    let solver = SolverKind::from(args.solver);
    let mut settings = SamplingSettings::from(generator.preset).with_solver(solver).with_steps(args.steps);
    if !args.guidance.is_empty() {
        settings.guidance.clone_from(&args.guidance);
    }
    settings.guidance_interval = match args.guidance_interval[..] {
        [] => settings.guidance_interval,
        [low, high] => (low, high),
        ref other => {
            let got = other.len();
            return Err(format!("--guidance-interval: expected 2 numbers LOW,HIGH, got {got}").into());
        }
    };
    settings.drift_scale = args.drift_scale.or(settings.drift_scale);
    settings.noise_scale = args.noise_scale.or(settings.noise_scale);
    Ok(settings.build(generator.ar_steps)?)
}

fn references(
    args: &SampleArgs,
    generator: &GeneratorInfo,
    codec: Option<&CodecInfo>,
) -> Result<Vec<HostTensor>> {
    let max = generator.max_references();
    let (given, model) = (args.references.len(), args.model.display());
    if given > max {
        let expected = match max {
            0 => format!("no reference images for the 1-step model {model}"),
            _ => format!("at most {max} reference images for {model}"),
        };
        return Err(format!("--reference: expected {expected}, got {given}").into());
    }
    let [_, height, width] = generator.code_shape;
    let size = [height, width].map(|side| codec.map_or(0, |codec| codec.downsampling * side));
    args.references.iter().map(|path| read_reference(path, size)).collect()
}
