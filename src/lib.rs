//! TransDiff image generation as a library: an autoregressive transformer turns a class, and earlier images, into
//! semantic features; a diffusion decoder turns features and noise into an image. There is no ML framework
//! underneath.
//!
//! Paper: "Marrying Autoregressive Transformer and Diffusion with Multi-Reference Autoregression",
//! arXiv 2506.09482.
//!
//! This crate is the facade of `transdiff-core`, which holds the architecture and the training mathematics once
//! for every [`Backend`], and of the backends.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use transdiff::models::transdiff::{Mode, Session, TransDiffConfig};
//! use transdiff::diffusion::{KeyedNoise, Preset, Progress, SamplingSettings};
//! use transdiff::{Cpu, DType, TransDiff};
//!
//! # fn main() -> transdiff::Result<()> {
//! let backend = Cpu::new(None)?; // one thread per core
//! let config = TransDiffConfig {
//!     width: 32,
//!     heads: 2,
//!     encoder_blocks: 2,
//!     decoder_blocks: 1,
//!     mlp_ratio: 4,
//!     classes: 10,
//!     buffer_size: 4,
//!     feature_tokens: 16,
//!     latent_channels: 4,
//!     latent_size: 4,
//!     mode: Mode::OneStep,
//!     distilled: false,
//! };
//! // Random weights; trained ones come from `TransDiff::load(&backend, "model.safetensors", DType::F32)`.
//! let model = TransDiff::new(&backend, &config, DType::F32, 0)?;
//!
//! let mut session = Session::new(&model);
//! let settings = SamplingSettings { guidance: vec![1.3], ..Preset::PLAIN.into() };
//! let sampling = settings.with_steps(5).build(1)?;
//! // Each image has a seed of its own and is the same alone and in any batch.
//! let mut noise = KeyedNoise::new(&backend, DType::F32, &[1, 2, 3]);
//! let mut progress = |p: &Progress<'_, Cpu>| {
//!     println!("{:.0} %", 100.0 * p.fraction());
//!     ControlFlow::Continue(()) // or Break, to cancel
//! };
//! let made = session.generate(&[7, 7, 2], &[], &sampling, &mut noise, &mut progress)?;
//! assert_eq!(made.codes.shape(), [3, 4, 4, 4]);
//!
//! // Half of the features of one image, half of another's.
//! let made = session.features(&[7, 2], &[])?;
//! let features = made.narrow_images(0, 1)?.splice(&made.narrow_images(1, 1)?, 8)?;
//! let mut noise = KeyedNoise::new(&backend, DType::F32, &[4]);
//! let mixed = session.decode(&features, &sampling, &mut noise, &mut progress)?;
//! assert_eq!(mixed.shape(), [1, 4, 4, 4]);
//! # Ok(())
//! # }
//! ```

mod device;
pub mod pipeline;

pub use device::{Device, DeviceTask, DistributedTask, OpenDevice};
pub use transdiff_core::models::transdiff::TransDiff;
pub use transdiff_core::{
    Backend, CancellationToken, DType, Error, HostData, HostTensor, Layout, Precision, Result, Tensor,
    autograd, backend, bf16, checkpoint, data, diffusion, distributed, layout, metering, models, nn,
    reference, rng, tensor, train,
};
pub use transdiff_cpu::Cpu;
#[cfg(feature = "cuda")]
pub use transdiff_cuda::{Cuda, Nccl, NcclLaunch, NcclRanks};
#[cfg(feature = "datasets")]
pub use transdiff_data as datasets;
#[cfg(feature = "metrics")]
pub use transdiff_metrics as metrics;
#[cfg(feature = "mpi")]
pub use transdiff_mpi as mpi;

/// Compiles the README's program.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
