//! `transdiff train` on the digits of the quickstart, compared with the quickstart's own training.

#[allow(dead_code)] // the quickstart uses the rest
#[path = "../../../examples/quickstart/settings.rs"]
mod settings;
#[allow(dead_code)] // the quickstart uses the rest
#[path = "../../../examples/quickstart/training.rs"]
mod training;

use std::path::Path;
use std::sync::atomic::AtomicBool;

use clap::Parser as _;
use transdiff::nn::Module as _;
use transdiff::{Cpu, DType, TransDiff};
use transdiff_run::RunLog;

use crate::cache::write_cache;
use crate::digits::Digits;
use crate::files::Folder;
use crate::process::succeed;
use settings::Settings;
use training::{Trained, Training, latents};

const STEPS: &str = "24";
const SEED: &str = "3";

/// The quickstart's 1-step model, trained on `digits`.
fn quickstart(digits: &Digits, checkpoint: &Path) -> Trained<Cpu> {
    let backend = Cpu::new(None).unwrap();
    let settings = Settings::parse_from(["quickstart", "--steps", STEPS, "--seed", SEED]);
    let interrupted = AtomicBool::new(false);
    let training = Training { name: "1-step", checkpoint: checkpoint.to_owned(), interrupted: &interrupted };
    let initial = || TransDiff::new(&backend, &settings::model(), DType::F32, settings.seed);
    let set = latents(digits).unwrap();
    training.run(&backend, set, settings.training(), true, initial).unwrap().unwrap()
}

/// Names and values of all parameters.
fn values(model: &TransDiff<Cpu>) -> Vec<(String, Vec<f32>)> {
    let params = model.params().into_iter();
    params.map(|(name, param)| (name, param.value().to_f32().unwrap())).collect()
}

#[test]
fn training_on_the_cache_of_the_quickstart_equals_the_quickstart_bitwise() {
    let folder = Folder::new();
    let (digits, _) = Digits::load().unwrap();
    let expected = quickstart(&digits, Path::new(&folder.path("checkpoint.safetensors")));
    let [cache, run] = ["cache", "run"].map(|name| folder.path(name));
    write_cache(Path::new(&cache), &digits).unwrap();
    let seed = format!("train.seed={SEED}");
    let reports = ["--set", "train.report_every=1", "--set", "train.sample_every=0", "--set", &seed];
    let train = ["train", "--preset", "small", "--data", &cache, "--out", &run, "--steps", STEPS];
    succeed(&[&train[..], &["--device", "cpu"], &reports].concat());
    let log = RunLog::open(format!("{run}/log.jsonl"), expected.losses.len() as u64).unwrap();
    let losses: Vec<f64> = log.reports().iter().map(|report| report.loss).collect();
    assert_eq!(losses, expected.losses.iter().copied().map(f64::from).collect::<Vec<_>>());
    let model = TransDiff::load(&Cpu::new(None).unwrap(), format!("{run}/model.safetensors"), DType::F32);
    assert!(values(&model.unwrap()) == values(&expected.model));
}
