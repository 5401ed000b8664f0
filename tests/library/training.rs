//! The training loop and its checkpoints: resumed, interrupted and damaged runs, and invalid arguments.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::tiny::{self, bits, differing, step};
use proptest::prelude::*;
use transdiff_core::autograd::Context;
use transdiff_core::autograd::Gradients;
use transdiff_core::checkpoint::{WeightFile, write_atomic};
use transdiff_core::data::{Dataset, LoaderOptions, MemoryDataset};
use transdiff_core::models::FileKind;
use transdiff_core::models::transdiff::{FlowBatch, FlowDraws};
use transdiff_core::models::transdiff::{FlowObjective, Mode, TransDiff, TransDiffConfig};
use transdiff_core::models::{LoadHints, Model, Trainable, WeightSet};
use transdiff_core::nn::Module;
use transdiff_core::reference::Reference;
use transdiff_core::rng::Philox;
use transdiff_core::train::{Accumulation, EmaConfig, LrDecay, LrSchedule, TrainConfig, Trainer};
use transdiff_core::{Backend, DType, Error, HostTensor, Result, Tensor};
use transdiff_cpu::Cpu;

fn cpu(threads: usize) -> Cpu {
    Cpu::new(Some(threads)).unwrap()
}

/// Type of the runs that checkpoints are resumed as.
type Run<B> = Trainer<B, TransDiff<B>>;

fn settings() -> TrainConfig {
    TrainConfig {
        seed: 11,
        accumulate: 2,
        objective: FlowObjective { batch_mul: 2, label_drop: 0.4, ..FlowObjective::default() },
        dropout: 0.1,
        lr: LrSchedule { peak: 3e-3, warmup: 2, total: 20, decay: LrDecay::Cosine { min: 1e-4 } },
        ema: EmaConfig { decay: 0.9, warmup: true },
        ..TrainConfig::new(3, 20)
    }
}

fn trainer<B: Backend>(backend: &B, config: &TransDiffConfig) -> Trainer<B> {
    Trainer::new(tiny::model(backend, config, DType::F32), settings()).unwrap()
}

fn steps<B: Backend>(
    trainer: &mut Trainer<B>,
    set: &Arc<impl Dataset + 'static>,
    count: usize,
) -> Vec<[u64; 2]> {
    let mut data = trainer.loader(set.clone(), LoaderOptions::default()).unwrap();
    let step = |_| trainer.step(&mut data).map(|r| [r.loss.to_bits(), r.grad_norm.to_bits()]);
    (0..count).map(step).collect::<Result<_>>().unwrap()
}

/// The checkpoint of a run, in bytes.
fn state<B: Backend>(trainer: &Trainer<B>, folder: &Path) -> Vec<u8> {
    let path = folder.join("state.safetensors");
    trainer.save(&path).unwrap();
    std::fs::read(path).unwrap()
}

#[test]
fn resumed_runs_are_bitwise_identical() {
    const STEPS: usize = 4;
    let folder = tempfile::tempdir().unwrap();
    for config in [tiny::one_step(), tiny::mrar()] {
        let set = tiny::set(&config, 5);
        let mut whole = trainer(&cpu(1), &config);
        let reports = steps(&mut whole, &set, 2 * STEPS);
        let mut first = trainer(&cpu(1), &config);
        assert_eq!(steps(&mut first, &set, STEPS), reports[..STEPS]);
        let path = folder.path().join("run.safetensors");
        first.save(&path).unwrap();
        drop(first);
        // With another number of threads, too.
        let mut second = Run::<Cpu>::resume(&cpu(2), &path).unwrap();
        assert_eq!((second.steps_done(), second.config()), (STEPS as u64, whole.config()));
        assert_eq!(steps(&mut second, &set, STEPS), reports[STEPS..]);
        assert_eq!(differing(whole.model(), second.model()), [""; 0]);
        assert_eq!(differing(whole.ema(), second.ema()), [""; 0]);
        assert!(!differing(whole.model(), whole.ema()).is_empty());
        // Files also hold the moments and the step, and equal states are written to equal files.
        assert!(state(&whole, folder.path()) == state(&second, folder.path()), "{:?}", config.mode);
    }
}

/// The model is wide enough for its operations to use several threads.
#[test]
fn training_is_independent_of_the_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    for config in [tiny::one_step(), tiny::mrar()] {
        let config = TransDiffConfig { width: 48, latent_channels: 8, ..config };
        let set = tiny::set(&config, 5);
        let mut states = [1, 2, 3].map(|threads| {
            let mut trainer: Trainer<_> = Trainer::new(
                tiny::model(&cpu(threads), &config, DType::F32),
                TrainConfig { batch: 24, ..settings() },
            )
            .unwrap();
            steps(&mut trainer, &set, 2);
            state(&trainer, folder.path())
        });
        let last = states[2].clone();
        assert!(states.iter_mut().all(|s| *s == last), "{:?}", config.mode);
    }
}

