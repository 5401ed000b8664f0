//! `transdiff inspect`: what a file of tensors holds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};
use transdiff::checkpoint::{Entry, Format, WeightFile, WeightView};
use transdiff::models::FileKind;
use transdiff::models::transdiff::Preset;
use transdiff::models::transdiff::{CONFIG_KEY, TransDiffConfig, WeightSet};
use transdiff::models::vae::{StoredVae, VAE_CONFIG_KEY};
use transdiff_core::text::{printable, shortened};

use crate::failure::{Failure, Result};
use crate::source::{self, Hints, type_name};
use crate::text::{self, Align, table};

/// Characters of a value that are shown.
const VALUE_WIDTH: usize = 100;
/// Values that are shown.
const VALUES: usize = 60;
/// What stands before the modules of a set of weights, and so does not tell modules apart.
const SETS: [&str; 8] =
    ["model", "model_ema", "ema", "module", "state_dict", "optimizer", "adam_m", "adam_v"];

/// What is looked at, and how it is shown
#[derive(Args)]
#[command(
    after_help = "Reads safetensors files and PyTorch checkpoints (.pth, .pt, .ckpt). Only the table of contents is read,
and nothing in it is executed.

Examples:
  transdiff inspect checkpoint-last.pth
  transdiff inspect model.safetensors --tensors | less
  transdiff inspect model.safetensors --json | jq .config"
)]
pub struct Options {
    /// The file
    file: PathBuf,
    /// Everything, as JSON
    #[arg(long)]
    json: bool,
    /// Every tensor, not a line for each module
    #[arg(long)]
    tensors: bool,
    #[command(flatten)]
    hints: Hints,
}

pub fn run(options: &Options) -> Result<()> {
    let file = WeightFile::open(&options.file)?;
    let about = About::of(&file, options.hints);
    match options.json {
        true => text::print(format!("{:#}\n", about.json(&file))),
        false => text::print(about.text(&file, options.tensors)),
    }
}

/// What can be said of a file beyond its table of contents.
struct About {
    kind: &'static str,
    sizes: Option<Sizes>,
    /// Why the sizes are not known.
    why: Option<String>,
}

/// What a model or a VAE is.
struct Sizes {
    config: Value,
    /// Of a model: which weights the other figures are of, and the paper's settings.
    weights: Option<WeightSet>,
    preset: Option<Preset>,
    tensors: usize,
    parameters: usize,
}

impl About {
    fn of(file: &WeightFile, hints: Hints) -> Self {
        let (kind, sizes) = match FileKind::of(file) {
            FileKind::Model => ("TransDiff model", model(file, hints)),
            FileKind::TrainingRun => ("training run", model(file, hints)),
            FileKind::Vae { .. } => ("VAE", vae(file)),
            FileKind::Unknown => {
                return Self { kind: "unknown: neither a model nor a VAE", sizes: None, why: None };
            }
        };
        let why = match &sizes {
            Err(Failure::Message(message)) => {
                let path = format!("{}: ", file.path().display());
                Some(message.strip_prefix(&path).unwrap_or(message).to_owned())
            }
            _ => None,
        };
        Self { kind, sizes: sizes.ok(), why }
    }

    fn text(&self, file: &WeightFile, tensors: bool) -> String {
        let mut out = format!("{}\n", printable(&file.path().display().to_string()));
        out.push_str(&pairs(self.summary(file)));
        if let Some(why) = &self.why {
            out.push_str(&format!("\nsizes\n  not known: {}\n", printable(why)));
        }
        let config = self.sizes.iter().filter_map(|sizes| sizes.config.as_object()).flatten();
        section(&mut out, "sizes", config.map(|(key, value)| (key.clone(), plain(value))));
        // The sizes have been told.
        let told = |key: &str| self.sizes.is_some() && [CONFIG_KEY, VAE_CONFIG_KEY].contains(&key);
        let metadata = file.metadata().iter().filter(|(key, _)| !told(key));
        section(&mut out, "metadata", metadata.map(|(key, text)| (key.clone(), text.clone())));
        section(&mut out, "beside the tensors", values(file.values()));
        out.push_str("\ntensors\n");
        out.push_str(&if tensors { every(file) } else { by_module(file) });
        out
    }

    fn summary(&self, file: &WeightFile) -> Vec<(String, String)> {
        let mut rows = vec![("format", format_name(file).to_owned()), ("kind", self.kind.to_owned())];
        if let Some(sizes) = &self.sizes {
            rows.extend(sizes.weights.map(|weights| ("weights", described(weights).to_owned())));
            rows.push(("parameters", format!("{} in {} tensors", sizes.parameters, sizes.tensors)));
            rows.extend(sizes.preset.map(|p| {
                let (guidance, drift, noise) = (p.guidance, p.drift_scale, p.noise_scale);
                let text = format!("guidance {guidance}, drift scale {drift}, noise scale {noise}");
                ("paper", text)
            }));
        }
        rows.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn json(&self, file: &WeightFile) -> Value {
        let sizes = self.sizes.as_ref();
        let tensors: Vec<Value> = file.entries().iter().map(|(name, entry)| {
            json!({ "name": name, "dtype": type_name(entry.dtype()), "shape": entry.shape(), "bytes": size(entry) })
        }).collect();
        let total = Total::of(file.entries().values());
        json!({
            "path": file.path().display().to_string(),
            "format": format_name(file),
            "kind": kind_name(FileKind::of(file)),
            "config": sizes.map(|s| &s.config),
            "config_missing": self.why,
            "weights": sizes.and_then(|s| s.weights).map(source::name),
            "parameters": sizes.map(|s| s.parameters),
            "metadata": file.metadata(),
            "values": file.values(),
            "tensors": tensors,
            "total": { "tensors": total.tensors, "values": total.values, "bytes": total.bytes },
        })
    }
}

fn model(file: &WeightFile, hints: Hints) -> Result<Sizes> {
    let source = hints.find(file)?;
    let config: &TransDiffConfig = source.config();
    let sizes = Sizes::of(json!(config), source.tensors());
    Ok(Sizes { weights: Some(source.weights()), preset: Preset::of(config), ..sizes })
}

fn vae(file: &WeightFile) -> Result<Sizes> {
    let source = StoredVae::find(file)?;
    Ok(Sizes::of(json!(source.config()), source.tensors()))
}

impl Sizes {
    fn of(config: Value, tensors: &WeightView<'_>) -> Self {
        let total = Total::of(tensors.entries().map(|(_, entry)| entry));
        let (tensors, parameters) = (total.tensors, total.values as usize);
        Self { config, weights: None, preset: None, tensors, parameters }
    }
}

/// Sums over tensors.
#[derive(Default)]
struct Total {
    tensors: usize,
    values: u64,
    bytes: u64,
    types: BTreeSet<String>,
}

impl Total {
    fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut total = Self::default();
        entries.into_iter().for_each(|entry| total.add(entry));
        total
    }

