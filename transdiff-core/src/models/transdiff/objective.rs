//! Training of TransDiff: the flow-matching loss (paper Eq. 4, 5, 10 and 12).

use serde::{Deserialize, Serialize};

use super::field::TIME_SCALE;
use super::{TransDiff, TransDiffConfig, latent_tokens};
use crate::autograd::{Context, Var};
use crate::models::{Model, ParamGroup, SampleKey, SampleShape, Samples, Trainable, cosine_mean};
use crate::rng::{Philox, Purpose};
use crate::{Backend, Error, Result, Tensor};

/// Settings of the flow-matching loss. The default has the paper's values for 1-step models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FlowObjective {
    /// Noised copies of each latent per pass of the autoregressive transformer: 4 in one step, 2 with multi-reference
    /// autoregression.
    pub batch_mul: usize,
    /// Probability that a sample's class is dropped.
    pub label_drop: f64,
    /// Weight of the diversity term; 0 disables it.
    pub diversity: f64,
}

impl Default for FlowObjective {
    fn default() -> Self {
        Self { batch_mul: 4, label_drop: 0.1, diversity: 0.0 }
    }
}

/// Random draws of one sample.
#[derive(Clone, Debug)]
pub struct SampleDraws {
    /// Drop of the class.
    dropped: bool,
    /// For each target latent the timesteps of its copies, [mul], and their noise, [mul, S, C].
    targets: Vec<(Vec<f64>, Vec<f32>)>,
}

impl SampleDraws {
    /// Draws for `mul` copies of each latent, with timesteps from `timestep`; the class is kept.
    pub(super) fn new(
        shape: &SampleShape,
        mul: usize,
        key: SampleKey,
        timestep: impl Fn(&mut Philox) -> f64,
    ) -> Self {
        let [c, h, w] = shape.latent;
        let targets = (0..shape.latents_per_sample).map(|target| {
            let mut stream = key.stream(Purpose::Timestep, target).stream();
            let timesteps = (0..mul).map(|_| timestep(&mut stream)).collect();
            (timesteps, key.stream(Purpose::TrainingNoise, target).normals(mul * c * h * w))
        });
        Self { dropped: false, targets: targets.collect() }
    }
}

/// Random draws for one target latent: `mul` noised copies of each of B samples, tiled (all samples, all samples, …):
/// copy m of sample b is row m·B + b.
#[derive(Clone, Debug)]
pub struct FlowDraws<B: Backend> {
    /// Timesteps on the 0..1000 scale, [mul·B].
    pub timesteps: Vec<f64>,
    /// ε, [mul·B, S, C].
    pub noise: Tensor<B>,
}

/// Input of the flow-matching loss.
#[derive(Clone, Debug)]
pub struct FlowBatch<B: Backend> {
    /// Classes of the samples, `[B]`.
    pub labels: Vec<usize>,
    /// Samples whose class is dropped, `[B]`.
    pub dropped: Vec<bool>,
    /// Clean latents [B, C, h, w]: one in one step; with multi-reference autoregression one per group, which are
    /// different images of the sample's class.
    pub latents: Vec<Tensor<B>>,
    /// Draws for each of `latents`.
    pub draws: Vec<FlowDraws<B>>,
}

impl<B: Backend> FlowBatch<B> {
    /// Checks that there are latents and draws for each group.
    pub(super) fn check_groups(&self, config: &TransDiffConfig) -> Result<()> {
        let groups = config.groups();
        if self.latents.len() == groups && self.draws.len() == groups {
            return Ok(());
        }
        let got = format!("{} latents, {} sets of draws", self.latents.len(), self.draws.len());
        Err(Error::argument("batch", format!("{groups} of each"), got))
    }
}

impl<B: Backend> Trainable<B> for TransDiff<B> {
    type Objective = FlowObjective;
    type Draws = SampleDraws;
    type Batch = FlowBatch<B>;

    fn check_objective(objective: &FlowObjective) -> Result<()> {
        let FlowObjective { batch_mul, label_drop, diversity } = *objective;
        if batch_mul == 0 || u32::try_from(batch_mul).is_err() {
            return Err(Error::config("batch_mul", "a number in 1..2^32", batch_mul));
        }
        for (field, value, high) in [("label_drop", label_drop, 1.0), ("diversity", diversity, f64::MAX)] {
            if !(0.0..=high).contains(&value) {
                return Err(Error::config(field, format!("a number in [0, {high}]"), value));
            }
        }
        Ok(())
    }

    fn sample_shape(&self) -> SampleShape {
        let config: &TransDiffConfig = self.config();
        let [_, c, h, w] = config.latent_shape(1);
        SampleShape { latent: [c, h, w], latents_per_sample: config.groups(), classes: config.classes }
    }

    /// Timesteps ⌊1000·sigmoid(N(0, 1))⌋, noise, and whether the class is dropped.
    fn draw(shape: &SampleShape, objective: &FlowObjective, key: SampleKey) -> SampleDraws {
        let timestep = |stream: &mut Philox| (1000.0 / (1.0 + libm::exp(-stream.normal()))).floor();
        let dropped = key.stream(Purpose::LabelDrop, 0).stream().uniform() < objective.label_drop;
        SampleDraws { dropped, ..SampleDraws::new(shape, objective.batch_mul, key, timestep) }
    }