proptest! {
    #![proptest_config(crate::common::cases(100))]

    /// Settings are stored exactly: a learning rate that is off by one rounding would make runs diverge.
    #[test]
    fn settings_round_trip_through_files(peak in 1e-9f64..1.0, beta in 0.0f64..1.0, dropout in 0.0f32..0.9, seed: u64) {
        let folder = tempfile::tempdir().unwrap();
        let config = tiny::one_step();
        let lr = LrSchedule { peak, decay: LrDecay::Linear { from: beta }, ..settings().lr };
        let settings = TrainConfig { seed, dropout, lr, betas: [beta, beta], ..settings() };
        let model = TransDiff::new(&Reference, &config, DType::F32, 1).unwrap();
        let trainer: Trainer<_> = Trainer::new(model, settings).unwrap();
        let path = folder.path().join("run");
        trainer.save(&path).unwrap();
        let resumed = Run::<Reference>::resume(&Reference, &path).unwrap();
        prop_assert_eq!(resumed.config(), trainer.config());
    }
}

#[test]
fn loss_decreases() {
    for config in [tiny::one_step(), tiny::mrar()] {
        let config = TransDiffConfig { width: 32, ..config };
        let set = tiny::set(&config, 8);
        let settings = TrainConfig {
            batch: 8,
            objective: FlowObjective { label_drop: 0.1, ..settings().objective },
            lr: LrSchedule { peak: 5e-3, warmup: 20, total: 200, decay: LrDecay::Cosine { min: 0.0 } },
            ..settings()
        };
        let model = TransDiff::new(&cpu(2), &config, DType::F32, 3).unwrap();
        let mut trainer: Trainer<_> = Trainer::new(model, settings).unwrap();
        let mut data = trainer.loader(set, LoaderOptions::default()).unwrap();
        let losses: Vec<f64> = (0..200).map(|_| trainer.step(&mut data).unwrap().loss).collect();
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
        let (first, last) = (mean(&losses[..20]), mean(&losses[180..]));
        println!("{:?}: {first:.3} → {last:.3}", config.mode);
        assert!(last < 0.6 * first, "{:?}: {first} → {last}", config.mode);
    }
}

#[test]
fn accumulated_gradients_are_the_average() {
    fn gradients<B: Backend>(trainer: &Trainer<B>, seeds: &[u64]) -> (f64, Gradients<B>) {
        let batch = |&seed: &u64| tiny::batch(trainer.model(), &[true, false], 2, seed);
        trainer.gradients(&seeds.iter().map(batch).collect::<Vec<_>>()).unwrap()
    }
    for config in [tiny::one_step(), tiny::mrar()] {
        // Without dropout: the passes of one step draw different masks.
        let settings = TrainConfig {
            dropout: 0.0,
            objective: FlowObjective { diversity: 0.1, ..settings().objective },
            compute: DType::F64,
            ..settings()
        };
        let trainer: Trainer<_> =
            Trainer::new(tiny::model(&Reference, &config, DType::F64), settings).unwrap();
        let [(a_loss, a), (b_loss, b)] = [5, 6].map(|seed| gradients(&trainer, &[seed]));
        let (loss, both) = gradients(&trainer, &[5, 6]);
        assert!((loss - 0.5 * (a_loss + b_loss)).abs() < 1e-12);
        for (name, param) in trainer.model().params() {
            let [Some(a), Some(b), Some(both)] = [&a, &b, &both].map(|g| g.get(param.key())) else {
                assert!(name.starts_with("z_proj."), "{name} has a gradient");
                continue;
            };
            let error = a.add(b).unwrap().affine(0.5, 0.0).unwrap().sub(both).unwrap().to_f64().unwrap();
            assert!(error.iter().all(|e| e.abs() < 1e-12), "{name}");
        }
        assert!(trainer.gradients(&[]).is_err(), "an average needs a batch");
    }
}

