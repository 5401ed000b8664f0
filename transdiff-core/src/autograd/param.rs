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
    /// Copy of the value in a narrower type, that of training passes, whose accumulator's type is the value's. Optimisers write it
    /// too, so that steps need not cast.
    compute_copy: Arc<OnceLock<Tensor<B>>>,
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
            compute_copy: Arc::default(),
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
        self.compute_copy = Arc::default();
        &mut self.value
    }

    /// The tensor in the type `dtype`. A copy in a narrower type is used if there is one, and kept if `keep` is set.
    pub(super) fn in_type(&self, dtype: DType, keep: bool) -> Result<Tensor<B>> {
        if dtype == self.value.dtype() || dtype.accumulator() != self.value.dtype() {
            return self.value.cast(dtype);
        }
        if let Some(copy) = self.compute_copy.get().filter(|copy| copy.dtype() == dtype) {
            return Ok(copy.clone());
        }
        let copy = self.value.cast(dtype)?;
        Ok(if keep { self.compute_copy.get_or_init(|| copy).clone() } else { copy })
    }

    /// The tensor and its copy in a narrower type, if there is one: an optimiser writes both.
    pub(crate) fn values_mut(&mut self) -> (&mut Tensor<B>, Option<&mut Tensor<B>>) {
        (&mut self.value, Arc::make_mut(&mut self.compute_copy).get_mut())
    }

    /// Overwrites the elements in place, those of a copy in a narrower type too.
    pub(crate) fn assign(&mut self, value: &Tensor<B>) -> Result<()> {
        let (own, copy) = self.values_mut();
        own.assign(value)?;
        copy.map_or(Ok(()), |copy| copy.assign(&value.cast(copy.dtype())?))
    }

    /// Returns true if training changes the parameter.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }

    /// Sets whether training changes the parameter. That of a model with [quantised](Self::quantize) parameters is refused.
    pub fn set_trainable(&mut self, trainable: bool) {
        self.trainable = trainable;
        // Clones that are not trained keep no copy.
        self.compute_copy = Arc::default();
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

    fn param(value: f64) -> Param<Reference> {
        Param::new(Tensor::full(&Reference, &[2], value, DType::F32).unwrap())
    }

    fn copy_of(param: &Param<Reference>) -> Vec<f64> {
        param.in_type(DType::BF16, true).unwrap().to_f64().unwrap()
    }

    #[test]
    fn copies_follow_all_writes() {
        let mut param = param(1.0);
        let other = Tensor::full(&Reference, &[2], 2.0, DType::F32).unwrap();
        assert_eq!(copy_of(&param), [1.0; 2]);
        *param.value_mut() = other.clone();
        assert_eq!(copy_of(&param), [2.0; 2]);
        param.set(&other.affine(2.0, 0.0).unwrap()).unwrap();
        assert_eq!(copy_of(&param), [4.0; 2]);
        param.set_host(other.affine(4.0, 0.0).unwrap().to_host().unwrap()).unwrap();
        assert_eq!(copy_of(&param), [8.0; 2]);
        param.assign(&other).unwrap();
        assert_eq!((copy_of(&param), param.value().to_f64().unwrap()), (vec![2.0; 2], vec![2.0; 2]));
        let (value, copy) = param.values_mut();
        let copy = copy.unwrap();
        *value = value.affine(3.0, 0.0).unwrap();
        *copy = value.cast(copy.dtype()).unwrap();
        assert_eq!(copy_of(&param), [6.0; 2]);
    }

    #[test]
    fn copies_of_clones_diverge() {
        let first = param(1.0);
        let (mut second, third) = (first.clone(), first.clone());
        // Clones share a copy, whichever of them makes it.
        assert_eq!(copy_of(&first), [1.0; 2]);
        assert!(Arc::ptr_eq(&first.compute_copy, &second.compute_copy));
        second.assign(&Tensor::full(&Reference, &[2], 5.0, DType::F32).unwrap()).unwrap();
        assert_eq!([&first, &second, &third].map(copy_of), [[1.0; 2], [5.0; 2], [1.0; 2]]);
        let mut trained = first.clone();
        trained.set_trainable(true);
        assert!(trained.compute_copy.get().is_none() && first.compute_copy.get().is_some());
    }

    /// Wider types are cast each time, and so is what inference reads.
    #[test]
    fn copies_are_kept_for_training_alone() {
        let param = param(1.0);
        param.in_type(DType::F64, true).unwrap();
        param.in_type(DType::BF16, false).unwrap();
        assert!(param.compute_copy.get().is_none());
    }

    #[test]
    fn placeholders_take_no_memory_until_they_are_set() {
        let mut weight = Init::placeholder(&Reference, DType::F32).xavier(3, 2).unwrap();
        assert_eq!(weight.value().layout().strides(), [0, 0]);
        weight.set(&Tensor::full(&Reference, &[3, 2], 2.0, DType::F64).unwrap()).unwrap();
        assert_eq!((weight.value().dtype(), weight.value().layout().end()), (DType::F32, 6));
    }
}
