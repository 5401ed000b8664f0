//! Reading everything in a file that the library can read.

use transdiff_core::checkpoint::WeightFile;
use transdiff_core::models::FileKind;
use transdiff_core::models::LoadHints;
use transdiff_core::models::transdiff::StoredTransDiff;
use transdiff_core::models::vae::StoredVae;
use transdiff_core::reference::Reference;
use transdiff_core::{DType, Result};

/// Reads every tensor of a file, and the model or the VAE in it, if there is one. Returns the first error.
pub fn read_everything(file: Result<WeightFile>) -> Result<()> {
    let file = file?;
    file.entries().keys().try_for_each(|name| file.tensor(name).map(drop))?;
    // The metadata gives the number of heads; without it, any number will do.
    let heads = file.metadata().is_empty().then_some(1);
    let model = StoredTransDiff::find(&file, &LoadHints { heads, ..LoadHints::default() })
        .and_then(|source| source.load(&Reference, DType::F32));
    match FileKind::of(&file) {
        FileKind::Model | FileKind::TrainingRun => model.map(drop),
        FileKind::Codec => {
            StoredVae::find(&file).and_then(|source| source.load(&Reference, DType::F32)).map(drop)
        }
        FileKind::Unknown => Ok(()),
    }
}

/// Bytes that reading a file of `len` bytes may allocate: twice its length plus 16 MiB.
pub fn allowed(len: usize) -> usize {
    2 * len + (16 << 20)
}
