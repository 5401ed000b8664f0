//! The model against the published implementation: every recorded activation, velocity, sample, loss, gradient and
//! weight. The configuration comes from each file's metadata, so that other files of the same kind can replace
//! ours (`TRANSDIFF_GOLDEN`).

mod common;

use common::golden::{Golden, relative_error};
use transdiff_core::autograd::Context;
use transdiff_core::autograd::Var;
use transdiff_core::diffusion::Sampling;
use transdiff_core::diffusion::{
    EulerMaruyama, Guidance, Interpolant, NoopObserver, RecordedNoise, Timesteps,
};
use transdiff_core::models::transdiff::{FlowBatch, FlowDraws};
use transdiff_core::models::transdiff::{Mode, Session, TransDiff, TransDiffConfig, latent_tokens};
use transdiff_core::models::{Features, Model};
use transdiff_core::nn::Module;
use transdiff_core::train::{EmaConfig, LrDecay, LrSchedule, TrainConfig, Trainer};
use transdiff_core::{Backend, DType, HostTensor, Tensor};
use transdiff_cpu::Cpu;

/// Largest relative error per kind of value.
#[derive(Clone, Copy)]
struct Limits {
    activation: f64,
    gradient: f64,
    sample: f64,
    weight: f64,
    /// Largest norm of a gradient that is truly zero, as a share of the gradient norm.
    zero: f64,
}

/// Tolerances that the golden files are specified with, for f32.
const SINGLE: Limits = Limits { activation: 3e-6, gradient: 2e-5, sample: 2e-5, weight: 1e-5, zero: 1e-6 };

/// A gradient below this share of the gradient norm is a true zero: the recording holds rounding noise.
const TRUE_ZERO: f64 = 1e-9;

const FILES: [&str; 3] = ["onestep_256", "onestep_512", "mrar_256"];

#[test]
fn onestep_256() {
    check_file(&Cpu::new(None).unwrap(), FILES[0], DType::F32, SINGLE);
}

#[test]
fn onestep_512() {
    check_file(&Cpu::new(None).unwrap(), FILES[1], DType::F32, SINGLE);
}

#[test]
fn mrar_256() {
    check_file(&Cpu::new(None).unwrap(), FILES[2], DType::F32, SINGLE);
}

/// Tolerances for bf16, about twice the measured errors: roundings of 4e-3 add up over blocks and steps. Adam takes
/// steps of one size for gradients of any: where rounding flips a sign, a weight that began at zero moves the other way.
const HALF: Limits = Limits { activation: 1e-2, gradient: 4e-2, sample: 1.6e-2, weight: 5e-2, zero: 1e-4 };

#[test]
fn onestep_256_in_bf16() {
    check_file(&Cpu::new(None).unwrap(), FILES[0], DType::BF16, HALF);
}

#[test]
fn onestep_512_in_bf16() {
    check_file(&Cpu::new(None).unwrap(), FILES[1], DType::BF16, HALF);
}

#[test]
fn mrar_256_in_bf16() {
    check_file(&Cpu::new(None).unwrap(), FILES[2], DType::BF16, HALF);
}

/// On the first GPU, if there is one.
#[cfg(feature = "cuda")]
mod cuda {
    use super::*;

    fn check(name: &str, dtype: DType, limits: Limits) {
        if let Some(cuda) = common::cuda::device() {
            check_file(&cuda, name, dtype, limits);
        }
    }

    #[test]
    fn onestep_256_in_f32() {
        check(FILES[0], DType::F32, SINGLE);
    }

    #[test]
    fn onestep_512_in_f32() {
        check(FILES[1], DType::F32, SINGLE);
    }

    #[test]
    fn mrar_256_in_f32() {
        check(FILES[2], DType::F32, SINGLE);
    }

    #[test]
    fn onestep_256_in_bf16() {
        check(FILES[0], DType::BF16, HALF);
    }

    #[test]
    fn onestep_512_in_bf16() {
        check(FILES[1], DType::BF16, HALF);
    }

    #[test]
    fn mrar_256_in_bf16() {
        check(FILES[2], DType::BF16, HALF);
    }
}

/// Compares all values of a file. `compute` is the type that the model computes in; weights have that type for generation,
/// and f32 for training.
fn check_file<B: Backend>(backend: &B, name: &str, compute: DType, limits: Limits) {
    let golden = Golden::load(name);
    let mut case = Case::new(backend, &golden, compute, limits);
    case.check_features();
    case.check_velocities();
    for kind in ["cfg1", "cfg"] {
        case.check_sample(kind);
    }
    case.check_training();
    case.report(name);
}