/// The draws of a sample, dropout included, depend on its number: the same samples in other batches have the same gradients, up to rounding.
#[test]
fn draws_are_independent_of_the_division_into_batches() {
    for config in [tiny::one_step(), tiny::mrar()] {
        let set = tiny::set(&config, 5);
        let reports = [(6, 1), (3, 2), (2, 3), (1, 6)].map(|(batch, accumulate)| {
            let settings = TrainConfig { batch, accumulate, compute: DType::F64, ..settings() };
            let mut trainer: Trainer<_> =
                Trainer::new(tiny::model(&Reference, &config, DType::F64), settings).unwrap();
            [0, 1].map(|_| step(&mut trainer, &set).unwrap())
        });
        for report in &reports[1..] {
            for (got, want) in report.iter().zip(&reports[0]) {
                assert!((got.loss - want.loss).abs() < 1e-12, "{got:?} {want:?}");
                assert!((got.grad_norm / want.grad_norm - 1.0).abs() < 1e-9, "{got:?} {want:?}");
            }
        }
    }
}

/// The sum of the gradients is their mean times the number of passes, and clipping applies to it.
#[test]
fn accumulated_gradients_can_be_summed() {
    let config = tiny::one_step();
    let report = |accumulate_as| {
        let settings = TrainConfig { accumulate_as, dropout: 0.0, ..settings() };
        let mut trainer: Trainer<_> =
            Trainer::new(tiny::model(&Reference, &config, DType::F64), settings).unwrap();
        step(&mut trainer, &tiny::set(&config, 5)).unwrap()
    };
    let [mean, sum] = [Accumulation::Mean, Accumulation::Sum].map(report);
    assert!((mean.loss - sum.loss).abs() < 1e-12);
    assert!((sum.grad_norm / mean.grad_norm / 2.0 - 1.0).abs() < 1e-9);
}

/// The place in the data is counted in samples: a run goes on with another batch size, and may skip samples.
#[test]
fn place_in_the_data_is_counted_in_samples() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let config = tiny::one_step();
    let set = tiny::set(&config, 5);
    let mut run = trainer(&cpu(1), &config);
    steps(&mut run, &set, 2);
    assert_eq!(run.samples_done(), 12);
    let other = TrainConfig { batch: 4, accumulate: 1, ..settings() };
    run.reconfigure(other.clone()).unwrap();
    step(&mut run, &set).unwrap();
    assert_eq!((run.steps_done(), run.samples_done()), (3, 16));
    run.skip_to(20).unwrap();
    assert!(matches!(run.skip_to(19), Err(Error::Argument { argument: "number", .. })));
    run.save(&path).unwrap();
    let mut resumed = Run::<Cpu>::resume(&cpu(1), &path).unwrap();
    assert_eq!((resumed.steps_done(), resumed.samples_done(), resumed.config()), (3, 20, &other));
    assert_eq!(steps(&mut resumed, &set, 2), steps(&mut run, &set, 2));
    // Files of earlier versions do not have the number of samples.
    let older = edited(&path, |file| drop(file.metadata.remove("transdiff.samples").unwrap()));
    assert_eq!(Run::<Cpu>::resume(&cpu(1), older).unwrap().samples_done(), 12);
    // A loader draws for one seed.
    let mut data = run.loader(set, LoaderOptions::default()).unwrap();
    run.reconfigure(TrainConfig { seed: 12, ..settings() }).unwrap();
    assert!(matches!(run.step(&mut data), Err(Error::Argument { argument: "data", .. })));
}

/// Steps do not change what a snapshot holds.
#[test]
fn snapshots_keep_the_state_of_their_moment() {
    let folder = tempfile::tempdir().unwrap();
    let [now, later, model] = ["now", "later", "model"].map(|name| folder.path().join(name));
    let config = tiny::one_step();
    let set = tiny::set(&config, 5);
    let mut run = trainer(&cpu(1), &config);
    steps(&mut run, &set, 2);
    run.save(&now).unwrap();
    let (snapshot, ema) = (run.snapshot().unwrap(), run.ema().clone());
    steps(&mut run, &set, 2);
    let write = std::thread::spawn({
        let (later, model) = (later.clone(), model.clone());
        move || snapshot.write(&later).and_then(|()| snapshot.write_model(&model))
    });
    write.join().unwrap().unwrap();
    assert!(std::fs::read(&now).unwrap() == std::fs::read(&later).unwrap());
    assert_ne!(differing(&ema, run.ema()), [""; 0]);
    assert_eq!(differing(&TransDiff::load(&cpu(1), &model, DType::F32).unwrap(), &ema), [""; 0]);
}

