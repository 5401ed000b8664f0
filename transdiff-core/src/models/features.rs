//! Semantic features: truncated, spliced and compared.

use crate::autograd::Var;
use crate::backend::UnaryOp;
use crate::{Backend, Error, Result, Tensor};

/// Semantic features of images, [B, n, D], before their positions are added. Feature i of an image stands at
/// position i, whether it was computed for that position or spliced in.
#[derive(Clone, Debug)]
pub struct Features<B: Backend>(Tensor<B>);

/// Similarity of the features of an image; smaller is more diverse (paper, Appendix D).
///
/// Rows are L2-normalised, M = F Fᵀ, and both numbers are over the off-diagonal entries of M. The paper's
/// formula names a norm whose normalisation it does not give; the root mean square is the closer reading.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Diversity {
    /// √(mean M²).
    pub root_mean_square: f64,
    /// mean M.
    pub mean: f64,
}

impl<B: Backend> Features<B> {
    /// Features from a tensor [B, n, D].
    ///
    /// # Errors
    /// [`Error::Shape`] for a tensor of another rank or without features.
    pub fn new(tokens: Tensor<B>) -> Result<Self> {
        match tokens.shape() {
            [_, n, _] if *n > 0 => Ok(Self(tokens)),
            other => Err(Error::shape("Features::new", "[B, n, D] with n ≥ 1", other)),
        }
    }

    /// The tensor [B, n, D].
    pub fn tensor(&self) -> &Tensor<B> {
        &self.0
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.0.dim(0)
    }

    /// Number of features per image.
    pub fn count(&self) -> usize {
        self.0.dim(1)
    }

    /// Truncates to the first `k` features of every image.
    ///
    /// # Errors
    /// [`Error::Argument`] if `k` is 0 or exceeds the number of features.
    pub fn truncate(&self, k: usize) -> Result<Self> {
        if k == 0 || k > self.count() {
            return Err(Error::argument("k", format!("a number in 1..={}", self.count()), k));
        }
        Ok(Self(self.0.narrow(1, 0, k)?))
    }

    /// Splices the first `k` features of every image of `self` with those of `other` from `k` on.
    ///
    /// # Errors
    /// [`Error::Argument`] if `k` exceeds the number of features; [`Error::Shape`] if the shapes differ.
    pub fn splice(&self, other: &Self, k: usize) -> Result<Self> {
        if k > self.count() {
            return Err(Error::argument("k", format!("a number in 0..={}", self.count()), k));
        }
        if self.0.shape() != other.0.shape() {
            return Err(Error::shape("splice", format!("{:?}", self.0.shape()), other.0.shape()));
        }
        let rest = other.0.narrow(1, k, self.count() - k)?;
        Ok(Self(Tensor::cat(&[&self.0.narrow(1, 0, k)?, &rest], 1)?))
    }

    /// Concatenates the features of each image with those of `other`.
    pub fn concat(&self, other: &Self) -> Result<Self> {
        Ok(Self(Tensor::cat(&[&self.0, &other.0], 1)?))
    }

    /// Features of the images `start..start + len`.
    pub fn narrow_images(&self, start: usize, len: usize) -> Result<Self> {
        Ok(Self(self.0.narrow(0, start, len)?))
    }

    /// Diversity of each image's features.
    ///
    /// # Errors
    /// [`Error::Argument`] if there is only one feature.
    pub fn diversity(&self) -> Result<Vec<Diversity>> {
        let n = self.count();
        if n < 2 {
            return Err(Error::argument("features", "at least two", n));
        }
        let rows = normalised(&Var::from(self.0.clone()))?.into_value();
        let cosines = rows.matmul(&rows.transpose()?)?.to_f64()?;
        let pairs = (n * (n - 1)) as f64;
        let image = |m: &[f64]| {
            let off = || m.iter().enumerate().filter(|(i, _)| i / n != i % n).map(|(_, &x)| x);
            Diversity {
                root_mean_square: (off().map(|x| x * x).sum::<f64>() / pairs).sqrt(),
                mean: off().sum::<f64>() / pairs,
            }
        };
        Ok(cosines.chunks(n * n).map(image).collect())
    }
}

/// Rows of length 1, in the accumulator's type.
fn normalised<B: Backend>(h: &Var<B>) -> Result<Var<B>> {
    let h = h.cast(h.value().dtype().accumulator())?;
    // The smallest addend that keeps a row of zeros finite in f32.
    const TINY: f64 = 1e-24;
    let squares = h.unary(UnaryOp::Square)?.sum(&[2])?.affine(1.0, TINY)?;
    h.mul(&squares.unary(UnaryOp::Rsqrt)?)
}

/// Mean of the cosines of all pairs of an image's features, the diagonal included, and over images: the
/// diversity term of the training loss. h [B, n, D] → [].
///
/// The mean over pairs of f_i·f_j is the squared length of the mean of the f_i, so no matrix is formed.
pub fn cosine_mean<B: Backend>(h: &Var<B>) -> Result<Var<B>> {
    let &[b, n, _] = h.shape() else { return Err(Error::shape("cosine_mean", "[B, n, D]", h.shape())) };
    let centre = normalised(h)?.sum(&[1])?.affine(1.0 / n as f64, 0.0)?;
    let squares = centre.unary(UnaryOp::Square)?.sum(&[0, 1, 2])?;
    squares.affine(1.0 / b as f64, 0.0)?.reshape(&[])
}
