//! Fused operations, each a function in the file of its family.

use super::{In, Out, Reference, attention, embedding, linear, loss, norm};
use crate::Result;
use crate::backend::{Activation, AttentionArgs, AttentionGrads, LinearGrads, NnOps, NormArgs, NormGrads};
use crate::rng::Dropout;

impl NnOps for Reference {
    fn linear(
        &self,
        x: In<'_>,
        w: In<'_>,
        b: Option<In<'_>>,
        act: Activation,
        y: Out<'_>,
        pre: Option<Out<'_>>,
    ) -> Result<()> {
        linear::forward(x, w, b, act, y, pre);
        Ok(())
    }

    fn linear_backward(
        &self,
        x: In<'_>,
        w: In<'_>,
        act: Activation,
        pre: Option<In<'_>>,
        dy: In<'_>,
        grads: LinearGrads<'_, Self>,
    ) -> Result<()> {
        linear::backward(x, w, act, pre, dy, grads);
        Ok(())
    }

    fn norm_modulate(&self, args: NormArgs<'_, Self>, y: Out<'_>, stats: Option<Out<'_>>) -> Result<()> {
        norm::forward(args, y, stats);
        Ok(())
    }

    fn norm_modulate_backward(
        &self,
        args: NormArgs<'_, Self>,
        stats: In<'_>,
        dy: In<'_>,
        grads: NormGrads<'_, Self>,
    ) -> Result<()> {
        norm::backward(args, stats, dy, grads);
        Ok(())
    }

    fn gated_residual(
        &self,
        x: In<'_>,
        u: In<'_>,
        gate: Option<In<'_>>,
        dropout: Option<Dropout>,
        y: Out<'_>,
    ) -> Result<()> {
        norm::gated_residual(x, u, gate, dropout, y);
        Ok(())
    }

    fn gated_residual_backward(
        &self,
        u: In<'_>,
        gate: Option<In<'_>>,
        dropout: Option<Dropout>,
        dy: In<'_>,
        du: Out<'_>,
        dgate: Option<Out<'_>>,
    ) -> Result<()> {
        norm::gated_residual_backward(u, gate, dropout, dy, du, dgate);
        Ok(())
    }

    fn dropout_mask(&self, dropout: Dropout, nkv: usize, kept: Out<'_>) -> Result<()> {
        attention::dropout_mask(dropout, nkv, kept);
        Ok(())
    }

    fn attention(&self, args: AttentionArgs<'_, Self>, y: Out<'_>, lse: Option<Out<'_>>) -> Result<()> {
        attention::forward(args, y, lse);
        Ok(())
    }

    fn attention_backward(
        &self,
        args: AttentionArgs<'_, Self>,
        y: In<'_>,
        lse: In<'_>,
        dy: In<'_>,
        grads: AttentionGrads<'_, Self>,
    ) -> Result<()> {
        attention::backward(args, y, lse, dy, grads);
        Ok(())
    }

    fn embedding(&self, table: In<'_>, ids: In<'_>, out: Out<'_>) -> Result<()> {
        embedding::forward(table, ids, out);
        Ok(())
    }

    fn embedding_backward(&self, ids: In<'_>, dy: In<'_>, dtable: Out<'_>) -> Result<()> {
        embedding::backward(ids, dy, dtable);
        Ok(())
    }

    fn mse(&self, a: In<'_>, b: In<'_>, loss: Out<'_>) -> Result<()> {
        loss::forward(a, b, loss);
        Ok(())
    }

    fn mse_backward(&self, a: In<'_>, b: In<'_>, dloss: In<'_>, da: Out<'_>) -> Result<()> {
        loss::backward(a, b, dloss, da);
        Ok(())
    }
}
