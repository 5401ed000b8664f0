//! Layers of the network, on images [B, H, W, C].

use super::weights::Weights;
use crate::backend::{Pooling, Windows};
use crate::tensor::Conv;
use crate::{Backend, Result, Tensor};

/// Convolution with the batch normalisation that follows, and ReLU.
#[derive(Clone, Debug)]
pub(super) struct ConvUnit<B: Backend> {
    weight: Tensor<B>,
    bias: Tensor<B>,
    stride: usize,
    /// On both sides, of rows and of columns.
    padding: [usize; 2],
}

impl<B: Backend> ConvUnit<B> {
    /// A kernel of `side`×`side`, with `padding` on every side.
    pub fn new(
        weights: &mut Weights<'_, B>,
        name: &str,
        [inputs, outputs]: [usize; 2],
        side: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        let (weight, bias) = weights.folded(name, [outputs, inputs, side, side])?;
        Ok(Self { weight, bias, stride, padding: [padding; 2] })
    }

    /// A kernel of `height`×`width` with stride 1, padded such that the sides stay.
    pub fn same(
        weights: &mut Weights<'_, B>,
        name: &str,
        [inputs, outputs]: [usize; 2],
        [height, width]: [usize; 2],
    ) -> Result<Self> {
        let (weight, bias) = weights.folded(name, [outputs, inputs, height, width])?;
        Ok(Self { weight, bias, stride: 1, padding: [height / 2, width / 2] })
    }

    pub fn forward(&self, x: &Tensor<B>) -> Result<Tensor<B>> {
        let padding = self.padding.map(|padding| [padding; 2]);
        let how = Conv { stride: [self.stride; 2], padding, relu: true, ..Conv::default() };
        x.conv2d(&self.weight, &self.bias, &how)
    }
}

/// Pooling over windows of 3×3.
pub(super) fn pool<B: Backend>(
    x: &Tensor<B>,
    pooling: Pooling,
    stride: usize,
    padding: usize,
) -> Result<Tensor<B>> {
    x.pool2d(pooling, &Windows { kernel: [3; 2], stride: [stride; 2], padding: [[padding; 2]; 2] })
}
