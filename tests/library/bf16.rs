//! bf16 on the reference implementation, which rounds where tensors change their type and panics where types do not match.
//! `golden.rs` has it on the CPU.

use crate::common::tiny::{self, bits};
use transdiff_core::diffusion::Sampling;
use transdiff_core::diffusion::{
    EulerMaruyama, Guidance, Heun, Interpolant, KeyedNoise, NoopObserver, Solver, Timesteps,
};
use transdiff_core::models::transdiff::{FlowObjective, Session, TransDiff, TransDiffConfig};
use transdiff_core::models::{Features, Generation, Model};
use transdiff_core::nn::Module;
use transdiff_core::reference::Reference;
use transdiff_core::train::{LrDecay, LrSchedule, TrainConfig, Trainer};
use transdiff_core::{DType, Error, Tensor};
use transdiff_cpu::Cpu;

/// Largest relative error. Weights and inputs are off by up to 2⁻⁸ (0.4 %), most by half of that, and errors add up over
/// the steps.
const LIMIT: f64 = 0.03;

fn configs() -> [TransDiffConfig; 3] {
    [tiny::one_step(), tiny::mrar(), tiny::mrar_of_singles()]
}

/// ‖got − want‖ / ‖want‖.
fn error(got: &Tensor<Reference>, want: &Tensor<Reference>) -> f64 {
    let length = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>().sqrt();
    let (got, want) = (got.to_f64().unwrap(), want.to_f64().unwrap());
    assert_eq!(got.len(), want.len());
    let difference: Vec<f64> = got.iter().zip(&want).map(|(g, w)| g - w).collect();
    length(&difference) / length(&want)
}

/// Close but not equal, so that bf16 was computed in.
#[track_caller]
fn assert_close(got: &Tensor<Reference>, want: &Tensor<Reference>) {
    let error = error(got, want);
    assert!((1e-6..LIMIT).contains(&error), "off by {error}");
}

fn solvers() -> [Solver; 2] {
    let (timesteps, interpolant) = (Timesteps::uniform(4).unwrap(), Interpolant::Linear);
    [
        EulerMaruyama::new(timesteps.clone(), interpolant, 0.9, 0.95).unwrap().into(),
        Heun::new(timesteps, interpolant).into(),
    ]
}

fn generate(
    model: &TransDiff<Reference>,
    references: &[Tensor<Reference>],
    sampling: &Sampling,
) -> Generation<Reference> {
    let mut noise = KeyedNoise::new(&Reference, DType::F32, &[3, 4]);
    Session::new(model).generate(&[0, 2], references, sampling, &mut noise, &mut NoopObserver).unwrap()
}

/// Noise, latents and references are f32: the state of a sampler is never rounded to bf16.
#[test]
fn generations_are_close_to_f32() {
    for config in configs() {
        let [wide, narrow] = [DType::F32, DType::BF16].map(|dtype| tiny::model(&Reference, &config, dtype));
        for (solver, scale) in solvers().into_iter().zip([1.0, 1.4]) {
            let sampling = Sampling::new(solver, Guidance::new(scale).unwrap());
            let (want, got) = (generate(&wide, &[], &sampling), generate(&narrow, &[], &sampling));
            assert_eq!(
                (got.codes.dtype(), got.features.as_ref().unwrap().tensor().dtype()),
                (DType::F32, DType::BF16)
            );
            assert_close(&got.codes, &want.codes);
            assert_close(got.features.as_ref().unwrap().tensor(), want.features.as_ref().unwrap().tensor());
            for (got, want) in got.references.iter().zip(&want.references) {
                assert_eq!(got.dtype(), DType::F32);
                assert_close(got, want);
            }
            // Given references come back as they were given.
            let given = &want.references[..want.references.len().min(1)];
            let again = generate(&narrow, given, &sampling);
            assert_close(&again.codes, &want.codes);
            assert!(given.iter().zip(&again.references).all(|(a, b)| bits(a) == bits(b)));
        }
    }
}

/// Features may have another type than the model.
#[test]
fn features_of_both_types_are_decoded() {
    let [wide, narrow] =
        [DType::F32, DType::BF16].map(|dtype| tiny::model(&Reference, &tiny::one_step(), dtype));
    let features = wide.features(&wide.inference(), &[1, 2], &[]).unwrap();
    let rounded = Features::new(features.tensor().cast(DType::BF16).unwrap()).unwrap();
    let sampling = Sampling::new(solvers()[0].clone(), Guidance::new(1.4).unwrap());
    let decode = |model: &TransDiff<Reference>, features: &Features<Reference>| {
        let mut noise = KeyedNoise::new(&Reference, DType::F32, &[3, 4]);
        Session::new(model).decode(features, &sampling, &mut noise, &mut NoopObserver).unwrap()
    };
    let want = decode(&wide, &features);
    let got = [&features, &rounded].map(|features| decode(&narrow, features));
    assert_close(&got[0], &want);
    assert_eq!(bits(&got[0]), bits(&got[1]));
    for (got, want) in rounded.diversity().unwrap().iter().zip(features.diversity().unwrap()) {
        assert!((got.root_mean_square - want.root_mean_square).abs() < LIMIT, "{got:?}, {want:?}");
    }
}

