//! `transdiff inspect FILE`: shows the contents of a checkpoint.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use transdiff::checkpoint::{Entry, Format, WeightFile, WeightView};
use transdiff::diffusion::Preset;
use transdiff::models::{FileKind, ImageSpec, StoredCodec, StoredConfig, WeightSet};
use transdiff_core::text::printable;

use super::args::InspectArgs;
use super::text::{image_rows, pairs, section};
use crate::failure::{Failure, Result};
use crate::format::{self, Align, table};
use crate::load_hints::{LoadHintArgs, dtype_name, weight_set_name};
use crate::output;

/// Name components that stand for a set of weights or optimiser state and not for a module.
const WEIGHT_SET_PREFIXES: [&str; 8] =
    ["model", "model_ema", "ema", "module", "state_dict", "optimizer", "adam_m", "adam_v"];

/// Prints the contents of a file.
pub fn run(args: &InspectArgs) -> Result<()> {
    let file = WeightFile::open(&args.path)?;
    let summary = FileSummary::new(&file, &args.hints);
    match args.json {
        true => output::print(format!("{:#}\n", summary.json(&file))),
        false => output::print(summary.text(&file, args.tensors)),
    }
}

/// Summary of a file: its kind, and the model or codec found in it.
struct FileSummary {
    kind: FileKind,
    module: Option<ModuleSummary>,
    /// Error that prevented reading the configuration.
    config_error: Option<String>,
}

/// Summary of a model or a codec.
struct ModuleSummary {
    config: StoredConfig,
    /// Set of weights that the other fields describe. Models only.
    weights: Option<WeightSet>,
    /// Sampling settings of the paper. Published models only.
    preset: Option<Preset>,
    /// Codec, images and classes. Models whose file describes them only.
    images: Option<ImageSpec>,
    tensors: usize,
    parameters: usize,
}

impl FileSummary {
    fn new(file: &WeightFile, hints: &LoadHintArgs) -> Self {
        let kind = FileKind::under(file, hints.key.as_deref());
        let module = match kind {
            FileKind::Model | FileKind::TrainingRun => model(file, hints),
            FileKind::Codec => codec(file, hints),
            FileKind::Unknown => return Self { kind, module: None, config_error: None },
        };
        let config_error = match &module {
            Err(Failure::Message(message)) => {
                let path = format!("{}: ", file.path().display());
                Some(message.strip_prefix(&path).unwrap_or(message).to_owned())
            }
            _ => None,
        };
        Self { kind, module: module.ok(), config_error }
    }

    fn text(&self, file: &WeightFile, list_tensors: bool) -> String {
        let mut out = format!("{}\n", printable(&file.path().display().to_string()));
        out.push_str(&pairs(self.overview(file)));
        if let Some(error) = &self.config_error {
            out.push_str(&format!("\nconfiguration\n  not available: {}\n", printable(error)));
        }
        let config = self.module.as_ref().map(ModuleSummary::config_json);
        let fields = config.iter().filter_map(Value::as_object).flatten();
        section(&mut out, "configuration", fields.map(|(key, value)| (key.clone(), plain(value))));
        let images = self.module.as_ref().and_then(|module| module.images.as_ref());
        section(&mut out, "images", images.map(image_rows).into_iter().flatten());
        // The configuration and the images are shown above already.
        let is_shown = |key: &str| {
            let module = self.module.as_ref();
            module.is_some_and(|module| module.config.key == key)
                || (images.is_some() && key == ImageSpec::METADATA_KEY)
        };
        let metadata = file.metadata().iter().filter(|(key, _)| !is_shown(key));
        section(&mut out, "metadata", metadata.map(|(key, text)| (key.clone(), text.clone())));
        section(&mut out, "other values", values(file.values()));
        out.push_str("\ntensors\n");
        out.push_str(&if list_tensors { tensor_table(file) } else { module_table(file) });
        out
    }

    fn overview(&self, file: &WeightFile) -> Vec<(String, String)> {
        let mut rows = vec![("format", format_name(file).to_owned())];
        rows.extend(file.format_version().map(|version| ("format version", version.to_string())));
        rows.push(("kind", kind_description(self.kind).to_owned()));
        if let Some(module) = &self.module {
            rows.extend(
                module.weights.map(|weights| ("weights", weight_set_description(weights).to_owned())),
            );
            rows.push(("parameters", format!("{} in {} tensors", module.parameters, module.tensors)));
            rows.extend(module.preset.map(|p| {
                let (guidance, drift, noise) = (p.guidance, p.drift_scale, p.noise_scale);
                let text = format!("guidance {guidance}, drift scale {drift}, noise scale {noise}");
                ("paper preset", text)
            }));
        }
        rows.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn json(&self, file: &WeightFile) -> Value {
        let module = self.module.as_ref();
        let tensors: Vec<Value> = file.entries().iter().map(|(name, entry)| {
            json!({ "name": name, "dtype": dtype_name(entry.dtype()), "shape": entry.shape(), "bytes": size(entry) })
        }).collect();
        let total = TensorTotals::of(file.entries().values());
        json!({
            "path": file.path().display().to_string(),
            "format": format_name(file),
            "format_version": file.format_version(),
            "kind": kind_name(self.kind),
            "config": module.map(ModuleSummary::config_json),
            "config_missing": self.config_error,
            "weights": module.and_then(|m| m.weights).map(weight_set_name),
            "parameters": module.map(|m| m.parameters),
            "images": module.and_then(|m| m.images.as_ref()),
            "metadata": file.metadata(),
            "values": file.values(),
            "tensors": tensors,
            "total": { "tensors": total.tensors, "values": total.elements, "bytes": total.bytes },
        })
    }
}

fn model(file: &WeightFile, hints: &LoadHintArgs) -> Result<ModuleSummary> {
    let model = hints.find_model(file)?;
    let summary = ModuleSummary::new(model.config(), model.tensors());
    let images = model.images().cloned();
    Ok(ModuleSummary { weights: Some(model.weights()), preset: model.published_preset(), images, ..summary })
}

fn codec(file: &WeightFile, hints: &LoadHintArgs) -> Result<ModuleSummary> {
    let codec = StoredCodec::find_with(file, &hints.into())?;
    Ok(ModuleSummary::new(codec.config(), codec.tensors()))
}

impl ModuleSummary {
    fn new(config: StoredConfig, tensors: &WeightView<'_>) -> Self {
        let total = TensorTotals::of(tensors.entries().map(|(_, entry)| entry));
        let (tensors, parameters) = (total.tensors, total.elements as usize);
        Self { config, weights: None, preset: None, images: None, tensors, parameters }
    }

