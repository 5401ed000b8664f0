//! Measures of quality against published implementations.

mod common;

use common::golden::Golden;
use transdiff_core::autograd::Var;
use transdiff_core::models::{Features, cosine_mean};
use transdiff_core::{DType, HostTensor, Tensor};
use transdiff_cpu::Cpu;
use transdiff_metrics::{Rows, Statistics, equal_splits, inception_score, precision_recall};

fn rows(golden: &Golden, name: &str) -> Rows {
    let tensor: &HostTensor = golden.tensor(name);
    Rows::new(tensor.shape()[1], tensor.to_f32()).unwrap()
}

/// Panics unless `out` is within `limit` of the value `key` of the metadata, relative to it.
fn assert_near(golden: &Golden, key: &str, out: f64, limit: f64) {
    let expected: f64 = golden.value(key);
    let error = ((out - expected) / expected).abs();
    println!("{key}: {error:.1e}");
    assert!(error <= limit, "{key}: {out}, expected {expected}");
}

#[test]
fn frechet_distances_match() {
    let Some(golden) = Golden::find("metrics") else { return };
    let cpu = Cpu::new(None).unwrap();
    let statistics = |name| Statistics::of(&cpu, &rows(&golden, name)).unwrap();
    let (a, b, few) = (statistics("a"), statistics("b"), statistics("few"));
    assert_near(&golden, "fid", a.frechet_distance(&b).unwrap(), 1e-6);
    assert_near(&golden, "fid_few", few.frechet_distance(&b).unwrap(), 1e-6);
    assert_near(&golden, "fid_few", b.frechet_distance(&few).unwrap(), 1e-6);
    let again = Statistics::of(&Cpu::new(Some(1)).unwrap(), &rows(&golden, "a")).unwrap();
    assert_eq!(again, a, "statistics do not depend on the number of threads");
}

#[test]
fn inception_scores_match() {
    let Some(golden) = Golden::find("metrics") else { return };
    let logits = rows(&golden, "logits");
    let in_order: Vec<usize> = (0..logits.len()).collect();
    let score = inception_score(&logits, &in_order, &equal_splits(logits.len(), 10)).unwrap();
    assert_near(&golden, "inception_score_mean", score.mean, 1e-5);
    assert_near(&golden, "inception_score_std", score.std, 1e-5);
}

#[test]
fn precision_and_recall_match() {
    let Some(golden) = Golden::find("metrics") else { return };
    let expected = golden.json("precision_recall");
    let cpu = Cpu::new(None).unwrap();
    let found = precision_recall(&cpu, &rows(&golden, "a"), &rows(&golden, "b"), 3).unwrap();
    // The file has numbers of single precision.
    let single = |key: &str| expected[key].as_f64().unwrap() as f32;
    assert_eq!(found.precision as f32, single("precision"));
    assert_eq!(found.recall as f32, single("recall"));
    assert!((found.f_score() - expected["f_score"].as_f64().unwrap()).abs() < 1e-7);
}

#[test]
fn diversities_match() {
    let Some(golden) = Golden::find("metrics") else { return };
    let features = golden.tensor("features");
    let shape = [1, features.shape()[0], features.shape()[1]];
    let features = Tensor::from_f32(&Cpu::new(None).unwrap(), &shape, features.to_f32(), DType::F32).unwrap();
    let all = cosine_mean(&Var::from(features.clone())).unwrap().value().item().unwrap();
    let off_diagonal = Features::new(features).unwrap().diversity().unwrap()[0];
    // Cosines of either sign cancel in the means.
    for (key, out, limit) in [
        ("cosine_off_diag_rms", off_diagonal.root_mean_square, 1e-6),
        ("cosine_off_diag_mean", off_diagonal.mean, 1e-4),
        ("cosine_mean_all", all, 1e-4),
    ] {
        assert_near(&golden, key, out, limit);
    }
}
