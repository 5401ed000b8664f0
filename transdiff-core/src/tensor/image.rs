//! Operations on images [B, H, W, C], for inference: they have no backward pass.

use super::array::{Output, Tensor};
use crate::backend::{Backend, ConvArgs, Resample};
use crate::{Error, Result};

/// Scale and shift of a convolution's input, followed by an optional SiLU; see [`ConvArgs::scale_shift`].
#[derive(Clone, Debug)]
pub struct ScaleShift<B: Backend> {
    /// Scale and shift per image and channel, [B, 2, C], in the [accumulator's](crate::DType::accumulator) type.
    pub coefficients: Tensor<B>,
    /// Applies SiLU, x·sigmoid(x), afterwards.
    pub silu: bool,
}

/// Options of a convolution.
#[derive(Clone, Debug)]
pub struct Conv<'a, B: Backend> {
    /// Sides of the result.
    pub resample: Resample,
    /// Applied to the input.
    pub scale_shift: Option<&'a ScaleShift<B>>,
    /// Added to the result; of its shape.
    pub residual: Option<&'a Tensor<B>>,
}

impl<B: Backend> Default for Conv<'_, B> {
    /// A plain convolution that keeps the sides.
    fn default() -> Self {
        Self { resample: Resample::Same, scale_shift: None, residual: None }
    }
}

/// Kernel sizes that backends support.
const KERNELS: [usize; 2] = [1, 3];

impl<B: Backend> Tensor<B> {
    /// Group normalisation of `self` [B, H, W, C] as a scale and shift per image and channel, [B, 2, C]; see
    /// [`ImageOps::group_norm`](crate::backend::ImageOps::group_norm). weight, bias `[C]`.
    ///
    /// # Errors
    /// [`Error::Shape`] for other shapes or without a pixel, [`Error::DType`], [`Error::Argument`] unless `groups`
    /// divides C.
    pub fn group_norm(&self, weight: &Self, bias: &Self, groups: usize, eps: f64) -> Result<Self> {
        const OP: &str = "group_norm";
        self.expect_float(OP)?;
        let &[b, h, w, c] = self.shape() else { return Err(Error::shape(OP, "[B, H, W, C]", self.shape())) };
        if h * w == 0 {
            return Err(Error::shape(OP, "at least one pixel", self.shape()));
        }
        if groups == 0 || !c.is_multiple_of(groups) {
            return Err(Error::argument("groups", format!("a divisor of {c} channels"), groups));
        }
        for vector in [weight, bias] {
            self.expect_dtype(OP, vector)?;
            vector.expect_shape(OP, "weight and bias", &[c])?;
        }
        let (x, weight, bias) = (self.contiguous()?, weight.contiguous()?, bias.contiguous()?);
        let mut scale_shift = Output::new(&self.backend, self.dtype.accumulator(), &[b, 2, c])?;
        self.backend.group_norm(x.view(), (weight.view(), bias.view()), groups, eps, scale_shift.view())?;
        Ok(scale_shift.finish(&self.backend))
    }

    /// The convolution of `self` [B, H, W, C] with w [O, C, K, K] and b `[O]` → [B, H', W', O]; K is 1 or 3.
    /// Avoids a copy if the weight is [K, K, C, O] in memory.
    ///
    /// # Errors
    /// [`Error::Shape`] for shapes that do not fit together, or odd sides that are to be halved; [`Error::DType`].
    pub fn conv2d(&self, w: &Self, b: &Self, how: &Conv<'_, B>) -> Result<Self> {
        const OP: &str = "conv2d";
        self.expect_float(OP)?;
        let coefficients = how.scale_shift.map(|s| &s.coefficients);
        for other in [Some(w), Some(b), how.residual].into_iter().flatten() {
            self.expect_dtype(OP, other)?;
        }
        if let Some(coefficients) = coefficients {
            self.expect_saved(OP, coefficients)?;
        }
        let shape = self.convolved_shape(w, how.resample)?;
        b.expect_shape(OP, "a bias", &[shape[3]])?;
        if let Some(coefficients) = coefficients {
            coefficients.expect_shape(OP, "scale and shift", &[shape[0], 2, self.dim(3)])?;
        }
        if let Some(residual) = how.residual {
            residual.expect_shape(OP, "a residual", &shape)?;
        }
        let (x, w, b) = (self.contiguous()?, w.permute(&[2, 3, 1, 0])?.contiguous()?, b.contiguous()?);
        let coefficients = coefficients.map(Self::contiguous).transpose()?;
        let residual = how.residual.map(Self::contiguous).transpose()?;
        let mut y = Output::new(&self.backend, self.dtype, &shape)?;
        let args = ConvArgs {
            x: x.view(),
            w: w.view(),
            b: b.view(),
            scale_shift: coefficients.as_ref().map(Self::view).zip(how.scale_shift.map(|s| s.silu)),
            residual: residual.as_ref().map(Self::view),
            resample: how.resample,
        };
        self.backend.conv2d(args, y.view())?;
        Ok(y.finish(&self.backend))
    }

    /// Shape of the convolution of `self` with w.
    fn convolved_shape(&self, w: &Self, resample: Resample) -> Result<[usize; 4]> {
        const OP: &str = "conv2d";
        let &[b, height, width, c] = self.shape() else {
            return Err(Error::shape(OP, "[B, H, W, C]", self.shape()));
        };
        let o = match w.shape() {
            &[o, inputs, k, l] if inputs == c && k == l && KERNELS.contains(&k) => o,
            _ => return Err(Error::shape(OP, format!("a weight [O, {c}, K, K] with K 1 or 3"), w.shape())),
        };
        let side = |n: usize| match resample {
            Resample::Same => Some(n),
            // No overflow: a tensor has far fewer elements than usize::MAX.
            Resample::Double => Some(2 * n),
            Resample::Halve => n.is_multiple_of(2).then_some(n / 2),
        };
        match (side(height), side(width)) {
            (Some(height), Some(width)) => Ok([b, height, width, o]),
            _ => Err(Error::shape(OP, "even sides, which are halved", self.shape())),
        }
    }
}
