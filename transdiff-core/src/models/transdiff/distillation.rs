//! Distillation of a model into one that needs few evaluations and no guidance: consistency tuning of the decoder, with finite
//! differences along the trajectories of the teacher (UCGM-T, arXiv 2505.07447; continuous-time consistency models, arXiv
//! 2410.11081).

use std::f64::consts::FRAC_PI_2;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::field::TIME_SCALE;
use super::objective::Noised;
use super::{DiffusionDecoder, FlowBatch, Mode, SampleDraws, TransDiff, TransDiffConfig};
use crate::autograd::{Context, Var};
use crate::backend::UnaryOp;
use crate::checkpoint::WeightView;
use crate::diffusion::Guidance;
use crate::models::{Model, ParamGroup, SampleKey, SampleShape, Samples, Trainable};
use crate::nn::module;
use crate::rng::Philox;
use crate::{Backend, DType, Error, Precision, Result, Tensor};

/// Half of the interval of the finite differences.
const EPSILON: f64 = 0.02;
/// First parameter of the distribution of the times, Beta(a, 1).
const TIME_SHAPE: f64 = 0.8;

/// Settings of the consistency loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConsistencyObjective {
    /// Noised copies of each latent.
    pub batch_mul: usize,
    /// Guidance scale of the teacher, which the student learns; at least 1.
    pub guidance: f64,
    /// Lowest and highest time at which the teacher is guided.
    pub guidance_interval: (f64, f64),
    /// Scale c of the pseudo-Huber loss, above 0, at which it turns from quadratic to linear.
    pub huber: f64,
}

impl Default for ConsistencyObjective {
    fn default() -> Self {
        Self { batch_mul: 2, guidance: 1.0, guidance_interval: (0.0, 1.0), huber: 10.0 }
    }
}

impl ConsistencyObjective {
    fn guidance(&self) -> Result<Guidance> {
        Guidance::within(self.guidance, self.guidance_interval.0, self.guidance_interval.1)
    }
}

/// A model in training to be a consistency function, and its teacher. The parameters are those of the student, of which only the
/// decoder's are trained.
#[derive(Clone, Debug)]
pub struct Distillation<B: Backend> {
    student: TransDiff<B>,
    teacher: Option<Arc<Teacher<B>>>,
}

module!(Distillation { "" => student });

/// A model that is distilled, and its conditioning, which does not change.
#[derive(Debug)]
struct Teacher<B: Backend> {
    model: TransDiff<B>,
    /// Conditioning of every class, and without a class, [classes + 1, S·D]; none for a model whose conditioning depends on
    /// references.
    conditioning: Option<Tensor<B>>,
}

/// Conditioning [B, n, D] with class and, for guidance, without.
struct Conditionings<B: Backend> {
    conditional: Var<B>,
    unconditional: Option<Var<B>>,
}

impl<B: Backend> Distillation<B> {
    /// A student that begins as `teacher`. For a 1-step model, computes the conditioning of all classes.
    ///
    /// # Errors
    /// [`Error::Argument`] for a teacher that is distilled itself; [`Error::OutOfMemory`] and those of the backend.
    pub fn new(teacher: &TransDiff<B>) -> Result<Self> {
        let config = TransDiffConfig { distilled: true, ..teacher.config().clone() };
        let student = teacher.clone().with_config(config);
        Self { student, teacher: None }.with_teacher(teacher)
    }

    /// The student with its teacher, which a checkpoint does not hold.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::Argument`] for a teacher of other sizes.
    pub fn with_teacher(self, teacher: &TransDiff<B>) -> Result<Self> {
        let expected = TransDiffConfig { distilled: false, ..self.student.config().clone() };
        if *teacher.config() != expected {
            let expected = format!("a model that is not distilled, {expected:?}");
            return Err(Error::argument("teacher", expected, format!("{:?}", teacher.config())));
        }
        Ok(Self { teacher: Some(Arc::new(Teacher::new(teacher.clone())?)), ..self })
    }

    /// The student with the teacher of `other`.
    pub(crate) fn with_teacher_of(self, other: &Self) -> Self {
        Self { teacher: other.teacher.clone(), ..self }
    }

    /// The student.
    pub fn student(&self) -> &TransDiff<B> {
        &self.student
    }
}

impl<B: Backend> Teacher<B> {
    /// Classes whose conditioning is computed at once.
    const CLASSES: usize = 64;

