//! Estimated time of a run, from steps that are measured on this machine.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use transdiff::data::LoaderOptions;
use transdiff::models::Trainable;
use transdiff::models::transdiff::Distillation;
use transdiff::train::{TrainConfig, Trainer};
use transdiff::{Backend, DType, Result, TransDiff};

use crate::sampling::Sampler;
use crate::study::Study;
use crate::training::{ModelCodec, steps_done};
use crate::units::{ImageSet, ModelName, Part, Unit};

/// Training steps that are measured, after one that is not.
const TRAINING_STEPS: u32 = 2;
/// Images and sampling steps that are measured.
const IMAGES: usize = 100;
const SAMPLING_STEPS: usize = 2;
/// A guidance scale at which images are guided.
const GUIDANCE: f64 = 2.0;

/// Seconds of steps.
#[derive(Clone, Debug, Default)]
pub struct Speeds {
    classifier: f64,
    /// A training step, by [`kind`].
    training: BTreeMap<(usize, bool), f64>,
    /// A pass through the decoder per image, by the number of AR steps.
    pass: BTreeMap<usize, f64>,
}

impl Speeds {
    /// Measures what `units` consist of.
    pub fn measure<B: Backend>(study: &Study<'_, B>, units: &[(Part, Unit)]) -> Result<Self> {
        let mut speeds = Self::default();
        for (_, unit) in units {
            match unit {
                Unit::Classifier => {
                    let config = study.scale.classifier.config(1, 0);
                    speeds.classifier = training_step(study, study.new_classifier()?, None, config)?;
                }
                Unit::Train { model, .. } if !speeds.training.contains_key(&kind(*model)) => {
                    let network = network(study, *model)?;
                    let (scale, codec) = (study.scale, Some(study.trainer_codec()));
                    let seconds = match model {
                        ModelName::Student(_) => {
                            let student = Distillation::new(&network)?;
                            training_step(study, student, codec, scale.distilling(*model, 0))?
                        }
                        _ => training_step(study, network, codec, scale.training(*model, 0))?,
                    };
                    speeds.training.insert(kind(*model), seconds);
                }
                Unit::Measure { set, .. } if !speeds.pass.contains_key(&set.model.groups()) => {
                    speeds.pass.insert(set.model.groups(), pass(study, set.model)?);
                }
                _ => {}
            }
        }
        Ok(speeds)
    }

    /// Seconds of a whole unit.
    fn whole<B: Backend>(&self, study: &Study<'_, B>, unit: &Unit) -> Result<f64> {
        Ok(match unit {
            Unit::Classifier => self.classifier * study.scale.classifier.steps as f64,
            Unit::Train { model, .. } => {
                self.training[&kind(*model)] * study.scale.recipe(*model).steps as f64
            }
            Unit::Measure { set, .. } => {
                let groups = set.model.groups();
                let work = set.sampling(study.scale.sampling_steps)?.work(groups, 0)?;
                self.pass[&groups] * (study.scale.images * work.passes) as f64
            }
        })
    }

    /// Seconds of a whole unit, and of the part of it that is done.
    fn seconds<B: Backend>(&self, study: &Study<'_, B>, unit: &Unit) -> Result<[f64; 2]> {
        let whole = self.whole(study, unit)?;
        if study.is_done(unit) {
            return Ok([whole, whole]);
        }
        let steps = match unit {
            Unit::Classifier => study.scale.classifier.steps,
            Unit::Train { model, .. } => study.scale.recipe(*model).steps,
            Unit::Measure { .. } => return Ok([whole, 0.0]),
        };
        let done = steps_done(&study.folder.path(&unit.checkpoint()))?;
        Ok([whole, whole * done as f64 / steps as f64])
    }
}

/// Seconds of a training step.
fn training_step<B: Backend, M: Trainable<B>>(
    study: &Study<'_, B>,
    model: M,
    codec: ModelCodec<B>,
    config: TrainConfig<M::Objective>,
) -> Result<f64> {
    let trainer = Trainer::new(model, config)?;
    let mut trainer = match codec {
        Some(codec) => trainer.with_codec(codec),
        None => trainer,
    };
    let mut data = trainer.loader(study.train.clone(), LoaderOptions::default())?;
    trainer.step(&mut data)?;
    let started = Instant::now();
    for _ in 0..TRAINING_STEPS {
        trainer.step(&mut data)?;
    }
    Ok(started.elapsed().as_secs_f64() / f64::from(TRAINING_STEPS))
}

/// Key of the speed of a model's training: number of AR steps, and whether it is a student.
fn kind(model: ModelName) -> (usize, bool) {
    (model.groups(), matches!(model, ModelName::Student(_)))
}

/// Seconds of a pass through the decoder for an image.
fn pass<B: Backend>(study: &Study<'_, B>, model: ModelName) -> Result<f64> {
    let network = network(study, model)?;
    let interrupted = AtomicBool::new(false);
    let sampler =
        Sampler { model: &network, codec: &study.codec, steps: SAMPLING_STEPS, interrupted: &interrupted };
    let set = ImageSet::new(model, GUIDANCE);
    let started = Instant::now();
    sampler.generate(&set, IMAGES, 0)?;
    let passes = IMAGES * set.sampling(SAMPLING_STEPS)?.work(model.groups(), 0)?.passes;
    Ok(started.elapsed().as_secs_f64() / passes as f64)
}

/// A model with random weights.
fn network<B: Backend>(study: &Study<'_, B>, model: ModelName) -> Result<TransDiff<B>> {
    TransDiff::new(study.backend, &study.scale.model(model.mode()), DType::F32, 0)
}

/// Table of the estimated time of `units`, in `seeds` seeds.
pub fn table<B: Backend>(study: &Study<'_, B>, units: &[(Part, Unit)], seeds: u64) -> Result<String> {
    let speeds = Speeds::measure(study, units)?;
    let mut parts: BTreeMap<Part, [f64; 2]> = BTreeMap::new();
    for (part, unit) in units {
        let [whole, done] = speeds.seconds(study, unit)?;
        let sums = parts.entry(*part).or_default();
        *sums = [sums[0] + whole, sums[1] + done];
    }
    let mut text = format!("{:<14} {:>9} {:>9} {:>9}\n", "estimate", "per seed", "all", "done");
    let mut total = [0.0; 2];
    for (part, [whole, done]) in parts {
        let per_seed = if part == Part::Classifier { "".to_owned() } else { duration(whole / seeds as f64) };
        text += &format!("{:<14} {per_seed:>9} {:>9} {:>9}\n", part.name(), duration(whole), duration(done));
        total = [total[0] + whole, total[1] + done];
    }
    let [whole, done] = total;
    Ok(text
        + &format!(
            "total {}, of which {} are done: {} left, at the speed of this moment\n",
            duration(whole),
            duration(done),
            duration(whole - done)
        ))
}

/// Seconds in words.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 0.5 => "0 s".to_owned(),
        s if s < 60.0 => format!("{s:.0} s"),
        s => format!("{:.1} min", s / 60.0),
    }
}

#[cfg(test)]
mod tests {
    use super::duration;

    #[test]
    fn durations_are_in_seconds_or_minutes() {
        assert_eq!([0.1, 59.0, 90.0, 5400.0].map(duration), ["0 s", "59 s", "1.5 min", "90.0 min"]);
    }
}
