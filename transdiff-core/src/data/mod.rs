//! Training data: datasets with class labels, their shuffled order, and the loader that reads ahead.

mod loader;
mod permutation;
mod shuffled_order;
mod subset;

pub use loader::{DataLoader, LoaderOptions, Sample, Stride};
pub use permutation::Permutation;
pub use shuffled_order::{Groups, Shuffle, ShuffledOrder};
pub use subset::Subset;

use crate::rng::Philox;
use crate::{Error, Result};

/// Dataset of latents, or of images that a codec encodes, with labels. Implementations may read from disk: training reads
/// one item at a time, from several threads.
pub trait Dataset: Send + Sync {
    /// Number of items.
    fn len(&self) -> usize;

    /// Returns `true` if there are no items.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shape [C, h, w] of every item.
    fn item_shape(&self) -> [usize; 3];

    /// Class of item `index`.
    fn label(&self, index: usize) -> usize;

    /// Appends the C·h·w elements of item `index` to `out`. Everything random is drawn from `stream`, which depends on the
    /// seed and on the item's place in the run: first the flip, then the crop or the posterior noise.
    ///
    /// # Errors
    /// Those of reading it.
    fn read(&self, index: usize, stream: &mut Philox, out: &mut Vec<f32>) -> Result<()>;

    /// End of each shard, as an index of items: items of one shard lie together in storage. By default there is one.
    fn shard_ends(&self) -> Vec<usize> {
        vec![self.len()]
    }
}

/// Dataset in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryDataset {
    shape: [usize; 3],
    values: Vec<f32>,
    labels: Vec<usize>,
}

impl MemoryDataset {
    /// A dataset of latents of `shape` [C, h, w], one after another in `values`, with their labels.
    ///
    /// # Errors
    /// [`Error::Shape`] if there are not as many values as labels need; [`Error::NonFinite`].
    pub fn new(shape: [usize; 3], values: Vec<f32>, labels: Vec<usize>) -> Result<Self> {
        let each: usize = shape.iter().product();
        if each == 0 || values.len() != each * labels.len() {
            let expected = format!("{} latents [C, h, w] in {} values", labels.len(), values.len());
            return Err(Error::shape("MemoryDataset::new", expected, &shape));
        }
        if !values.iter().all(|v| v.is_finite()) {
            return Err(Error::NonFinite { stage: "training data" });
        }
        Ok(Self { shape, values, labels })
    }
}

impl Dataset for MemoryDataset {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn item_shape(&self) -> [usize; 3] {
        self.shape
    }

    fn label(&self, index: usize) -> usize {
        self.labels[index]
    }

    fn read(&self, index: usize, _: &mut Philox, out: &mut Vec<f32>) -> Result<()> {
        let each: usize = self.shape.iter().product();
        out.extend_from_slice(&self.values[index * each..(index + 1) * each]);
        Ok(())
    }
}