    fn new(model: TransDiff<B>) -> Result<Self> {
        if model.config().mode != Mode::OneStep {
            return Ok(Self { model, conditioning: None });
        }
        let (ctx, classes) = (model.inference(), model.config().classes);
        let row = model.config().feature_tokens * model.config().width;
        let mut parts = Vec::new();
        for first in (0..classes).step_by(Self::CLASSES) {
            let labels: Vec<usize> = (first..classes.min(first + Self::CLASSES)).collect();
            let class = model.ar().class_embedding(&ctx, &labels)?;
            let z = model.ar().conditioning(&ctx, &model.ar().features(&ctx, &class, &[])?)?;
            parts.push(z.into_value().reshape(&[labels.len(), row])?);
        }
        let none = model.ar().unconditional_embedding(&ctx)?;
        let z = model.ar().conditioning(&ctx, &model.ar().features(&ctx, &none, &[])?)?;
        parts.push(z.into_value().reshape(&[1, row])?);
        let conditioning = Some(Tensor::cat(&parts.iter().collect::<Vec<_>>(), 0)?);
        Ok(Self { model, conditioning })
    }

    /// Conditioning of the samples of a batch.
    fn conditionings(
        &self,
        ctx: &Context<B>,
        batch: &FlowBatch<B>,
        is_guided: bool,
    ) -> Result<Conditionings<B>> {
        let (labels, config) = (&batch.labels, self.model.config());
        config.check_labels(labels)?;
        if let Some(table) = &self.conditioning {
            let shape = [labels.len(), config.feature_tokens, config.width];
            let rows = |ids: &[usize]| ctx.input(&table.embedding(ids)?.reshape(&shape)?);
            let none = || rows(&vec![config.classes; labels.len()]);
            return Ok(Conditionings {
                conditional: rows(labels)?,
                unconditional: is_guided.then(none).transpose()?,
            });
        }
        let (ar, references) = (self.model.ar(), &batch.latents[..config.groups() - 1]);
        let conditioning = |class: &Var<B>| ar.conditioning(ctx, &ar.features(ctx, class, references)?);
        let none = || {
            let none = ar.unconditional_embedding(ctx)?.broadcast_to(&[labels.len(), config.width])?;
            conditioning(&none)
        };
        Ok(Conditionings {
            conditional: conditioning(&ar.class_embedding(ctx, labels)?)?,
            unconditional: is_guided.then(none).transpose()?,
        })
    }
}

impl<B: Backend> Conditionings<B> {
    /// Those of the first `tokens` features.
    fn first(&self, tokens: usize) -> Result<Self> {
        let first = |z: &Var<B>| z.narrow(1, 0, tokens);
        let unconditional = self.unconditional.as_ref().map(first).transpose()?;
        Ok(Self { conditional: first(&self.conditional)?, unconditional })
    }
}

impl<B: Backend> Model<B> for Distillation<B> {
    type Config = TransDiffConfig;

    const CONFIG_KEY: &'static str = TransDiffConfig::METADATA_KEY;

    /// A student without a teacher, which cannot be trained yet.
    fn placeholder(backend: &B, config: &TransDiffConfig, precision: impl Into<Precision>) -> Result<Self> {
        Ok(Self { student: TransDiff::placeholder(backend, config, precision)?, teacher: None })
    }

    fn check_config(config: &TransDiffConfig, tensors: &WeightView<'_>) -> Result<()> {
        if !config.distilled {
            return Err(Error::config("distilled", "true for a student", "false"));
        }
        TransDiff::<B>::check_config(config, tensors)
    }

    fn config(&self) -> &TransDiffConfig {
        self.student.config()
    }

    fn backend(&self) -> &B {
        self.student.backend()
    }

    fn dtype(&self) -> DType {
        self.student.dtype()
    }
}

impl<B: Backend> Trainable<B> for Distillation<B> {
    type Objective = ConsistencyObjective;
    type Draws = SampleDraws;
    type Batch = FlowBatch<B>;

    fn check_objective(objective: &ConsistencyObjective) -> Result<()> {
        let ConsistencyObjective { batch_mul, huber, .. } = *objective;
        if batch_mul == 0 || u32::try_from(batch_mul).is_err() {
            return Err(Error::config("batch_mul", "a number in 1..2^32", batch_mul));
        }
        if !(huber > 0.0 && huber.is_finite()) {
            return Err(Error::config("huber", "a number above 0", huber));
        }
        objective.guidance().map(drop)
    }

