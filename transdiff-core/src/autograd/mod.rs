//! Reverse-mode differentiation on a tape.
//!
//! A [`Var`] is a tensor and, while a gradient is wanted, its place on a [`Tape`]. Model code is written once, on
//! `Var`s: without a tape nothing is recorded and nothing is saved. There is no differentiable operation without
//! its backward pass: each method of `Var` in `vjp` stands beside the struct that says what it saves.

mod context;
mod gradient_checkpointing;
mod param;
mod tape;
mod var;
mod vjp;

pub use context::Context;
pub use gradient_checkpointing::checkpoint;
pub use param::Param;
pub use tape::{GradKey, Gradients, Tape, Vjp};
pub use var::Var;
