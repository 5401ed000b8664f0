//! Plan of what is generated, validated against the file headers before any weights are read.

use std::collections::BTreeSet;
use std::fmt;

use transdiff::HostTensor;
use transdiff::diffusion::{Guidance, Sampling, Solver, Work};
use transdiff::models::{ClassNames, CodecFile, CodecInfo, GeneratorInfo, StoredModel};
use transdiff_terminal::MAX_COUNT;

use super::args::SampleArgs;
use super::preview::PreviewMode;
use super::reference::read_reference;
use crate::failure::Result;

/// Characters of a class name that the names of its pictures have.
const MAX_STEM: usize = 60;

/// Plan of what is generated.
pub struct SamplePlan {
    /// Class and seed of every image, class by class.
    pub images: Vec<(usize, u64)>,
    /// Number of images per class.
    pub seeds_per_class: usize,
    /// Solver and guidance.
    pub sampling: Sampling,
    /// Work of an image.
    pub work: Work,
    /// Reference images [1, c, H, W].
    pub references: Vec<HostTensor>,
    /// Content of the PNG files; `None` if latents are the only output.
    pub preview: Option<PreviewMode>,
    /// Classes with their names.
    class_labels: Vec<String>,
    /// Beginning of the names of the pictures of each class, if the model's file records names.
    stems: Vec<String>,
}

impl SamplePlan {
    pub fn new(args: &SampleArgs, model: &StoredModel<'_>, codec: Option<&CodecFile>) -> Result<Self> {
        let (generator, names) = (&model.info(), model.class_names()?);
        let codec = codec.map(CodecFile::info).transpose()?;
        let classes = chosen_classes(args, &names)?;
        let seeds = chosen_seeds(args, classes.len())?;
        let preview = match &codec {
            Some(CodecInfo { downsampling, image_channels, .. }) => {
                Some(PreviewMode::Images { downsampling: *downsampling, channels: *image_channels })
            }
            None => PreviewMode::for_latents(generator.code_shape[0]),
        };
        if preview.is_none() && args.latents.is_none() && !args.estimate {
            return Err(format!(
                "{}: latents of {} channels cannot be shown as images (expected a square number of channels); \
                 add --codec CODEC to decode them or --latents FILE to save them",
                args.model.display(),
                generator.code_shape[0]
            )
            .into());
        }
        let sampling = args.sampling.build(generator)?;
        Ok(Self {
            images: classes.iter().flat_map(|&class| seeds.iter().map(move |&seed| (class, seed))).collect(),
            seeds_per_class: seeds.len(),
            work: sampling.work(generator.ar_steps, args.references.len().min(generator.max_references()))?,
            sampling,
            references: references(args, generator, codec.as_ref())?,
            preview,
            class_labels: classes.iter().map(|&class| names.label(class)).collect(),
            stems: model.images().map_or_else(Vec::new, |images| file_stems(&images.classes)),
        })
    }

    /// Returns whether images are decoded, and not only latents made.
    pub fn decodes(&self) -> bool {
        matches!(self.preview, Some(PreviewMode::Images { .. }))
    }

    /// Beginning of the names of the pictures of a class.
    pub fn file_stem(&self, class: usize) -> String {
        self.stems.get(class).cloned().unwrap_or_else(|| class.to_string())
    }
}

impl fmt::Display for SamplePlan {
    /// One line with the classes and the sampling settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "classes: {}; ", self.class_labels.join(", "))?;
        let [solver, ..] = &self.sampling.solvers[..] else { return Ok(()) };
        let scales = |f: &mut fmt::Formatter<'_>, drift, noise| {
            write!(f, ", drift scale {drift}, noise scale {noise}")
        };
        write!(f, "solver: {}", solver.kind().name())?;
        match solver {
            Solver::EulerMaruyama(s) => scales(f, s.drift_scale(), s.noise_scale())?,
            Solver::ExponentialSde(s) => {
                write!(f, " of order {}", s.order())?;
                scales(f, s.drift_scale(), s.noise_scale())?;
            }
            Solver::Euler(s) if s.extrapolation() > 0.0 => {
                write!(f, ", extrapolation {}", s.extrapolation())?
            }
            Solver::AdamsBashforth(s) => write!(f, " of order {}", s.order())?,
            Solver::Euler(_) | Solver::Heun(_) | Solver::Consistency(_) => {}
        }
        let list = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(", ");
        let steps = list(&mut self.sampling.solvers.iter().map(|s| s.timesteps().steps().to_string()));
        let guidance = list(&mut self.sampling.guidance.iter().map(|g| g.scale().to_string()));
        let interval = self.sampling.guidance.first().map_or((0.0, 1.0), Guidance::interval);
        let guidance = match interval {
            (0.0, 1.0) => guidance,
            (low, high) => format!("{guidance} at times {low} to {high}"),
        };
        let Work { evaluations, passes } = self.work;
        write!(
            f,
            ", {steps} steps; guidance: {guidance}; {evaluations} evaluations, {passes} network passes per image"
        )
    }
}

fn chosen_classes(args: &SampleArgs, names: &ClassNames) -> Result<Vec<usize>> {
    let find = |text: &String| names.find(text);
    let classes = args.classes.iter().map(find).collect::<transdiff::Result<Vec<_>>>()?;
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
    let Some(codec) = codec else {
        return match given {
            0 => Ok(Vec::new()),
            _ => {
                Err(format!("--reference: expected a codec; add --codec CODEC, {model} describes none")
                    .into())
            }
        };
    };
    let [_, height, width] = generator.code_shape;
    let size = [height, width].map(|side| codec.downsampling * side);
    args.references.iter().map(|path| read_reference(path, size, codec.image_channels)).collect()
}

/// Class names as beginnings of file names: other characters than letters, digits, `.`, `_` and `-` are replaced. None if two of
/// them would be the same file.
fn file_stems(names: &[String]) -> Vec<String> {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    let stem = |name: &String| {
        let stem: String = name.chars().map(|c| if is_plain(c) { c } else { '_' }).take(MAX_STEM).collect();
        if stem.starts_with('.') { stem.replacen('.', "_", 1) } else { stem }
    };
    let stems: Vec<String> = names.iter().map(stem).collect();
    // On some systems the case of letters makes no difference.
    let distinct: BTreeSet<String> = stems.iter().map(|stem| stem.to_lowercase()).collect();
    if distinct.len() == stems.len() { stems } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_stems_are_safe_and_distinct() {
        let stems =
            |names: &[&str]| file_stems(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
        assert_eq!(stems(&["T-shirt/top", "../x", "größe 3\n"]), ["T-shirt_top", "_._x", "größe_3_"]);
        for same in [["a/b", "a_b"], ["Crane", "crane"], [&"x".repeat(80), &"x".repeat(81)]] {
            assert!(stems(&same).is_empty(), "{same:?}");
        }
    }
}