    fn add(&mut self, entry: &Entry) {
        self.tensors += 1;
        self.values = self.values.saturating_add(count(entry));
        self.bytes = self.bytes.saturating_add(size(entry));
        self.types.insert(type_name(entry.dtype()));
    }

    fn row(&self, name: &str) -> [String; 5] {
        let types: Vec<&str> = self.types.iter().map(String::as_str).collect();
        let (tensors, values) = (self.tensors.to_string(), self.values.to_string());
        [printable(name), tensors, values, text::bytes(self.bytes), types.join(", ")]
    }
}

fn count(entry: &Entry) -> u64 {
    entry.shape().iter().map(|&d| d as u64).product()
}

fn size(entry: &Entry) -> u64 {
    (count(entry) * entry.dtype().bitsize() as u64).div_ceil(8)
}

fn every(file: &WeightFile) -> String {
    let mut rows = vec![["name", "type", "shape", "bytes"].map(String::from)];
    rows.extend(file.entries().iter().map(|(name, entry)| {
        let shape = format!("{:?}", entry.shape());
        [printable(name), type_name(entry.dtype()), shape, size(entry).to_string()]
    }));
    let total = Total::of(file.entries().values());
    let values = format!("{} values", total.values);
    rows.push([format!("total of {}", total.tensors), String::new(), values, total.bytes.to_string()]);
    table([Align::Left, Align::Left, Align::Left, Align::Right], &rows)
}

fn by_module(file: &WeightFile) -> String {
    let mut modules: BTreeMap<&str, Total> = BTreeMap::new();
    for (name, entry) in file.entries() {
        modules.entry(module(name)).or_default().add(entry);
    }
    let mut rows = vec![["module", "tensors", "values", "size", "types"].map(String::from)];
    rows.extend(modules.iter().map(|(name, total)| total.row(name)));
    rows.push(Total::of(file.entries().values()).row("total"));
    table([Align::Left, Align::Right, Align::Right, Align::Right, Align::Left], &rows)
}

/// The top-level module of a tensor, with the set of weights that it belongs to.
fn module(name: &str) -> &str {
    let mut end = 0;
    for part in name.split('.') {
        end += part.len();
        if !SETS.contains(&part) {
            break;
        }
        end += 1;
    }
    &name[..end.min(name.len())]
}

/// What a checkpoint holds beside tensors, one level deep.
fn values(values: &Map<String, Value>) -> impl Iterator<Item = (String, String)> {
    values.iter().flat_map(|(key, value)| match value.as_object() {
        Some(inner) => inner.iter().map(|(name, value)| (format!("{key}.{name}"), plain(value))).collect(),
        None => vec![(key.clone(), plain(value))],
    })
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Rows under a heading; nothing without rows.
fn section(out: &mut String, heading: &str, rows: impl Iterator<Item = (String, String)>) {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return;
    }
    let more = rows.len().saturating_sub(VALUES);
    out.push_str(&format!("\n{heading}\n{}", pairs(rows.into_iter().take(VALUES))));
    if more > 0 {
        out.push_str(&format!("  and {more} more (--json has all)\n"));
    }
}

fn pairs(rows: impl IntoIterator<Item = (String, String)>) -> String {
    let shown =
        |(key, value): (String, String)| [shortened(&key, VALUE_WIDTH), shortened(&value, VALUE_WIDTH)];
    table([Align::Left, Align::Left], &rows.into_iter().map(shown).collect::<Vec<_>>())
}

fn format_name(file: &WeightFile) -> &'static str {
    match file.format() {
        Format::Safetensors => "safetensors",
        Format::PyTorch => "PyTorch",
    }
}

fn kind_name(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Model => "model",
        FileKind::TrainingRun => "training_run",
        FileKind::Vae { .. } => "vae",
        FileKind::Unknown => "unknown",
    }
}

fn described(weights: WeightSet) -> &'static str {
    match weights {
        WeightSet::Ema => "ema, averaged over training",
        WeightSet::Raw => "model, as the last step of training left them",
        WeightSet::Single => "one set",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_told_from_sets_of_weights() {
        let cases = [
            ("class_emb.weight", "class_emb"),
            ("model_ema.encoder_blocks.0.norm1.weight", "model_ema.encoder_blocks"),
            ("model.module.z_proj.weight", "model.module.z_proj"),
            ("mask_token", "mask_token"),
            ("model", "model"),
            ("", ""),
        ];
        for (name, want) in cases {
            assert_eq!(module(name), want, "{name}");
        }
    }
}
