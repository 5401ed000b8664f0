//! Settings from several places, the later ones before the earlier: preset, file, flags, `--set`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use toml::{Table, Value};
use transdiff_core::text::shortened;

use super::keys::{KEYS, Key, RunConfig};
use super::{Result, SettingError};

/// Largest file of settings, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Characters of a value in a message.
const SHOWN: usize = 60;
/// Keys that replace each other.
const EXCLUSIVE: [[&str; 2]; 2] = [["train.steps", "train.epochs"], ["train.warmup", "train.warmup_epochs"]];

/// Settings from several places. A later value replaces an earlier one of the same key.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    values: BTreeMap<&'static str, Value>,
}

impl Layers {
    /// Settings of a configuration, to be changed by further layers.
    pub fn of(config: &RunConfig) -> Self {
        Self { values: config.values() }
    }

    /// Adds the settings of a TOML document.
    ///
    /// # Errors
    /// [`SettingError`] with `origin` and the line for a document that is no TOML, an unknown key, or a value that is not
    /// accepted.
    pub fn add_document(&mut self, text: &str, origin: &str) -> Result<()> {
        let table: Table = text.parse().map_err(|e: toml::de::Error| {
            let before = e.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.as_bytes()[..before].iter().filter(|&&byte| byte == b'\n').count();
            SettingError::new(origin, format!("line {line}: {}", one_line(e.message())))
        })?;
        self.add_table(&table, origin)
    }

    /// Adds the settings of a TOML file.
    ///
    /// # Errors
    /// As [`Self::add_document`]; a file that cannot be read, or is larger than 1 MiB.
    pub fn add_file(&mut self, path: &Path) -> Result<()> {
        let origin = path.display().to_string();
        let error = |message: String| SettingError::new(&origin, message);
        let file = File::open(path).map_err(|e| error(e.to_string()))?;
        let mut text = String::new();
        file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(|e| error(e.to_string()))?;
        if text.len() as u64 > MAX_FILE {
            return Err(error(format!("expected settings of at most {MAX_FILE} bytes, got a larger file")));
        }
        self.add_document(&text, &origin)
    }

    /// Adds the value of a key, which is one of [`KEYS`], as given by the argument `origin`.
    ///
    /// # Errors
    /// [`SettingError`] for a value that is not accepted.
    pub fn add_value(&mut self, key: &str, value: impl Into<Value>, origin: &str) -> Result<()> {
        self.add([(find(key, origin)?, value.into())], origin)
    }

    /// Adds `KEY=VALUE`; the value is TOML, or text without quotes.
    ///
    /// # Errors
    /// [`SettingError`] for anything else, an unknown key, or a value that is not accepted.
    pub fn add_assignment(&mut self, assignment: &str) -> Result<()> {
        let origin = "--set";
        let Some((name, text)) = assignment.split_once('=') else {
            let message = format!("expected KEY=VALUE, got {}", quoted(assignment));
            return Err(SettingError::new(origin, message));
        };
        let (name, text) = (name.trim(), text.trim());
        let key = find(name, origin)?;
        if text.is_empty() {
            let message = format!("{name}: expected {}, got nothing", key.kind.expected());
            return Err(SettingError::new(origin, message));
        }
        let value = match text.parse::<Value>() {
            Ok(value @ Value::String(_)) => value,
            // A path may look like a number or a date.
            Ok(_) if key.kind.is_text() => Value::String(text.to_owned()),
            Ok(value) => value,
            Err(e) if text.starts_with(['"', '\'', '[', '{']) => {
                let message = format!("{name}: {}, in {}", one_line(e.message()), quoted(text));
                return Err(SettingError::new(origin, message));
            }
            Err(_) => Value::String(text.to_owned()),
        };
        self.add([(key, value)], origin)
    }

    /// Returns whether a key has a value.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The value of a key.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// The settings together.
    ///
    /// # Errors
    /// [`SettingError`] for a key without a value.
    pub fn resolve(&self, origin: &str) -> Result<RunConfig> {
        let mut sections = Table::new();
        for section in KEYS.iter().map(|key| key.section()) {
            sections.entry(section).or_insert_with(|| Table::new().into());
        }
        for (name, value) in &self.values {
            let (section, key) = name.split_once('.').expect("names of keys have a section");
            if let Some(Value::Table(section)) = sections.get_mut(section) {
                section.insert(key.to_owned(), value.clone());
            }
        }
        sections.try_into().map_err(|e: toml::de::Error| SettingError::new(origin, one_line(e.message())))
    }

