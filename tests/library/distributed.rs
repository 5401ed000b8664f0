//! Training on several ranks: the same weights, however a step's samples are divided, and the same errors on all ranks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::common::tiny;
use crate::thread_ranks::ThreadRank;
use transdiff_core::checkpoint::WeightFile;
use transdiff_core::data::{Dataset, LoaderOptions};
use transdiff_core::distributed::{Collectives, Communicator, HostCollectives, even_counts};
use transdiff_core::models::transdiff::{
    ConsistencyObjective, Distillation, FlowObjective, TransDiff, TransDiffConfig,
};
use transdiff_core::nn::Module;
use transdiff_core::rng::Philox;
use transdiff_core::train::{Distribution, EmaConfig, LrDecay, LrSchedule, TrainConfig, Trainer};
use transdiff_core::{DType, Error, Result, Tensor};
use transdiff_cpu::Cpu;

/// Passes of a step of all ranks.
const PASSES: usize = 4;
const STEPS: usize = 3;

type Run = Trainer<Cpu>;

/// A way of training.
#[derive(Clone, Debug)]
struct Case {
    config: TransDiffConfig,
    ranks: usize,
    /// Passes of a step of each rank.
    accumulate: usize,
    shard: bool,
    checkpointing: bool,
    dtype: Option<DType>,
}

impl Case {
    fn on(config: &TransDiffConfig, ranks: usize) -> Self {
        let accumulate = PASSES / ranks;
        Self { config: config.clone(), ranks, accumulate, shard: false, checkpointing: false, dtype: None }
    }

    fn settings(&self) -> TrainConfig {
        TrainConfig {
            seed: 11,
            accumulate: self.accumulate,
            objective: FlowObjective { batch_mul: 2, label_drop: 0.4, ..FlowObjective::default() },
            dropout: 0.1,
            gradient_checkpointing: self.checkpointing,
            lr: LrSchedule { peak: 3e-3, warmup: 2, total: 20, decay: LrDecay::Cosine { min: 1e-4 } },
            ema: EmaConfig { decay: 0.9, warmup: true },
            max_grad_norm: 0.5,
            ..TrainConfig::new(3, 20)
        }
    }

    fn begin(&self) -> Run {
        Trainer::new(tiny::model(&cpu(), &self.config, DType::F32), self.settings()).unwrap()
    }

    /// Most parameters have a bucket of their own.
    fn distribution(&self, communicator: Arc<ThreadRank>) -> Distribution<Cpu> {
        Distribution {
            shard_optimizer: self.shard,
            gradient_dtype: self.dtype,
            bucket_bytes: 200,
            ..Distribution::new(Arc::new(HostCollectives::new(communicator).unwrap()))
        }
    }

    /// The run on the ranks of `communicator`, from `checkpoint` if there is one.
    fn trainer(&self, communicator: Arc<ThreadRank>, checkpoint: Option<&Path>) -> Run {
        let distribution = self.distribution(communicator);
        match checkpoint {
            Some(path) => {
                let mut run = Run::resume_distributed(&cpu(), path, distribution).unwrap();
                run.reconfigure(self.settings()).unwrap();
                run
            }
            None => self.begin().with_distribution(distribution).unwrap(),
        }
    }

    /// Calls `rank` on all ranks. Returns the results in their order.
    fn run<T: Send>(&self, rank: impl Fn(Run) -> T + Sync) -> Vec<T> {
        self.run_from(None, rank)
    }

    fn run_from<T: Send>(&self, checkpoint: Option<&Path>, rank: impl Fn(Run) -> T + Sync) -> Vec<T> {
        self.on_ranks(|communicator| rank(self.trainer(communicator, checkpoint)))
    }

