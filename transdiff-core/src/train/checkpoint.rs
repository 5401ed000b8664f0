//! A training run on disk.

use std::collections::BTreeMap;
use std::path::Path;

use super::optimizer::Moments;
use super::trainer::prepare;
use super::{TrainConfig, Trainer};
use crate::checkpoint::{Entry, WeightFile, write_atomic};
use crate::models::TRAIN_KEY;
use crate::models::transdiff::{
    CONFIG_KEY, TransDiff, TransDiffConfig, check_depth, expected, load_params, metadata_value, named_params,
};
use crate::nn::Module;
use crate::{Backend, DType, Error, Result, Tensor};

const STEP_KEY: &str = "transdiff.step";
const MODEL: &str = "model.";
const EMA: &str = "ema.";
const FIRST_MOMENT: &str = "adam_m.";
const SECOND_MOMENT: &str = "adam_v.";

pub(super) fn write<B: Backend>(trainer: &Trainer<B>, path: &Path) -> Result<()> {
    let mut tensors = named_params(&trainer.model, MODEL);
    tensors.extend(named_params(&trainer.ema, EMA));
    for ((name, _), moments) in trainer.model.params().iter().zip(trainer.optimizer.moments()) {
        let Some(Moments { m, v }) = moments else { continue };
        tensors.push((format!("{FIRST_MOMENT}{name}"), m.clone()));
        tensors.push((format!("{SECOND_MOMENT}{name}"), v.clone()));
    }
    let metadata = BTreeMap::from([
        (CONFIG_KEY.to_owned(), json(trainer.model.config())),
        (TRAIN_KEY.to_owned(), json(&trainer.config)),
        (STEP_KEY.to_owned(), json(&trainer.step)),
    ]);
    write_atomic(path, tensors.iter().map(|(name, tensor)| (name, tensor)), &metadata)
}

fn json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("settings are plain data")
}

pub(super) fn read<B: Backend>(backend: &B, path: &Path) -> Result<Trainer<B>> {
    let file = WeightFile::open(path)?;
    let config: TransDiffConfig = metadata_value(path, file.metadata(), CONFIG_KEY)?;
    let settings: TrainConfig = metadata_value(path, file.metadata(), TRAIN_KEY)?;
    let step: u64 = metadata_value(path, file.metadata(), STEP_KEY)?;
    if step > u64::from(u32::MAX) {
        return Err(Error::format(path, format!("metadata entry {STEP_KEY}: {step} is no number of steps")));
    }
    let weights = file.select(MODEL);
    let dtype = weights.get("fake_latent").and_then(Entry::decoded).unwrap_or(DType::F32);
    config.validate()?;
    check_depth(&config, &weights)?;
    let mut model = TransDiff::placeholder(backend, &config, dtype)?;
    // Which parameters are frozen, and so have no moments, follows from the settings.
    prepare(&mut model, &settings)?;
    // Before anything of the sizes that the file claims is allocated.
    file.select("").check(&names(&model))?;
    load_params(&mut model, &weights)?;
    let mut trainer = Trainer::new(model, settings)?;
    load_params(&mut trainer.ema, &file.select(EMA))?;
    let params: Vec<(String, Tensor<B>)> =
        trainer.model.params().into_iter().map(|(name, p)| (name, p.value().clone())).collect();
    for ((name, param), moments) in params.iter().zip(trainer.optimizer.moments_mut()) {
        let Some(Moments { m, v }) = moments else { continue };
        for (prefix, slot) in [(FIRST_MOMENT, m), (SECOND_MOMENT, v)] {
            let host = file.tensor(&format!("{prefix}{name}"))?;
            *slot = Tensor::from_host(backend, &host.cast(dtype)?)?.ordered_like(param)?;
        }
    }
    trainer.step = step;
    Ok(trainer)
}

fn names<B: Backend>(model: &TransDiff<B>) -> Vec<(String, Vec<usize>)> {
    let mut names = expected(model, MODEL);
    names.extend(expected(model, EMA));
    for (name, param) in model.params().iter().filter(|(_, p)| p.is_trainable()) {
        let shape = param.value().shape().to_vec();
        names.push((format!("{FIRST_MOMENT}{name}"), shape.clone()));
        names.push((format!("{SECOND_MOMENT}{name}"), shape));
    }
    names
}