/// The loss of a dataset at fixed draws.
#[test]
fn evaluation_is_repeatable_and_moves_nothing() {
    let config = tiny::one_step();
    let set = tiny::set(&config, 5);
    let mut run = trainer(&cpu(1), &config);
    let mut held_out = run.loader(set.clone(), LoaderOptions::default()).unwrap();
    let before = run.evaluate(&mut held_out, 14).unwrap();
    assert_eq!(run.evaluate(&mut held_out, 14).unwrap(), before);
    assert_eq!((run.steps_done(), run.samples_done()), (0, 0));
    steps(&mut run, &set, 3);
    assert_ne!(run.evaluate(&mut held_out, 14).unwrap(), before);
    // Another batch size changes the order of sums alone.
    run.reconfigure(TrainConfig { batch: 14, ..settings() }).unwrap();
    let whole = run.evaluate(&mut held_out, 14).unwrap();
    run.reconfigure(settings()).unwrap();
    assert!((run.evaluate(&mut held_out, 14).unwrap() / whole - 1.0).abs() < 1e-5);
}

/// Passes of one step and runs of different seeds draw different dropout masks.
#[test]
fn dropout_masks_differ_between_passes_and_seeds() {
    let settings = TrainConfig { dropout: 0.5, ..settings() };
    let model = tiny::model(&Reference, &tiny::one_step(), DType::F64);
    let loss = |passes: usize, seed: u64| {
        let trainer: Trainer<_> =
            Trainer::new(model.clone(), TrainConfig { seed, ..settings.clone() }).unwrap();
        let batch = tiny::batch(&model, &[false], 2, 1);
        trainer.gradients(&vec![batch; passes]).unwrap().0
    };
    assert_ne!(loss(1, 1), loss(2, 1));
    assert_ne!(loss(1, 1), loss(1, 2));
    assert_eq!(loss(2, 1), loss(2, 1));
}

/// The dropouts of one pass have different streams, and each step and pass draws its own noise: losses differ where nothing
/// else changes.
#[test]
fn every_step_and_pass_draws_its_own_noise() {
    let ctx = Context::<Reference>::inference().with_dropout(0.1, 1, 2, 1).unwrap();
    let mut places: Vec<u32> = (0..20).map(|_| ctx.next_dropout().unwrap().key.index).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 20);
    assert!(Context::<Reference>::inference().next_dropout().is_none());
    let [_, c, h, w] = tiny::one_step().latent_shape(1);
    let set = Arc::new(MemoryDataset::new([c, h, w], vec![0.5; c * h * w], vec![0]).unwrap());
    let losses = |accumulate: usize| {
        let lr = LrSchedule { peak: 0.0, decay: LrDecay::Constant, ..settings().lr };
        let settings = TrainConfig {
            accumulate,
            batch: 1,
            objective: FlowObjective { label_drop: 0.0, ..settings().objective },
            dropout: 0.0,
            lr,
            ..settings()
        };
        let mut trainer =
            Trainer::new(tiny::model(&Reference, &tiny::one_step(), DType::F64), settings).unwrap();
        steps(&mut trainer, &set, 2)
    };
    let (one, two) = (losses(1), losses(2));
    assert!(one[0] != one[1] && two[0] != two[1] && one[0] != two[0]);
}

/// The loss of a batch is the mean over its samples, with dropout that is keyed by their numbers: copy m of sample b is
/// row m·B + b of the draws.
#[test]
fn loss_is_the_mean_over_samples() {
    const SAMPLES: usize = 3;
    const COPIES: usize = 2;
    for config in [tiny::one_step(), tiny::mrar()] {
        let model = tiny::model(&Reference, &config, DType::F64);
        let batch = tiny::batch(&model, &[false, true, false], COPIES, 3);
        let loss = |batch: &FlowBatch<Reference>, first: usize| {
            let objective = FlowObjective { diversity: 0.2, ..FlowObjective::default() };
            let ctx = Context::inference().with_dropout(0.3, 5, first as u32, batch.labels.len()).unwrap();
            model.loss(&ctx, batch, &objective).unwrap().value().item().unwrap()
        };
        let sample = |b: usize| {
            let rows = |m: usize| m * SAMPLES + b;
            let draws = |d: &FlowDraws<Reference>| {
                let noise: Vec<_> = (0..COPIES).map(|m| d.noise.narrow(0, rows(m), 1).unwrap()).collect();
                FlowDraws {
                    timesteps: (0..COPIES).map(|m| d.timesteps[rows(m)]).collect(),
                    noise: Tensor::cat(&noise.iter().collect::<Vec<_>>(), 0).unwrap(),
                }
            };
            FlowBatch {
                labels: vec![batch.labels[b]],
                dropped: vec![batch.dropped[b]],
                latents: batch.latents.iter().map(|x| x.narrow(0, b, 1).unwrap()).collect(),
                draws: batch.draws.iter().map(draws).collect(),
            }
        };
        let mean = (0..SAMPLES).map(|b| loss(&sample(b), 5 + b)).sum::<f64>() / SAMPLES as f64;
        assert!((mean - loss(&batch, 5)).abs() < 1e-12, "{:?}", config.mode);
    }
}

