//! Going on with a command that failed or was interrupted.
//!
//! Every picture contains the identity of its generation: a hash of all that determines its pixels, with class and seed. A picture of the same generation is complete, because pictures are written atomically, and need not be generated
//! again. The grid and the latents contain the identity of the command, until they show all of its images.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;

use transdiff::checkpoint::WeightFile;
use transdiff::{Error, HostTensor};

use super::args::SampleArgs;
use super::plan::SamplePlan;
use crate::failure::Result;

/// Metadata key of latents that lack images of their command.
pub const INCOMPLETE: &str = "transdiff.incomplete";

/// Identities of what a command generates.
pub struct Identity {
    /// Identity of the generation, apart from class and seed.
    generation: String,
    /// Identity of the generation of all images of the command.
    pub command: String,
}

impl Identity {
    /// Identities of a command that reads the files `inputs`.
    pub fn new(args: &SampleArgs, plan: &SamplePlan, inputs: &[&Path]) -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        env!("CARGO_PKG_VERSION").hash(&mut hasher);
        for path in inputs {
            hash_file(path, &mut hasher)?;
        }
        // The device is left out: images are the same on all of them, up to rounding.
        format!("{:?} {:?} {:?} {:?}", args.hints, args.dtype, plan.sampling, plan.preview).hash(&mut hasher);
        let generation = format!("{:016x}", hasher.finish());
        plan.images.hash(&mut hasher);
        Ok(Self { generation, command: format!("{:016x}", hasher.finish()) })
    }

    /// Identity of the picture of a class and a seed.
    pub fn image(&self, (class, seed): (usize, u64)) -> String {
        format!("{}-{class}-{seed}", self.generation)
    }

    /// Returns the latents that this command has saved, if the file holds them.
    pub fn saved_latents(&self, path: &Path) -> Option<HostTensor> {
        let file = WeightFile::open(path).ok()?;
        (file.metadata().get(INCOMPLETE) == Some(&self.command)).then(|| file.tensor("latents").ok())?
    }
}

/// Hashes what tells a version of a file from another without reading it.
fn hash_file(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    let absolute = std::fs::canonicalize(path).map_err(Error::io(path))?;
    (absolute, metadata.len(), metadata.modified().ok()).hash(hasher);
    Ok(())
}
