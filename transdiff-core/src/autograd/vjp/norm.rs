//! LayerNorm with optional weight and bias and optional modulation.

use crate::autograd::gradients::Gradients;
use crate::autograd::tape::{Inputs, Vjp};
use crate::autograd::var::{Var, record, recorded};
use crate::tensor::Modulation;
use crate::{Backend, Result, Tensor};

/// Saves the input and (mean, rstd) per row; the normalised input is recomputed.
struct Norm<B: Backend> {
    x: Tensor<B>,
    affine: Option<(Tensor<B>, Tensor<B>)>,
    modulation: Option<Modulation<B>>,
    eps: f64,
    stats: Tensor<B>,
}

impl<B: Backend> Vjp<B> for Norm<B> {
    fn backward(
        self: Box<Self>,
        dy: Tensor<B>,
        inputs: &mut Inputs<'_, B>,
        _: &mut Gradients<B>,
    ) -> Result<Vec<Option<Tensor<B>>>> {
        let affine = self.affine.as_ref().map(|(w, b)| (w, b));
        let (has_affine, has_mod) = (affine.is_some(), self.modulation.is_some());
        let first_mod = if has_affine { 3 } else { 1 };
        let pair = |present: bool, at: usize| present && (inputs.is_wanted(at) || inputs.is_wanted(at + 1));
        let wanted = [inputs.is_wanted(0), pair(has_affine, 1), pair(has_mod, first_mod)];
        // Of the residual connection around the block that the norm begins.
        let residual = inputs.take_pending(0);
        let [dx, dw, db, dscale, dshift] = self.x.norm_modulate_backward(
            affine,
            self.modulation.as_ref(),
            self.eps,
            &self.stats,
            (&dy, residual.as_ref()),
            wanted,
        )?;
        let mut out = vec![dx];
        if has_affine {
            out.extend([dw, db]);
        }
        if let Some(m) = &self.modulation {
            // A modulation shared by all images sums the gradients of each.
            let to =
                |grad: Option<Tensor<B>>, like: &Tensor<B>| grad.map(|g| g.sum_to(like.shape())).transpose();
            out.extend([to(dscale, &m.scale)?, to(dshift, &m.shift)?]);
        }
        Ok(out)
    }
}

impl<B: Backend> Var<B> {
    /// (x̂·weight + bias)·(1 + scale) + shift; see [`Tensor::norm_modulate`]. `affine` is (weight, bias),
    /// `modulation` is (scale, shift).
    pub fn norm_modulate(
        &self,
        affine: Option<(&Self, &Self)>,
        modulation: Option<(&Self, &Self)>,
        eps: f64,
    ) -> Result<Self> {
        let mut inputs = vec![self];
        inputs.extend(affine.into_iter().flat_map(|(w, b)| [w, b]));
        inputs.extend(modulation.into_iter().flat_map(|(s, t)| [s, t]));
        let pair = affine.map(|(w, b)| (w.value(), b.value()));
        let modulation =
            modulation.map(|(s, t)| Modulation { scale: s.value().clone(), shift: t.value().clone() });
        let out = self.value().norm_modulate(pair, modulation.as_ref(), eps, recorded(&inputs))?;
        let vjp = || Norm {
            x: self.value().clone(),
            affine: pair.map(|(w, b)| (w.clone(), b.clone())),
            modulation,
            eps,
            stats: out.stats.expect("a recorded norm saves its statistics"),
        };
        record(out.y, &inputs, vjp)
    }
}