/// A file, the model that it describes, and the values that did not agree.
struct Case<'a, B: Backend> {
    golden: &'a Golden,
    backend: B,
    model: TransDiff<B>,
    limits: Limits,
    failures: Vec<String>,
    checked: usize,
}

fn config_of(golden: &Golden) -> TransDiffConfig {
    let feature_tokens: usize = golden.value("seq_len");
    let width: usize = golden.value("embed_dim");
    let mode = match golden.text("mrar") {
        "true" => {
            Mode::MultiReference { groups: feature_tokens / golden.tensor("param.mask_token").shape()[1] }
        }
        _ => Mode::OneStep,
    };
    TransDiffConfig {
        width,
        heads: golden.value("heads"),
        encoder_blocks: golden.value("encoder_blocks"),
        decoder_blocks: golden.value("decoder_blocks"),
        mlp_ratio: golden.tensor("param.encoder_blocks.0.mlp.fc1.bias").shape()[0] / width,
        classes: golden.value("classes"),
        buffer_size: golden.value("buffer_size"),
        feature_tokens,
        latent_channels: golden.value("latent_channels"),
        latent_size: golden.value::<usize>("img_size") / 16,
        mode,
        distilled: false,
    }
}

fn indices(tensor: &HostTensor) -> Vec<usize> {
    tensor.to_f64().into_iter().map(|x| x as usize).collect()
}

/// The recorded model, with weights of the type `dtype`.
fn model<B: Backend>(backend: &B, golden: &Golden, dtype: DType) -> TransDiff<B> {
    let mut model = TransDiff::placeholder(backend, &config_of(golden), dtype).unwrap();
    let names: Vec<String> = model.params().into_iter().map(|(name, _)| name).collect();
    let recorded: Vec<&str> = golden.under("param.").map(|(name, _)| name).collect();
    let mut sorted = names.clone();
    sorted.sort();
    assert_eq!(sorted, recorded, "parameter names");
    for (name, param) in model.params_mut() {
        param.set_host(golden.tensor(&format!("param.{name}")).clone().cast(dtype).unwrap()).unwrap();
    }
    model
}

impl<'a, B: Backend> Case<'a, B> {
    fn new(backend: &B, golden: &'a Golden, compute: DType, limits: Limits) -> Self {
        let model = model(backend, golden, compute);
        Self { golden, backend: backend.clone(), model, limits, failures: Vec::new(), checked: 0 }
    }
    fn report(self, name: &str) {
        println!("{name}: {} values compared", self.checked);
        assert!(self.failures.is_empty(), "{name}:\n{}", self.failures.join("\n"));
    }

    fn tensor(&self, name: &str) -> Tensor<B> {
        Tensor::from_host(&self.backend, self.golden.tensor(name)).unwrap()
    }

    fn note(&mut self, name: &str, error: f64, limit: f64) {
        self.checked += 1;
        if error.is_nan() || error > limit {
            self.failures.push(format!("{name}: error {error:.3e}, at most {limit:.3e} is allowed"));
        }
    }

    fn close(&mut self, name: &str, out: &Tensor<B>, limit: f64) {
        let reference = self.golden.tensor(name);
        assert_eq!(out.numel(), reference.data().len(), "{name}: number of elements");
        let error = relative_error(&out.to_f64().unwrap(), &reference.to_f64());
        self.note(name, error, limit);
    }

    fn references(&self) -> Vec<Tensor<B>> {
        (1..self.model.config().groups()).map(|k| self.tensor(&format!("in.ref{}", k - 1))).collect()
    }

    fn features(&self) -> Features<B> {
        let labels = indices(self.golden.tensor("in.labels"));
        self.model.features(&self.model.inference(), &labels, &self.references()).unwrap()
    }

    fn conditioning(&self) -> Var<B> {
        let features = Var::from(self.features().tensor().clone());
        self.model
            .ar()
            .conditioning(&Context::inference().with_compute_dtype(self.model.dtype()), &features)
            .unwrap()
    }

    fn check_features(&mut self) {
        let (ctx, ar) =
            (Context::inference().with_compute_dtype(self.model.dtype()), self.model.ar().clone());
        let labels = indices(self.golden.tensor("in.labels"));
        let class = ar.class_embedding(&ctx, &labels).unwrap();
        let references = self.references();
        let embedded = ar.embed(&ctx, &class, &references).unwrap();
        let segment_ends = ar.segment_ends(1 + references.len());
        let block0 = ar.blocks()[0].forward(&ctx, &embedded, segment_ends.as_deref()).unwrap();
        self.close("act.encoder_block0", block0.value(), self.limits.activation);
        if self.golden.get("act.encoder_out").is_some() {
            self.close("act.encoder_out", self.features().tensor(), self.limits.activation);
        }
        self.close("out.z", self.conditioning().value(), self.limits.activation);
    }

