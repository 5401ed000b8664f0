//! Gradients of whole models against central differences of the loss in f64, and which of them are zero.

use std::ops::Range;

use crate::common::difference::normals;
use crate::common::tiny::{self, bits, differing};
use transdiff_core::autograd::{Context, Param};
use transdiff_core::autograd::{Gradients, Tape};
use transdiff_core::checkpoint::WeightFile;
use transdiff_core::models::transdiff::{FlowBatch, FlowDraws};
use transdiff_core::models::transdiff::{FlowObjective, TransDiff, TransDiffConfig};
use transdiff_core::models::{Model, Trainable};
use transdiff_core::nn::Module;
use transdiff_core::reference::Reference;
use transdiff_core::train::{EmaConfig, TrainConfig, Trainer};
use transdiff_core::{Backend, DType, Tensor};
use transdiff_cpu::Cpu;

/// Step along a direction of length 1 in a parameter; the loss is of order 10, so rounding is of order 1e-10.
const STEP: f64 = 1e-5;
/// Largest error in units of the parameter's gradient norm, with 1e-3 of the whole norm as the smallest unit.
const LIMIT: f64 = 1e-6;
/// Largest norm of a true zero, as a share of the whole gradient norm: f64 rounding.
const ZERO: f64 = 1e-13;
/// Smallest norm of any other part of a parameter: far below the smallest here, far above rounding.
const NON_ZERO: f64 = 1e-7;
const DIVERSITY: f64 = 0.3;

#[test]
fn gradients_match_differences_on_the_reference() {
    check_all(&Reference);
}

#[test]
fn gradients_match_differences_on_the_cpu() {
    check_all(&Cpu::new(None).unwrap());
}

fn check_all<B: Backend>(backend: &B) {
    let z_proj = ["z_proj.weight", "z_proj.bias"];
    let cases = [
        (tiny::one_step(), [true, false, false], &z_proj[..]),
        (tiny::one_step(), [false; 3], &["z_proj.weight", "z_proj.bias", "fake_latent"]),
        (tiny::one_step(), [true; 3], &["z_proj.weight", "z_proj.bias", "class_emb.weight"]),
        (tiny::mrar(), [false, true, false], &[]),
        (tiny::mrar_of_singles(), [false, false, true], &[]),
    ];
    for (config, dropped, zeros) in cases {
        let model = tiny::model(backend, &config, DType::F64);
        let batch = tiny::batch(&model, &dropped, 2, 1);
        Check { model, batch }.run(zeros);
    }
}

struct Check<B: Backend> {
    model: TransDiff<B>,
    batch: FlowBatch<B>,
}

