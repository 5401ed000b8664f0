//! Named settings: `small` for folders of one's own, and the paper's recipes.

use toml::{Table, Value};

use crate::settings::{KEYS, Layers, Result, SettingError};

/// Names of all presets.
pub const NAMES: [&str; 11] = [
    "small",
    "distill",
    "paper-base-1step",
    "paper-base-mrar",
    "paper-base-512",
    "paper-large-1step",
    "paper-large-mrar",
    "paper-large-512",
    "paper-huge-1step",
    "paper-huge-mrar",
    "paper-huge-512",
];

/// Settings of a preset, defaults included.
///
/// # Errors
/// [`SettingError`] for a name that is not one of [`NAMES`].
pub fn layers(name: &str) -> Result<Layers> {
    if !NAMES.contains(&name) {
        let near = NAMES.iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
        let near =
            near.filter(|_| name.len() < 64).map_or(String::new(), |near| format!("; did you mean {near}?"));
        return Err(SettingError::new("--preset", format!("expected one of {}{near}", NAMES.join(", "))));
    }
    let mut layers = defaults();
    let presets = presets();
    let mut part = &presets;
    for (i, name) in name.split('-').enumerate() {
        // The parts of the paper's presets are independent of each other.
        let parent = if i == 2 { table(&presets, "paper") } else { part };
        part = table(parent, name);
        let settings = part.iter().filter(|(section, _)| KEYS.iter().any(|key| key.section() == *section));
        let settings = settings.map(|(section, keys)| (section.clone(), keys.clone())).collect();
        layers.add_table(&settings, name)?;
    }
    Ok(layers)
}

/// Settings that every preset begins with.
pub(crate) fn defaults() -> Layers {
    let mut layers = Layers::default();
    layers.add_table(table(&presets(), "defaults"), "defaults").expect("presets.toml has known keys");
    layers
}

fn presets() -> Table {
    include_str!("presets.toml").parse().expect("presets.toml is TOML")
}

fn table<'a>(table: &'a Table, name: &str) -> &'a Table {
    table.get(name).and_then(Value::as_table).expect("presets.toml has the parts of every preset")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_are_rejected_with_the_nearest() {
        let message = layers("paper-large-1-step").unwrap_err().to_string();
        assert!(
            message.starts_with("--preset: expected one of small, distill, paper-base-1step, "),
            "{message}"
        );
        assert!(message.ends_with("; did you mean paper-large-1step?"), "{message}");
        for name in ["", "paper", "defaults", "paper-large", "small-large", "paper-1step-large"] {
            assert!(layers(name).is_err(), "{name}");
        }
    }
}