/// A step that overflows or meets a NaN fails and leaves the run unchanged.
#[test]
fn non_finite_steps_leave_the_run_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    for config in [tiny::one_step(), tiny::mrar()] {
        let set = tiny::set(&config, 5);
        let [mut run, mut uninterrupted] = [0, 0].map(|_| trainer(&cpu(1), &config));
        steps(&mut run, &set, 2);
        steps(&mut uninterrupted, &set, 2);
        let before = state(&run, folder.path());
        // The last value is finite, and its square is not.
        for bad in [f32::NAN, f32::INFINITY, 1e25] {
            let corrupted = Arc::new(Corrupted { set: set.clone(), value: bad });
            let error = step(&mut run, &corrupted).unwrap_err();
            assert!(matches!(error, Error::NonFinite { .. }), "{bad}: {error}");
            assert_eq!(run.steps_done(), 2);
            assert!(before == state(&run, folder.path()), "{bad}: the run has changed");
        }
        assert_eq!(steps(&mut run, &set, 2), steps(&mut uninterrupted, &set, 2));
        assert!(state(&run, folder.path()) == state(&uninterrupted, folder.path()));
    }
}

/// A dataset whose latents all begin with `value`.
struct Corrupted {
    set: Arc<MemoryDataset>,
    value: f32,
}

impl Dataset for Corrupted {
    fn len(&self) -> usize {
        self.set.len()
    }

    fn item_shape(&self) -> [usize; 3] {
        self.set.item_shape()
    }

    fn label(&self, index: usize) -> usize {
        self.set.label(index)
    }

    fn read(&self, index: usize, stream: &mut Philox, out: &mut Vec<f32>) -> Result<()> {
        let start = out.len();
        self.set.read(index, stream, out)?;
        out[start] = self.value;
        Ok(())
    }
}

#[test]
fn non_finite_parameters_are_refused() {
    let config = tiny::one_step();
    let mut model = tiny::model(&cpu(1), &config, DType::F32);
    let (_, param) = model.params_mut().into_iter().find(|(name, _)| name == "z_proj_ln.bias").unwrap();
    param.set_host(HostTensor::f32(&[8], vec![f32::INFINITY; 8]).unwrap()).unwrap();
    let mut trainer: Trainer<_> = Trainer::new(model.clone(), settings()).unwrap();
    let error = step(&mut trainer, &tiny::set(&config, 5)).unwrap_err();
    assert!(matches!(error, Error::NonFinite { stage: "loss" }), "{error}");
    assert_eq!((trainer.steps_done(), differing(&model, trainer.model())), (0, vec![]));
}

/// Datasets that do not match the model.
#[test]
fn mismatched_datasets_are_refused() {
    let config = tiny::mrar();
    let mut trainer = trainer(&cpu(1), &config);
    let set = |shape: [usize; 3], labels: &[usize]| {
        let values = vec![0.5; shape.iter().product::<usize>() * labels.len()];
        Arc::new(MemoryDataset::new(shape, values, labels.to_vec()).unwrap())
    };
    let error = step(&mut trainer, &set([2, 2, 4], &[0, 0])).unwrap_err();
    assert!(matches!(&error, Error::Shape { op: "training data", got, .. } if got == &[2, 2, 4]), "{error}");
    let error = step(&mut trainer, &set([2, 4, 4], &[0, 0, 1])).unwrap_err();
    assert!(matches!(&error, Error::Argument { argument: "data", got, .. } if got == "1"), "{error}");
    let error = step(&mut trainer, &set([2, 4, 4], &[])).unwrap_err();
    assert!(matches!(&error, Error::Argument { argument: "data", .. }), "{error}");
    let error = step(&mut trainer, &set([2, 4, 4], &[3, 3])).unwrap_err();
    assert!(matches!(&error, Error::Argument { argument: "class", got, .. } if got == "3"), "{error}");
    assert_eq!(trainer.steps_done(), 0);
    // Steps may take datasets of different sizes and labels.
    step(&mut trainer, &tiny::set(&config, 9)).unwrap();
    step(&mut trainer, &set([2, 4, 4], &[1, 1, 0, 0])).unwrap();
    step(&mut trainer, &set([2, 4, 4], &[2, 2, 0, 0])).unwrap();
    let values = vec![f32::NAN; 32];
    assert!(matches!(MemoryDataset::new([2, 4, 4], values, vec![0]), Err(Error::NonFinite { .. })));
    assert!(matches!(MemoryDataset::new([2, 4, 4], vec![0.0; 31], vec![0]), Err(Error::Shape { .. })));
}

