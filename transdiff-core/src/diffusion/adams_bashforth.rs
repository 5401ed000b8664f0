//! Deterministic multistep solvers of the flow ODE dx = v dt (paper Eq. 3).

use super::state::advance;
use super::{Interpolant, Interval, NoiseSource, Sampler, SolverState, Timesteps, VelocityField};
use crate::{Backend, Error, Result};

/// x ← x + ∫ P(τ) dτ over the step, with P the polynomial through the velocities of the last `order` steps: one evaluation
/// per step. Draws no noise.
///
/// The integral is exact for any times, but a long step after short ones extrapolates far: errors of velocities are multiplied by
/// up to the ratio of the steps to the power order − 1. While fewer velocities are known, the polynomial goes through those. The first step
/// is Euler's then, whose error is of order 2 in its length: on times whose steps all shrink alike the error at t = 0 falls
/// like 1/n² for every order, with smaller factors for higher ones.
#[derive(Clone, Debug, PartialEq)]
pub struct AdamsBashforth {
    pub(super) timesteps: Timesteps,
    interpolant: Interpolant,
    order: usize,
}

impl AdamsBashforth {
    /// The solver through the last `order` velocities; `interpolant` is for previews.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `order` is 2, 3 or 4.
    pub fn new(timesteps: Timesteps, interpolant: Interpolant, order: usize) -> Result<Self> {
        if !(2..=4).contains(&order) {
            return Err(Error::argument("order", "2 to 4 for adams-bashforth", order));
        }
        Ok(Self { timesteps, interpolant, order })
    }

    /// Number of velocities that the polynomial goes through.
    pub fn order(&self) -> usize {
        self.order
    }
}

/// Integrals from `t` to `next` of the Lagrange polynomials of the times `nodes`.
fn weights(nodes: &[f64], t: f64, next: f64) -> Vec<f64> {
    let h = next - t;
    // In units of the step, from its beginning.
    let nodes: Vec<f64> = nodes.iter().map(|node| (node - t) / h).collect();
    let integral = |j: usize| {
        // Coefficients of Π (s − s_k)/(s_j − s_k), ascending.
        let mut coefficients = vec![1.0];
        for (k, &node) in nodes.iter().enumerate().filter(|&(k, _)| k != j) {
            let slope = 1.0 / (nodes[j] - nodes[k]);
            let mut product = vec![0.0; coefficients.len() + 1];
            for (i, coefficient) in coefficients.iter().enumerate() {
                product[i] -= coefficient * node * slope;
                product[i + 1] += coefficient * slope;
            }
            coefficients = product;
        }
        h * coefficients.iter().enumerate().map(|(i, c)| c / (i + 1) as f64).sum::<f64>()
    };
    (0..nodes.len()).map(integral).collect()
}

impl<B: Backend> Sampler<B> for AdamsBashforth {
    fn timesteps(&self) -> &Timesteps {
        &self.timesteps
    }

    fn interpolant(&self) -> Interpolant {
        self.interpolant
    }

    fn step(
        &self,
        i: usize,
        state: &mut SolverState<B>,
        field: &dyn VelocityField<B>,
        _: &mut dyn NoiseSource<B>,
    ) -> Result<()> {
        let Interval { t, next, .. } = self.timesteps.interval(i);
        state.evaluate(field, t, self.order)?;
        let times: Vec<f64> = state.history().iter().map(|evaluation| evaluation.t).collect();
        let mut x = state.x.clone();
        for (evaluation, weight) in state.history().iter().zip(weights(&times, t, next)) {
            x = advance(&x, &evaluation.v, weight)?;
        }
        state.x = x;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Equal steps have the textbook's weights, and any nodes integrate every polynomial of their degree exactly.
    #[test]
    fn weights_are_exact() {
        let close =
            |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-14 * (1.0 + b.abs()));
        assert!(close(&weights(&[0.3], 0.3, 0.1), &[-0.2]));
        assert!(close(&weights(&[1.0, 0.75], 0.75, 0.5), &[0.125, -0.375]));
        let fourth =
            weights(&[1.0, 0.75, 0.5, 0.25], 0.25, 0.0).iter().map(|w| w / -0.25).collect::<Vec<_>>();
        assert!(close(&fourth, &[-9.0, 37.0, -59.0, 55.0].map(|w| w / 24.0)));
        let nodes = [0.93, 0.9, 0.55, 0.4];
        let weights = weights(&nodes, 0.4, 0.31);
        for degree in 0..4 {
            let sum: f64 = nodes.iter().zip(&weights).map(|(node, w)| w * node.powi(degree)).sum();
            let exact = (0.31f64.powi(degree + 1) - 0.4f64.powi(degree + 1)) / f64::from(degree + 1);
            assert!((sum - exact).abs() < 1e-14, "degree {degree}: {sum} {exact}");
        }
    }
}
