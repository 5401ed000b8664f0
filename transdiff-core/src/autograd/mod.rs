//! Reverse-mode differentiation on a tape.
//!
//! A [`Var`] is a tensor with an optional place on a [`Tape`]. Model code is written once, on `Var`s: without a tape nothing
//! is recorded and nothing is saved. There is no differentiable operation without its backward pass: each method of `Var`
//! in `vjp` stands beside the struct that holds the tensors that it saves.

mod context;
mod gradient_checkpointing;
mod gradients;
mod param;
mod tape;
mod var;
mod vjp;

pub use context::Context;
pub use gradient_checkpointing::gradient_checkpoint;
pub(crate) use gradients::add_wide;
pub use gradients::{Contributions, GradKey, Gradients};
pub use param::Param;
pub use tape::{Inputs, Tape, Vjp};
pub use var::Var;