#[test]
fn failed_saves_keep_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let config = tiny::one_step();
    let path = folder.path().join("run.safetensors");
    let run = trainer(&cpu(1), &config);
    run.save(&path).unwrap();
    let before = std::fs::read(&path).unwrap();
    // The rename cannot replace a non-empty folder; the temporary file must be removed.
    let blocked = folder.path().join("blocked");
    std::fs::create_dir_all(blocked.join("something")).unwrap();
    let error = run.save(&blocked).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == blocked), "{error}");
    let error = run.save(folder.path().join("nowhere/run.safetensors")).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    // A crash during a save leaves a part of the new file beside the old one.
    let stray = folder.path().join(".writing-crashed");
    std::fs::write(&stray, &before[..before.len() / 2]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), before);
    Run::<Cpu>::resume(&cpu(1), &path).unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".writing-crashed", "blocked", "run.safetensors"]);
}

/// Contents of a checkpoint, for editing.
struct Contents {
    metadata: BTreeMap<String, String>,
    tensors: BTreeMap<String, HostTensor>,
}

type Edit = fn(&mut Contents);

fn json(file: &mut Contents, key: &str, from: &str, to: &str) {
    let text = file.metadata.get_mut(key).unwrap();
    assert!(text.contains(from), "{text}");
    *text = text.replace(from, to);
}

fn config_json(file: &mut Contents, from: &str, to: &str) {
    json(file, TransDiffConfig::METADATA_KEY, from, to);
}

/// The file at `path`, edited and written again.
fn edited(path: &Path, edit: impl Fn(&mut Contents)) -> PathBuf {
    let file = WeightFile::open(path).unwrap();
    let tensors = file.entries().keys().map(|name| (name.clone(), file.tensor(name).unwrap())).collect();
    let mut file = Contents { metadata: file.metadata().clone(), tensors };
    edit(&mut file);
    let out = path.with_extension("edited");
    write_atomic(&out, file.tensors.iter(), &file.metadata).unwrap();
    out
}

/// Errors about the tensors of a checkpoint name the file and the tensor.
#[test]
fn mismatched_checkpoint_tensors_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let mut run = trainer(&cpu(1), &tiny::one_step());
    steps(&mut run, &tiny::set(&tiny::one_step(), 5), 1);
    run.save(&path).unwrap();
    for prefix in ["model.", "ema.", "adam_m.", "adam_v."] {
        let name = format!("{prefix}encoder_blocks.1.attn.qkv.weight");
        let refused = |edit: &dyn Fn(&mut BTreeMap<String, HostTensor>)| {
            Run::<Cpu>::resume(&cpu(1), edited(&path, |file| edit(&mut file.tensors))).unwrap_err()
        };
        let error = refused(&|tensors| drop(tensors.remove(&name)));
        assert!(
            matches!(&error, Error::TensorNames { missing, extra, .. } if *missing == [name.clone()] && extra.is_empty()),
            "{error}"
        );
        let error = refused(&|tensors| {
            let tensor = tensors[&name].clone();
            tensors.insert(format!("{name}.more"), tensor);
        });
        assert!(
            matches!(&error, Error::TensorNames { missing, extra, .. } if missing.is_empty() && extra.len() == 1),
            "{error}"
        );
        let replaced = |tensor: HostTensor| {
            let error = refused(&|tensors| drop(tensors.insert(name.clone(), tensor.clone())));
            let edited = path.with_extension("edited");
            assert!(
                matches!(&error, Error::Tensor { path, tensor, .. } if *path == edited && *tensor == name),
                "{error}"
            );
            let text = error.to_string();
            assert!(text.contains(&name) && text.contains("run.edited"), "{text}");
        };
        replaced(HostTensor::f32(&[8, 24], vec![0.0; 192]).unwrap());
        replaced(HostTensor::new(&[24, 8], transdiff_core::HostData::I32(vec![0; 192])).unwrap());
        let mut values = vec![0.0; 192];
        values[100] = f32::NAN;
        replaced(HostTensor::f32(&[24, 8], values).unwrap());
    }
}

/// Checkpoints from before the setting `compute` was introduced.
#[test]
fn checkpoints_without_compute_resume_in_f32() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let run = trainer(&cpu(1), &tiny::one_step());
    run.save(&path).unwrap();
    let older = edited(&path, |file| json(file, "transdiff.train", ",\"compute\":\"f32\"", ""));
    assert_eq!(Run::<Cpu>::resume(&cpu(1), older).unwrap().config(), run.config());
    let other =
        edited(&path, |file| json(file, "transdiff.train", "\"compute\":\"f32\"", "\"compute\":\"i32\""));
    let refused = Run::<Cpu>::resume(&cpu(1), other).map(drop);
    assert!(matches!(refused, Err(Error::Config { field: "compute", .. })));
}

