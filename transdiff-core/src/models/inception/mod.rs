//! The network that measures the quality of images: InceptionV3 (Szegedy et al. 2016) as the Fréchet Inception distance uses
//! it (Heusel et al. 2017), with the weights of `pt_inception-2015-12-05`, which are the user's to supply.
//!
//! It differs from other InceptionV3 networks: pooling leaves out padding, the last block has max pooling, there are 1008
//! classes, and images are enlarged with the coordinates of TensorFlow 1.
//!
//! Batch normalisations are folded into the convolutions as weights are read. Nothing is recorded on a tape.

mod blocks;
mod layers;
mod resize;
mod weights;

use std::path::Path;

use blocks::Block;
use layers::{ConvUnit, pool};
use weights::Weights;

use super::LoadHints;
use super::weight_sets::{self, Signature};
use crate::backend::{Activation, Pooling};
use crate::checkpoint::{WeightFile, WeightView};
use crate::{Backend, CancellationToken, DType, Error, Result, Tensor};

/// Names by which the network's tensors are recognised.
const SIGNATURE: Signature = Signature {
    description: "the InceptionV3 of the Fréchet Inception distance",
    anchor: "Conv2d_1a_3x3.",
    modules: &[
        "Conv2d_1a_3x3",
        "Conv2d_2a_3x3",
        "Conv2d_2b_3x3",
        "Conv2d_3b_1x1",
        "Conv2d_4a_3x3",
        "Mixed_5b",
        "Mixed_5c",
        "Mixed_5d",
        "Mixed_6a",
        "Mixed_6b",
        "Mixed_6c",
        "Mixed_6d",
        "Mixed_6e",
        "Mixed_7a",
        "Mixed_7b",
        "Mixed_7c",
        "fc",
    ],
};

/// The network, in f32.
#[derive(Clone, Debug)]
pub struct Inception<B: Backend> {
    backend: B,
    /// Convolutions before the first and between the two max poolings.
    stem: [Vec<ConvUnit<B>>; 2],
    /// Blocks before and after the features of 768 channels.
    blocks: [Vec<Block<B>>; 2],
    /// [1008, 2048].
    fc_weight: Tensor<B>,
    /// `[1008]`.
    fc_bias: Tensor<B>,
}

/// Results of the network for n images, in f32. Features are means over the pixels of a layer.
#[derive(Clone, Debug)]
pub struct InceptionOutputs<B: Backend> {
    /// After the first max pooling, [n, 64].
    pub features_64: Tensor<B>,
    /// After the second max pooling, [n, 192].
    pub features_192: Tensor<B>,
    /// Before the blocks of the lowest resolution, [n, 768].
    pub features_768: Tensor<B>,
    /// After the last block, [n, 2048]: the features of the Fréchet Inception distance.
    pub features_2048: Tensor<B>,
    /// Scores of the classes without the bias of the last layer, [n, 1008]: those of the Inception Score.
    pub logits_unbiased: Tensor<B>,
    /// Scores of the classes, [n, 1008].
    pub logits: Tensor<B>,
}

impl<B: Backend> Inception<B> {
    /// Number of the features that the Fréchet Inception distance compares.
    pub const FEATURES: usize = 2048;
    /// Number of classes.
    pub const CLASSES: usize = 1008;
    /// Side of the images that the network sees, in pixels.
    pub const SIDE: usize = 299;

    /// Loads the network from a file of either format.
    ///
    /// # Errors
    /// Those of [`WeightFile::open`] and [`find`](Self::find).
    pub fn load(backend: &B, path: impl AsRef<Path>) -> Result<Self> {
        Self::find(backend, &WeightFile::open(path)?)
    }

    /// Finds the network in a file: its names stand by themselves or under any key. Counters of batches and auxiliary
    /// classifiers, which are not used, may be in the file.
    ///
    /// # Errors
    /// [`Error::Format`] if the file holds none; [`Error::TensorNames`] and [`Error::Tensor`] if a tensor is missing, extra,
    /// of a wrong shape or type, or not finite, or if the variance of a batch normalisation is negative; [`Error::Io`] if the
    /// system cannot read it.
    pub fn find(backend: &B, file: &WeightFile) -> Result<Self> {
        let Some((_, tensors)) = weight_sets::choose(file, &SIGNATURE, &LoadHints::default())? else {
            return Err(weight_sets::not_found(file, &[SIGNATURE]));
        };
        let is_used = |name: &str| !name.ends_with(".num_batches_tracked") && !name.starts_with("AuxLogits.");
        Self::read(backend, &tensors.filtered(is_used))
    }

    fn read(backend: &B, tensors: &WeightView<'_>) -> Result<Self> {
        let mut expected = Weights::expected(backend);
        Self::build(&mut expected)?;
        tensors.check(expected.names())?;
        Self::build(&mut Weights::of(backend, tensors))
    }

