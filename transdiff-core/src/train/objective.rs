//! The flow-matching loss (paper Eq. 4, 5, 10 and 12).

use crate::autograd::Context;
use crate::autograd::Var;
use crate::models::transdiff::{TIME_SCALE, TransDiff, cosine_mean, latent_tokens};
use crate::{Backend, Error, Result, Tensor};

/// The random draws for one target latent: `mul` noised copies of each of B samples, tiled (all samples, all
/// samples, …): copy m of sample b is row m·B + b.
#[derive(Clone, Debug)]
pub struct FlowDraws<B: Backend> {
    /// Timesteps on the 0..1000 scale, [mul·B].
    pub timesteps: Vec<f64>,
    /// ε, [mul·B, S, C].
    pub noise: Tensor<B>,
}

/// What one training pass sees.
#[derive(Clone, Debug)]
pub struct Batch<B: Backend> {
    /// Classes of the samples, `[B]`.
    pub labels: Vec<usize>,
    /// Which samples lose their class, `[B]`.
    pub dropped: Vec<bool>,
    /// Clean latents [B, C, h, w]: one in one step; with multi-reference autoregression one a group, four
    /// different images of the sample's class.
    pub latents: Vec<Tensor<B>>,
    /// The draws for each of `latents`.
    pub draws: Vec<FlowDraws<B>>,
}

/// The training loss of a batch, of shape [], in the [accumulator's](crate::DType::accumulator) type of the latents,
/// whatever type `ctx` computes in: the mean over the groups of the flow loss of decoding a latent from
/// the features of its group and all earlier ones, plus `diversity` times the mean cosine of the features.
///
/// # Errors
/// [`Error::Argument`] if the batch has not one latent and one set of draws for each group; [`Error::Shape`].
pub fn loss<B: Backend>(
    model: &TransDiff<B>,
    ctx: &Context<B>,
    batch: &Batch<B>,
    diversity: f64,
) -> Result<Var<B>> {
    let groups = model.config().groups();
    if batch.latents.len() != groups || batch.draws.len() != groups {
        let got = format!("{} latents, {} sets of draws", batch.latents.len(), batch.draws.len());
        return Err(Error::argument("batch", format!("{groups} of each"), got));
    }
    let class = model.ar().dropped_embedding(ctx, &batch.labels, &batch.dropped)?;
    let features = model.ar().features(ctx, &class, &batch.latents[..groups - 1])?;
    let z = model.ar().conditioning(ctx, &features)?;
    let mut total: Option<Var<B>> = None;
    for (group, (latent, draws)) in batch.latents.iter().zip(&batch.draws).enumerate() {
        let visible = z.narrow(1, 0, (group + 1) * model.config().group_tokens())?;
        let term = flow_loss(model, ctx, &visible, latent, draws)?;
        total = Some(match total {
            Some(sum) => sum.add(&term)?,
            None => term,
        });
    }
    let mean = total.expect("there is at least one group").affine(1.0 / groups as f64, 0.0)?;
    if diversity == 0.0 {
        return Ok(mean);
    }
    mean.add(&cosine_mean(&features)?.affine(diversity, 0.0)?)
}

/// mean (v(x_t, t, z) − (ε − x₀))² with x_t = x₀ + t (ε − x₀), over all noised copies.
///
/// Copies are ordered by sample here (b·mul + m), so that the copies of one sample are one row of queries to its
/// keys and values, which are computed once.
fn flow_loss<B: Backend>(
    model: &TransDiff<B>,
    ctx: &Context<B>,
    z: &Var<B>,
    latent: &Tensor<B>,
    draws: &FlowDraws<B>,
) -> Result<Var<B>> {
    let b = z.dim(0);
    latent.expect_shape("loss", "a latent", &model.config().latent_shape(b))?;
    // The target is a difference, and the loss a sum of small squares.
    let wide = latent.dtype().accumulator();
    let x0 = latent_tokens(latent)?.cast(wide)?;
    let (s, c) = (x0.dim(1), x0.dim(2));
    let rows = draws.timesteps.len();
    if rows == 0 || !rows.is_multiple_of(b) {
        return Err(Error::argument("timesteps", format!("a multiple of the {b} samples"), rows));
    }
    draws.noise.expect_shape("loss", "noise", &[rows, s, c])?;
    let mul = rows / b;
    let noise = draws.noise.cast(wide)?.reshape(&[mul, b, s, c])?.permute(&[1, 0, 2, 3])?;
    let timesteps: Vec<f64> = (0..rows).map(|row| draws.timesteps[row % mul * b + row / mul]).collect();
    let times = timesteps.iter().map(|t| t / TIME_SCALE).collect();
    let t = Tensor::from_f64(x0.backend(), &[b, mul, 1, 1], times, x0.dtype())?;
    let x0 = x0.reshape(&[b, 1, s, c])?;
    let target = noise.sub(&x0)?;
    let noised = target.mul(&t)?.add(&x0)?.reshape(&[rows, s, c])?;
    let time = model.decoder().time(ctx, &timesteps)?;
    let condition = model.decoder().condition(ctx, z)?;
    let v = model.decoder().velocity(ctx, &ctx.input(&noised)?, &time, &condition)?;
    v.cast(wide)?.mse(&target.reshape(&[rows, s, c])?)
}