    /// Adds the settings of a table of sections.
    pub(crate) fn add_table(&mut self, table: &Table, origin: &str) -> Result<()> {
        let mut found = Vec::new();
        for (section, contents) in table {
            let Value::Table(contents) = contents else {
                // A key outside of any section is none, whatever its name.
                find(section, origin)?;
                continue;
            };
            if contents.is_empty() && !KEYS.iter().any(|key| key.section() == section) {
                find(section, origin)?;
            }
            for (key, value) in contents {
                found.push((find(&format!("{section}.{key}"), origin)?, value.clone()));
            }
        }
        self.add(found, origin)
    }

    /// Adds the values of one layer.
    fn add(&mut self, found: impl IntoIterator<Item = (&'static Key, Value)>, origin: &str) -> Result<()> {
        let mut layer = BTreeMap::new();
        for (key, value) in found {
            let Some(accepted) = key.kind.accept(&value) else {
                let (name, expected) = (key.name, key.kind.expected());
                let message = format!("{name}: expected {expected}, got {}", described(&value));
                return Err(SettingError::new(origin, message));
            };
            layer.insert(key.name, accepted);
        }
        for [first, second] in EXCLUSIVE {
            match (layer.contains_key(first), layer.contains_key(second)) {
                (true, true) => {
                    let message = format!("{first} and {second}: expected one of them, got both");
                    return Err(SettingError::new(origin, message));
                }
                (true, false) => drop(self.values.remove(second)),
                (false, true) => drop(self.values.remove(first)),
                (false, false) => {}
            }
        }
        self.values.extend(layer);
        Ok(())
    }
}

/// The key of this name.
fn find(name: &str, origin: &str) -> Result<&'static Key> {
    KEYS.iter().find(|key| key.name == name).ok_or_else(|| {
        let hint = match nearest(name) {
            Some(near) => format!("did you mean {near}?"),
            None => "docs/training.md lists the keys".to_owned(),
        };
        SettingError::new(origin, format!("unknown key {}; {hint}", shortened(name, SHOWN)))
    })
}

/// The key that `name` is most likely to be a misspelling of.
fn nearest(name: &str) -> Option<&'static str> {
    let last = name.rsplit('.').next().unwrap_or(name);
    let distance = |key: &Key| {
        let whole = strsim::damerau_levenshtein(name, key.name);
        // The right key without its section, or with another.
        let alone = strsim::damerau_levenshtein(last, key.short_name());
        // A misspelling of the whole name comes before one of a part of it.
        (2 * whole).min(2 * alone + 1)
    };
    // Names beyond the length of any key are not compared: it would take time with the product of the lengths.
    let longest = KEYS.iter().map(|key| 2 * key.name.len()).max().unwrap_or(0);
    let key = (name.len() <= longest).then(|| KEYS.iter().min_by_key(|key| distance(key)))??;
    (distance(key) <= last.len().max(3)).then_some(key.name)
}

/// A value with its type, for "got …".
fn described(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Table(_) => "a table".to_owned(),
        _ => shortened(&value.to_string(), SHOWN),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", shortened(text, SHOWN))
}