    fn build(weights: &mut Weights<'_, B>) -> Result<Self> {
        let stem = [
            vec![
                ConvUnit::new(weights, "Conv2d_1a_3x3", [3, 32], 3, 2, 0)?,
                ConvUnit::new(weights, "Conv2d_2a_3x3", [32, 32], 3, 1, 0)?,
                ConvUnit::new(weights, "Conv2d_2b_3x3", [32, 64], 3, 1, 1)?,
            ],
            vec![
                ConvUnit::new(weights, "Conv2d_3b_1x1", [64, 80], 1, 1, 0)?,
                ConvUnit::new(weights, "Conv2d_4a_3x3", [80, 192], 3, 1, 0)?,
            ],
        ];
        let blocks = [
            vec![
                Block::a(weights, "Mixed_5b", 192, 32)?,
                Block::a(weights, "Mixed_5c", 256, 64)?,
                Block::a(weights, "Mixed_5d", 288, 64)?,
                Block::b(weights, "Mixed_6a", 288)?,
                Block::c(weights, "Mixed_6b", 768, 128)?,
                Block::c(weights, "Mixed_6c", 768, 160)?,
                Block::c(weights, "Mixed_6d", 768, 160)?,
                Block::c(weights, "Mixed_6e", 768, 192)?,
            ],
            vec![
                Block::d(weights, "Mixed_7a", 768)?,
                Block::e(weights, "Mixed_7b", 1280, Pooling::Average)?,
                Block::e(weights, "Mixed_7c", 2048, Pooling::Max)?,
            ],
        ];
        Ok(Self {
            backend: weights.backend().clone(),
            stem,
            blocks,
            fc_weight: weights.tensor("fc.weight", &[Self::CLASSES, Self::FEATURES])?,
            fc_bias: weights.tensor("fc.bias", &[Self::CLASSES])?,
        })
    }

    /// The device that holds the weights.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Features and scores of `pixels`, images [n, height, width, 3] of 8-bit RGB, which are resized to
    /// [`SIDE`](Self::SIDE). The results of an image do not depend on the others.
    ///
    /// # Errors
    /// [`Error::Argument`] unless there are n·height·width·3 bytes, with at least one pixel per image; [`Error::Cancelled`].
    pub fn forward(
        &self,
        pixels: &[u8],
        [height, width]: [usize; 2],
        token: &CancellationToken,
    ) -> Result<InceptionOutputs<B>> {
        let image_bytes = height * width * resize::CHANNELS;
        if image_bytes == 0 || !pixels.len().is_multiple_of(image_bytes) {
            let expected = format!("n·{height}·{width}·3 bytes, with at least one pixel");
            return Err(Error::argument("pixels", expected, format!("{} bytes", pixels.len())));
        }
        let shape = [pixels.len() / image_bytes, Self::SIDE, Self::SIDE, resize::CHANNELS];
        let images = pixels.chunks_exact(image_bytes);
        let enlarged =
            images.flat_map(|image| resize::bilinear(image, [height, width], Self::SIDE)).collect();
        let mut x = Tensor::from_f32(&self.backend, &shape, enlarged, DType::F32)?;
        let mut after_pooling = Vec::new();
        for units in &self.stem {
            for unit in units {
                token.check()?;
                x = unit.forward(&x)?;
            }
            x = pool(&x, Pooling::Max, 2, 0)?;
            after_pooling.push(mean_of_pixels(&x)?);
        }
        let mut after_blocks = Vec::new();
        for blocks in &self.blocks {
            for block in blocks {
                token.check()?;
                x = block.forward(&x)?;
            }
            after_blocks.push(mean_of_pixels(&x)?);
        }
        let [features_64, features_192] = after_pooling.try_into().expect("two parts of the stem");
        let [features_768, features_2048] = after_blocks.try_into().expect("two groups of blocks");
        let (logits_unbiased, _) = features_2048.linear(&self.fc_weight, None, Activation::None, false)?;
        let logits = logits_unbiased.add(&self.fc_bias)?;
        Ok(InceptionOutputs {
            features_64,
            features_192,
            features_768,
            features_2048,
            logits_unbiased,
            logits,
        })
    }
}

/// The mean over the pixels of x [n, H, W, C] → [n, C].
fn mean_of_pixels<B: Backend>(x: &Tensor<B>) -> Result<Tensor<B>> {
    let [n, height, width, channels] = [0, 1, 2, 3].map(|axis| x.dim(axis));
    let pixels = (height * width) as f64;
    x.sum(&[1, 2])?.reshape(&[n, channels])?.affine(1.0 / pixels, 0.0)
}