/// Metadata that is missing, malformed, or does not match the tensors.
#[test]
fn invalid_checkpoint_metadata_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    trainer(&cpu(1), &tiny::one_step()).save(&path).unwrap();
    let refused = |edit: Edit| Run::<Cpu>::resume(&cpu(1), edited(&path, edit)).unwrap_err();
    let malformed: [Edit; 7] = [
        |file| drop(file.metadata.remove(TransDiffConfig::METADATA_KEY)),
        |file| drop(file.metadata.remove("transdiff.train")),
        |file| drop(file.metadata.remove("transdiff.step")),
        |file| config_json(file, "\"width\":8", "\"width\":-8"),
        |file| config_json(file, "\"one_step\"", "\"two_steps\""),
        |file| config_json(file, "}", ""),
        |file| json(file, "transdiff.step", "0", "\"0\""),
    ];
    for edit in malformed {
        let error = refused(edit);
        let edited = path.with_extension("edited");
        assert!(matches!(&error, Error::Format { path, .. } if *path == edited), "{error}");
    }
    let invalid: [(Edit, &str); 5] = [
        (|file| config_json(file, "\"heads\":2", "\"heads\":3"), "heads"),
        (|file| config_json(file, "\"heads\":2", "\"heads\":0"), "heads"),
        (|file| config_json(file, "\"one_step\"", "{\"multi_reference\":{\"groups\":3}}"), "groups"),
        (|file| json(file, "transdiff.train", "\"batch\":3", "\"batch\":0"), "batch"),
        (
            |file| {
                json(file, "transdiff.train", "\"trainable_prefixes\":[]", "\"trainable_prefixes\":[\"x\"]")
            },
            "trainable_prefixes",
        ),
    ];
    for (edit, name) in invalid {
        let error = refused(edit);
        assert!(matches!(&error, Error::Config { field, .. } if *field == name), "{error}");
    }
    // Sizes far beyond those of the tensors are refused before any allocation.
    let absurd: [Edit; 2] = [
        |file| config_json(file, "\"width\":8", "\"width\":1048576"),
        |file| config_json(file, "\"latent_size\":2", "\"latent_size\":1048576"),
    ];
    for edit in absurd {
        let error = refused(edit);
        assert!(matches!(&error, Error::Config { field: "width", .. }), "{error}");
    }
    let mismatched: [Edit; 5] = [
        |file| config_json(file, "\"width\":8", "\"width\":16"),
        |file| config_json(file, "\"width\":8", "\"width\":65536"),
        |file| config_json(file, "\"classes\":3", "\"classes\":1000000"),
        |file| config_json(file, "\"decoder_blocks\":2", "\"decoder_blocks\":1"),
        |file| config_json(file, "\"decoder_blocks\":2", "\"decoder_blocks\":400"),
    ];
    for edit in mismatched {
        let error = refused(edit);
        assert!(matches!(&error, Error::Tensor { .. } | Error::TensorNames { .. }), "{error}");
    }
    // Products of the largest sizes do not overflow.
    let error = refused(|file| {
        for field in
            ["width", "mlp_ratio", "latent_channels", "latent_size", "buffer_size", "classes", "heads"]
        {
            let text = &file.metadata[TransDiffConfig::METADATA_KEY];
            let at = text.find(&format!("\"{field}\":")).unwrap() + field.len() + 3;
            let end = at + text[at..].find(',').unwrap();
            file.metadata.insert(
                TransDiffConfig::METADATA_KEY.into(),
                format!("{}1048576{}", &text[..at], &text[end..]),
            );
        }
        config_json(file, "\"feature_tokens\":4", "\"feature_tokens\":1");
        config_json(file, "\"one_step\"", "{\"multi_reference\":{\"groups\":1}}");
    });
    assert!(
        matches!(&error, Error::Tensor { .. } | Error::TensorNames { .. } | Error::Config { .. }),
        "{error}"
    );
    // So is an excessive number of blocks.
    let error = refused(|file| config_json(file, "\"encoder_blocks\":2", "\"encoder_blocks\":1048576"));
    assert!(matches!(&error, Error::Config { field: "encoder_blocks", .. }), "{error}");
}