fn length(values: &[f64]) -> f64 {
    values.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn gradient_of<B: Backend>(grads: &Gradients<B>, param: &Param<B>) -> Vec<f64> {
    match grads.get(param.key()) {
        Some(grad) => grad.to_f64().unwrap(),
        None => vec![0.0; param.value().numel()],
    }
}

impl<B: Backend> Check<B> {
    fn loss_in(&self, ctx: Context<B>, model: &TransDiff<B>) -> transdiff_core::autograd::Var<B> {
        let ctx = ctx.with_dropout(0.2, 5, 3, self.batch.labels.len()).unwrap();
        let objective = FlowObjective { diversity: DIVERSITY, ..FlowObjective::default() };
        model.loss(&ctx, &self.batch, &objective).unwrap()
    }

    fn run(&self, zeros: &[&str]) {
        let tape = Tape::new();
        let loss = self.loss_in(Context::recording(tape.clone()), &self.model);
        let grads = tape.backward(&loss).unwrap();
        let all: Vec<Vec<f64>> = self.model.params().iter().map(|(_, p)| gradient_of(&grads, p)).collect();
        let norm = all.iter().map(|g| length(g).powi(2)).sum::<f64>().sqrt();
        let directions: Vec<Vec<f64>> = (0..).zip(&all).map(|(i, g)| normals(i, g.len())).collect();
        let mut slopes = Vec::new();
        for (index, (name, param)) in self.model.params().iter().enumerate() {
            let grad = &all[index];
            // One parameter at a time, so that a wrong gradient cannot hide behind the large ones.
            let slope = self.slope(&directions, Some(index));
            let unit = length(&directions[index]);
            let expected: f64 = grad.iter().zip(&directions[index]).map(|(g, d)| g * d / unit).sum();
            let allowed = LIMIT * length(grad).max(1e-3 * norm);
            assert!(
                (slope - expected).abs() <= allowed,
                "{name}: gradient {expected:e}, difference {slope:e}"
            );
            slopes.push(expected);
            for (part, is_key) in parts(name, grad) {
                let share = length(part) / norm;
                let is_zero = is_key || zeros.contains(&name.as_str());
                let fits = if is_zero { share <= ZERO } else { share >= NON_ZERO };
                assert!(fits, "{name} {:?}: gradient {share:e} of the whole norm", param.value().shape());
            }
        }
        let together = self.slope(&directions, None);
        let expected: f64 = slopes.iter().sum();
        assert!((together - expected).abs() <= LIMIT * norm, "gradient {expected}, difference {together}");
    }

    /// Central difference of the loss along the unit direction of one parameter, or of each.
    fn slope(&self, directions: &[Vec<f64>], which: Option<usize>) -> f64 {
        let at = |step: f64| {
            let mut model = self.model.clone();
            for (index, (_, param)) in model.params_mut().into_iter().enumerate() {
                if which.is_none_or(|which| which == index) {
                    let direction = &directions[index];
                    let factor = step / length(direction);
                    let moved = param
                        .value()
                        .to_f64()
                        .unwrap()
                        .iter()
                        .zip(direction)
                        .map(|(p, d)| p + factor * d)
                        .collect();
                    let moved =
                        Tensor::from_f64(self.model.backend(), param.value().shape(), moved, DType::F64);
                    param.set(&moved.unwrap()).unwrap();
                }
            }
            self.loss_in(Context::inference(), &model).value().item().unwrap()
        };
        (at(STEP) - at(-STEP)) / (2.0 * STEP)
    }
}

/// Parts of a parameter that are checked separately, and whether each is a key bias: it shifts all scores of a query
/// equally, to which a softmax is invariant.
fn parts<'a>(name: &str, grad: &'a [f64]) -> Vec<(&'a [f64], bool)> {
    if name.ends_with("qkv.bias") {
        grad.chunks(grad.len() / 3).zip([false, true, false]).collect()
    } else {
        vec![(grad, name.ends_with("attn2.wk.bias"))]
    }
}

fn settings() -> TrainConfig {
    let mut config = TrainConfig {
        dropout: 0.2,
        objective: FlowObjective { batch_mul: 2, diversity: DIVERSITY, ..FlowObjective::default() },
        ..TrainConfig::new(3, 10)
    };
    config.lr.peak = 1e-2;
    config
}

fn configs() -> [TransDiffConfig; 3] {
    [tiny::one_step(), tiny::mrar(), tiny::mrar_of_singles()]
}

/// Recomputed blocks draw the same dropout masks and give bitwise identical gradients.
#[test]
fn gradient_checkpointing_is_bitwise_identical() {
    fn check<B: Backend>(backend: &B) {
        for config in configs() {
            let model = tiny::model(backend, &config, DType::F64);
            let batches = [1, 2].map(|seed| tiny::batch(&model, &[true, false], 2, seed));
            let settings = TrainConfig { compute: DType::F64, ..settings() };
            let plain = Trainer::new(model.clone(), settings.clone()).unwrap();
            let recomputed = TrainConfig { gradient_checkpointing: true, ..settings };
            let recomputed = Trainer::new(model, recomputed).unwrap();
            let (loss, grads) = plain.gradients(&batches).unwrap();
            let (recomputed_loss, recomputed_grads) = recomputed.gradients(&batches).unwrap();
            assert_eq!(loss.to_bits(), recomputed_loss.to_bits());
            for (name, param) in plain.model().params() {
                let [a, b] = [&grads, &recomputed_grads].map(|g| g.get(param.key()).map(bits));
                assert_eq!(a, b, "{name}");
            }
        }
    }
    check(&Reference);
    check(&Cpu::new(None).unwrap());
}

