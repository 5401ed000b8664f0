//! Parameters.

use super::gradients::GradKey;
use crate::{Backend, Error, HostTensor, Result, Tensor};

/// Model parameter: a tensor, and the key of its gradient.
///
/// Clones share the tensor's memory and the key of its gradient; a write copies memory that is shared.
#[derive(Clone, Debug)]
pub struct Param<B: Backend> {
    key: GradKey,
    value: Tensor<B>,
    is_weight: bool,
    trainable: bool,
}

impl<B: Backend> Param<B> {
    /// A trainable parameter.
    pub fn new(value: Tensor<B>) -> Self {
        Self { key: GradKey::unique(), value, is_weight: false, trainable: true }
    }

    /// A trainable weight [outputs, inputs, ..] of a linear layer or a convolution, kept in the form that products of
    /// the backend read fastest; see [`Storage::prepare_weight`](crate::backend::Storage::prepare_weight).
    pub fn weight(value: &Tensor<B>) -> Result<Self> {
        Ok(Self { is_weight: true, ..Self::new(value.prepared_weight()?) })
    }

    /// Key of the parameter's gradient.
    pub fn key(&self) -> GradKey {
        self.key
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor<B> {
        &self.value
    }

    /// The tensor, for the steps of an optimiser.
    pub fn value_mut(&mut self) -> &mut Tensor<B> {
        &mut self.value
    }

    /// Returns true if training changes the parameter.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }

    /// Sets whether training changes the parameter.
    pub fn set_trainable(&mut self, trainable: bool) {
        self.trainable = trainable;
    }

    /// Assigns a tensor of the same shape, cast to the type of the parameter.
    pub fn set(&mut self, value: &Tensor<B>) -> Result<()> {
        if value.shape() != self.value.shape() {
            return Err(Error::shape("Param::set", format!("{:?}", self.value.shape()), value.shape()));
        }
        let value = value.cast(self.value.dtype())?;
        self.value = if self.is_weight { value.prepared_weight()? } else { value.contiguous()? };
        Ok(())
    }

    /// Assigns a tensor in host memory.
    pub fn set_host(&mut self, value: HostTensor) -> Result<()> {
        let value = value.cast(self.value.dtype())?;
        self.set(&Tensor::from_host(self.value.backend(), &value)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;
    use crate::nn::Init;
    use crate::reference::Reference;

    #[test]
    fn weights_keep_their_elements_and_their_form() {
        let values: Vec<f64> = (0..24).map(f64::from).collect();
        let tensor = |values: &[f64]| {
            Tensor::from_f64(&Reference, &[2, 3, 2, 2], values.to_vec(), DType::F32).unwrap()
        };
        let mut weight = Param::weight(&tensor(&values)).unwrap();
        assert_eq!(weight.value().shape(), [2, 3, 2, 2]);
        assert_eq!(weight.value().to_f64().unwrap(), values);
        let strides = weight.value().layout().strides().to_vec();
        let other: Vec<f64> = values.iter().map(|v| v + 0.5).collect();
        weight.set(&tensor(&other)).unwrap();
        assert_eq!(weight.value().to_f64().unwrap(), other);
        assert_eq!(weight.value().layout().strides(), strides);
    }

    #[test]
    fn placeholders_take_no_memory_until_they_are_set() {
        let mut weight = Init::placeholder(&Reference, DType::F32).xavier(3, 2).unwrap();
        assert_eq!(weight.value().layout().strides(), [0, 0]);
        weight.set(&Tensor::full(&Reference, &[3, 2], 2.0, DType::F64).unwrap()).unwrap();
        assert_eq!((weight.value().dtype(), weight.value().layout().end()), (DType::F32, 6));
    }
}