    fn config_json(&self) -> Value {
        serde_json::from_str(&self.config.json).expect("the library wrote it as JSON")
    }
}

/// Totals over tensors.
#[derive(Default)]
struct TensorTotals {
    tensors: usize,
    elements: u64,
    bytes: u64,
    dtypes: BTreeSet<String>,
}

impl TensorTotals {
    fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut total = Self::default();
        entries.into_iter().for_each(|entry| total.add(entry));
        total
    }

    fn add(&mut self, entry: &Entry) {
        self.tensors += 1;
        self.elements = self.elements.saturating_add(element_count(entry));
        self.bytes = self.bytes.saturating_add(size(entry));
        self.dtypes.insert(dtype_name(entry.dtype()));
    }

    fn row(&self, name: &str) -> [String; 5] {
        let dtypes: Vec<&str> = self.dtypes.iter().map(String::as_str).collect();
        let (tensors, elements) = (self.tensors.to_string(), self.elements.to_string());
        [printable(name), tensors, elements, format::bytes(self.bytes), dtypes.join(", ")]
    }
}

fn element_count(entry: &Entry) -> u64 {
    entry.shape().iter().map(|&d| d as u64).product()
}

/// Size of a tensor in bytes.
fn size(entry: &Entry) -> u64 {
    (element_count(entry) * entry.dtype().bitsize() as u64).div_ceil(8) + entry.scales().map_or(0, size)
}

/// One row per tensor.
fn tensor_table(file: &WeightFile) -> String {
    let mut rows = vec![["name", "dtype", "shape", "bytes"].map(String::from)];
    rows.extend(file.entries().iter().map(|(name, entry)| {
        let shape = format!("{:?}", entry.shape());
        [printable(name), dtype_name(entry.dtype()), shape, size(entry).to_string()]
    }));
    let total = TensorTotals::of(file.entries().values());
    let (tensors, elements) =
        (format!("total: {} tensors", total.tensors), format!("{} elements", total.elements));
    rows.push([tensors, String::new(), elements, total.bytes.to_string()]);
    table([Align::Left, Align::Left, Align::Left, Align::Right], &rows)
}

/// One row per top-level module.
fn module_table(file: &WeightFile) -> String {
    let mut modules: BTreeMap<&str, TensorTotals> = BTreeMap::new();
    for (name, entry) in file.entries() {
        modules.entry(module_name(name)).or_default().add(entry);
    }
    let mut rows = vec![["module", "tensors", "elements", "size", "dtypes"].map(String::from)];
    rows.extend(modules.iter().map(|(name, total)| total.row(name)));
    rows.push(TensorTotals::of(file.entries().values()).row("total"));
    table([Align::Left, Align::Right, Align::Right, Align::Right, Align::Left], &rows)
}

/// Returns the top-level module of a tensor, including the prefix of its set of weights.
fn module_name(name: &str) -> &str {
    let mut end = 0;
    for part in name.split('.') {
        end += part.len();
        if !WEIGHT_SET_PREFIXES.contains(&part) {
            break;
        }
        end += 1;
    }
    &name[..end.min(name.len())]
}

/// Values of a checkpoint that are not tensors, flattened by one level.
fn values(values: &Map<String, Value>) -> impl Iterator<Item = (String, String)> {
    values.iter().flat_map(|(key, value)| match value.as_object() {
        Some(inner) => inner.iter().map(|(name, value)| (format!("{key}.{name}"), plain(value))).collect(),
        None => vec![(key.clone(), plain(value))],
    })
}

/// A value of JSON as text.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
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
        FileKind::Codec => "vae",
        FileKind::Unknown => "unknown",
    }
}

fn kind_description(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Model => "TransDiff model",
        FileKind::TrainingRun => "training run",
        FileKind::Codec => "VAE",
        FileKind::Unknown => "unknown (neither a TransDiff model nor a VAE)",
    }
}

fn weight_set_description(weights: WeightSet) -> &'static str {
    match weights {
        WeightSet::Ema => "EMA (exponential moving average over training)",
        WeightSet::Raw => "raw (after the last training step)",
        WeightSet::Single => "single set",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_name_skips_weight_set_prefixes() {
        let cases = [
            ("class_emb.weight", "class_emb"),
            ("model_ema.encoder_blocks.0.norm1.weight", "model_ema.encoder_blocks"),
            ("model.module.z_proj.weight", "model.module.z_proj"),
            ("mask_token", "mask_token"),
            ("model", "model"),
            ("", ""),
        ];
        for (name, want) in cases {
            assert_eq!(module_name(name), want, "{name}");
        }
    }
}
