//! Contents of the directories of training runs.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;
use transdiff::checkpoint::WeightFile;

/// Number of steps before the newest checkpoint.
pub fn newest(run: &str) -> u64 {
    let Ok(entries) = fs::read_dir(run) else { return 0 };
    let step = |name: String| name.strip_prefix("checkpoint-")?.strip_suffix(".safetensors")?.parse().ok();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(step).max().unwrap_or(0)
}

/// Path of the checkpoint after `step` steps.
pub fn checkpoint(run: &str, step: u64) -> String {
    format!("{run}/checkpoint-{step:08}.safetensors")
}

/// Bytes of every tensor of a file.
pub fn tensors(path: &str) -> BTreeMap<String, Vec<u8>> {
    let file = WeightFile::open(path).unwrap();
    let bytes =
        |name: &String| file.tensor(name).unwrap().to_f32().iter().flat_map(|x| x.to_le_bytes()).collect();
    file.entries().keys().map(|name| (name.clone(), bytes(name))).collect()
}

/// Values of a key in all lines of a run's log.
pub fn logged(run: &str, key: &str) -> Vec<Value> {
    let log = fs::read_to_string(format!("{run}/log.jsonl")).unwrap();
    log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()[key].clone()).collect()
}

/// Copies a directory with all that is in it.
pub fn copy(from: &str, to: &str) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let (from, to) = (format!("{from}/{name}"), format!("{to}/{name}"));
        match fs::metadata(&from).unwrap().is_dir() {
            true => copy(&from, &to),
            false => drop(fs::copy(&from, &to).unwrap()),
        }
    }
}
