//! Units of work, each of which leaves a file: the classifier, a trained model, or the measures of a set of images.

use std::collections::BTreeSet;
use std::path::PathBuf;

use transdiff::diffusion::SolverKind;
use transdiff::models::transdiff::Mode;

use crate::experiments::Experiment;
use crate::scale::Scale;

/// A trained model of a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModelName {
    /// The 1-step model that the others start from.
    Base,
    /// The base model after this step of its training.
    BaseAt(u64),
    /// The base model, trained further in one step.
    OneStep,
    /// The base model, trained further in this number of AR steps.
    Mrar(usize),
    /// The student of the base model, or of the model in this number of AR steps.
    Student(usize),
}

impl ModelName {
    /// Name of the model's files.
    pub fn stem(self) -> String {
        match self {
            Self::Base => "base".to_owned(),
            Self::BaseAt(step) => format!("base-at-{step}"),
            Self::OneStep => "one-step".to_owned(),
            Self::Mrar(groups) => format!("mrar-{groups}"),
            Self::Student(groups) => format!("student-{groups}"),
        }
    }

    /// Mode of the model.
    pub fn mode(self) -> Mode {
        match self {
            Self::Mrar(groups) => Mode::MultiReference { groups },
            Self::Student(groups) if groups > 1 => Mode::MultiReference { groups },
            _ => Mode::OneStep,
        }
    }

    /// Number of AR steps.
    pub fn groups(self) -> usize {
        match self.mode() {
            Mode::OneStep => 1,
            Mode::MultiReference { groups } => groups,
        }
    }

    /// Model whose training leaves this one's file.
    pub fn trained_as(self) -> Self {
        if let Self::BaseAt(_) = self { Self::Base } else { self }
    }

    /// Model that the training starts from.
    pub fn start(self) -> Option<Self> {
        match self {
            Self::Base | Self::BaseAt(_) => None,
            Self::OneStep | Self::Mrar(_) | Self::Student(1) => Some(Self::Base),
            Self::Student(groups) => Some(Self::Mrar(groups)),
        }
    }
}

/// Semantic features that images are decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The features of the image's class.
    Class,
    /// The first of them, this number.
    Truncated(usize),
    /// The first of them, this number, and the rest from the class's partner.
    Mixed(usize),
}

/// Solver of a set, and its evaluations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampled {
    /// Euler–Maruyama in the study's number of steps.
    InSteps,
    /// A solver, of order 2 where it has orders.
    By {
        /// The solver.
        solver: SolverKind,
        /// Steps for each reference.
        references: usize,
        /// Steps for the image.
        image: usize,
        /// Highest time with guidance.
        guided_until: f64,
    },
}

/// A set of images: the same classes and noise in each set of a seed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ImageSet {
    /// Model that generates.
    pub model: ModelName,
    /// Features to decode.
    pub content: Content,
    /// Guidance scale.
    pub guidance: f64,
    /// Drift scale and noise scale.
    pub scales: [f64; 2],
    /// Solver and evaluations.
    pub sampled: Sampled,
}

impl ImageSet {
    /// Images of all classes with `guidance`, and both scales 1.
    pub fn new(model: ModelName, guidance: f64) -> Self {
        Self { model, content: Content::Class, guidance, scales: [1.0, 1.0], sampled: Sampled::InSteps }
    }

    /// Name of the set's files.
    pub fn stem(&self) -> String {
        let content = match self.content {
            Content::Class => String::new(),
            Content::Truncated(count) => format!("-first-{count}"),
            Content::Mixed(count) => format!("-mixed-{count}"),
        };
        let [drift, noise] = self.scales;
        let sampled = match self.sampled {
            Sampled::InSteps => String::new(),
            Sampled::By { solver, references, image, guided_until } => {
                let until = if guided_until < 1.0 { format!("-until-{guided_until}") } else { String::new() };
                format!("-{}-{references}-{image}{until}", solver.name())
            }
        };
        format!(
            "{}{content}-guidance-{}-drift-{drift}-noise-{noise}{sampled}",
            self.model.stem(),
            self.guidance
        )
    }

    /// File of the measures of a seed.
    pub fn measures_file(&self, seed: u64) -> PathBuf {
        seed_folder(seed).join(self.stem() + ".json")
    }

    /// File of the first images of a seed, which is written before the measures.
    pub fn strip_file(&self, seed: u64) -> PathBuf {
        seed_folder(seed).join(self.stem() + ".png")
    }
}

