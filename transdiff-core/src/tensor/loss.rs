//! Mean squared error.

use super::array::{Output, Tensor};
use crate::backend::Backend;
use crate::{Error, Result};

impl<B: Backend> Tensor<B> {
    /// mean (self − target)², of shape [].
    pub fn mse(&self, target: &Self) -> Result<Self> {
        self.expect_float("mse")?;
        self.expect_dtype("mse", target)?;
        target.expect_shape("mse", "a target", self.shape())?;
        if self.numel() == 0 {
            return Err(Error::shape("mse", "at least one element", self.shape()));
        }
        let (a, b) = (self.contiguous()?, target.contiguous()?);
        let mut out = Output::new(&self.backend, self.dtype, &[])?;
        self.backend.mse(a.view(), b.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }

    /// Gradient of [`mse`](Self::mse) for `self`, from the gradient of the loss (shape []).
    pub fn mse_backward(&self, target: &Self, dloss: &Self) -> Result<Self> {
        self.expect_float("mse_backward")?;
        self.expect_dtype("mse_backward", target)?;
        self.expect_dtype("mse_backward", dloss)?;
        dloss.expect_shape("mse_backward", "dloss", &[])?;
        target.expect_shape("mse_backward", "a target", self.shape())?;
        let (a, b) = (self.contiguous()?, target.contiguous()?);
        let mut out = Output::new(&self.backend, self.dtype, self.shape())?;
        self.backend.mse_backward(a.view(), b.view(), dloss.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }
}
