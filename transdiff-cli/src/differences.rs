//! Differences of two values of one kind, such as settings, for messages.

use serde::Serialize;
use serde_json::Value;

/// The values of `own` that differ from those of `other`, by name, with both.
pub fn differences(own: &impl Serialize, other: &impl Serialize) -> Vec<String> {
    let values = |settings: serde_json::Result<Value>| {
        let mut values = Vec::new();
        flatten("", &settings.expect("plain data"), &mut values);
        values
    };
    let [own, others] = [serde_json::to_value(own), serde_json::to_value(other)].map(values);
    let find = |values: &[(String, String)], key: &str| {
        let found = values.iter().find(|(known, _)| known == key);
        found.map_or("nothing".to_owned(), |(_, value)| value.clone())
    };
    let missing = others.iter().filter(|(key, _)| own.iter().all(|(known, _)| known != key));
    let keys = own.iter().chain(missing).map(|(key, _)| key);
    let compared = keys.map(|key| (key, find(&others, key), find(&own, key)));
    let differing = compared.filter(|(_, there, here)| there != here);
    differing.map(|(key, there, here)| format!("{key} is {there} there and {here} here")).collect()
}

/// Adds the values in `value` with their keys, joined by dots.
fn flatten(key: &str, value: &Value, values: &mut Vec<(String, String)>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let key = if key.is_empty() { field.clone() } else { format!("{key}.{field}") };
                flatten(&key, value, values);
            }
        }
        _ => values.push((key.to_owned(), value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_the_setting() {
        let settings =
            |total: usize, preset: &str| serde_json::json!({"images": {"total": total}, "preset": preset});
        let (here, there) = (settings(8, "adm"), settings(9, "torch-fidelity"));
        assert!(differences(&here, &here).is_empty());
        let expected =
            ["images.total is 9 there and 8 here", "preset is \"torch-fidelity\" there and \"adm\" here"];
        assert_eq!(differences(&here, &there), expected);
    }
}
