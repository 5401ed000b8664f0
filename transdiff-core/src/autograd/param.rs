//! Parameters.

use std::sync::{Arc, OnceLock};

use super::gradients::GradKey;
use crate::{Backend, DType, Error, HostTensor, Int8Weight, Result, Tensor};

/// Model parameter: a tensor, and the key of its gradient.
///
/// Clones share the tensor's memory and the key of its gradient; a write copies memory that is shared.
#[derive(Clone, Debug)]
pub struct Param<B: Backend> {
    key: GradKey,
    value: Tensor<B>,
    /// The value in the type that training computes in, if the value has its accumulator's: written by the optimiser, so that
    /// steps need not cast.
    cast: Arc<OnceLock<Tensor<B>>>,
    is_weight: bool,
    is_quantized: bool,
    trainable: bool,
}

impl<B: Backend> Param<B> {
    /// A trainable parameter.
    pub fn new(value: Tensor<B>) -> Self {
        Self {
            key: GradKey::unique(),
            value,
            cast: Arc::default(),
            is_weight: false,
            is_quantized: false,
            trainable: true,
        }
    }

    /// A trainable weight [outputs, inputs, ..] of a linear layer or a convolution, kept in the form that products of
    /// the backend read fastest; see [`Storage::prepare_weight`](crate::backend::Storage::prepare_weight).
    pub fn weight(value: &Tensor<B>) -> Result<Self> {
        Ok(Self { is_weight: true, ..Self::new(value.prepared_weight()?) })
    }

    /// Makes a weight of a linear layer take values as 8-bit integers from now on: see [`set_int8`](Self::set_int8).
    ///
    /// Other parameters stay as they are.
    pub fn quantize(&mut self) {
        self.is_quantized = self.is_weight && self.value.shape().len() == 2;
        self.trainable &= !self.is_quantized;
    }

    /// Returns true if the parameter takes values as 8-bit integers.
    pub fn is_quantized(&self) -> bool {
        self.is_quantized
    }

    /// Key of the parameter's gradient.
    pub fn key(&self) -> GradKey {
        self.key
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor<B> {
        &self.value
    }

    /// The tensor, for writing.
    pub fn value_mut(&mut self) -> &mut Tensor<B> {
        self.cast = Arc::default();
        &mut self.value
    }

    /// The tensor in the type `dtype`. One whose accumulator's the value has is kept for the next time.
    pub(super) fn in_type(&self, dtype: DType) -> Result<Tensor<B>> {
        if dtype == self.value.dtype() || dtype.accumulator() != self.value.dtype() {
            return self.value.cast(dtype);
        }
        match self.cast.get() {
            Some(cast) => Ok(cast.clone()),
            None => {
                let cast = self.value.cast(dtype)?;
                Ok(self.cast.get_or_init(|| cast).clone())
            }
        }
    }

    /// The tensor, and the one that is kept in another type: an optimiser writes both.
    pub(crate) fn values_mut(&mut self) -> (&mut Tensor<B>, Option<&mut Tensor<B>>) {
        (&mut self.value, Arc::make_mut(&mut self.cast).get_mut())
    }

    /// Returns true if training changes the parameter.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }

    /// Sets whether training changes the parameter. That of a model with [quantised](Self::quantize) parameters is refused.
    pub fn set_trainable(&mut self, trainable: bool) {
        self.trainable = trainable;
    }

    /// Assigns a tensor of the same shape, cast to the type of the parameter, which is no longer quantised then.
    pub fn set(&mut self, value: &Tensor<B>) -> Result<()> {
        if value.shape() != self.value.shape() {
            return Err(Error::shape("Param::set", format!("{:?}", self.value.shape()), value.shape()));
        }
        let value = value.cast(self.value.dtype())?;
        self.is_quantized = false;
        *self.value_mut() = if self.is_weight { value.prepared_weight()? } else { value.contiguous()? };
        Ok(())
    }

    /// Assigns 8-bit integers with their scales. Products with them quantise their input, too.
    ///
    /// # Errors
    /// [`Error::Shape`] if the shape is another one; [`Error::Backend`] if the backend has no products of 8-bit integers, and
    /// [`Error::DType`] if it has none with the parameter's type; [`Error::OutOfMemory`].
    pub fn set_int8(&mut self, value: &Int8Weight) -> Result<()> {
        if value.shape() != *self.value.shape() {
            return Err(Error::shape("Param::set_int8", format!("{:?}", self.value.shape()), &value.shape()));
        }
        *self.value_mut() = Tensor::quantized_weight(self.value.backend(), value, self.value.dtype())?;
        Ok(())
    }

    /// Assigns a tensor in host memory, which is quantised if the parameter [is](Self::quantize).
    pub fn set_host(&mut self, value: HostTensor) -> Result<()> {
        if self.is_quantized {
            return self.set_int8(&Int8Weight::quantize(&value)?);
        }
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