    /// Calls `rank` in a thread per rank. Returns the results in the order of the ranks.
    fn on_ranks<T: Send>(&self, rank: impl Fn(Arc<ThreadRank>) -> T + Sync) -> Vec<T> {
        let rank = &rank;
        std::thread::scope(|scope| {
            let start = |communicator| scope.spawn(move || rank(communicator));
            let threads: Vec<_> = ThreadRank::all(self.ranks).into_iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// Distils for some steps. Returns the losses and the student with the EMA weights, which are those of all ranks.
    fn distil(&self) -> (Vec<u64>, TransDiff<Cpu>) {
        let teacher = tiny::model(&cpu(), &self.config, DType::F32);
        let set = tiny::set(&self.config, 7);
        let objective = ConsistencyObjective { guidance: 1.3, ..ConsistencyObjective::default() };
        let settings = TrainConfig { dropout: 0.0, ..self.settings() }.with_objective(objective);
        let students = self.on_ranks(|communicator| {
            let run = Trainer::new(Distillation::new(&teacher).unwrap(), settings.clone()).unwrap();
            let mut run = run.with_distribution(self.distribution(communicator)).unwrap();
            let mut data = run.loader(set.clone(), LoaderOptions::default()).unwrap();
            let losses: Vec<u64> = (0..STEPS).map(|_| run.step(&mut data).unwrap().loss.to_bits()).collect();
            (losses, run.whole_ema().unwrap().student().clone())
        });
        let (losses, student) = students[0].clone();
        for (of_rank, other) in &students {
            assert_eq!((of_rank, tiny::differing(other, &student)), (&losses, vec![]), "{self:?}");
        }
        (losses, student)
    }

    /// Trains for some steps. Returns loss, gradient norm and validation loss per step, which are those of all ranks, and writes
    /// the state to `path`.
    fn train(&self, checkpoint: Option<&Path>, steps: usize, path: &Path) -> Vec<[u64; 3]> {
        let set = tiny::set(&self.config, 7);
        let reports = self.run_from(checkpoint, |mut run| {
            let mut data = run.loader(set.clone(), LoaderOptions::default()).unwrap();
            let mut held_out = run.loader(set.clone(), LoaderOptions::default()).unwrap();
            let mut step = |_| {
                let report = run.step(&mut data)?;
                let loss = run.evaluate(&mut held_out, 7)?;
                Ok([report.loss, report.grad_norm, loss].map(f64::to_bits))
            };
            let reports: Vec<[u64; 3]> = (0..steps).map(&mut step).collect::<Result<_>>().unwrap();
            let snapshot = run.snapshot().unwrap();
            let whole = crate::common::tiny::differing(&run.whole_ema().unwrap(), run.ema()).is_empty();
            assert_eq!(whole, !self.shard || self.ranks == 1, "a rank has a part of the EMA weights");
            match snapshot.write(path) {
                Err(Error::Argument { argument: "snapshot", .. }) if self.shard => {}
                written => written.unwrap(),
            }
            reports
        });
        assert!(reports.iter().all(|of_rank| *of_rank == reports[0]), "{self:?}");
        reports.into_iter().next().unwrap()
    }
}

fn cpu() -> Cpu {
    Cpu::new(Some(1)).unwrap()
}

/// All tensors of a checkpoint, in bits.
fn tensors(path: &Path) -> BTreeMap<String, Vec<u32>> {
    let file = WeightFile::open(path).unwrap();
    let bits = |name: &String| file.tensor(name).unwrap().to_f32().into_iter().map(f32::to_bits).collect();
    file.entries().keys().map(|name| (name.clone(), bits(name))).collect()
}

/// Names of tensors that differ.
fn differing(a: &Path, b: &Path) -> Vec<String> {
    let (a, b) = (tensors(a), tensors(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    a.into_iter().filter(|(name, values)| b[name] != *values).map(|(name, _)| name).collect()
}

/// Root of the mean squared difference between two checkpoints' tensors.
fn distance(a: &Path, b: &Path) -> f32 {
    let (a, b) = (tensors(a), tensors(b));
    let values = a.values().flatten().zip(b.values().flatten());
    let squares = values.map(|(&a, &b)| (f32::from_bits(a) - f32::from_bits(b)).powi(2));
    let (count, sum) = squares.fold((0, 0.0), |(count, sum), square| (count + 1, sum + square));
    (sum / count as f32).sqrt()
}

fn files(folder: &Path) -> [PathBuf; 2] {
    ["whole", "other"].map(|name| folder.join(name))
}

#[test]
fn weights_do_not_depend_on_the_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, other] = files(folder.path());
    for config in [tiny::one_step(), tiny::mrar()] {
        let alone = Case::on(&config, 1);
        let reports = alone.train(None, STEPS, &whole);
        for ranks in [1, 2, 4] {
            for (shard, checkpointing) in [(false, false), (true, false), (true, true)] {
                let case = Case { shard, checkpointing, ..Case::on(&config, ranks) };
                assert_eq!(case.train(None, STEPS, &other), reports, "{case:?}");
                assert_eq!(differing(&whole, &other), [""; 0], "{case:?}");
            }
        }
    }
}

#[test]
fn students_do_not_depend_on_the_number_of_ranks() {
    for config in [tiny::one_step(), tiny::mrar()] {
        let (losses, student) = Case::on(&config, 1).distil();
        for (ranks, shard) in [(2, false), (2, true), (4, true)] {
            let case = Case { shard, ..Case::on(&config, ranks) };
            let (others, other) = case.distil();
            assert_eq!((others, tiny::differing(&other, &student)), (losses.clone(), vec![]), "{case:?}");
        }
    }
}

/// Three ranks add in another order, and bf16 rounds. AdamW divides by the size of the gradient, so that a few weights whose
/// gradient is nearly 0 move by another part of the learning rate, 3e-3.
#[test]
fn other_divisions_are_close() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, other] = files(folder.path());
    let config = tiny::one_step();
    let six = |ranks| Case { accumulate: 6 / ranks, ..Case::on(&config, ranks) };
    let reports = six(1).train(None, STEPS, &whole);
    assert_eq!(six(2).train(None, STEPS, &other), reports);
    assert_eq!(differing(&whole, &other), [""; 0]);
    let loss = |reports: &[[u64; 3]]| reports.iter().map(|r| f64::from_bits(r[0])).collect::<Vec<_>>();
    for (case, bound) in [
        (six(3), 1e-5),
        (Case { shard: true, ..six(3) }, 1e-5),
        (Case { dtype: Some(DType::BF16), ..six(2) }, 3e-4),
    ] {
        let others = case.train(None, STEPS, &other);
        assert_ne!(differing(&whole, &other), [""; 0], "{case:?}");
        let found = distance(&whole, &other);
        assert!(found < bound, "{case:?}: {found}");
        for (a, b) in loss(&reports).into_iter().zip(loss(&others)) {
            assert!((a / b - 1.0).abs() < 1e-3, "{case:?}: loss {a} and {b}");
        }
    }
}

#[test]
fn runs_are_resumed_on_other_numbers_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, _] = files(folder.path());
    for config in [tiny::one_step(), tiny::mrar()] {
        let reports = Case::on(&config, 1).train(None, 3 * STEPS, &whole);
        let mut last: Option<PathBuf> = None;
        let mut resumed = Vec::new();
        for (ranks, shard) in [(2, true), (4, true), (1, false)] {
            let path = folder.path().join(format!("on {ranks}"));
            let case = Case { shard, ..Case::on(&config, ranks) };
            resumed.extend(case.train(last.as_deref(), STEPS, &path));
            last = Some(path);
        }
        assert_eq!(resumed, reports);
        assert_eq!(differing(&whole, &last.unwrap()), [""; 0]);
    }
}