fn one_line(message: &str) -> String {
    message.lines().map(str::trim).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    fn set(assignments: &[&str]) -> Result<RunConfig> {
        let mut layers = presets::layers("small").unwrap();
        assignments.iter().try_for_each(|assignment| layers.add_assignment(assignment))?;
        layers.resolve("settings")
    }

    fn rejected(assignment: &str) -> String {
        set(&[assignment]).unwrap_err().to_string()
    }

    fn document(text: &str) -> String {
        Layers::default().add_document(text, "run.toml").unwrap_err().to_string()
    }

    #[test]
    fn unknown_keys_are_rejected_with_the_nearest_known_key() {
        for (given, near) in [
            ("train.lrr", "train.lr"),
            ("train.larning_rate", ""),
            ("lr", "train.lr"),
            ("model.batch", "train.batch"),
            ("trian.batch", "train.batch"),
            ("train.Batch", "train.batch"),
            ("train.checkpoint-every", "train.checkpoint_every"),
            ("data.chanels", "data.channels"),
            ("train", ""),
            ("nonsense", ""),
            ("", ""),
        ] {
            let message = rejected(&format!("{given}=1"));
            let hint =
                if near.is_empty() { "lists the keys".to_owned() } else { format!("did you mean {near}?") };
            assert!(message.starts_with(&format!("--set: unknown key {given}; ")), "{message}");
            assert!(message.contains(&hint), "{message}");
        }
        let long = "x".repeat(1 << 20);
        assert!(rejected(&format!("{long}=1")).len() < 200);
        assert_eq!(document("[train]\nlrr = 1\n"), "run.toml: unknown key train.lrr; did you mean train.lr?");
        assert_eq!(document("batch = 1\n"), "run.toml: unknown key batch; did you mean train.batch?");
        assert_eq!(document("train = 1\n"), "run.toml: unknown key train; docs/training.md lists the keys");
        assert!(document("[[train]]\nlr = 1\n").contains("unknown key train"));
        assert!(document("[trainer]\n").contains("unknown key trainer"));
    }

    #[test]
    fn wrong_values_are_rejected_with_what_was_expected() {
        for (assignment, message) in [
            ("train.batch=x", "--set: train.batch: expected an integer from 1 to 4294967295, got \"x\""),
            ("train.batch=0", "--set: train.batch: expected an integer from 1 to 4294967295, got 0"),
            ("train.lr=fast", "--set: train.lr: expected a number of at least 0, or auto, got \"fast\""),
            ("train.dropout=1", "--set: train.dropout: expected a number of at least 0 and below 1, got 1"),
            ("data.flip=yes", "--set: data.flip: expected true or false, got \"yes\""),
            ("data.fit=stretch", "--set: data.fit: expected crop or pad, got \"stretch\""),
            ("data.channels=2", "--set: data.channels: expected 1 or 3, got 2"),
            (
                "train.betas=[0.9]",
                "--set: train.betas: expected two numbers of at least 0 and below 1, got [0.9]",
            ),
            (
                "train.steps={a = 1}",
                "--set: train.steps: expected an integer from 1 to 4294967295, got a table",
            ),
            ("train.steps=", "--set: train.steps: expected an integer from 1 to 4294967295, got nothing"),
            ("train.steps", "--set: expected KEY=VALUE, got \"train.steps\""),
        ] {
            assert_eq!(rejected(assignment), message);
        }
        assert!(rejected("train.trainable=[\"a").starts_with("--set: train.trainable: "));
        assert!(document("[train]\nbatch = 1\nlr = =\n").starts_with("run.toml: line 3: "));
        assert!(document("[train]\nbatch = 1\nbatch = 2\n").starts_with("run.toml: line 3: "));
        let both = document("[train]\nsteps = 1\nepochs = 2\n");
        assert_eq!(both, "run.toml: train.steps and train.epochs: expected one of them, got both");
        for text in [document("\0"), document(&"[".repeat(100_000)), document("a = '''\n")] {
            assert!(!text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn later_settings_replace_earlier_ones() {
        let config =
            set(&["train.batch=8", "train.batch=16", "train.epochs=2.5", "train.steps=1e3"]).unwrap();
        assert_eq!(
            (config.train.batch, config.train.steps, config.train.epochs),
            (Some(16), Some(1000), None)
        );
        let config = set(&["train.epochs=3", "train.warmup_epochs=1"]).unwrap();
        assert_eq!((config.train.steps, config.train.epochs), (None, Some(3.0)));
        assert_eq!((config.train.warmup, config.train.warmup_epochs), (None, Some(1.0)));
    }

    #[test]
    fn text_needs_no_quotes() {
        for (given, path) in [
            ("data.path=my pictures", "my pictures"),
            ("data.path=2024", "2024"),
            ("data.path=2024-01-01", "2024-01-01"),
            ("data.path=true", "true"),
            ("data.path=\"quoted\"", "quoted"),
            ("data.path=a=b", "a=b"),
            ("data.path=C:\\pictures", "C:\\pictures"),
        ] {
            assert_eq!(set(&[given]).unwrap().data.path.as_deref(), Some(path));
        }
        assert_eq!(set(&["data.codec=patch:4"]).unwrap().data.codec.as_deref(), Some("patch:4"));
    }

    #[test]
    fn files_that_are_too_large_or_missing_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        let error = |path: &Path| Layers::default().add_file(path).unwrap_err().to_string();
        assert!(error(&path).starts_with(&path.display().to_string()));
        std::fs::write(&path, "#".repeat(MAX_FILE as usize + 1)).unwrap();
        assert!(error(&path).ends_with("got a larger file"));
        std::fs::write(&path, [0xff]).unwrap();
        assert!(error(&path).contains("UTF-8"));
    }
}
