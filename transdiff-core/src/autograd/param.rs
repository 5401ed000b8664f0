//! Parameters.

use super::GradKey;
use crate::{Backend, Error, HostTensor, Result, Tensor};

/// A tensor that training changes.
///
/// Clones share the tensor's memory and the key of its gradient; whoever writes writes to a copy.
#[derive(Clone, Debug)]
pub struct Param<B: Backend> {
    key: GradKey,
    value: Tensor<B>,
    column_major: bool,
    trainable: bool,
}

impl<B: Backend> Param<B> {
    /// A trainable parameter.
    pub fn new(value: Tensor<B>) -> Self {
        Self { key: GradKey::unique(), value, column_major: false, trainable: true }
    }

    /// A weight [outputs, inputs, ..] whose memory is kept as [.., inputs, outputs]: products with it read memory in
    /// the order that GEMM packs.
    pub fn column_major(value: Tensor<B>) -> Result<Self> {
        let value = to_column_major(&value)?;
        Ok(Self { column_major: true, ..Self::new(value) })
    }

    /// Key of the parameter's gradient.
    pub fn key(&self) -> GradKey {
        self.key
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor<B> {
        &self.value
    }

    /// The tensor, for an optimiser's step.
    pub fn value_mut(&mut self) -> &mut Tensor<B> {
        &mut self.value
    }

    /// Whether training changes the parameter.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }

    /// Freezes or thaws the parameter.
    pub fn set_trainable(&mut self, trainable: bool) {
        self.trainable = trainable;
    }

    /// Replaces the tensor by one of the same shape, in the type of the parameter.
    pub fn set(&mut self, value: &Tensor<B>) -> Result<()> {
        if value.shape() != self.value.shape() {
            return Err(Error::shape("Param::set", format!("{:?}", self.value.shape()), value.shape()));
        }
        let value = value.cast(self.value.dtype())?;
        self.value = if self.column_major { to_column_major(&value)? } else { value.contiguous()? };
        Ok(())
    }

    /// Replaces the tensor by one in host memory.
    pub fn set_host(&mut self, value: HostTensor) -> Result<()> {
        let value = value.cast(self.value.dtype())?;
        self.set(&Tensor::from_host(self.value.backend(), &value)?)
    }
}

/// A placeholder keeps its strides of 0: it has no memory to order.
fn to_column_major<B: Backend>(value: &Tensor<B>) -> Result<Tensor<B>> {
    if value.layout().strides().iter().zip(value.shape()).all(|(&stride, &size)| stride == 0 || size == 1) {
        return Ok(value.clone());
    }
    let rank = value.layout().rank();
    let inside_out: Vec<usize> = (2..rank).chain([1, 0]).collect();
    let mut back = vec![0; rank];
    inside_out.iter().enumerate().for_each(|(place, &axis)| back[axis] = place);
    value.permute(&inside_out)?.contiguous()?.permute(&back)
}
