//! The models that runs train: those of `transdiff train`, and students of `transdiff distill`.

use std::path::Path;

use transdiff::checkpoint::WeightFile;
use transdiff::models::transdiff::{Distillation, SampleDraws, StoredTransDiff, TransDiffConfig};
use transdiff::models::{LoadHints, Model, Trainable, WeightSet};
use transdiff::train::{TrainConfig, Trainer};
use transdiff::{Backend, DType, TransDiff};
use transdiff_run::settings::InitWeights;

use super::plan::Plan;
use crate::differences::differences;
use crate::failure::Result;
use crate::output::print_to_stderr;

/// File of the teacher in the directory of a run.
const TEACHER_FILE: &str = "teacher.safetensors";

/// A model that a run trains.
pub trait RunModel<B: Backend>: Trainable<B, Config = TransDiffConfig, Draws = SampleDraws> {
    /// Settings of the trainer.
    fn train_config(plan: &Plan<'_>) -> Result<TrainConfig<Self::Objective>>;

    /// Trainer of a new run.
    fn begin(plan: &Plan<'_>, backend: &B) -> Result<Trainer<B, Self>>;

    /// The trainer of a checkpoint, with what a checkpoint does not hold.
    fn resume(plan: &Plan<'_>, trainer: Trainer<B, Self>) -> Result<Trainer<B, Self>>;

    /// The model to generate with.
    fn generator(&self) -> &TransDiff<B>;
}

impl<B: Backend> RunModel<B> for TransDiff<B> {
    fn train_config(plan: &Plan<'_>) -> Result<TrainConfig> {
        Ok(plan.train.clone())
    }

    fn begin(plan: &Plan<'_>, backend: &B) -> Result<Trainer<B>> {
        let settings = &plan.settings.train;
        let config: TransDiffConfig = plan.settings.transdiff_config()?;
        let (seed, train) = (settings.seed, plan.train.clone());
        let Some(path) = &settings.init else {
            return Ok(Trainer::new(TransDiff::new(backend, &config, DType::F32, seed)?, train)?);
        };
        let file = WeightFile::open(path)?;
        if StoredTransDiff::find(&file, &LoadHints::default()).is_ok_and(|stored| stored.config().distilled) {
            return Err(format!("{path}: expected a model that is not distilled, got one that is").into());
        }
        let load = |set: Option<WeightSet>| -> Result<TransDiff<B>> {
            let hints = LoadHints { weights: set, ..LoadHints::default() };
            let (model, new) =
                TransDiff::from_file(backend, &file, DType::F32, &hints)?.initialise(&config, seed)?;
            let which = set.map_or(String::new(), |set| format!(", {}", set.describe()));
            let kept = match new.is_empty() {
                true => "all weights taken over".to_owned(),
                false => format!("new tensors: {}", new.join(", ")),
            };
            print_to_stderr(&format!("{path}{which}: {kept}"));
            Ok(model)
        };
        Ok(match settings.init_weights {
            InitWeights::Ema => Trainer::new(load(None)?, train)?,
            InitWeights::Raw => Trainer::new(load(Some(WeightSet::Raw))?, train)?,
            InitWeights::Published => {
                Trainer::with_ema(load(Some(WeightSet::Raw))?, load(Some(WeightSet::Ema))?, train)?
            }
        })
    }

    fn resume(_: &Plan<'_>, trainer: Trainer<B>) -> Result<Trainer<B>> {
        Ok(trainer)
    }

    fn generator(&self) -> &TransDiff<B> {
        self
    }
}

impl<B: Backend> RunModel<B> for Distillation<B> {
    fn train_config(plan: &Plan<'_>) -> Result<TrainConfig<Self::Objective>> {
        Ok(plan.train.clone().with_objective(plan.settings.consistency_objective()?))
    }

    fn begin(plan: &Plan<'_>, backend: &B) -> Result<Trainer<B, Self>> {
        let given = plan.settings.distill.teacher.as_deref().unwrap_or_default();
        let teacher = teacher(plan, backend, Path::new(given))?;
        if let Some(directory) = &plan.directory {
            // The run goes on with this one, whatever becomes of the file.
            teacher.save(directory.path().join(TEACHER_FILE))?;
        }
        Ok(Trainer::new(Distillation::new(&teacher)?, Self::train_config(plan)?)?)
    }

    fn resume(plan: &Plan<'_>, trainer: Trainer<B, Self>) -> Result<Trainer<B, Self>> {
        let teacher = teacher(plan, trainer.model().backend(), &plan.path.join(TEACHER_FILE))?;
        Ok(trainer.with_teacher(&teacher)?)
    }

    fn generator(&self) -> &TransDiff<B> {
        self.student()
    }
}

/// The teacher at `path`, of the sizes of the run's model, whose latents are those of the data.
fn teacher<B: Backend>(plan: &Plan<'_>, backend: &B, path: &Path) -> Result<TransDiff<B>> {
    let refused = |message: &str| Err(format!("{}: expected a model {message}", path.display()).into());
    let file = WeightFile::open(path)?;
    let stored = StoredTransDiff::find(&file, &LoadHints::default())?;
    if stored.config().distilled {
        return refused("that is not distilled, got one that is");
    }
    let expected = TransDiffConfig { distilled: false, ..plan.settings.transdiff_config()? };
    let differing = differences(stored.config(), &expected);
    if !differing.is_empty() {
        let differing = differing.join(", ");
        return refused(&format!("of the sizes in [model] of config.toml, got another: {differing}"));
    }
    let data = &plan.data.images;
    match stored.images() {
        Some(made) if made.codec != data.codec => refused("trained with the codec of the data, got another"),
        Some(made) if made.classes != data.classes => {
            refused("trained on the classes of the data, got another")
        }
        _ => Ok(stored.load(backend, DType::F32)?),
    }
}