/// Moments and EMA weights take memory on one rank each.
#[test]
fn divided_state_is_divided_evenly() {
    let config = TransDiffConfig { width: 32, ..tiny::one_step() };
    let case = Case { shard: true, ..Case::on(&config, 4) };
    let held = case.run(|run| {
        let averages = run.ema().params();
        let trained = averages.iter().filter(|(_, p)| p.is_trainable());
        // Placeholders of other ranks' parts are one element that is repeated.
        let repeated = |shape: &[usize], strides: &[usize]| {
            shape.iter().zip(strides).all(|(&size, &stride)| size == 1 || stride == 0)
        };
        let held = trained.filter(|(_, p)| !repeated(p.value().shape(), p.value().layout().strides()));
        held.map(|(_, p)| p.value().numel()).sum::<usize>()
    });
    let begun = case.begin();
    let trained = begun.model().params().into_iter().filter(|(_, p)| p.is_trainable());
    let all = trained.map(|(_, p)| p.value().numel()).sum::<usize>();
    assert_eq!(held.iter().sum::<usize>(), all);
    assert!(held.iter().all(|&held| held.abs_diff(all / 4) < all / 20), "{held:?} of {all}");
}

/// Fails to read, or reads NaN, on the ranks that get item 3 first.
struct Faulty {
    set: Arc<dyn Dataset>,
    nan: bool,
}

impl Dataset for Faulty {
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
        if index == 3 && !self.nan {
            return Err(Error::format("pictures/3.png", "truncated"));
        }
        self.set.read(index, stream, out)?;
        if index == 3 {
            out.fill(f32::NAN);
        }
        Ok(())
    }
}

