//! The autoencoder's layers, on images [B, H, W, C].

use crate::autograd::Param;
use crate::nn::{Init, module};
use crate::tensor::{Attention, Conv, ScaleShift};
use crate::{Backend, Result, Tensor};

/// Number of groups of every group normalisation.
pub(super) const NORM_GROUPS: usize = 32;
/// Added to the variance in every group normalisation.
const NORM_EPS: f64 = 1e-6;

/// A convolution.
#[derive(Clone, Debug)]
pub(super) struct Conv2d<B: Backend> {
    weight: Param<B>,
    bias: Param<B>,
}

/// Sides of a convolution's result in relation to those of its input.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sides {
    /// Equal: half of the kernel is added on every side.
    Same,
    /// Doubled: every pixel is repeated 2×2, followed by [`Same`](Self::Same).
    Doubled,
    /// Halved: stride 2, with half of the kernel added on the right and below, and nothing on the left and above.
    Halved,
}

module!(Conv2d { "weight" => weight, "bias" => bias });

impl<B: Backend> Conv2d<B> {
    /// A kernel of `side`×`side`; weights uniform within ±1/√(inputs of an output), bias 0.
    pub(super) fn new(init: &mut Init<B>, inputs: usize, outputs: usize, side: usize) -> Result<Self> {
        let bound = ((inputs * side * side) as f64).powf(-0.5);
        let weight = init.uniform(&[outputs, inputs, side, side], bound)?;
        Ok(Self { weight, bias: init.constant(&[outputs], 0.0)? })
    }

    /// [B, H, W, inputs], after an optional scale and shift → [B, H, W, outputs].
    pub(super) fn forward(&self, x: &Tensor<B>, scale_shift: Option<&ScaleShift<B>>) -> Result<Tensor<B>> {
        self.convolve(x, &Conv { scale_shift, ..self.options(Sides::Same) })
    }

    /// As [`forward`](Self::forward), with `residual` added.
    pub(super) fn forward_onto(
        &self,
        x: &Tensor<B>,
        scale_shift: Option<&ScaleShift<B>>,
        residual: &Tensor<B>,
    ) -> Result<Tensor<B>> {
        self.convolve(x, &Conv { scale_shift, residual: Some(residual), ..self.options(Sides::Same) })
    }

    /// Convolution to other sides.
    pub(super) fn resample(&self, x: &Tensor<B>, sides: Sides) -> Result<Tensor<B>> {
        self.convolve(x, &self.options(sides))
    }

    fn convolve(&self, x: &Tensor<B>, how: &Conv<'_, B>) -> Result<Tensor<B>> {
        x.conv2d(self.weight.value(), self.bias.value(), how)
    }

    fn options(&self, sides: Sides) -> Conv<'static, B> {
        let half = self.weight.value().dim(2) / 2;
        let (stride, before) = match sides {
            Sides::Same | Sides::Doubled => (1, half),
            Sides::Halved => (2, 0),
        };
        let doubled = matches!(sides, Sides::Doubled);
        Conv { stride: [stride; 2], padding: [[before, half]; 2], doubled, ..Conv::default() }
    }
}

/// Group normalisation, applied by the convolution that follows.
#[derive(Clone, Debug)]
pub(super) struct GroupNorm<B: Backend> {
    weight: Param<B>,
    bias: Param<B>,
}

module!(GroupNorm { "weight" => weight, "bias" => bias });

impl<B: Backend> GroupNorm<B> {
    /// Weight 1, bias 0.
    pub(super) fn new(init: &mut Init<B>, channels: usize) -> Result<Self> {
        Ok(Self { weight: init.constant(&[channels], 1.0)?, bias: init.constant(&[channels], 0.0)? })
    }

    /// Scale and shift of each channel of x; x·sigmoid(x) follows if `silu`.
    pub(super) fn scale_shift(&self, x: &Tensor<B>, silu: bool) -> Result<ScaleShift<B>> {
        let (weight, bias) = (self.weight.value(), self.bias.value());
        Ok(ScaleShift { coefficients: x.group_norm(weight, bias, NORM_GROUPS, NORM_EPS)?, silu })
    }
}

/// conv2(silu(norm2(conv1(silu(norm1 x))))) + x, with x through a 1×1 convolution where the channels change.
#[derive(Clone, Debug)]
pub(super) struct ResBlock<B: Backend> {
    norm1: GroupNorm<B>,
    conv1: Conv2d<B>,
    norm2: GroupNorm<B>,
    conv2: Conv2d<B>,
    nin_shortcut: Option<Conv2d<B>>,
}

module!(ResBlock {
    "norm1" => norm1,
    "conv1" => conv1,
    "norm2" => norm2,
    "conv2" => conv2,
    "nin_shortcut" => nin_shortcut,
});

impl<B: Backend> ResBlock<B> {
    pub(super) fn new(init: &mut Init<B>, inputs: usize, outputs: usize) -> Result<Self> {
        let shortcut = inputs != outputs;
        Ok(Self {
            norm1: GroupNorm::new(init, inputs)?,
            conv1: Conv2d::new(init, inputs, outputs, 3)?,
            norm2: GroupNorm::new(init, outputs)?,
            conv2: Conv2d::new(init, outputs, outputs, 3)?,
            nin_shortcut: shortcut.then(|| Conv2d::new(init, inputs, outputs, 1)).transpose()?,
        })
    }

    /// [B, H, W, inputs] → [B, H, W, outputs].
    pub(super) fn forward(&self, x: &Tensor<B>) -> Result<Tensor<B>> {
        let h = self.conv1.forward(x, Some(&self.norm1.scale_shift(x, true)?))?;
        let scale_shift = self.norm2.scale_shift(&h, true)?;
        let shortcut = self.nin_shortcut.as_ref().map(|conv| conv.forward(x, None)).transpose()?;
        self.conv2.forward_onto(&h, Some(&scale_shift), shortcut.as_ref().unwrap_or(x))
    }
}

/// Attention of pixels to each other, with one head: x + proj_out(attention(q, k, v of norm x)).
#[derive(Clone, Debug)]
pub(super) struct AttnBlock<B: Backend> {
    norm: GroupNorm<B>,
    q: Conv2d<B>,
    k: Conv2d<B>,
    v: Conv2d<B>,
    proj_out: Conv2d<B>,
}

module!(AttnBlock { "norm" => norm, "q" => q, "k" => k, "v" => v, "proj_out" => proj_out });

impl<B: Backend> AttnBlock<B> {
    pub(super) fn new(init: &mut Init<B>, channels: usize) -> Result<Self> {
        let norm = GroupNorm::new(init, channels)?;
        let mut conv = || Conv2d::new(init, channels, channels, 1);
        Ok(Self { norm, q: conv()?, k: conv()?, v: conv()?, proj_out: conv()? })
    }

    /// [B, H, W, C] → [B, H, W, C].
    pub(super) fn forward(&self, x: &Tensor<B>) -> Result<Tensor<B>> {
        let scale_shift = self.norm.scale_shift(x, false)?;
        let tokens = [x.dim(0), x.dim(1) * x.dim(2), 1, x.dim(3)];
        let project = |conv: &Conv2d<B>| conv.forward(x, Some(&scale_shift))?.reshape(&tokens);
        let (q, k, v) = (project(&self.q)?, project(&self.k)?, project(&self.v)?);
        let (y, _) = q.attention(&k, &v, &Attention::default(), false)?;
        self.proj_out.forward_onto(&y.reshape(x.shape())?, None, x)
    }
}
