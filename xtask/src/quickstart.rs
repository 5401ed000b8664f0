//! Check of the quickstart on a short run: outputs are complete and valid, and a second run resumes from the checkpoint.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

use crate::Result;
use crate::install::Profile;
use crate::process::cargo;

const STEPS: usize = 20;
const MORE_STEPS: usize = 30;
/// Steps of the MRAR fine-tuning: enough to see that it starts from the trained model.
const MRAR_STEPS: usize = 4;
const CLASSES: usize = 10;
/// Number of training digits.
const DIGITS: usize = 1200;
/// Fewest samples for which the measures mean anything.
const SAMPLES: usize = 600;
/// Sampling steps: a model that has hardly been trained generates no digits anyway.
const SAMPLING_STEPS: usize = 2;
/// Size of samples.png: 20 columns and one row per class, of digits enlarged to 48 pixels with gaps of 4.
const GRID: (u32, u32) = (20 * 52 + 4, 10 * 52 + 4);

/// Runs the quickstart in the directory `out`, which is emptied first, and checks its outputs.
pub fn check(out: &Path, profile: Profile) -> Result {
    if out.exists() {
        fs::remove_dir_all(out)?;
    }
    let first = run(out, STEPS, &[], profile)?;
    if first.contains("resuming from step") {
        return Err("the first run found a checkpoint in an empty directory".into());
    }
    check_outputs(out, STEPS)?;
    let second = run(out, MORE_STEPS, &[], profile)?;
    if !second.contains(&format!("resuming from step {STEPS}")) {
        return Err(format!("the second run did not resume from step {STEPS}").into());
    }
    check_outputs(out, MORE_STEPS)?;
    check_mrar(out, profile)?;
    println!(
        "outputs are complete; training resumed from step {STEPS} to {MORE_STEPS}, and MRAR started from there"
    );
    Ok(())
}

/// Fine-tunes the model of the other runs with MRAR and checks the outputs.
fn check_mrar(out: &Path, profile: Profile) -> Result {
    let steps = MRAR_STEPS.to_string();
    let more = ["--mrar", "--mrar-steps", &steps];
    let printed = run(out, MORE_STEPS, &more, profile)?;
    if !printed.contains("MRAR: initialised from the 1-step weights") {
        return Err("MRAR did not start from the trained weights".into());
    }
    let config = metadata(&out.join("model.safetensors"), "transdiff.config")?;
    if config.get("mode") != Some(&json!({"multi_reference": {"groups": 4}})) {
        return Err(format!("expected a multi-reference model with 4 groups, got {config}").into());
    }
    checkpoint(&out.join("checkpoint-mrar.safetensors"), MRAR_STEPS)?;
    check_outputs(out, MORE_STEPS)
}

/// Runs the quickstart with `more` arguments and returns its output.
fn run(out: &Path, steps: usize, more: &[&str], profile: Profile) -> Result<String> {
    let out = out.to_str().ok_or("the path of the output directory is not UTF-8")?;
    let command =
        ["run", "--quiet", "--locked", "--profile", profile.name(), "--example", "quickstart", "--"];
    let [steps, samples, sampling] = [steps, SAMPLES, SAMPLING_STEPS].map(|n| n.to_string());
    let arguments = ["--steps", &steps, "--samples", &samples, "--sampling-steps", &sampling, "--out", out];
    let printed = cargo(&command).args(&arguments).args(more).stdout()?;
    print!("{printed}");
    Ok(printed)
}

fn check_outputs(out: &Path, steps: usize) -> Result {
    let named = |name: &str, check: &dyn Fn(&Path) -> Result| {
        let path = out.join(name);
        check(&path).map_err(|e| format!("{}: {e}", path.display()))
    };
    named("samples.png", &grid)?;
    named("loss.svg", &curve)?;
    named("samples.safetensors", &samples)?;
    named("report.json", &report)?;
    named("model.safetensors", &|path| metadata(path, "transdiff.config").map(drop))?;
    named("checkpoint.safetensors", &|path| checkpoint(path, steps))?;
    named("cache/index.safetensors", &cache)?;
    Ok(())
}

