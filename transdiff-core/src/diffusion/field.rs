//! Velocity fields, which samplers integrate.

use crate::{Backend, Result, Tensor};

/// A velocity field v(x, t) = E[α′ x₀ + σ′ ε | x_t = x] (paper Eq. 3): usually a diffusion decoder with its
/// condition, or [`Guided`](super::Guided) around one.
pub trait VelocityField<B: Backend> {
    /// The velocity at state `x` (axis 0 is the batch) and time `t` in [0, 1], in the shape of `x` and any float
    /// type. Networks trained on the 0..1000 scale multiply `t` by 1000 themselves.
    ///
    /// Row i of the result depends on row i of `x` alone.
    ///
    /// # Errors
    /// Whatever the field meets; a sampler hands it on.
    fn velocity(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>>;
}

/// A field with a conditional and an unconditional branch, as classifier-free guidance needs it.
pub trait GuidedField<B: Backend> {
    /// The velocity given the condition; contract as [`VelocityField::velocity`].
    ///
    /// # Errors
    /// Whatever the field meets.
    fn conditional(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>>;

    /// The velocity without condition; contract as [`VelocityField::velocity`].
    ///
    /// # Errors
    /// Whatever the field meets.
    fn unconditional(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>>;

    /// (conditional, unconditional). A network overrides it with one call on a batch of twice the size.
    ///
    /// # Errors
    /// Whatever the field meets.
    fn both(&self, x: &Tensor<B>, t: f64) -> Result<(Tensor<B>, Tensor<B>)> {
        Ok((self.conditional(x, t)?, self.unconditional(x, t)?))
    }
}
