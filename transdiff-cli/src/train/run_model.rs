//! The models that runs train: those of `transdiff train`, and students of `transdiff distill`.

use transdiff::checkpoint::WeightFile;
use transdiff::models::transdiff::{Distillation, SampleDraws, StoredTransDiff, TransDiffConfig};
use transdiff::models::{LoadHints, Model, Trainable, WeightSet};
use transdiff::train::{TrainConfig, Trainer};
use transdiff::{Backend, DType, TransDiff};
use transdiff_run::settings::InitWeights;

use super::plan::Plan;
use crate::failure::Result;
use crate::output::print_to_stderr;

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
        let model = Distillation::new(&teacher(plan, backend)?)?;
        Ok(Trainer::new(model, Self::train_config(plan)?)?)
    }

    fn resume(plan: &Plan<'_>, trainer: Trainer<B, Self>) -> Result<Trainer<B, Self>> {
        let teacher = teacher(plan, trainer.model().backend())?;
        Ok(trainer.with_teacher(&teacher)?)
    }

    fn generator(&self) -> &TransDiff<B> {
        self.student()
    }
}

/// The teacher, of the sizes of the run's model, whose latents are those of the data.
fn teacher<B: Backend>(plan: &Plan<'_>, backend: &B) -> Result<TransDiff<B>> {
    let path = plan.settings.distill.teacher.as_deref().unwrap_or_default();
    let file = WeightFile::open(path)?;
    let stored = StoredTransDiff::find(&file, &LoadHints::default())?;
    let student = plan.settings.transdiff_config()?;
    if stored.config().distilled {
        return Err(format!("{path}: expected a model that is not distilled, got one that is").into());
    }
    if *stored.config() != (TransDiffConfig { distilled: false, ..student }) {
        return Err(format!("{path}: expected a model of the sizes in [model], got another").into());
    }
    let (made, data) = (stored.images(), &plan.data.images);
    if made.is_some_and(|made| made.codec != data.codec || made.classes != data.classes) {
        let message =
            "expected a model that was trained with the codec and the classes of the data, got another";
        return Err(format!("{path}: {message}").into());
    }
    Ok(stored.load(backend, DType::F32)?)
}
