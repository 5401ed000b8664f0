//! Operations of [`Var`](super::Var), each beside its backward pass.

mod attention;
mod elementwise;
mod embedding;
mod layout;
mod linear;
mod loss;
mod norm;
mod residual;