    fn sample_shape(&self) -> SampleShape {
        self.student.sample_shape()
    }

    /// Times from Beta(0.8, 1), and noise. Classes are kept: the student needs no guidance.
    fn draw(shape: &SampleShape, objective: &ConsistencyObjective, key: SampleKey) -> SampleDraws {
        let timestep = |stream: &mut Philox| TIME_SCALE * libm::pow(stream.uniform(), 1.0 / TIME_SHAPE);
        SampleDraws::new(shape, objective.batch_mul, key, timestep)
    }

    fn batch(&self, samples: Samples<B>, draws: Vec<SampleDraws>) -> Result<FlowBatch<B>> {
        self.student.batch(samples, draws)
    }

    fn batch_len(batch: &FlowBatch<B>) -> usize {
        TransDiff::batch_len(batch)
    }

    /// The mean over the groups of the consistency loss.
    fn loss(
        &self,
        ctx: &Context<B>,
        batch: &FlowBatch<B>,
        objective: &ConsistencyObjective,
    ) -> Result<Var<B>> {
        let Some(teacher) = &self.teacher else {
            return Err(Error::argument("teacher", "a teacher (Distillation::with_teacher)", "none"));
        };
        let config = self.config();
        batch.check_groups(config)?;
        let guidance = objective.guidance()?;
        let frozen = ctx.without_gradients();
        let z = teacher.conditionings(&frozen, batch, guidance.scale() > 1.0)?;
        let mut terms = Vec::new();
        for (group, (latent, draws)) in batch.latents.iter().zip(&batch.draws).enumerate() {
            let z = z.first((group + 1) * config.group_tokens())?;
            let noised = Noised::new(config, latent, draws, batch.labels.len())?;
            let v = teacher.velocity(&frozen, &noised, &z, guidance)?;
            terms.push(self.consistency_loss(ctx, &frozen, &noised, &v, &z.conditional, objective.huber)?);
        }
        let sum = terms.iter().skip(1).try_fold(terms[0].clone(), |sum, term| sum.add(term))?;
        sum.affine(1.0 / terms.len() as f64, 0.0)
    }

    /// Only the decoder is trained.
    fn param_group(&self, name: &str, _: usize) -> ParamGroup {
        ParamGroup { frozen: !name.starts_with("diffdecoder."), ..ParamGroup::trained(false) }
    }
}

impl<B: Backend> Teacher<B> {
    /// Velocity at the noised latents, guided at the times at which guidance acts.
    fn velocity(
        &self,
        ctx: &Context<B>,
        noised: &Noised<B>,
        z: &Conditionings<B>,
        guidance: Guidance,
    ) -> Result<Tensor<B>> {
        let decoder = self.model.decoder();
        let time = decoder.time(ctx, &noised.timesteps)?;
        let velocity = |z: &Var<B>| -> Result<Tensor<B>> {
            let v = decoder.velocity(ctx, &noised.x.clone().into(), &time, &decoder.condition(ctx, z)?)?;
            v.into_value().cast(noised.x.dtype())
        };
        let conditional = velocity(&z.conditional)?;
        let Some(unconditional) = &z.unconditional else { return Ok(conditional) };
        let unconditional = velocity(unconditional)?;
        let scale = |t: &f64| if guidance.is_active(t / TIME_SCALE) { guidance.scale() } else { 1.0 };
        let scales = per_row(&noised.x, noised.timesteps.iter().map(scale).collect())?;
        conditional.sub(&unconditional)?.mul(&scales)?.add(&unconditional)
    }
}

