//! Weights of the network: their names and shapes, or their values in a file.

use crate::checkpoint::WeightView;
use crate::{Backend, DType, Error, Result, Tensor};

/// Added to the variance in every batch normalisation.
const NORM_EPS: f64 = 1e-3;

/// Source of the weights while the network is built.
pub(super) struct Weights<'a, B: Backend> {
    backend: &'a B,
    /// Tensors of a file; without it, weights have shapes and no values.
    tensors: Option<&'a WeightView<'a>>,
    /// Names and shapes of the tensors so far.
    names: Vec<(String, Vec<usize>)>,
}

impl<'a, B: Backend> Weights<'a, B> {
    /// Collects what a file must hold.
    pub fn expected(backend: &'a B) -> Self {
        Self { backend, tensors: None, names: Vec::new() }
    }

    /// Weights of a file, whose names and shapes have been checked.
    pub fn of(backend: &'a B, tensors: &'a WeightView<'a>) -> Self {
        Self { backend, tensors: Some(tensors), names: Vec::new() }
    }

    pub fn backend(&self) -> &'a B {
        self.backend
    }

    /// Name and shape of every tensor that was asked for.
    pub fn names(&self) -> &[(String, Vec<usize>)] {
        &self.names
    }

    /// A tensor as the file holds it.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor<B>> {
        self.names.push((name.to_owned(), shape.to_vec()));
        match self.tensors {
            Some(tensors) => Tensor::from_host(self.backend, &tensors.tensor_as(name, DType::F32)?),
            None => self.placeholder(shape),
        }
    }

    /// Weight [O, C, K, L], [K, L, C, O] in memory, and bias `[O]` of a convolution without bias that a batch normalisation
    /// follows: γ(w·x − mean)/√(variance + ε) + β.
    pub fn folded(&mut self, name: &str, shape: [usize; 4]) -> Result<(Tensor<B>, Tensor<B>)> {
        let outputs = shape[0];
        let mut part = |part: &str, shape: &[usize]| {
            let name = format!("{name}.{part}");
            let values = self.tensors.map(|tensors| tensors.tensor(&name).map(|host| host.to_f64()));
            self.names.push((name, shape.to_vec()));
            values.transpose()
        };
        let parts = [
            part("conv.weight", &shape)?,
            part("bn.weight", &[outputs])?,
            part("bn.bias", &[outputs])?,
            part("bn.running_mean", &[outputs])?,
            part("bn.running_var", &[outputs])?,
        ];
        let [Some(weight), Some(gamma), Some(beta), Some(mean), Some(variance)] = parts else {
            return Ok((self.placeholder(&shape)?, self.placeholder(&[outputs])?));
        };
        if let Some(&variance) = variance.iter().find(|&&variance| variance < 0.0) {
            return Err(self.negative(&format!("{name}.bn.running_var"), variance));
        }
        let scale: Vec<f64> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + NORM_EPS).sqrt()).collect();
        let bias = beta.iter().zip(&mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
        let inputs = shape[1..].iter().product::<usize>();
        // From [O, inputs] to [inputs, O], then from [C, K, L, O].
        let folded = (0..inputs).flat_map(|i| (0..outputs).map(move |o| (i, o)));
        let folded = folded.map(|(i, o)| (weight[o * inputs + i] * scale[o]) as f32).collect();
        let [o, c, k, l] = shape;
        let weight = Tensor::from_f32(self.backend, &[c, k, l, o], folded, DType::F32)?;
        let weight = weight.permute(&[1, 2, 0, 3])?.contiguous()?.permute(&[3, 2, 0, 1])?;
        Ok((weight, Tensor::from_f64(self.backend, &[outputs], bias, DType::F32)?))
    }

    /// A tensor with a shape and no memory.
    fn placeholder(&self, shape: &[usize]) -> Result<Tensor<B>> {
        Tensor::zeros(self.backend, &vec![1; shape.len()], DType::F32)?.broadcast_to(shape)
    }

    fn negative(&self, name: &str, got: f64) -> Error {
        let path = self.tensors.map(|tensors| tensors.file().path().to_owned()).unwrap_or_default();
        let expected = "variances of at least 0".to_owned();
        Error::Tensor { path, tensor: name.to_owned(), expected, got: got.to_string() }
    }
}
