//! Event files as TensorBoard reads them.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use transdiff_run::EventFile;

/// Events of a directory, or `None` without the Python package `tensorboard`.
fn read(directory: &Path) -> Option<Value> {
    let available = Command::new("python3").args(["-c", "import tensorboard"]).output();
    if !available.is_ok_and(|done| done.status.success()) {
        println!("SKIPPED: the Python package tensorboard is not installed");
        return None;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_events.py");
    let done = Command::new("python3").arg(script).arg(directory).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Some(serde_json::from_slice(&done.stdout).unwrap())
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = png::Encoder::new(&mut bytes, width, height).write_header().unwrap();
    writer.write_image_data(&vec![0; (width * height) as usize]).unwrap();
    writer.finish().unwrap();
    bytes
}

#[test]
fn tensorboard_reads_scalars_and_images() {
    let folder = tempfile::tempdir().unwrap();
    let mut events = EventFile::create(folder.path(), 0).unwrap();
    events.scalar(0, "loss/training", 4.0).unwrap();
    events.scalar(1 << 40, "loss/training", 0.25).unwrap();
    events.scalar(500, "learning rate", 1e-3).unwrap();
    events.image(500, "samples", &png(300, 2)).unwrap();
    let Some(found) = read(folder.path()) else { return };
    assert_eq!(found["scalars"]["loss/training"], json!([[0, 4.0], [1_u64 << 40, 0.25]]));
    assert_eq!(found["scalars"]["learning rate"], json!([[500, f64::from(1e-3_f32)]]));
    assert_eq!(found["images"]["samples"], json!([[500, 300, 2, 300, 2]]));
}

#[test]
fn tensorboard_drops_what_a_killed_process_did_after_its_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let mut killed = EventFile::create(folder.path(), 0).unwrap();
    (1..=5).for_each(|step| killed.scalar(step, "loss", 1.0).unwrap());
    let path = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    // The checkpoint was of step 3.
    let mut resumed = EventFile::create(folder.path(), 3).unwrap();
    (4..=6).for_each(|step| resumed.scalar(step, "loss", 2.0).unwrap());
    let Some(found) = read(folder.path()) else { return };
    let expected = [[1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [4.0, 2.0], [5.0, 2.0], [6.0, 2.0]];
    let found = found["scalars"]["loss"].as_array().unwrap();
    let found: Vec<[f64; 2]> =
        found.iter().map(|e| [e[0].as_f64().unwrap(), e[1].as_f64().unwrap()]).collect();
    assert_eq!(found, expected);
}
