//! The Euler–Maruyama sampler against recorded runs of the published implementation.

mod common;

use common::golden::{Golden, assert_close};
use serde_json::Value;
use transdiff_core::diffusion::{
    ArStep, ConditionalField, EulerMaruyama, Guidance, GuidedField, Interpolant, NoiseSource, NoopObserver,
    RecordedNoise, Sampler, Timesteps,
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

/// The final state of run `name`; every recorded draw must be used.
fn run<B: Backend>(backend: &B, dtype: DType, golden: &Golden, name: &str, config: &Value) -> HostTensor {
    let number = |key: &str| config[key].as_f64().unwrap_or_else(|| panic!("{name}: no number {key}"));
    let interpolant = match config["path"].as_str() {
        Some("linear") => Interpolant::Linear,
        Some("cosine") => Interpolant::Cosine,
        other => panic!("{name}: path {other:?}"),
    };
    let tensor = |key: &str| golden.tensor(&format!("{name}.{key}"));
    let values = |key: &str| tensor(key).to_f64();
    let upload = |key: &str| Tensor::from_host(backend, &tensor(key).clone().cast(dtype).unwrap()).unwrap();

    let field = Recorded { a: values("A"), b: values("b"), cond: values("cond"), uncond: values("uncond") };
    let guidance = Guidance::within(number("cfg"), number("guidance_low"), number("guidance_high")).unwrap();
    let timesteps = Timesteps::paper(number("num_steps") as usize).unwrap();
    let sampler = EulerMaruyama::new(timesteps, interpolant, number("scale_0"), number("scale_1")).unwrap();
    let (x0, draws) = (upload("x0"), upload("noise"));
    let shape = x0.shape().to_vec();
    let draw = |i| draws.narrow(0, i, 1).and_then(|d| d.reshape(&shape)).unwrap();
    let mut noise = RecordedNoise::new(x0, (0..draws.dim(0)).map(draw));
    let x = noise.initial(&shape).unwrap();
    let out = sampler
        .sample(&GuidedField::new(&field, guidance), x, ArStep::ONLY, &mut noise, &mut NoopObserver)
        .unwrap_or_else(|e| panic!("{name}: {e}"));
    // Without injected noise nothing is drawn; otherwise once per step but the last.
    let used = if number("scale_1") == 0.0 { 0 } else { timesteps.steps() - 1 };
    assert_eq!(draws.dim(0) - noise.remaining(), used, "{name}: number of draws");
    out.to_host().unwrap()
}

fn all_runs<B: Backend>(backend: &B, dtype: DType, limit: f64) {
    let golden = Golden::load("sampler");
    let runs = golden.json("runs");
    let runs = runs.as_array().expect("runs is a list");
    assert!(!runs.is_empty());
    for (i, config) in runs.iter().enumerate() {
        let name = format!("run{i}");
        let out = run(backend, dtype, &golden, &name, config);
        let error =
            assert_close(&format!("{name} {config}"), &out, golden.tensor(&format!("{name}.out")), limit);
        println!("{name}: {error:.2e}");
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
