//! The output directory: settings that it belongs to, and a file per finished unit.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use transdiff::checkpoint::write_bytes_atomic;

/// Settings that all results of a directory have in common.
const SETTINGS: &str = "settings.json";

/// An output directory.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Opens the directory `path` for results of `settings`; creates it if there is none.
    ///
    /// # Errors
    /// A message if it has files of other settings or of another program, or cannot be read or written.
    pub fn open(path: &Path, settings: &impl Serialize) -> Result<Self, String> {
        let failed = |e: &dyn std::fmt::Display| format!("--out {}: {e}", path.display());
        fs::create_dir_all(path).map_err(|e| failed(&e))?;
        let folder = Self { path: path.to_owned() };
        let expected = serde_json::to_value(settings).map_err(|e| failed(&e))?;
        let file = path.join(SETTINGS);
        if file.exists() {
            let found: Value = folder.read(Path::new(SETTINGS))?;
            return match difference(&found, &expected) {
                None => Ok(folder),
                Some(text) => Err(format!(
                    "{}: the directory has results of other settings: {text}; choose another --out",
                    file.display()
                )),
            };
        }
        if fs::read_dir(path).map_err(|e| failed(&e))?.next().is_some() {
            return Err(failed(&format!("expected an empty directory, or one with {SETTINGS}")));
        }
        folder.write(Path::new(SETTINGS), &expected)?;
        Ok(folder)
    }

    /// Path of a file.
    pub fn path(&self, file: &Path) -> PathBuf {
        self.path.join(file)
    }

    /// Reads a JSON file.
    ///
    /// # Errors
    /// A message that names the file.
    pub fn read<T: DeserializeOwned>(&self, file: &Path) -> Result<T, String> {
        let path = self.path(file);
        let named = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
        let text = fs::read_to_string(&path).map_err(|e| named(&e))?;
        serde_json::from_str(&text).map_err(|e| named(&e))
    }

    /// Writes a JSON file, which has either its old contents or the new ones.
    ///
    /// # Errors
    /// A message that names the file.
    pub fn write(&self, file: &Path, value: &impl Serialize) -> Result<(), String> {
        let named = |e: &dyn std::fmt::Display| format!("{}: {e}", self.path(file).display());
        let text = serde_json::to_string_pretty(value).map_err(|e| named(&e))? + "\n";
        self.write_bytes(file, text.as_bytes())
    }

    /// Writes a file, which has either its old contents or the new ones. Its folder is created.
    ///
    /// # Errors
    /// A message that names the file.
    pub fn write_bytes(&self, file: &Path, bytes: &[u8]) -> Result<(), String> {
        let path = self.path(file);
        let parent = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
        write_bytes_atomic(&path, bytes).map_err(|e| e.to_string())
    }
}

/// First key whose values differ, with both values.
fn difference(found: &Value, expected: &Value) -> Option<String> {
    let (Value::Object(found), Value::Object(expected)) = (found, expected) else {
        return (found != expected).then(|| format!("expected {expected}, got {found}"));
    };
    let value = |map: &Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or(Value::Null);
    expected.keys().chain(found.keys()).find_map(|key| {
        let (found, expected) = (value(found, key), value(expected, key));
        match (&found, &expected) {
            (Value::Object(_), Value::Object(_)) => {
                difference(&found, &expected).map(|text| format!("{key}.{text}"))
            }
            _ => (found != expected).then(|| format!("{key}: expected {expected}, got {found}")),
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_directory_holds_results_of_one_setting() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("new/out");
        let settings = json!({"scale": {"images": 1000, "width": 96}, "device": "cpu"});
        // The second opening finds the file of the first.
        (0..2).for_each(|_| drop(Folder::open(&path, &settings).unwrap()));
        for (other, named) in [
            (
                json!({"scale": {"images": 20, "width": 96}, "device": "cpu"}),
                "scale.images: expected 20, got 1000",
            ),
            (json!({"scale": {"images": 1000, "width": 96}}), "device: expected null, got \"cpu\""),
        ] {
            let error = Folder::open(&path, &other).unwrap_err();
            assert!(error.contains("settings.json: the directory has results of other settings"), "{error}");
            assert!(error.contains(named) && error.ends_with("choose another --out"), "{error}");
        }
    }

    #[test]
    fn directories_of_other_programs_are_refused() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("thesis.tex"), "").unwrap();
        let error = Folder::open(folder.path(), &json!({})).unwrap_err();
        assert!(error.contains("expected an empty directory, or one with settings.json"), "{error}");
        assert!(!folder.path().join(SETTINGS).exists());
        fs::write(folder.path().join(SETTINGS), "{").unwrap();
        assert!(Folder::open(folder.path(), &json!({})).unwrap_err().contains("settings.json: "));
    }

    #[test]
    fn files_round_trip_in_new_folders() {
        let folder = TempDir::new().unwrap();
        let folder = Folder::open(&folder.path().join("out"), &json!({})).unwrap();
        let file = Path::new("seed-0/measures.json");
        folder.write(file, &[1.5, f64::MIN_POSITIVE]).unwrap();
        assert_eq!(folder.read::<[f64; 2]>(file).unwrap(), [1.5, f64::MIN_POSITIVE]);
        let error = folder.read::<Vec<f64>>(Path::new("none.json")).unwrap_err();
        assert!(error.contains("none.json: "), "{error}");
    }
}