    /// Compares the velocities for all features, and for the first k where those were recorded.
    fn check_velocities(&mut self) {
        let (ctx, decoder, z) = (
            Context::inference().with_compute_dtype(self.model.dtype()),
            self.model.decoder().clone(),
            self.conditioning(),
        );
        let timesteps = self.golden.tensor("in.t").to_f64();
        let time = decoder.time(&ctx, &timesteps).unwrap();
        self.close("out.temb", time.temb.value(), self.limits.activation);
        self.close(
            "out.timestep_proj",
            decoder.shared_time(&ctx, &timesteps).unwrap().1.value(),
            self.limits.activation,
        );
        let x = ctx.input(&self.tensor("in.x")).unwrap();
        let recorded = self.golden.under("out.velocity_");
        let mut counts: Vec<usize> = recorded.map(|(k, _)| k.parse().unwrap()).collect();
        counts.sort_unstable();
        // The recorded activation of the decoder belongs to the last call.
        let last = counts.last().copied().unwrap_or(z.dim(1));
        counts.push(z.dim(1));
        for k in counts {
            let condition = decoder.condition(&ctx, &z.narrow(1, 0, k).unwrap()).unwrap();
            let velocity = decoder.velocity(&ctx, &x, &time, &condition).unwrap();
            let name = if k == z.dim(1) { "out.velocity".to_owned() } else { format!("out.velocity_{k}") };
            self.close(&name, velocity.value(), self.limits.activation);
            if k == last {
                let h = decoder.embed(&ctx, &x).unwrap();
                let block = &decoder.blocks()[0];
                let h = block.forward(&ctx, &h, 1, &time.modulations[0], condition.layer(0)).unwrap();
                self.close("act.decoder_block0", h.value(), self.limits.activation);
            }
        }
    }

    fn check_sample(&mut self, kind: &str) {
        let value = |key| self.golden.value::<f64>(key);
        let guidance = if kind == "cfg" { value("cfg") } else { 1.0 };
        let timesteps = Timesteps::paper(self.golden.value("num_sampling_steps")).unwrap();
        let solver =
            EulerMaruyama::new(timesteps, Interpolant::Linear, value("scale_0"), value("scale_1")).unwrap();
        let draws = self.tensor(&format!("in.{kind}.noise"));
        let draw = |i| {
            let shape = &draws.shape()[1..];
            draws.narrow(0, i, 1).unwrap().reshape(shape).unwrap()
        };
        let mut noise =
            RecordedNoise::new(self.tensor(&format!("in.{kind}.noise0")), (0..draws.dim(0)).map(draw));
        let labels = indices(self.golden.tensor("in.labels"));
        let sampling = Sampling::new(solver, Guidance::new(guidance).unwrap());
        let mut session = Session::new(&self.model);
        let out = session.generate(&labels, &[], &sampling, &mut noise, &mut NoopObserver).unwrap();
        assert_eq!(noise.remaining(), 0, "{kind}: every recorded draw is used");
        self.close(&format!("out.{kind}.sample"), &out.codes, self.limits.sample);
        let steps = out.references.iter().chain([&out.codes]).enumerate();
        for (i, latent) in steps.filter(|_| !out.references.is_empty()) {
            let tokens = latent_tokens(latent).unwrap().contiguous().unwrap();
            self.close(&format!("out.{kind}.step{i}"), &tokens, self.limits.sample);
        }
    }

    fn batch(&self, step: usize) -> FlowBatch<B> {
        let name = |key: &str| format!("train{step}.in.{key}");
        let groups = self.model.config().groups();
        let timesteps = self.golden.tensor(&name("timestep")).to_f64();
        let noise = self.tensor(&name("noise"));
        let rows = timesteps.len() / groups;
        let draws = |g: usize| FlowDraws {
            timesteps: timesteps[g * rows..(g + 1) * rows].to_vec(),
            noise: noise.narrow(0, g * rows, rows).unwrap(),
        };
        FlowBatch {
            labels: indices(self.golden.tensor(&name("labels"))),
            dropped: indices(self.golden.tensor(&name("drop"))).into_iter().map(|d| d == 1).collect(),
            latents: (0..groups).map(|g| self.tensor(&name(&format!("latent{g}")))).collect(),
            draws: (0..groups).map(draws).collect(),
        }
    }

