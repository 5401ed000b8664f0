//! Initial values of parameters.

use crate::autograd::Param;
use crate::rng::{Purpose, StreamKey};
use crate::{Backend, DType, HostData, HostTensor, Result, Tensor};

/// Initialiser of parameters: random values for training from scratch, or placeholders with a shape and no memory, for
/// weights to be loaded. Each parameter has a random stream, numbered in the order of creation.
#[derive(Debug)]
pub struct Init<B: Backend> {
    backend: B,
    dtype: DType,
    seed: Option<u64>,
    made: u32,
}

impl<B: Backend> Init<B> {
    /// Random initial values.
    pub fn random(backend: &B, dtype: DType, seed: u64) -> Self {
        Self { backend: backend.clone(), dtype, seed: Some(seed), made: 0 }
    }

    /// Placeholders.
    pub fn placeholder(backend: &B, dtype: DType) -> Self {
        Self { backend: backend.clone(), dtype, seed: None, made: 0 }
    }

    fn make(
        &mut self,
        shape: &[usize],
        values: impl FnOnce(StreamKey, usize) -> Vec<f32>,
    ) -> Result<Tensor<B>> {
        let index = self.made;
        self.made += 1;
        let Some(seed) = self.seed else {
            return Tensor::zeros(&self.backend, &vec![1; shape.len()], self.dtype)?.broadcast_to(shape);
        };
        let key = StreamKey::new(seed, Purpose::Initialisation, index, 0);
        let data = HostData::F32(values(key, shape.iter().product())).cast(self.dtype)?;
        Tensor::from_host(&self.backend, &HostTensor::new(shape, data)?)
    }

    /// N(0, std²).
    pub fn normal(&mut self, shape: &[usize], std: f32) -> Result<Param<B>> {
        let draw = |key: StreamKey, n| key.normals(n).into_iter().map(|x| x * std).collect();
        Ok(Param::new(self.make(shape, draw)?))
    }

    /// Every element `value`.
    pub fn constant(&mut self, shape: &[usize], value: f32) -> Result<Param<B>> {
        Ok(Param::new(self.make(shape, |_, n| vec![value; n])?))
    }

    /// A weight [outputs, inputs], Xavier-uniform: within ±√(6 / (inputs + outputs)).
    pub fn xavier(&mut self, outputs: usize, inputs: usize) -> Result<Param<B>> {
        self.uniform(&[outputs, inputs], (6.0 / (inputs + outputs) as f64).sqrt())
    }

    /// A weight [outputs, inputs, ..], uniform within ±`bound`.
    pub fn uniform(&mut self, shape: &[usize], bound: f64) -> Result<Param<B>> {
        let draw = |key: StreamKey, n| {
            let mut stream = key.stream();
            (0..n).map(|_| (bound * (2.0 * stream.uniform() - 1.0)) as f32).collect()
        };
        Param::weight(&self.make(shape, draw)?)
    }

    /// A weight [outputs, inputs] of zeros.
    pub fn zero_weight(&mut self, outputs: usize, inputs: usize) -> Result<Param<B>> {
        Param::weight(&self.make(&[outputs, inputs], |_, n| vec![0.0; n])?)
    }
}
