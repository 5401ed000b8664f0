//! `transdiff inspect CACHE`: header and state of a latent cache.

use std::path::Path;

use serde_json::json;
use transdiff::datasets::cache::CacheState;
use transdiff_core::text::printable;

use super::text::{codec_text, pairs, rows, section};
use crate::failure::Result;
use crate::output;

/// Shards, and pictures that were left out, that are named.
const NAMED: usize = 10;

/// Prints the state of the cache in the directory `path`.
pub fn print(path: &Path, state: &CacheState, as_json: bool) -> Result<()> {
    match as_json {
        true => output::print(format!("{:#}\n", json(path, state))),
        false => output::print(text(path, state)),
    }
}

fn text(path: &Path, state: &CacheState) -> String {
    let spec = &state.header.spec;
    let mut shown = rows([
        ("kind", "latent cache".to_owned()),
        ("format version", state.header.version.to_string()),
        ("codec", codec_text(&spec.images.codec)),
    ]);
    let others = spec.properties().into_iter().filter(|(name, _)| *name != "codec");
    shown.extend(rows(others));
    shown.extend(rows([("pictures", pictures(state)), ("shards", shards(state))]));
    let mut out = format!("{}\n{}", printable(&path.display().to_string()), pairs(shown));
    let left_out = state.skipped.iter().take(NAMED);
    section(&mut out, "left out", left_out.map(|picture| (picture.path.clone(), picture.reason.clone())));
    let more = state.skipped.len().saturating_sub(NAMED);
    if more > 0 {
        out.push_str(&format!("  {more} more (--json shows all)\n"));
    }
    let counts = state.class_counts.iter().enumerate();
    section(&mut out, "classes", counts.map(|(label, count)| (class(state, label), count.to_string())));
    out
}

fn pictures(state: &CacheState) -> String {
    let (all, stored, left_out) = (state.header.entries, state.stored(), state.skipped.len());
    let mut text = format!("{stored} of {all} stored");
    if left_out > 0 {
        text.push_str(&format!(", {left_out} broken and left out"));
    }
    text
}

fn shards(state: &CacheState) -> String {
    let (all, missing) = (state.header.shards(), &state.unfinished);
    if missing.is_empty() {
        let index = if state.is_merged { "merged" } else { "not merged: transdiff cache --merge" };
        return format!("{all} of {all} finished, {index}");
    }
    let mut named: Vec<String> = missing.iter().take(NAMED).map(usize::to_string).collect();
    if missing.len() > NAMED {
        named.push("…".to_owned());
    }
    format!("{} of {all} finished, missing: {}", all - missing.len(), named.join(", "))
}

/// Name of class `label`, or its number where classes have no names.
fn class(state: &CacheState, label: usize) -> String {
    state.header.spec.images.classes.get(label).cloned().unwrap_or_else(|| label.to_string())
}

fn json(path: &Path, state: &CacheState) -> serde_json::Value {
    let skipped = state.skipped.iter().map(|picture| json!({"path": picture.path, "reason": picture.reason}));
    let counts = state.class_counts.iter().enumerate();
    let counts = counts.map(|(label, count)| json!({"name": class(state, label), "pictures": count}));
    json!({
        "path": path.display().to_string(),
        "kind": "cache",
        "header": state.header,
        "merged": state.is_merged,
        "stored": state.stored(),
        "shards": state.header.shards(),
        "unfinished_shards": state.unfinished,
        "left_out": skipped.collect::<Vec<_>>(),
        "classes": counts.collect::<Vec<_>>(),
    })
}
