//! Golden files of pictures: what Pillow makes of them.

use std::path::{Path, PathBuf};

use serde_json::Value;
use transdiff_data::pictures::{Limits, Picture, decode};

/// Folder `name` of the golden files in `TRANSDIFF_GOLDEN` or, by default, in the project's `tests/golden`; `None` (reported
/// in a line) if a folder given by the variable lacks it.
pub fn folder(name: &str) -> Option<PathBuf> {
    let given = std::env::var_os("TRANSDIFF_GOLDEN").map(PathBuf::from);
    let at_source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let default = if at_source.is_dir() { at_source } else { "tests/golden".into() };
    let folder = given.as_ref().unwrap_or(&default).join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    assert!(given.is_some(), "{} does not exist", folder.display());
    eprintln!("skipped: {} does not exist", folder.display());
    None
}

/// The list of cases of a folder.
pub fn cases(folder: &Path) -> Value {
    let path = folder.join("cases.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Decodes a file to RGB.
pub fn try_read(path: &Path) -> Result<Picture, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    decode(path, &bytes, 3, &Limits::default()).map_err(|e| e.to_string())
}

/// Allowed difference between two pictures.
#[derive(Clone, Copy)]
pub struct Bar {
    /// Largest difference of two samples, in grey levels.
    pub max: u8,
    /// Largest mean difference of samples, in grey levels.
    pub mean: f64,
    /// Smallest share of equal samples.
    pub equal: f64,
}

/// Bar of resampling.
pub const RESAMPLED: Bar = Bar { max: 1, mean: 1.0, equal: 0.99 };

/// Compares two pictures; names `what` where they differ by more than the bar allows.
pub fn compare(what: &str, out: &Picture, expected: &Picture, bar: Bar) -> Result<(), String> {
    let size = |picture: &Picture| [picture.width(), picture.height(), picture.channels()];
    if size(out) != size(expected) {
        return Err(format!(
            "{what}: expected width, height, channels {:?}, got {:?}",
            size(expected),
            size(out)
        ));
    }
    let differences = || out.pixels().iter().zip(expected.pixels()).map(|(&a, &b)| a.abs_diff(b));
    let count = out.pixels().len() as f64;
    let max = differences().max().unwrap_or(0);
    let mean = differences().map(f64::from).sum::<f64>() / count;
    let equal = differences().filter(|&difference| difference == 0).count() as f64 / count;
    let found = format!("{what}: at most {max} levels, {mean:.3} on average, {:.2} % equal", 100.0 * equal);
    println!("{found}");
    if max <= bar.max && mean <= bar.mean && equal >= bar.equal {
        return Ok(());
    }
    Err(format!("{found}; allowed: {}, {}, {} %", bar.max, bar.mean, 100.0 * bar.equal))
}

/// Panics with all failures, if there are some.
pub fn assert_all(results: Vec<Result<(), String>>) {
    assert!(!results.is_empty(), "expected at least one case");
    let failures: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
