//! Settings as text: `config.toml`, and the table of the documentation.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use toml::{Table, Value};
use transdiff_core::checkpoint::write_bytes_atomic;

use super::keys::{KEYS, Key, RunConfig};
use super::{Changes, Result, SettingError};

impl RunConfig {
    /// The value of every key that has one.
    pub(super) fn values(&self) -> BTreeMap<&'static str, Value> {
        let sections = Table::try_from(self).expect("settings are tables of plain values");
        let value = |key: &Key| sections.get(key.section())?.get(key.short_name()).cloned();
        KEYS.iter().filter_map(|key| Some((key.name, value(key)?))).collect()
    }

    /// Name and value, as TOML, of every key that has one, in the order of [`KEYS`].
    pub fn entries(&self) -> Vec<(&'static str, String)> {
        let values = self.values();
        KEYS.iter().filter_map(|key| Some((key.name, values.get(key.name)?.to_string()))).collect()
    }

    /// The settings as a TOML document, in the order of [`KEYS`]. Reading it gives equal settings.
    pub fn to_document(&self) -> String {
        let (values, mut section, mut text) = (self.values(), "", String::new());
        for key in KEYS {
            let Some(value) = values.get(key.name) else { continue };
            if key.section() != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                section = key.section();
                let _ = writeln!(text, "{gap}[{section}]");
            }
            let _ = writeln!(text, "{} = {value}", key.short_name());
        }
        text
    }

    /// Writes the settings to a file, which holds either its old contents or the new ones.
    ///
    /// # Errors
    /// [`transdiff_core::Error::Io`].
    pub fn save(&self, path: &Path) -> transdiff_core::Result<()> {
        write_bytes_atomic(path, self.to_document().as_bytes())
    }

    /// Reads the settings of a run from its `config.toml`. Keys that an earlier version did not have get their defaults.
    ///
    /// # Errors
    /// [`SettingError`] as [`super::Layers::add_file`].
    pub fn load(path: &Path) -> Result<Self> {
        let mut layers = crate::presets::defaults();
        layers.add_file(path)?;
        layers.resolve(&path.display().to_string())
    }
}

/// The keys as a Markdown table: name, values, description. Keys that a resumed run keeps are marked by `*`.
pub fn markdown_table() -> String {
    let values = crate::presets::defaults();
    let mut text = "| key | values | default | meaning |\n|---|---|---|---|\n".to_owned();
    for key in KEYS {
        let mark = if key.changes == Changes::Fixed { "*" } else { "" };
        let default = values.value(key.name).map_or_else(String::new, |value| format!("`{value}`"));
        let description = key.description.trim();
        let row = format!("| `{}`{mark} | {} | {default} | {description} |", key.name, key.kind.expected());
        let _ = writeln!(text, "{row}");
    }
    text
}

/// The value of a setting that a preset, the data or a rule has to give.
pub(crate) fn required<T>(key: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| {
        SettingError::new(key, "expected a value, got none; it follows from the data or a preset")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    #[test]
    fn documents_are_read_back_equal() {
        for name in presets::NAMES {
            let mut layers = presets::layers(name).unwrap();
            for assignment in ["data.path=\"a \\\"b\\\" \\\\ ü\\n\"", "data.val=held-out", "train.lr=3.3e-5"]
            {
                layers.add_assignment(assignment).unwrap();
            }
            let config = layers.resolve(name).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("config.toml");
            config.save(&path).unwrap();
            assert_eq!(RunConfig::load(&path).unwrap(), config, "{name}");
        }
    }

    #[test]
    fn every_field_is_a_key_and_every_default_is_accepted() {
        let config = presets::layers("small").unwrap().resolve("small").unwrap();
        let sections = Table::try_from(&config).unwrap();
        for (section, fields) in &sections {
            for (field, value) in fields.as_table().unwrap() {
                let key = KEYS.iter().find(|key| key.name == format!("{section}.{field}")).unwrap();
                assert_eq!(key.kind.accept(value).as_ref(), Some(value), "{}", key.name);
            }
        }
    }

    #[test]
    fn every_word_of_a_key_is_a_value_of_its_field() {
        for key in KEYS {
            if let super::super::Kind::Word(words) = key.kind {
                for word in words {
                    let mut layers = presets::layers("small").unwrap();
                    layers.add_value(key.name, *word, "test").unwrap();
                    let config = layers.resolve("test").unwrap();
                    assert_eq!(config.values()[key.name], Value::from(*word), "{}", key.name);
                }
            }
        }
    }

    #[test]
    fn documentation_has_the_table_of_keys() {
        let documentation = include_str!("../../../docs/training.md");
        let table = markdown_table();
        assert!(documentation.contains(&table), "docs/training.md: expected this table of keys:\n{table}");
    }
}
