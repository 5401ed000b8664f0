//! Embeddings: rows of a table.

use super::array::{Output, Tensor};
use crate::backend::Backend;
use crate::{DType, Error, HostData, HostTensor, Result};

impl<B: Backend> Tensor<B> {
    /// Rows `ids` of the table `self` [V, D] → [n, D].
    pub fn embedding(&self, ids: &[usize]) -> Result<Self> {
        self.expect_float("embedding")?;
        let &[rows, d] = self.shape() else { return Err(Error::shape("embedding", "[V, D]", self.shape())) };
        let ids = self.ids(ids, rows)?;
        let table = self.contiguous()?;
        let mut out = Output::new(&self.backend, self.dtype, &[ids.numel(), d])?;
        self.backend.embedding(table.view(), ids.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }

    /// Gradient of the table [rows, D] of [`embedding`](Self::embedding) from dy = `self` [n, D].
    pub fn embedding_backward(&self, ids: &[usize], rows: usize) -> Result<Self> {
        self.expect_float("embedding_backward")?;
        let &[n, d] = self.shape() else {
            return Err(Error::shape("embedding_backward", "[n, D]", self.shape()));
        };
        if n != ids.len() {
            return Err(Error::shape("embedding_backward", format!("[{}, D]", ids.len()), self.shape()));
        }
        let ids = self.ids(ids, rows)?;
        let dy = self.contiguous()?;
        let mut out = Output::new(&self.backend, self.dtype, &[rows, d])?;
        self.backend.embedding_backward(ids.view(), dy.view(), out.view())?;
        Ok(out.finish(&self.backend))
    }

    fn ids(&self, ids: &[usize], rows: usize) -> Result<Self> {
        if let Some(bad) = ids.iter().find(|&&id| id >= rows) {
            return Err(Error::argument("class", format!("a number in 0..{rows}"), bad));
        }
        let data = HostData::I32(ids.iter().map(|&id| id as i32).collect());
        debug_assert_eq!(data.dtype(), DType::I32);
        Self::from_host(&self.backend, &HostTensor::new(&[ids.len()], data)?)
    }
}
