//! Samplers against recorded runs: Euler–Maruyama of the published implementation, and solvers for fewer evaluations.

mod common;

use common::golden::{Golden, assert_close};
use serde_json::Value;
use transdiff_core::diffusion::{
    AdamsBashforth, ArStep, ConditionalField, EulerMaruyama, ExponentialSde, Guidance, GuidedField,
    Interpolant, NoiseSource, NoopObserver, RecordedNoise, Sampler, Solver, Timesteps,
};
use transdiff_core::reference::Reference;
use transdiff_core::{Backend, DType, HostTensor, Result, Tensor};
use transdiff_cpu::Cpu;

/// v(x, c, t) = tanh(x Aᵀ) + c·cos(t) + b, on the host in f64.
struct Recorded {
    a: Vec<f64>,
    b: Vec<f64>,
    cond: Vec<f64>,
    uncond: Vec<f64>,
}

impl Recorded {
    fn velocity<B: Backend>(&self, x: &Tensor<B>, c: &[f64], t: f64) -> Result<Tensor<B>> {
        let n = self.b.len();
        let rows = x.to_f64()?;
        let row = |x: &[f64], j: usize| -> f64 { (0..n).map(|k| x[k] * self.a[j * n + k]).sum() };
        let v = (0..rows.len())
            .map(|i| row(&rows[i / n * n..][..n], i % n).tanh() + c[i] * t.cos() + self.b[i % n])
            .collect();
        Tensor::from_f64(x.backend(), x.shape(), v, x.dtype())
    }
}

impl<B: Backend> ConditionalField<B> for Recorded {
    fn conditional(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>> {
        self.velocity(x, &self.cond, t)
    }

    fn unconditional(&self, x: &Tensor<B>, t: f64) -> Result<Tensor<B>> {
        self.velocity(x, &self.uncond, t)
    }
}

/// Number `key` of a run, or `default` where the run may lack it.
fn number(config: &Value, key: &str, default: Option<f64>) -> f64 {
    config[key].as_f64().or(default).unwrap_or_else(|| panic!("{config}: no number {key}"))
}

/// The sampler of a run.
fn solver(config: &Value) -> Solver {
    let number = |key: &str| number(config, key, None);
    let (steps, order) = (number("num_steps") as usize, || number("order") as usize);
    let scales = || (number("scale_0"), number("scale_1"));
    match config["solver"].as_str() {
        None => {
            let interpolant = match config["path"].as_str() {
                Some("linear") => Interpolant::Linear,
                Some("cosine") => Interpolant::Cosine,
                other => panic!("{config}: path {other:?}"),
            };
            let (drift, noise) = scales();
            EulerMaruyama::new(Timesteps::paper(steps).unwrap(), interpolant, drift, noise).unwrap().into()
        }
        Some("exponential_sde") => {
            let (drift, noise) = scales();
            ExponentialSde::new(Timesteps::paper(steps).unwrap(), order(), drift, noise).unwrap().into()
        }
        Some("adams_bashforth") => {
            let timesteps = match config["times"].as_array() {
                None => Timesteps::uniform(steps),
                Some(times) => {
                    Timesteps::listed(times.iter().map(|t| t.as_f64().unwrap()).collect::<Vec<_>>())
                }
            };
            AdamsBashforth::new(timesteps.unwrap(), Interpolant::Linear, order()).unwrap().into()
        }
        Some(other) => panic!("{config}: solver {other}"),
    }
}

/// The final state of run `name`, which must draw as often as its solver does.
fn run<B: Backend>(backend: &B, dtype: DType, golden: &Golden, name: &str, config: &Value) -> HostTensor {
    let tensor = |key: &str| golden.tensor(&format!("{name}.{key}"));
    let values = |key: &str| tensor(key).to_f64();
    let upload = |key: &str| Tensor::from_host(backend, &tensor(key).clone().cast(dtype).unwrap()).unwrap();

    let field = Recorded { a: values("A"), b: values("b"), cond: values("cond"), uncond: values("uncond") };
    let [low, high] =
        [("guidance_low", 0.0), ("guidance_high", 1.0)].map(|(key, end)| number(config, key, Some(end)));
    let guidance = Guidance::within(number(config, "cfg", None), low, high).unwrap();
    let solver = solver(config);
    let x0 = upload("x0");
    let shape = x0.shape().to_vec();
    // Without injected noise nothing is drawn; otherwise once per step but the last.
    let is_silent = !solver.kind().is_stochastic() || number(config, "scale_1", None) == 0.0;
    let used = if is_silent { 0 } else { solver.timesteps().steps() - 1 };
    let draws = if solver.kind().is_stochastic() { rows(&upload("noise"), &shape) } else { Vec::new() };
    let count = draws.len();
    let mut noise = RecordedNoise::new(x0, draws);
    let x = noise.initial(&shape).unwrap();
    let out = solver
        .sample(&GuidedField::new(&field, guidance), x, ArStep::ONLY, &mut noise, &mut NoopObserver)
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(count - noise.remaining(), used, "{name}: number of draws");
    out.to_host().unwrap()
}

/// The draws of a run, each of `shape`.
fn rows<B: Backend>(draws: &Tensor<B>, shape: &[usize]) -> Vec<Tensor<B>> {
    (0..draws.dim(0)).map(|i| draws.narrow(0, i, 1).and_then(|draw| draw.reshape(shape)).unwrap()).collect()
}

fn all_runs<B: Backend>(backend: &B, dtype: DType, limit: f64) {
    for file in ["sampler", "solvers"] {
        let golden = Golden::load(file);
        let runs = golden.json("runs");
        let runs = runs.as_array().expect("runs is a list");
        assert!(!runs.is_empty());
        for (i, config) in runs.iter().enumerate() {
            let name = format!("run{i}");
            let out = run(backend, dtype, &golden, &name, config);
            let expected = golden.tensor(&format!("{name}.out"));
            let error = assert_close(&format!("{file} {name} {config}"), &out, expected, limit);
            println!("{file} {name}: {error:.2e}");
        }
    }
}

/// In f64, as the published implementation, but with inputs and outputs that were stored in f32.
#[test]
fn runs_match_in_f64() {
    all_runs(&Reference, DType::F64, 1e-6);
}

#[test]
fn runs_match_in_f32() {
    all_runs(&Cpu::new(Some(2)).unwrap(), DType::F32, 2e-5);
    all_runs(&Reference, DType::F32, 2e-5);
}

/// On the first GPU, if there is one.
#[cfg(feature = "cuda")]
mod cuda {
    use super::*;

    #[test]
    fn runs_match_on_cuda() {
        let Some(cuda) = common::cuda::device() else { return };
        all_runs(&cuda, DType::F32, 2e-5);
    }
}
