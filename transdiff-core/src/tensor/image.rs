//! Operations on images [B, H, W, C], for inference: they have no backward pass.

use super::array::{Output, Tensor};
use crate::backend::{Backend, ConvArgs, Pooling, Windows};
use crate::{Error, Result};

/// Scale and shift of a convolution's input, followed by an optional SiLU; see [`ConvArgs::scale_shift`].
#[derive(Clone, Debug)]
pub struct ScaleShift<B: Backend> {
    /// Scale and shift per image and channel, [B, 2, C], in the [accumulator's](crate::DType::accumulator) type.
    pub coefficients: Tensor<B>,
    /// Applies SiLU, x·sigmoid(x), afterwards.
    pub silu: bool,
}

/// Options of a convolution. Pairs are of rows and columns.
#[derive(Clone, Debug)]
pub struct Conv<'a, B: Backend> {
    /// Pixels from one window of the input to the next, at least 1.
    pub stride: [usize; 2],
    /// Zeros added above and below, and on the left and the right.
    pub padding: [[usize; 2]; 2],
    /// Repeats every pixel of the input 2×2, before padding.
    pub doubled: bool,
    /// Applied to the input.
    pub scale_shift: Option<&'a ScaleShift<B>>,
    /// Added to the result; of its shape.
    pub residual: Option<&'a Tensor<B>>,
    /// Sets negative results to 0, at the end.
    pub relu: bool,
}

impl<B: Backend> Default for Conv<'_, B> {
    /// A plain convolution with stride 1 and without padding.
    fn default() -> Self {
        Self {
            stride: [1; 2],
            padding: [[0; 2]; 2],
            doubled: false,
            scale_shift: None,
            residual: None,
            relu: false,
        }
    }
}

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

    /// The convolution of `self` [B, H, W, C] with w [O, C, K, L] and b `[O]` → [B, H', W', O].
    /// Avoids a copy if the weight is [K, L, C, O] in memory.
    ///
    /// # Errors
    /// [`Error::Shape`] for shapes that do not fit together, or an image that is smaller than the kernel; [`Error::DType`];
    /// [`Error::Argument`] for a stride of 0.
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
        let channels = self.dim_of_images(OP)?;
        let &[outputs, _, height, width] = w.shape() else {
            return Err(Error::shape(OP, format!("a weight [O, {channels}, K, L]"), w.shape()));
        };
        w.expect_shape(OP, "a weight", &[outputs, channels, height, width])?;
        let windows = Windows { kernel: [height, width], stride: how.stride, padding: how.padding };
        let (windows, [images, rows, columns]) =
            self.windows(OP, windows, if how.doubled { 2 } else { 1 })?;
        let shape = [images, rows, columns, outputs];
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
            relu: how.relu,
            doubled: how.doubled,
            windows,
        };
        self.backend.conv2d(args, y.view())?;
        Ok(y.finish(&self.backend))
    }

    /// The largest value, or the average, of each window of `self` [B, H, W, C] → [B, H', W', C]. Pixels of the padding are not
    /// seen.
    ///
    /// # Errors
    /// [`Error::Shape`] for other shapes, or an image without pixels or smaller than the kernel; [`Error::DType`];
    /// [`Error::Argument`] for a stride of 0, or padding that is as large as the kernel.
    pub fn pool2d(&self, pooling: Pooling, windows: &Windows) -> Result<Self> {
        const OP: &str = "pool2d";
        self.expect_float(OP)?;
        let channels = self.dim_of_images(OP)?;
        for (kernel, padding) in windows.kernel.into_iter().zip(windows.padding) {
            if padding.iter().any(|&padding| padding >= kernel) {
                let got = format!("{padding:?}");
                return Err(Error::argument("padding", format!("less than the kernel's {kernel}"), got));
            }
        }
        let (windows, [images, rows, columns]) = self.windows(OP, *windows, 1)?;
        if [self.dim(1), self.dim(2)].contains(&0) {
            return Err(Error::shape(OP, "images with at least one pixel", self.shape()));
        }
        let x = self.contiguous()?;
        let mut y = Output::new(&self.backend, self.dtype, &[images, rows, columns, channels])?;
        self.backend.pool2d(x.view(), pooling, windows, y.view())?;
        Ok(y.finish(&self.backend))
    }

    /// Number of channels of images [B, H, W, C].
    fn dim_of_images(&self, op: &'static str) -> Result<usize> {
        match self.shape() {
            &[_, _, _, channels] => Ok(channels),
            shape => Err(Error::shape(op, "[B, H, W, C]", shape)),
        }
    }

    /// Number of images, and of windows along their rows and columns, whose sides are enlarged `scale` times. Of the windows
    /// that are returned, no stride is longer than a side with its padding.
    fn windows(&self, op: &'static str, mut windows: Windows, scale: usize) -> Result<(Windows, [usize; 3])> {
        for (name, sizes) in [("kernel", windows.kernel), ("stride", windows.stride)] {
            if sizes.contains(&0) {
                return Err(Error::argument(name, "at least 1", format!("{sizes:?}")));
            }
        }
        // No overflow: a tensor has far fewer elements than usize::MAX.
        let count = |axis: usize| windows.count(axis, scale * self.dim(axis + 1));
        match (count(0), count(1)) {
            (Some(rows), Some(columns)) => {
                for (axis, stride) in windows.stride.iter_mut().enumerate() {
                    let padding = windows.padding[axis].iter().sum::<usize>();
                    // A single window has no next one.
                    *stride = (*stride).min(scale * self.dim(axis + 1) + padding);
                }
                Ok((windows, [self.dim(0), rows, columns]))
            }
            _ => {
                let [height, width] = windows.kernel;
                Err(Error::shape(op, format!("images that hold a window of {height}×{width}"), self.shape()))
            }
        }
    }
}
