//! Changes of settings when a run is resumed.

use std::fmt;

use super::keys::{Changes, KEYS, RunConfig};
use super::{Result, SettingError};

/// A setting that a resumed run has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Name of the key.
    pub key: &'static str,
    /// Value before, as TOML; `None` if it had none.
    pub before: Option<String>,
    /// Value from now on, as TOML; `None` if it has none.
    pub after: Option<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        write!(f, "{}: {}, before {}", self.key, text(&self.after), text(&self.before))
    }
}

impl RunConfig {
    /// The settings that differ from those of the run that is resumed, `before`.
    ///
    /// # Errors
    /// [`SettingError`] for a setting that a run keeps, naming both values.
    pub fn changes_from(&self, before: &Self) -> Result<Vec<Change>> {
        let (old, new) = (before.values(), self.values());
        let mut changes = Vec::new();
        for key in KEYS {
            let [before, after] = [&old, &new].map(|values| values.get(key.name).map(ToString::to_string));
            if before == after {
                continue;
            }
            let change = Change { key: key.name, before, after };
            if key.changes == Changes::Fixed {
                let message = format!("{change}; it cannot change when a run is resumed, only in a new run");
                return Err(SettingError::new("--resume", message));
            }
            changes.push(change);
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Layers;
    use super::*;
    use crate::presets;

    fn resumed(assignments: &[&str]) -> Result<Vec<Change>> {
        let mut layers = presets::layers("small").unwrap();
        layers.add_assignment("data.codec=patch:4")?;
        let before = layers.resolve("test").unwrap();
        let mut layers = Layers::of(&before);
        assignments.iter().try_for_each(|assignment| layers.add_assignment(assignment))?;
        layers.resolve("test").unwrap().changes_from(&before)
    }

    #[test]
    fn changed_settings_are_listed_with_both_values() {
        let changes = resumed(&["train.epochs=2", "train.lr=1e-3", "data.flip=true"]).unwrap();
        let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
        assert_eq!(
            changes,
            [
                "data.flip: true, before none",
                "train.steps: none, before 3000",
                "train.epochs: 2.0, before none",
                "train.lr: 0.001, before \"auto\"",
            ]
        );
        assert_eq!(resumed(&["train.dropout=0", "data.codec=patch:4"]).unwrap(), []);
    }

    #[test]
    fn settings_that_a_run_keeps_are_errors() {
        for (assignment, values) in [
            ("data.codec=patch:2", "data.codec: \"patch:2\", before \"patch:4\""),
            ("data.size=64", "data.size: 64, before none"),
            ("model.groups=4", "model.groups: 4, before 1"),
            ("train.seed=7", "train.seed: 7, before 0"),
            ("train.trainable=[\"diffdecoder.\"]", "train.trainable: [\"diffdecoder.\"], before []"),
        ] {
            let message = resumed(&[assignment]).unwrap_err().to_string();
            assert!(message.starts_with(&format!("--resume: {values}; it cannot change")), "{message}");
        }
    }
}
