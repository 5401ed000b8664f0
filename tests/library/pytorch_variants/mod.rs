//! PyTorch checkpoints in the forms that other programs write: weights under any key, behind wrappers, in subclasses of
//! containers, as numpy arrays; EMA weights in any spelling; and data beside the weights.

mod contents;
mod sets;

use crate::common::archive::{Entry, checkpoint, zip};
use crate::common::pickle::*;
use crate::common::tiny;
use transdiff_core::checkpoint::WeightFile;
use transdiff_core::models::transdiff::StoredTransDiff;
use transdiff_core::models::{LoadHints, WeightSet};
use transdiff_core::nn::Module;
use transdiff_core::reference::Reference;
use transdiff_core::{DType, Error};

/// Storages of a checkpoint that is being built.
#[derive(Default)]
struct Storages(Vec<Vec<u8>>);

impl Storages {
    fn add(&mut self, values: &[f32]) -> String {
        self.0.push(values.iter().copied().flat_map(f32::to_le_bytes).collect());
        (self.0.len() - 1).to_string()
    }

    /// Tensors of a module with `offset` added to every value, under the names that `rename` returns.
    fn weights(
        &mut self,
        module: &dyn Module<Reference>,
        offset: f32,
        rename: impl Fn(&str) -> String,
    ) -> Vec<(String, Vec<u8>)> {
        let mut out = Vec::new();
        for (name, param) in module.params() {
            let host = param.value().to_host().unwrap();
            let values: Vec<f32> = host.to_f32().iter().map(|x| x + offset).collect();
            let shape: Vec<i64> = host.shape().iter().map(|&n| n as i64).collect();
            out.push((rename(&name), tensor(&self.add(&values), &shape)));
        }
        out
    }

    /// State dict of the tiny model.
    fn model(&mut self, offset: f32, rename: impl Fn(&str) -> String) -> Vec<u8> {
        let model = tiny::model(&Reference, &tiny::one_step(), DType::F32);
        named(&self.weights(&model, offset, rename))
    }

    fn archive(&self, root: &[u8]) -> Vec<Entry> {
        checkpoint(&pickle(root), &self.0.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn file(&self, root: &[u8]) -> WeightFile {
        open(zip(&self.archive(root)))
    }
}

fn open(bytes: Vec<u8>) -> WeightFile {
    WeightFile::from_bytes("test.pth", bytes).unwrap()
}

fn open_error(bytes: Vec<u8>) -> String {
    WeightFile::from_bytes("test.pth", bytes).unwrap_err().to_string()
}

fn named(items: &[(String, Vec<u8>)]) -> Vec<u8> {
    dict(&items.iter().map(|(name, value)| (name.as_str(), value.clone())).collect::<Vec<_>>())
}

fn hints() -> LoadHints {
    LoadHints { heads: Some(2), ..LoadHints::default() }
}

fn raw() -> LoadHints {
    LoadHints { weights: Some(WeightSet::Raw), ..hints() }
}

fn under(key: &str) -> LoadHints {
    LoadHints { key: Some(key.to_owned()), ..hints() }
}

/// Set that is found, and the offset that was added to its values.
fn found(file: &WeightFile, hints: &LoadHints) -> Result<(WeightSet, f32), Error> {
    let stored = StoredTransDiff::find(file, hints)?;
    let model = stored.load(&Reference, DType::F32)?;
    let plain = tiny::model(&Reference, &tiny::one_step(), DType::F32);
    let first = |model: &dyn Module<Reference>| model.params()[0].1.value().to_host().unwrap().to_f32()[0];
    Ok((stored.weights(), (first(&model) - first(&plain)).round()))
}

#[track_caller]
fn assert_refused(file: &WeightFile, hints: &LoadHints, parts: &[&str]) {
    let error = found(file, hints).unwrap_err().to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "expected {parts:?} in: {error}");
}

fn plain(name: &str) -> String {
    name.to_owned()
}