fn grid(path: &Path) -> Result {
    let mut reader = png::Decoder::new(BufReader::new(File::open(path)?)).read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size().ok_or("image too large for memory")?];
    let frame = reader.next_frame(&mut pixels)?;
    if (frame.width, frame.height) != GRID {
        return Err(format!("{}×{} pixels, expected {GRID:?}", frame.width, frame.height).into());
    }
    let bright = pixels.iter().filter(|&&p| p > 127).count();
    if bright == 0 { Err("all pixels are dark".into()) } else { Ok(()) }
}

fn curve(path: &Path) -> Result {
    let text = fs::read_to_string(path)?;
    let document = roxmltree::Document::parse(&text)?;
    if !document.root_element().has_tag_name(("http://www.w3.org/2000/svg", "svg")) {
        return Err("not an SVG".into());
    }
    let curve = |n: roxmltree::Node<'_, '_>| n.attribute("points").is_some_and(|p| !p.is_empty());
    if document.descendants().any(curve) { Ok(()) } else { Err("no curve in the plot".into()) }
}

fn samples(path: &Path) -> Result {
    let bytes = fs::read(path)?;
    let file = SafeTensors::deserialize(&bytes)?;
    let (images, labels) = (file.tensor("images")?, file.tensor("labels")?);
    let count = labels.shape().first().copied().unwrap_or(0);
    if count < SAMPLES {
        return Err(format!("expected at least {SAMPLES} samples, got {count}").into());
    }
    if (images.dtype(), images.shape()) != (Dtype::F32, &[count, 1, 8, 8]) {
        return Err(format!("images {:?} {:?}", images.dtype(), images.shape()).into());
    }
    let (pixels, _) = images.data().as_chunks::<4>();
    let outside = |&bytes: &[u8; 4]| !(0.0..=16.0).contains(&f32::from_le_bytes(bytes));
    if pixels.iter().any(outside) {
        return Err("images: expected pixels in 0..=16".into());
    }
    if (labels.dtype(), labels.shape()) != (Dtype::I64, &[count]) {
        return Err(format!("labels {:?} {:?}", labels.dtype(), labels.shape()).into());
    }
    let (labels, _) = labels.data().as_chunks::<8>();
    let mut spread = [0; CLASSES];
    for &bytes in labels {
        let label = usize::try_from(i64::from_le_bytes(bytes))?;
        *spread.get_mut(label).ok_or_else(|| format!("label {label}"))? += 1;
    }
    if spread.iter().all(|&n| n == count / CLASSES) {
        Ok(())
    } else {
        Err(format!("labels are not evenly spread: {spread:?}").into())
    }
}

/// Checks that the cache of the digits is complete.
fn cache(path: &Path) -> Result {
    let bytes = fs::read(path)?;
    let labels = SafeTensors::deserialize(&bytes)?.tensor("labels")?.shape().to_vec();
    if labels == [DIGITS] { Ok(()) } else { Err(format!("labels {labels:?}, expected [{DIGITS}]").into()) }
}

fn report(path: &Path) -> Result {
    let report: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    // JSON has no infinities: a value that is not finite is null.
    let number = |at: &str| {
        let value = report.pointer(at).and_then(Value::as_f64);
        value.ok_or_else(|| format!("{at}: expected a finite number, got {:?}", report.pointer(at)))
    };
    for share in ["/accuracy", "/real_digits/classifier_accuracy"] {
        let value = number(share)?;
        if !(0.0..=1.0).contains(&value) {
            return Err(format!("{share}: expected a share in 0..=1, got {value}").into());
        }
    }
    for distance in ["/frechet_distance", "/nearest_training_digit", "/seconds/training", "/seconds/sampling"]
    {
        let value = number(distance)?;
        if value <= 0.0 {
            return Err(format!("{distance}: expected a positive number, got {value}").into());
        }
    }
    match report.pointer("/steps").and_then(Value::as_array) {
        Some(steps) if !steps.is_empty() => Ok(()),
        _ => Err("/steps: expected at least one row".into()),
    }
}

fn metadata(path: &Path, key: &str) -> Result<Value> {
    let bytes = fs::read(path)?;
    let (_, header) = SafeTensors::read_metadata(&bytes)?;
    let text = header.metadata().as_ref().and_then(|m| m.get(key));
    Ok(serde_json::from_str(text.ok_or_else(|| format!("no metadata {key}"))?)?)
}

fn checkpoint(path: &Path, steps: usize) -> Result {
    let done = metadata(path, "transdiff.step")?;
    if done == steps { Ok(()) } else { Err(format!("step {done}, expected {steps}").into()) }
}