#[test]
fn truncated_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let run = trainer(&cpu(1), &tiny::one_step());
    run.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let cut = folder.path().join("cut.safetensors");
    for len in [0, 7, 8, 100, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&cut, &bytes[..len]).unwrap();
        for error in [
            Run::<Cpu>::resume(&cpu(1), &cut).unwrap_err(),
            TransDiff::load(&cpu(1), &cut, DType::F32).unwrap_err(),
        ] {
            assert!(matches!(&error, Error::Format { path, .. } if *path == cut), "{len} bytes: {error}");
        }
    }
    let absent = folder.path().join("absent");
    let error = Run::<Cpu>::resume(&cpu(1), &absent).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if *path == absent), "{error}");
}

/// A checkpoint of a run holds its EMA weights, which are the default, and its raw weights.
#[test]
fn ema_and_raw_weights_load_from_a_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.safetensors");
    let mut run = trainer(&cpu(1), &tiny::one_step());
    steps(&mut run, &tiny::set(&tiny::one_step(), 5), 3);
    run.save(&path).unwrap();
    let file = WeightFile::open(&path).unwrap();
    assert_eq!(FileKind::of(&file), FileKind::TrainingRun);
    assert_ne!(differing(run.model(), run.ema()), Vec::<String>::new());
    assert_eq!(
        differing(&TransDiff::load(&cpu(1), &path, DType::F32).unwrap(), run.ema()),
        Vec::<String>::new()
    );
    let hints = LoadHints { weights: Some(WeightSet::Raw), ..LoadHints::default() };
    let model = TransDiff::from_file(&cpu(1), &file, DType::F32, &hints).unwrap();
    assert_eq!(differing(&model, run.model()), Vec::<String>::new());
}

#[test]
fn models_round_trip_through_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    for config in [tiny::one_step(), tiny::mrar(), tiny::mrar_of_singles()] {
        for dtype in [DType::F32, DType::F64] {
            let model = tiny::model(&cpu(1), &config, dtype);
            model.save(&path).unwrap();
            assert_eq!(TransDiff::<Cpu>::read_config(&path).unwrap(), config);
            let loaded = TransDiff::load(&cpu(1), &path, dtype).unwrap();
            assert_eq!((loaded.config(), differing(&model, &loaded)), (&config, vec![]));
            assert_eq!(differing(&model, &TransDiff::load(&Reference, &path, dtype).unwrap()), [""; 0]);
        }
    }
}

/// Source, model initialised from it, and the reported names of new parameters; all others are checked to equal the source's.
fn transferred(
    from: &TransDiffConfig,
    to: &TransDiffConfig,
) -> (TransDiff<Reference>, TransDiff<Reference>, Vec<String>) {
    let source = tiny::model(&Reference, from, DType::F32);
    let (model, new) = source.initialise(to, 5).unwrap();
    let old: BTreeMap<_, _> = source.params().into_iter().collect();
    for (name, param) in model.params() {
        if !new.contains(&name) {
            assert_eq!(bits(param.value()), bits(old[&name].value()), "{name}");
        }
    }
    (source.clone(), model, new)
}

fn value<B: Backend>(model: &TransDiff<B>, name: &str) -> Tensor<B> {
    let find = |(n, p): (String, &transdiff_core::autograd::Param<B>)| (n == name).then(|| p.value().clone());
    model.params().into_iter().find_map(find).unwrap()
}

#[test]
fn pretrained_weights_initialise_other_configurations() {
    let one_step = TransDiffConfig { feature_tokens: 16, latent_size: 4, ..tiny::one_step() };
    let mrar = one_step.with_mode(Mode::MultiReference { groups: 4 });
    let (source, model, new) = transferred(&one_step, &mrar);
    assert_eq!(new, ["mask_token", "z_proj.weight"]);
    let (old, mask) = (value(&source, "mask_token"), value(&model, "mask_token"));
    assert_eq!(mask.shape(), [1, 4, 8]);
    for row in 0..4 {
        assert_eq!(bits(&mask.narrow(1, row, 1).unwrap()), bits(&old));
    }
    let fresh = TransDiff::new(&Reference, &mrar, DType::F32, 5).unwrap();
    assert_eq!(bits(&value(&model, "z_proj.weight")), bits(&value(&fresh, "z_proj.weight")));

    let (_, _, new) = transferred(&one_step, &TransDiffConfig { latent_size: 8, ..one_step.clone() });
    assert_eq!(new, ["diffdecoder.net.diffusion_pos_embed_learned"]);
    assert_eq!(transferred(&mrar, &mrar).2, [""; 0]);
    let heads = TransDiffConfig { heads: 3, ..one_step.clone() };
    let refused = tiny::model(&Reference, &one_step, DType::F32).initialise(&heads, 1).map(drop);
    assert!(matches!(refused, Err(Error::Config { field: "heads", .. })));
}
