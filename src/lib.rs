//! TransDiff image generation as an embeddable library.

pub use transdiff_core::model::TransDiff;
pub use transdiff_core::{
    Backend, DType, Error, HostData, HostTensor, Layout, Result, Tensor, autograd, backend, data, model, nn,
    reference, rng, sampler, train, weights,
};
pub use transdiff_cpu::Cpu;