#[test]
fn failure_of_one_rank_is_that_of_all() {
    let config = tiny::one_step();
    for nan in [false, true] {
        for shard in [false, true] {
            let set: Arc<dyn Dataset> = tiny::set(&config, 40);
            let set = Arc::new(Faulty { set, nan });
            let case = Case { shard, ..Case::on(&config, 4) };
            let outcomes = case.run(|mut run| {
                let mut data = run.loader(set.clone(), LoaderOptions::default()).unwrap();
                // 40 items in steps of 12: one of the first four steps fails.
                let error = (0..4).find_map(|_| run.step(&mut data).err()).unwrap();
                let done = run.steps_done();
                // The run is as it was, and goes on after the step's samples.
                run.skip_to(run.samples_done() + 12).unwrap();
                run.step(&mut data).unwrap();
                assert_eq!(run.steps_done(), done + 1);
                (error.to_string(), done)
            });
            assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{outcomes:?}");
            let (message, _) = &outcomes[0];
            match nan {
                true => assert_eq!(message, "loss: a value is not finite"),
                false => assert!(
                    message.starts_with("rank ") && message.ends_with(": pictures/3.png: truncated"),
                    "{message}"
                ),
            }
        }
    }
}

/// Sums, parts and concatenations of each type, many at a time.
#[test]
fn collectives_sum_in_a_fixed_order() {
    const LEN: usize = 37;
    let value = |rank: usize, operation: usize, i: usize| {
        ((rank * 31 + operation * 17 + i * 7) % 101) as f64 / 3.0 - 15.0
    };
    let cpu = cpu();
    for ranks in [1, 2, 3, 4, 5] {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let tensor = |rank, operation| {
                let values = (0..LEN).map(|i| value(rank, operation, i)).collect();
                Tensor::from_f64(&cpu, &[LEN], values, dtype).unwrap()
            };
            // The tree, computed in one place.
            let sum = |operation| {
                fn tree(terms: &[Tensor<Cpu>]) -> Tensor<Cpu> {
                    match terms {
                        [one] => one.clone(),
                        _ => {
                            let (a, b) = terms.split_at(terms.len().div_ceil(2));
                            tree(a).add(&tree(b)).unwrap()
                        }
                    }
                }
                let wide = if dtype == DType::BF16 { DType::F32 } else { dtype };
                let terms: Vec<_> = (0..ranks).map(|r| tensor(r, operation).cast(wide).unwrap()).collect();
                tree(&terms).cast(dtype).unwrap().to_f64().unwrap()
            };
            let mut counts = even_counts(LEN, ranks);
            counts.reverse();
            if ranks > 2 {
                counts[1] += std::mem::take(&mut counts[0]);
            }
            std::thread::scope(|scope| {
                for communicator in ThreadRank::all(ranks) {
                    let (counts, tensor) = (&counts, &tensor);
                    scope.spawn(move || {
                        let rank = communicator.rank();
                        // Pieces of a few elements, the last of them incomplete.
                        let collectives = HostCollectives::new(communicator).unwrap().with_piece_bytes(100);
                        let start = counts[..rank].iter().sum::<usize>();
                        let started: Vec<_> = (0..20)
                            .map(|operation| {
                                let values = tensor(rank, operation);
                                let part = values.narrow(0, start, counts[rank]).unwrap();
                                let sums = collectives.all_reduce(values.clone()).unwrap();
                                let parts = collectives.reduce_scatter(values, counts).unwrap();
                                (sums, parts, collectives.all_gather(part, counts).unwrap())
                            })
                            .collect();
                        for (operation, (sums, parts, whole)) in started.into_iter().enumerate() {
                            let want = sum(operation);
                            assert_eq!(sums.wait().unwrap().to_f64().unwrap(), want);
                            assert_eq!(
                                parts.wait().unwrap().to_f64().unwrap(),
                                want[start..][..counts[rank]]
                            );
                            let starts: Vec<usize> =
                                (0..ranks).map(|r| counts[..r].iter().sum::<usize>()).collect();
                            let gathered: Vec<f64> = (0..ranks)
                                .flat_map(|r| {
                                    let part = tensor(r, operation).narrow(0, starts[r], counts[r]).unwrap();
                                    part.to_f64().unwrap()
                                })
                                .collect();
                            assert_eq!(whole.wait().unwrap().to_f64().unwrap(), gathered);
                        }
                    });
                }
            });
        }
    }
}