fn settings(compute: DType) -> TrainConfig {
    TrainConfig {
        accumulate: 2,
        objective: FlowObjective { batch_mul: 2, label_drop: 0.4, diversity: 0.1 },
        dropout: 0.1,
        lr: LrSchedule { peak: 3e-3, warmup: 1, total: 20, decay: LrDecay::Constant },
        compute,
        ..TrainConfig::new(3, 20)
    }
}

/// A trained model. The large random weights used for generation above are unsuitable here: rounding them alone changes
/// the gradient by a third.
fn trained(config: &TransDiffConfig) -> TransDiff<Reference> {
    let model = TransDiff::new(&Reference, config, DType::F32, 3).unwrap();
    let mut run = Trainer::new(model, settings(DType::F32)).unwrap();
    let set = tiny::set(config, 5);
    for _ in 0..10 {
        tiny::step(&mut run, &set).unwrap();
    }
    run.model().clone()
}

fn trainer(model: &TransDiff<Reference>, settings: TrainConfig) -> Trainer<Reference> {
    Trainer::new(model.clone(), settings).unwrap()
}

fn wider() -> [TransDiffConfig; 3] {
    configs().map(|config| TransDiffConfig { width: 16, ..config })
}

#[test]
fn losses_are_close_to_f32() {
    for config in wider() {
        let (model, set) = (trained(&config), tiny::set(&config, 5));
        let [mut wide, mut narrow] = [DType::F32, DType::BF16].map(|dtype| trainer(&model, settings(dtype)));
        for _ in 0..6 {
            let (want, got) = (tiny::step(&mut wide, &set).unwrap(), tiny::step(&mut narrow, &set).unwrap());
            let error = (got.loss / want.loss - 1.0).abs();
            assert!(error < LIMIT && got.loss != want.loss, "{got:?}, {want:?}");
        }
        for (name, param) in narrow.model().params().iter().chain(&narrow.ema().params()) {
            assert_eq!(param.value().dtype(), DType::F32, "{name}");
        }
    }
}

/// Gradients are f32, close to those of an f32 run, and bitwise identical with gradient checkpointing.
#[test]
fn gradients_are_close_to_f32() {
    for config in wider() {
        let model = trained(&config);
        let wide = trainer(&model, settings(DType::F32));
        let narrow = trainer(&model, settings(DType::BF16));
        let again = TrainConfig { gradient_checkpointing: true, ..settings(DType::BF16) };
        let again = trainer(&model, again);
        let batches = [1, 2].map(|seed| tiny::batch(wide.model(), &[true, false], 2, seed));
        let [(_, want), (loss, got), (loss_again, got_again)] =
            [&wide, &narrow, &again].map(|trainer| trainer.gradients(&batches).unwrap());
        assert_eq!(loss.to_bits(), loss_again.to_bits());
        let [wide, narrow, again] = [&wide, &narrow, &again].map(|trainer| trainer.model().params());
        let (mut all_got, mut all_want) = (Vec::new(), Vec::new());
        for (i, (name, param)) in wide.iter().enumerate() {
            let (got, again) = (got.get(narrow[i].1.key()), got_again.get(again[i].1.key()));
            let Some(want) = want.get(param.key()) else {
                assert!(got.is_none() && name.starts_with("z_proj."), "{name} has a gradient");
                continue;
            };
            let (got, again) = (got.expect(name), again.expect(name));
            assert_eq!((got.dtype(), bits(got)), (DType::F32, bits(again)), "{name}");
            all_got.extend(got.to_f64().unwrap());
            all_want.extend(want.to_f64().unwrap());
        }
        let [got, want] = [all_got, all_want]
            .map(|values| Tensor::from_f64(&Reference, &[values.len()], values, DType::F64).unwrap());
        assert_close(&got, &want);
    }
}

#[test]
fn resumed_runs_keep_their_compute_type() {
    let (folder, config) = (tempfile::tempdir().unwrap(), tiny::one_step());
    let (path, set) = (folder.path().join("run.safetensors"), tiny::set(&config, 5));
    let mut run = trainer(&trained(&config), settings(DType::BF16));
    tiny::step(&mut run, &set).unwrap();
    run.save(&path).unwrap();
    let mut resumed: Trainer<_> = Trainer::resume(&Reference, &path).unwrap();
    assert_eq!((resumed.config().compute, resumed.model().dtype()), (DType::BF16, DType::F32));
    let (want, got) = (tiny::step(&mut run, &set).unwrap(), tiny::step(&mut resumed, &set).unwrap());
    // The reference implementation holds f32 tensors in f64, the file does not: a weight near a tie may be rounded to its
    // other neighbour.
    assert!((got.loss / want.loss - 1.0).abs() < LIMIT, "{got:?}, {want:?}");
}

#[test]
fn unsupported_compute_types_are_refused() {
    let cpu = Cpu::new(Some(1)).unwrap();
    let model = tiny::model(&cpu, &tiny::one_step(), DType::F32);
    let refused = Trainer::new(model.clone(), settings(DType::I32)).map(drop);
    assert!(matches!(refused, Err(Error::Config { field: "compute", .. })));
    let mut run = Trainer::new(model, settings(DType::F32)).unwrap();
    let refused = run.reconfigure(settings(DType::I32));
    assert!(matches!(refused, Err(Error::Config { field: "compute", .. })));
    assert_eq!(run.config().compute, DType::F32);
}
