//! The whole program with tiny settings, on generated idx files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use tempfile::TempDir;

use super::*;
use crate::scale::Recipe;

const SIDE: usize = 8;

fn tiny() -> Scale {
    let recipe = |steps, batch| Recipe { steps, batch, peak: 1e-3 };
    Scale {
        patch: 2,
        latent_size: 4,
        width: 8,
        hidden: [8, 4],
        classifier: recipe(6, 8),
        base: recipe(5, 4),
        further: recipe(2, 16),
        distillation: recipe(2, 16),
        snapshots: vec![1, 3],
        images: 20,
        sampling_steps: 2,
    }
}

/// Data set of `per_class` pictures per class and part: a bright bar per class, with a little variation.
fn dataset(per_class: usize) -> TempDir {
    let folder = TempDir::new().unwrap();
    let count = 10 * per_class;
    let pixel = |image: usize, y: usize| if y == image % 10 % SIDE { 200 } else { (image / 10 * 7) as u8 };
    for part in ["train", "t10k"] {
        let sizes = [count, SIDE, SIDE].into_iter().flat_map(|size| (size as u32).to_be_bytes());
        let pixels = (0..count).flat_map(|image| (0..SIDE * SIDE).map(move |at| pixel(image, at / SIDE)));
        let images: Vec<u8> = [0, 0, 8, 3].into_iter().chain(sizes).chain(pixels).collect();
        fs::write(folder.path().join(format!("{part}-images-idx3-ubyte")), images).unwrap();
        let labels = (0..count).map(|image| (image % 10) as u8);
        let labels: Vec<u8> =
            [0, 0, 8, 1].into_iter().chain((count as u32).to_be_bytes()).chain(labels).collect();
        fs::write(folder.path().join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
    }
    folder
}

fn arguments(data: &Path, out: &Path, experiments: &str, seeds: u64) -> Arguments {
    let seeds = seeds.to_string();
    let paths = [data, out].map(|path| path.to_str().unwrap());
    let words = ["paper", "--data", paths[0], "--out", paths[1], "--experiments", experiments];
    Arguments::parse_from(words.into_iter().chain(["--seeds", &seeds, "--device", "cpu", "--threads", "1"]))
}

fn study(data: &Path, out: &Path, experiments: &str, seeds: u64) -> Result<bool, String> {
    let arguments = arguments(data, out, experiments, seeds);
    run(&arguments, &tiny(), &AtomicBool::new(false)).map_err(|error| error.to_string())
}

/// Contents of all files below `folder`.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(file, bytes)| (format!("{name}/{file}"), bytes)));
        } else {
            found.insert(name, fs::read(path).unwrap());
        }
    }
    found
}

#[test]
fn all_experiments_report_a_verdict_per_claim() {
    let (data, out) = (dataset(16), TempDir::new().unwrap());
    let out = out.path().join("out");
    assert!(study(data.path(), &out, "all", 2).unwrap());
    let report = fs::read_to_string(out.join("report.md")).unwrap();
    let json: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("report.json")).unwrap()).unwrap();
    let sections = json["experiments"].as_array().unwrap();
    assert_eq!(sections.len(), Experiment::ALL.len());
    for (section, experiment) in sections.iter().zip(Experiment::ALL) {
        let name = experiment.name();
        assert_eq!((&section["experiment"], &section["seeds"]), (&name.into(), &serde_json::json!([0, 1])));
        let claims = section["claims"].as_array().unwrap();
        assert!(!claims.is_empty(), "{name}");
        for claim in claims {
            let row = report.lines().find(|line| line.contains(claim["tested"].as_str().unwrap())).unwrap();
            let verdicts = ["**agrees**", "**does not agree**", "**within noise**"];
            assert_eq!(verdicts.into_iter().filter(|verdict| row.contains(verdict)).count(), 1, "{row}");
        }
        assert!(fs::read_to_string(out.join(format!("{name}.svg"))).unwrap().ends_with("</svg>\n"));
        let grid = grids::Grey::from_png(&fs::read(out.join(format!("{name}.png"))).unwrap()).unwrap();
        assert!(grid.width > 0, "{name}");
    }
    assert!(!files(&out).keys().any(|name| name.ends_with("checkpoint")));
}

#[test]
fn interrupted_runs_go_on_to_the_same_results() {
    let (data, whole, parts) = (dataset(2), TempDir::new().unwrap(), TempDir::new().unwrap());
    let [whole, parts] = [&whole, &parts].map(|folder| folder.path().join("out"));
    assert!(study(data.path(), &whole, "guidance,diversity", 1).unwrap());
    let expected = files(&whole);

    // Each run ends within the unit that it begins.
    let again =
        || run(&arguments(data.path(), &parts, "diversity", 1), &tiny(), &AtomicBool::new(true)).unwrap();
    assert!(!again());
    assert!(files(&parts).contains_key("classifier.checkpoint"));
    let mut runs = 1;
    while !files(&parts).contains_key("seed-0/base-at-3.safetensors") {
        assert!(!again());
        runs += 1;
    }
    assert!(runs > 5, "the classifier has six steps");
    assert!(study(data.path(), &parts, "diversity", 1).unwrap());
    let before = files(&parts);
    assert!(before.contains_key("diversity.svg") && !before.contains_key("guidance.svg"));
    // Another experiment adds to what is there.
    assert!(study(data.path(), &parts, "guidance,diversity", 1).unwrap());
    assert!(files(&parts) == expected, "all files are equal in every byte");
}

#[test]
fn finished_units_are_not_repeated_and_missing_ones_are() {
    let (data, out) = (dataset(2), TempDir::new().unwrap());
    let out = out.path().join("out");
    assert!(study(data.path(), &out, "guidance", 1).unwrap());
    let expected = files(&out);
    let measured = "seed-0/base-guidance-2-drift-1-noise-1.json";
    fs::remove_file(out.join(measured)).unwrap();
    // A model that were trained again would be whole.
    fs::write(out.join("seed-0/base-at-1.safetensors"), "kept").unwrap();
    assert!(study(data.path(), &out, "guidance", 1).unwrap());
    let found = files(&out);
    assert_eq!(found["seed-0/base-at-1.safetensors"], b"kept");
    assert_eq!(found[measured], expected[measured]);
}

#[test]
fn wrong_data_and_directories_are_refused() {
    let (data, other, out) = (dataset(2), dataset(3), TempDir::new().unwrap());
    let path = out.path().join("out");
    assert!(study(data.path(), &path, "guidance", 1).unwrap());
    let error = study(other.path(), &path, "guidance", 1).unwrap_err();
    assert!(error.contains("other settings: pictures: expected"), "{error}");
    let arguments = arguments(data.path(), &path, "guidance", 1);
    let larger = Scale { images: 30, ..tiny() };
    let error = run(&arguments, &larger, &AtomicBool::new(false)).unwrap_err().to_string();
    assert!(error.contains("scale.images: expected 30, got 20"), "{error}");
    let error = run(&arguments, &Scale::miniature(), &AtomicBool::new(false)).unwrap_err().to_string();
    assert!(error.contains("expected pictures of 28×28 pixels, got 8×8"), "{error}");
    fs::write(data.path().join("t10k-labels-idx1-ubyte"), [0, 0, 8, 1, 0, 0, 0, 1, 10]).unwrap();
    let error = study(data.path(), &path, "guidance", 1).unwrap_err();
    assert!(error.contains("expected 20 labels, one per picture, got 1"), "{error}");
}