fn seed_folder(seed: u64) -> PathBuf {
    PathBuf::from(format!("seed-{seed}"))
}

/// File of a model's EMA weights.
pub fn model_file(model: ModelName, seed: u64) -> PathBuf {
    seed_folder(seed).join(model.stem() + ".safetensors")
}

/// A unit of work.
#[derive(Clone, Debug, PartialEq)]
pub enum Unit {
    /// Trains the classifier.
    Classifier,
    /// Trains a model.
    Train {
        /// Seed of weights, data order and noise.
        seed: u64,
        /// Name of the model.
        model: ModelName,
    },
    /// Generates and measures a set of images.
    Measure {
        /// Seed of the model, and of the images.
        seed: u64,
        /// The set.
        set: ImageSet,
    },
}

/// Part of the run that units are counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The classifier.
    Classifier,
    /// The base models.
    Base,
    /// Units of an experiment that no earlier one needs.
    Experiment(Experiment),
}

impl Part {
    /// Name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classifier => "classifier",
            Self::Base => "base models",
            Self::Experiment(experiment) => experiment.name(),
        }
    }
}

impl Unit {
    /// File that exists once the unit is done.
    pub fn file(&self) -> PathBuf {
        match self {
            Self::Classifier => PathBuf::from("classifier.safetensors"),
            Self::Train { seed, model } => model_file(*model, *seed),
            Self::Measure { seed, set } => set.measures_file(*seed),
        }
    }

    /// Seed of the unit; the classifier belongs to all.
    pub fn seed(&self) -> Option<u64> {
        match self {
            Self::Classifier => None,
            Self::Train { seed, .. } | Self::Measure { seed, .. } => Some(*seed),
        }
    }

    /// Checkpoint of an unfinished training.
    pub fn checkpoint(&self) -> PathBuf {
        self.file().with_extension("checkpoint")
    }
}

/// All units of a run in their order, seed by seed, so that every experiment has results of the first seeds early.
pub fn plan(experiments: &BTreeSet<Experiment>, seeds: u64, scale: &Scale) -> Vec<(Part, Unit)> {
    let mut units = vec![(Part::Classifier, Unit::Classifier)];
    let mut add = |part, unit| {
        if !units.iter().any(|(_, known)| *known == unit) {
            units.push((part, unit));
        }
    };
    for seed in 0..seeds {
        add(Part::Base, Unit::Train { seed, model: ModelName::Base });
        for &experiment in experiments {
            for condition in experiment.conditions(scale) {
                let set = condition.set;
                let model = set.model.trained_as();
                for model in model.start().into_iter().chain([model]) {
                    add(Part::Experiment(experiment), Unit::Train { seed, model });
                }
                add(Part::Experiment(experiment), Unit::Measure { seed, set });
            }
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_follow_one_another_and_models_precede_their_images() {
        let units = plan(&Experiment::ALL.into(), 3, &Scale::miniature());
        let place = |unit: &Unit| units.iter().position(|(_, known)| known == unit);
        let mut seeds = Vec::new();
        for (index, (_, unit)) in units.iter().enumerate() {
            if let Unit::Measure { seed, set } = unit {
                seeds.push(*seed);
                let model = set.model.trained_as();
                let mut trained = place(&Unit::Train { seed: *seed, model }).unwrap();
                assert!(trained < index);
                let mut model = model;
                while let Some(start) = model.start() {
                    let before = place(&Unit::Train { seed: *seed, model: start }).unwrap();
                    assert!(before < trained, "{model:?}");
                    (trained, model) = (before, start);
                }
            }
            assert_eq!(place(unit), Some(index), "{unit:?} is there once");
        }
        assert!(seeds.is_sorted() && seeds.last() == Some(&2));
        let mut files: Vec<_> = units.iter().map(|(_, unit)| unit.file()).collect();
        files.sort();
        files.dedup();
        assert_eq!(files.len(), units.len(), "each unit has a file of its own");
    }

    #[test]
    fn fewer_experiments_need_fewer_models() {
        let units = plan(&BTreeSet::from([Experiment::Guidance]), 2, &Scale::miniature());
        let trained = units.iter().filter(|(_, unit)| matches!(unit, Unit::Train { .. }));
        assert!(trained.map(|(part, _)| *part).eq([Part::Base; 2]));
    }
}
