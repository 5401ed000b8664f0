//! From noise to codes: integrating a velocity field.
//!
//! A [`Sampler`] takes a [`SolverState`] from t = 1 to t = 0 along a [`VelocityField`], one step at a time. Guidance is
//! a field around a field ([`GuidedField`]), noise comes from a [`NoiseSource`], and an [`Observer`] sees every step and may
//! stop it. Scalar coefficients are computed in f64 on the host; tensors are only scaled and added. Axis
//! 0 of every tensor is the batch, and no operation mixes its rows: on a backend whose rows are independent, an image is
//! bitwise identical alone and in any batch.
//!
//! Source: arXiv 2506.09482, Eq. 3–4 (flow) and Appendix F, Eq. 16–18 (reverse SDE, Euler–Maruyama, two scales).

mod adams_bashforth;
mod consistency;
mod euler_maruyama;
mod exponential_sde;
mod field;
mod guidance;
mod interpolant;
mod noise;
mod observer;
mod ode;
mod quality;
mod sampler;
mod scales;
mod settings;
mod solver;
mod solver_kind;
mod state;
mod step;
mod timesteps;

pub use adams_bashforth::AdamsBashforth;
pub use consistency::Consistency;
pub use euler_maruyama::EulerMaruyama;
pub use exponential_sde::ExponentialSde;
pub use field::{ConditionalField, VelocityField};
pub use guidance::{Guidance, GuidedField};
pub use interpolant::{Interpolant, LinearCombination};
pub use noise::{KeyedNoise, NoiseSource, RecordedNoise};
pub use observer::{NoopObserver, Observer, Progress};
pub use ode::{Euler, Heun};
pub use quality::Quality;
pub use sampler::Sampler;
pub use settings::{Preset, SamplingSettings, Schedule};
pub use solver::{Sampling, Solver, Work};
pub use solver_kind::SolverKind;
pub use state::{Evaluation, SolverState};
pub use step::{ArStep, SamplingStep};
pub use timesteps::{Interval, Timesteps};