impl<B: Backend> Distillation<B> {
    /// Loss of f(x, t) = x − t·F(x, t) along the teacher's velocity `v`: pseudo-Huber of F − (sg F + w(t)·df/dt) with
    /// w(t) = 4t / sin(πt/2), times cos(πt/2). It has the gradient of that loss; its value is ½ m/√(m + c²) in place of
    /// √(m + c²) − c, with m the mean square and c the scale, so that losses of different scales do not compare.
    fn consistency_loss(
        &self,
        ctx: &Context<B>,
        frozen: &Context<B>,
        noised: &Noised<B>,
        v: &Tensor<B>,
        z: &Var<B>,
        huber: f64,
    ) -> Result<Var<B>> {
        let decoder = self.student.decoder();
        let Noised { timesteps, x, .. } = noised;
        let times: Vec<f64> = timesteps.iter().map(|t| t / TIME_SCALE).collect();
        let exact = frozen.without_gradients().with_compute_dtype(self.dtype());
        let tangent = tangent(decoder, &exact, x, &times, v, &z.cast(self.dtype())?)?;
        let weight = |t: &f64| if *t == 0.0 { 4.0 / FRAC_PI_2 } else { 4.0 * t / libm::sin(FRAC_PI_2 * t) };
        let update = tangent.mul(&per_row(x, times.iter().map(weight).collect())?)?;
        // F − target is −update, whatever F is: the pseudo-Huber loss has the gradient of a square with a factor for each copy.
        let elements = (x.dim(1) * x.dim(2)) as f64;
        let squares = update.unary(UnaryOp::Square)?.sum(&[1, 2])?.affine(1.0 / elements, huber * huber)?;
        let squares = squares.reshape(&[x.dim(0), 1, 1])?;
        let root = squares.mul(&squares.unary(UnaryOp::Rsqrt)?)?.unary(UnaryOp::Rsqrt)?;
        let cosine = |t: &f64| (0.5 * libm::cos(FRAC_PI_2 * t).max(0.0)).sqrt();
        let factor = root.mul(&per_row(x, times.iter().map(cosine).collect())?)?;
        let time = decoder.time(ctx, timesteps)?;
        let condition = decoder.condition(ctx, z)?;
        let f = decoder.velocity(ctx, &x.clone().into(), &time, &condition)?.cast(x.dtype())?;
        let target = f.value().add(&update)?.mul(&factor)?;
        f.mul(&Var::constant(factor))?.mse(&target)
    }
}

/// The tangent df/dt of f(x, t) = x − t·F(x, t) along dx = v dt, by a difference over t ± ε within [0, 1]. Roundings of F are
/// divided by 2ε, so that `ctx` computes in the type of the weights.
fn tangent<B: Backend>(
    decoder: &DiffusionDecoder<B>,
    ctx: &Context<B>,
    x: &Tensor<B>,
    times: &[f64],
    v: &Tensor<B>,
    z: &Var<B>,
) -> Result<Tensor<B>> {
    let &[rows, s, c] = x.shape() else { return Err(Error::shape("distillation", "[R, S, C]", x.shape())) };
    let ends: Vec<[f64; 2]> =
        times.iter().map(|t| [(t - EPSILON).max(0.0), (t + EPSILON).min(1.0)]).collect();
    // Both ends of a copy follow each other, so that the condition of a sample serves all of its rows.
    let shifts = ends.iter().zip(times).flat_map(|(ends, t)| ends.map(|r| r - t)).collect();
    let shifts = Tensor::from_f64(x.backend(), &[rows, 2, 1, 1], shifts, x.dtype())?;
    let [x, v] = [x, v].map(|tensor| tensor.reshape(&[rows, 1, s, c]));
    let shifted = v?.mul(&shifts)?.add(&x?)?.reshape(&[2 * rows, s, c])?;
    let ends: Vec<f64> = ends.into_iter().flatten().collect();
    let time = decoder.time(ctx, &ends.iter().map(|r| r * TIME_SCALE).collect::<Vec<_>>())?;
    let condition = decoder.condition(ctx, z)?;
    let f = decoder.velocity(ctx, &shifted.clone().into(), &time, &condition)?.into_value();
    let f = f.cast(shifted.dtype())?.mul(&per_row(&shifted, ends.clone())?)?;
    let f = shifted.sub(&f)?.reshape(&[rows, 2, s, c])?;
    let inverse = ends.chunks_exact(2).map(|ends| 1.0 / (ends[1] - ends[0])).collect();
    let difference = f.narrow(1, 1, 1)?.sub(&f.narrow(1, 0, 1)?)?.reshape(&[rows, s, c])?;
    difference.mul(&per_row(&difference, inverse)?)
}

/// One value for each row of `like`, [R, 1, 1].
fn per_row<B: Backend>(like: &Tensor<B>, values: Vec<f64>) -> Result<Tensor<B>> {
    Tensor::from_f64(like.backend(), &[values.len(), 1, 1], values, like.dtype())
}
