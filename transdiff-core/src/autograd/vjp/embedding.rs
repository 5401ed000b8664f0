//! Embeddings: rows of a table.

use crate::autograd::gradients::Gradients;
use crate::autograd::tape::{Inputs, Vjp};
use crate::autograd::var::{Var, record};
use crate::{Backend, Result, Tensor};

struct Embedding {
    ids: Vec<usize>,
    rows: usize,
}

impl<B: Backend> Vjp<B> for Embedding {
    fn backward(
        self: Box<Self>,
        dy: Tensor<B>,
        _: &mut Inputs<'_, B>,
        _: &mut Gradients<B>,
    ) -> Result<Vec<Option<Tensor<B>>>> {
        Ok(vec![Some(dy.embedding_backward(&self.ids, self.rows)?)])
    }
}

impl<B: Backend> Var<B> {
    /// Rows `ids` of the table `self` [V, D] → [n, D].
    pub fn embedding(&self, ids: &[usize]) -> Result<Self> {
        record(self.value().embedding(ids)?, &[self], || Embedding { ids: ids.to_vec(), rows: self.dim(0) })
    }
}