/// Frozen parameters have no gradient and no moments, and neither they nor their EMA weights change.
#[test]
fn frozen_parameters_do_not_change() {
    let backend = Cpu::new(Some(1)).unwrap();
    for ((config, gradient_checkpointing), rate) in
        configs().into_iter().zip([false, true, true]).zip([0.7, 0.9999, 0.997])
    {
        let model = tiny::model(&backend, &config, DType::F32);
        let trainable_prefixes = vec!["diffdecoder.".to_owned()];
        let ema = EmaConfig { decay: rate, warmup: rate == 0.7 };
        let settings = TrainConfig { trainable_prefixes, gradient_checkpointing, ema, ..settings() };
        let mut trainer = Trainer::new(model.clone(), settings).unwrap();
        let (_, grads) = trainer.gradients(&[tiny::batch(&model, &[true, false], 2, 1)]).unwrap();
        let is_frozen = |name: &str| !name.starts_with("diffdecoder.");
        for (name, param) in trainer.model().params() {
            assert_eq!(grads.get(param.key()).is_none(), is_frozen(&name), "{name}");
        }
        for _ in 0..3 {
            tiny::step(&mut trainer, &tiny::set(&config, 5)).unwrap();
        }
        let trained: Vec<String> =
            model.params().into_iter().map(|(name, _)| name).filter(|name| !is_frozen(name)).collect();
        assert_eq!(differing(&model, trainer.model()), trained);
        assert_eq!(differing(&model, trainer.ema()), trained);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.safetensors");
        trainer.save(&path).unwrap();
        let file = WeightFile::open(&path).unwrap();
        let mut moments: Vec<&str> =
            file.entries().keys().filter_map(|k| k.strip_prefix("adam_m.")).collect();
        let mut expected: Vec<&str> = trained.iter().map(String::as_str).collect();
        moments.sort_unstable();
        expected.sort_unstable();
        assert_eq!(moments, expected);
        // A new run from the result trains all parameters, and resumes.
        let settings = TrainConfig { trainable_prefixes: Vec::new(), ..trainer.config().clone() };
        let mut whole = Trainer::new(trainer.ema().clone(), settings).unwrap();
        // The learning rate of the first step is 0.
        for _ in 0..2 {
            tiny::step(&mut whole, &tiny::set(&config, 5)).unwrap();
        }
        assert!(differing(trainer.ema(), whole.model()).iter().any(|name| is_frozen(name)));
        whole.save(&path).unwrap();
        let resumed = Trainer::resume(&backend, &path).unwrap();
        assert_eq!(differing(resumed.model(), whole.model()), Vec::<String>::new());
    }
}

/// Samples 5 to 7 in one batch, in training with dropout: the features, and the decoder's velocities of two noised copies
/// of each.
#[test]
fn outputs_of_samples_are_bitwise_identical_alone_and_in_a_batch() {
    fn check<B: Backend>(backend: &B, dtype: DType) {
        for config in [tiny::one_step(), tiny::mrar()] {
            let model = tiny::model(backend, &config, dtype);
            let batch = tiny::batch(&model, &[false, true, false], 2, 1);
            let together = outputs(&model, &batch, 0..3);
            for sample in 0..3 {
                let alone = outputs(&model, &batch, sample..sample + 1);
                for (together, alone) in together.iter().zip(&alone) {
                    let rows = alone.dim(0);
                    assert_eq!(bits(&together.narrow(0, sample * rows, rows).unwrap()), bits(alone));
                }
            }
        }
    }
    check(&Reference, DType::F64);
    check(&Cpu::new(Some(2)).unwrap(), DType::F32);
}

/// Features and velocities of the samples `range` of a batch, with copies of one sample adjacent.
fn outputs<B: Backend>(model: &TransDiff<B>, batch: &FlowBatch<B>, range: Range<usize>) -> [Tensor<B>; 2] {
    let ctx = Context::recording(Tape::new());
    let ctx = ctx.with_dropout(0.3, 5, 5 + range.start as u32, range.len()).unwrap();
    let (labels, dropped) = (&batch.labels[range.clone()], &batch.dropped[range.clone()]);
    let cut = |t: &Tensor<B>, copies: usize| t.narrow(0, range.start * copies, range.len() * copies).unwrap();
    let references: Vec<_> = batch.latents[1..].iter().map(|latent| cut(latent, 1)).collect();
    let class = model.ar().dropped_embedding(&ctx, labels, dropped).unwrap();
    let features = model.ar().features(&ctx, &class, &references).unwrap();
    let condition = model.decoder().condition(&ctx, &features).unwrap();
    let FlowDraws { noise, timesteps } = &batch.draws[0];
    let time = model.decoder().time(&ctx, &timesteps[2 * range.start..2 * range.end]).unwrap();
    let x = ctx.input(&cut(noise, 2)).unwrap();
    let velocity = model.decoder().velocity(&ctx, &x, &time, &condition).unwrap();
    [features.into_value(), velocity.into_value()]
}