    fn check_training(&mut self) {
        let adamw = self.golden.json("adamw");
        let number = |v: &serde_json::Value| v.as_f64().unwrap();
        let clips: Vec<f64> = adamw["clip"].as_array().unwrap().iter().map(number).collect();
        let compute = self.model.dtype();
        let config = |step: usize| TrainConfig {
            dropout: 0.0,
            compute,
            lr: LrSchedule { peak: number(&adamw["lr"]), warmup: 0, total: 1, decay: LrDecay::Constant },
            betas: [number(&adamw["betas"][0]), number(&adamw["betas"][1])],
            eps: number(&adamw["eps"]),
            weight_decay: number(&adamw["weight_decay"]),
            max_grad_norm: clips[step],
            ema: EmaConfig { decay: self.golden.value("ema_rate"), warmup: false },
            ..TrainConfig::new(1, 1)
        };
        let start = model(&self.backend, self.golden, compute.accumulator());
        let mut trainer = Trainer::new(start, config(0)).unwrap();
        for step in 0..clips.len() {
            let batch = self.batch(step);
            trainer.reconfigure(config(step)).unwrap();
            if step == 0 {
                self.check_gradients(&trainer, &batch);
            }
            let report = trainer.step_on(&[batch]).unwrap();
            for (key, value, limit) in [
                ("loss", report.loss, self.limits.activation),
                ("grad_norm", report.grad_norm, self.limits.gradient),
            ] {
                let name = format!("train{step}.out.{key}");
                let error = relative_error(&[value], &self.golden.tensor(&name).to_f64());
                self.note(&name, error, limit);
            }
        }
        let travelled = 2.0 * config(0).lr.peak * clips.len() as f64;
        self.check_weights("final.", trainer.model(), travelled);
        self.check_weights("ema.", trainer.ema(), travelled);
    }

    fn check_gradients(&mut self, trainer: &Trainer<B>, batch: &FlowBatch<B>) {
        let (_, grads) = trainer.gradients(std::slice::from_ref(batch)).unwrap();
        let norm = self.golden.tensor("train0.out.grad_norm").to_f64()[0];
        for (name, param) in trainer.model().params() {
            let out = match grads.get(param.key()) {
                Some(grad) => grad.to_f64().unwrap(),
                None => vec![0.0; param.value().numel()],
            };
            let key = format!("grad.{name}");
            let reference = match self.golden.get(&key) {
                Some(tensor) => tensor.to_f64(),
                None => vec![0.0; out.len()],
            };
            assert_eq!(out.len(), reference.len(), "{key}: number of elements");
            for (part, range) in parts(&name, out.len()) {
                let (out, reference) = (&out[range.clone()], &reference[range]);
                let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
                if length(reference) < TRUE_ZERO * norm {
                    self.note(&format!("{key}{part}"), length(out) / norm, self.limits.zero);
                } else {
                    self.note(&format!("{key}{part}"), relative_error(out, reference), self.limits.gradient);
                }
            }
        }
    }

    /// Compares the weights after the steps. Adam turns the rounding noise of a zero gradient into steps, so key biases are
    /// held to the distance `travelled` that the steps allow.
    fn check_weights(&mut self, prefix: &str, model: &TransDiff<B>, travelled: f64) {
        for (name, param) in model.params() {
            let key = format!("{prefix}{name}");
            let (out, reference) = (param.value().to_f64().unwrap(), self.golden.tensor(&key).to_f64());
            assert_eq!(out.len(), reference.len(), "{key}: number of elements");
            for (part, range) in parts(&name, out.len()) {
                let (out, reference) = (&out[range.clone()], &reference[range]);
                if part == KEY_PART {
                    // NaN is the largest in this order.
                    let distances = out.iter().zip(reference).map(|(a, b)| (a - b).abs());
                    let furthest = distances.max_by(f64::total_cmp).unwrap_or(0.0);
                    self.note(&format!("{key}{part}"), furthest, travelled);
                } else {
                    self.note(&format!("{key}{part}"), relative_error(out, reference), self.limits.weight);
                }
            }
        }
    }
}

const KEY_PART: &str = " (keys)";

/// Ranges of a parameter that are compared separately: key biases apart from the rest.
fn parts(name: &str, len: usize) -> Vec<(&'static str, std::ops::Range<usize>)> {
    if name.ends_with("qkv.bias") {
        let third = len / 3;
        vec![(" (queries)", 0..third), (KEY_PART, third..2 * third), (" (values)", 2 * third..len)]
    } else if name.ends_with("attn2.wk.bias") {
        vec![(KEY_PART, 0..len)]
    } else {
        vec![("", 0..len)]
    }
}
