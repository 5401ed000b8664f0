//! Velocity fields, which samplers integrate.

use crate::{Backend, Result, Tensor};

/// Velocity field v(x, t) = E[α′ x₀ + σ′ ε | x_t = x] (paper Eq. 3): usually a diffusion decoder with its
/// condition, or [`GuidedField`](super::GuidedField) around one.
pub trait VelocityField<B: Backend> {
    /// Velocity at state `x` (axis 0 is the batch) and time `t` in [0, 1], in the shape of `x` and any float
    /// type. Networks trained on the 0..1000 scale multiply `t` by 1000 themselves.
    ///
    /// Row i of the result depends on row i of `x` alone.
    ///
    /// # Errors
    /// Those of the field; a sampler returns them.
    fn velocity(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>>;
}

/// Field with a conditional and an unconditional branch, for classifier-free guidance.
pub trait ConditionalField<B: Backend> {
    /// Conditional velocity; contract as [`VelocityField::velocity`].
    ///
    /// # Errors
    /// Those of the field.
    fn conditional(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>>;

    /// Unconditional velocity; contract as [`VelocityField::velocity`].
    ///
    /// # Errors
    /// Those of the field.
    fn unconditional(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>>;

    /// Conditional and unconditional velocity. A network overrides it with one evaluation of a batch of twice the size.
    ///
    /// # Errors
    /// Those of the field.
    fn both(&self, x: &Tensor<B>, t: f64) -> Result<(Tensor<B>, Tensor<B>)> {
        Ok((self.conditional(x, t)?, self.unconditional(x, t)?))
    }
}
