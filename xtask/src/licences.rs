//! Check of the licences of all dependencies, build and test dependencies included, against the list in deny.toml.

use std::collections::BTreeSet;
use std::fs;

use serde::Deserialize;
use spdx::{Expression, ParseMode};

use crate::Result;
use crate::process::cargo;

/// The manifests of the project's workspaces.
const WORKSPACES: [&str; 2] = ["Cargo.toml", "fuzz/Cargo.toml"];

#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    name: String,
    allow: Vec<String>,
}

impl Licenses {
    /// Licences allowed for the package `name`.
    fn allowed_for(&self, name: &str) -> Vec<String> {
        let own = self.exceptions.iter().filter(|e| e.name == name).flat_map(|e| &e.allow);
        self.allow.iter().chain(own).cloned().collect()
    }
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

/// Fails with the list of dependencies whose licence is not allowed.
pub fn check() -> Result {
    let deny: Deny = toml::from_str(&fs::read_to_string("deny.toml")?)?;
    let mut others = BTreeSet::new();
    for manifest in WORKSPACES {
        let command = ["metadata", "--format-version", "1", "--locked", "--manifest-path", manifest];
        let metadata: Metadata = serde_json::from_str(&cargo(&command).stdout()?)?;
        others.extend(metadata.packages.into_iter().filter(|p| p.source.is_some()));
    }
    let bad: Vec<String> = others
        .iter()
        .filter(|p| !p.license.as_deref().is_some_and(|l| allows(&deny.licenses.allowed_for(&p.name), l)))
        .map(|p| format!("{} {}: {}", p.name, p.version, p.license.as_deref().unwrap_or("no licence")))
        .collect();
    if !bad.is_empty() {
        return Err(format!("licences not on the list in deny.toml:\n{}", bad.join("\n")).into());
    }
    println!("{} dependencies, all with allowed licences", others.len());
    Ok(())
}

/// Returns true if the licences `allowed` satisfy `licence`, an SPDX expression. Older packages separate alternatives
/// with a slash.
fn allows(allowed: &[String], licence: &str) -> bool {
    let mode = ParseMode { allow_slash_as_or_operator: true, ..ParseMode::STRICT };
    let expression = Expression::parse_mode(licence, mode);
    expression.is_ok_and(|e| e.evaluate(|need| allowed.iter().any(|a| *a == need.to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exception_applies_to_its_crate_alone() {
        let text = "allow = ['MIT']\nexceptions = [{ crate = 'tool', allow = ['MPL-2.0'] }]";
        let licenses: Licenses = toml::from_str(text).unwrap();
        assert!(
            allows(&licenses.allowed_for("tool"), "MPL-2.0") && allows(&licenses.allowed_for("tool"), "MIT")
        );
        assert!(!allows(&licenses.allowed_for("other"), "MPL-2.0"));
    }

    #[test]
    fn spdx_expressions_are_evaluated() {
        let allowed = ["MIT", "Apache-2.0 WITH LLVM-exception"].map(String::from);
        for good in ["MIT", "GPL-3.0-only OR MIT", "Unlicense/MIT", "Apache-2.0 WITH LLVM-exception AND MIT"]
        {
            assert!(allows(&allowed, good), "{good}");
        }
        for bad in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "Apache-2.0", "my own", ""] {
            assert!(!allows(&allowed, bad), "{bad}");
        }
    }
}