    /// Copy m of sample b is row m·B + b of the draws.
    fn batch(&self, samples: Samples<B>, draws: Vec<SampleDraws>) -> Result<FlowBatch<B>> {
        let Samples { labels, latents } = samples;
        let [_, c, h, w] = self.config().latent_shape(1);
        let tiled = |target: usize| {
            let of = |draws: &SampleDraws| draws.targets[target].0.len();
            let mul = draws.first().map_or(0, of);
            let mut timesteps = Vec::with_capacity(mul * draws.len());
            let mut noise = Vec::with_capacity(mul * draws.len() * c * h * w);
            for copy in 0..mul {
                for sample in &draws {
                    let (times, values) = &sample.targets[target];
                    timesteps.push(times[copy]);
                    noise.extend_from_slice(&values[copy * c * h * w..][..c * h * w]);
                }
            }
            let noise = Tensor::from_f32(self.backend(), &[timesteps.len(), h * w, c], noise, self.dtype())?;
            Ok(FlowDraws { timesteps, noise })
        };
        let dropped = draws.iter().map(|draws| draws.dropped).collect();
        let draws = (0..latents.len()).map(tiled).collect::<Result<_>>()?;
        Ok(FlowBatch { labels, dropped, latents, draws })
    }

    fn batch_len(batch: &FlowBatch<B>) -> usize {
        batch.labels.len()
    }

    /// The mean over the groups of the flow loss of decoding a latent from the features of its group and all earlier
    /// ones, plus `diversity` times the mean cosine of the features.
    fn loss(&self, ctx: &Context<B>, batch: &FlowBatch<B>, objective: &FlowObjective) -> Result<Var<B>> {
        batch.check_groups(self.config())?;
        if self.config().distilled {
            return Err(Error::argument("model", "one that is not distilled", "one that is"));
        }
        let groups = self.config().groups();
        let class = self.ar().dropped_embedding(ctx, &batch.labels, &batch.dropped)?;
        let features = self.ar().features(ctx, &class, &batch.latents[..groups - 1])?;
        let z = self.ar().conditioning(ctx, &features)?;
        let mut total: Option<Var<B>> = None;
        for (group, (latent, draws)) in batch.latents.iter().zip(&batch.draws).enumerate() {
            let visible = z.narrow(1, 0, (group + 1) * self.config().group_tokens())?;
            let term = flow_loss(self, ctx, &visible, latent, draws)?;
            total = Some(match total {
                Some(sum) => sum.add(&term)?,
                None => term,
            });
        }
        let mean = total.expect("there is at least one group").affine(1.0 / groups as f64, 0.0)?;
        if objective.diversity == 0.0 {
            return Ok(mean);
        }
        mean.add(&cosine_mean(&features)?.affine(objective.diversity, 0.0)?)
    }

    /// Weight decay applies to parameters with two axes or more that are not biases and not in the diffusion decoder.
    fn param_group(&self, name: &str, rank: usize) -> ParamGroup {
        ParamGroup::trained(applies_weight_decay(name, rank))
    }
}

fn applies_weight_decay(name: &str, rank: usize) -> bool {
    rank >= 2 && !name.ends_with(".bias") && !name.starts_with("diffdecoder")
}

/// mean (v(x_t, t, z) − (ε − x₀))² with x_t = x₀ + t (ε − x₀), over all noised copies.
fn flow_loss<B: Backend>(
    model: &TransDiff<B>,
    ctx: &Context<B>,
    z: &Var<B>,
    latent: &Tensor<B>,
    draws: &FlowDraws<B>,
) -> Result<Var<B>> {
    let Noised { timesteps, x, target } = Noised::new(model.config(), latent, draws, z.dim(0))?;
    let time = model.decoder().time(ctx, &timesteps)?;
    let condition = model.decoder().condition(ctx, z)?;
    let v = model.decoder().velocity(ctx, &x.into(), &time, &condition)?;
    v.cast(target.dtype())?.mse(&target)
}

/// Noised copies of a batch of latents, in the type of the accumulator: targets are differences, and losses sums of small squares.
///
/// Copies are ordered by sample here (b·mul + m), so that the copies of one sample are one row of queries to its
/// keys and values, which are computed once.
pub(super) struct Noised<B: Backend> {
    /// Timesteps on the 0..1000 scale, [b·mul].
    pub timesteps: Vec<f64>,
    /// x_t = x₀ + t (ε − x₀), [b·mul, S, C].
    pub x: Tensor<B>,
    /// ε − x₀, [b·mul, S, C].
    pub target: Tensor<B>,
}

impl<B: Backend> Noised<B> {
    /// Copies of `latent` [b, C, h, w].
    pub fn new(config: &TransDiffConfig, latent: &Tensor<B>, draws: &FlowDraws<B>, b: usize) -> Result<Self> {
        latent.expect_shape("loss", "a latent", &config.latent_shape(b))?;
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
        let x = target.mul(&t)?.add(&x0)?.reshape(&[rows, s, c])?;
        Ok(Self { timesteps, x, target: target.reshape(&[rows, s, c])? })
    }
}

#[cfg(test)]
mod tests {
    use super::applies_weight_decay;

    #[test]
    fn weight_decay_applies_to_matrices_outside_the_decoder() {
        let applies = applies_weight_decay;
        assert!(applies("encoder_blocks.0.attn.qkv.weight", 2) && applies("mask_token", 3));
        assert!(!applies("encoder_blocks.0.attn.qkv.bias", 1) && !applies("z_proj_ln.weight", 1));
        assert!(!applies("diffdecoder.net.input_proj.weight", 2));
    }
}
