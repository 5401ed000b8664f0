//! The order of layers in `transdiff-core`: a module imports its own layer and those below it.

use super::{Import, Modules, place};

/// Top-level modules, lowest layer first.
const LAYERS: [&[&str]; 12] = [
    &["error", "dtype", "host", "int8", "layout", "precision", "rng", "cancel", "text", "testing"],
    &["backend"],
    &["reference", "metering"],
    &["tensor"],
    &["distributed"],
    &["autograd"],
    &["nn"],
    // Knows tensors and names, not models.
    &["checkpoint"],
    &["data"],
    &["diffusion"],
    &["models"],
    &["train"],
];

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Imports that point to a higher layer, and modules that have no layer.
pub fn violations(modules: &Modules, imports: &[Import]) -> Vec<String> {
    let unknown = modules.top_level().filter(|module| layer(module).is_none());
    let mut found: Vec<String> =
        unknown.map(|m| format!("module {m} has no layer: add it to xtask/src/imports/layers.rs")).collect();
    for import in imports {
        // The root of the crate declares and re-exports; it has no layer.
        let (Some(from), Some(to)) = (modules.top_level_of(import.from), modules.top_level_of(import.to))
        else {
            continue;
        };
        if layer(from).zip(layer(to)).is_some_and(|(from, to)| to > from) {
            let place = place(modules, import);
            found.push(format!("{place}: {from} imports {} from {to}, a higher layer", import.path));
        }
    }
    found
}
