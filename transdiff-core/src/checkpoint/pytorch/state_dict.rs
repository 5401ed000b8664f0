//! Reader of state dicts: turns the values built by a pickle into named tensors and plain data.
//!
//! Nothing but the pickle itself can make a file unreadable: a tensor that is wrong is an entry that cannot be read, and
//! plain data that is too large is skipped.

use std::collections::HashSet;
use std::fmt::Display;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::allocation_limit::AllocationLimit;
use super::super::contents::{Contents, SKIPPED};
use super::super::entry::{self, Entry};
use super::cost::{Cost, Costs, MAX_DEPTH};
use super::numbers::Number;
use super::reducers::{Dict, Meaning, TensorCall, field_names, meaning, name as class_name};
use super::tensors::{Places, placeholder};
use super::value::{PickleValue, ValueId, ValueTable};
use crate::{Error, Result};

/// Bytes that a name may have.
const MAX_NAME_BYTES: usize = 1 << 12;
/// Key under which the number of skipped items stands.
const ELLIPSIS: &str = "…";

/// Traversal of the values built by a pickle.
pub(super) struct StateDictReader<'a> {
    code: &'a [u8],
    table: &'a ValueTable<'a>,
    places: Places<'a>,
    path: &'a Path,
    costs: Costs<'a>,
    contents: Contents,
    /// Memory left for entries.
    limit: AllocationLimit,
    /// Memory left for values and entries of the items at the top level.
    left: Cost,
}

impl<'a> StateDictReader<'a> {
    /// Returns a reader of the values in `table`, which `code` built, within `limit`.
    pub fn new(
        code: &'a [u8],
        table: &'a ValueTable<'a>,
        places: Places<'a>,
        path: &'a Path,
        limit: AllocationLimit,
    ) -> Self {
        // Half of the memory for tensors and half for plain data; and at most half of that for an item of a dictionary.
        let half = u32::try_from(limit.remaining() / 2).unwrap_or(u32::MAX);
        let left = Cost { values: half, tensors: half };
        let max = Cost { values: half / 2, tensors: half / 2 };
        let costs = Costs::new(table, max);
        Self { code, table, places, path, costs, contents: Contents::default(), limit, left }
    }

    /// Returns the table of contents of the dictionary `root`.
    pub fn contents(mut self, root: ValueId) -> Result<Contents> {
        let Meaning::Dict(dict) = meaning(self.table, root) else { return Err(self.not_a_dictionary(root)) };
        let mut values = Map::new();
        let mut skipped = 0;
        let string_keys = self.string_keys(dict);
        for (i, (key, value)) in dict.items(self.table).enumerate() {
            let costs = Cost { values: self.costs.of_key(key), tensors: 0 };
            let cost = self.costs.of(value);
            let max = Cost {
                values: self.costs.max.values.min(self.left.values.saturating_sub(costs.values)),
                tensors: self.costs.max.tensors.min(self.left.tensors),
            };
            if self.left.values < costs.values {
                skipped += 1;
                continue;
            }
            let cost = cost.within(max);
            self.left.values -= costs.values + cost.values;
            self.left.tensors -= cost.tensors;
            let key = self.key(key, i, &string_keys);
            if let Some(value) = self.item(value, &key, max, true, 0) {
                values.insert(key, value);
            }
        }
        if skipped > 0 {
            values.insert(ELLIPSIS.to_owned(), json!(format!("{skipped} items (skipped: too many)")));
        }
        self.contents.values = values;
        Ok(self.contents)
    }

    fn not_a_dictionary(&self, root: ValueId) -> Error {
        let expected = "expected a dictionary of tensors and data, got";
        let message = match meaning(self.table, root) {
            Meaning::Tensor(_) => format!("{expected} a tensor"),
            Meaning::Named(class) => {
                let class = class_name(self.table, class).unwrap_or_else(|| "an unknown class".to_owned());
                match field_names(self.table, root).any(|field| field == "_modules") {
                    true => format!(
                        "{expected} a whole module of class {class}, which only Python code can build: load it in \
                         PyTorch and save its weights with torch.save(model.state_dict(), path)"
                    ),
                    false => format!("{expected} an instance of class {class}"),
                }
            }
            _ => format!("{expected} {}", self.table.get(root)),
        };
        Error::format(self.path, message)
    }

    /// Reads an item of a dictionary under its full name: only its tensors if its plain data exceeds `max`, and nothing
    /// of it if they do too. Returns its plain data, if any, or a note that something was skipped.
    fn item(&mut self, id: ValueId, name: &str, max: Cost, keep: bool, depth: usize) -> Option<Value> {
        let cost = self.costs.of(id);
        let has_tensors = cost.tensors > 0;
        if cost.tensors > max.tensors || (has_tensors && name.len() > MAX_NAME_BYTES) {
            return keep.then(|| json!(SKIPPED));
        }
        let is_small = cost.values <= max.values;
        let value = self.visit(id, name, keep && is_small, depth);
        if is_small { value } else { keep.then(|| json!(SKIPPED)) }
    }

    /// Adds every tensor in the value `id`, whose name is `name`, to the table of contents. Returns the plain data in
    /// the value, if it has any and if `keep` is true.
    fn visit(&mut self, id: ValueId, name: &str, keep: bool, depth: usize) -> Option<Value> {
        if (!keep && self.costs.of(id).tensors == 0) || depth == MAX_DEPTH {
            return None;
        }
        match meaning(self.table, id) {
            Meaning::Plain(value) => keep.then(|| self.plain(value)).flatten(),
            Meaning::Named(class) => keep.then(|| json!({ "$python": placeholder(self.table, class) })),
            Meaning::Tensor(tensor) => self.tensor(tensor, name).filter(|_| keep),
            Meaning::List(parts) => self.list(parts, name, keep, depth),
            Meaning::Dict(dict) => self.dictionary(dict, name, keep, depth),
        }
    }

    fn plain(&self, value: &PickleValue) -> Option<Value> {
        match value {
            PickleValue::None => Some(Value::Null),
            PickleValue::Bool(value) => Some(json!(value)),
            PickleValue::Int(value) => Some(json!(value)),
            PickleValue::Float(value) => Some(json_number(Number::Float(*value))),
            PickleValue::Numbers(numbers) => Some(numbers.read(self.code).map(json_number).collect()),
            PickleValue::Text(span) => Some(json!(String::from_utf8_lossy(self.table.bytes(*span)))),
            PickleValue::Storage(_) => None, // a bare storage has no shape
            other => Some(json!({ "$python": other.to_string() })),
        }
    }

    fn list(&mut self, parts: [&[ValueId]; 2], name: &str, keep: bool, depth: usize) -> Option<Value> {
        let mut values = Vec::new();
        let (mut index, mut count) = (0, 0);
        for &item in parts.iter().flat_map(|items| items.iter()) {
            count += 1;
            if let PickleValue::Numbers(numbers) = self.table.get(item) {
                index += numbers.count as usize;
                if keep {
                    values.extend(numbers.read(self.code).map(json_number));
                }
                continue;
            }
            let full = self.full_name(item, name, index);
            values.extend(self.visit(item, &full, keep, depth + 1));
            index += 1;
        }
        (keep && (count == 0 || !values.is_empty())).then_some(Value::Array(values))
    }

    fn dictionary(&mut self, dict: Dict<'a>, name: &str, keep: bool, depth: usize) -> Option<Value> {
        let mut values = Map::new();
        let string_keys = self.string_keys(dict);
        let mut count = 0;
        for (i, (key, value)) in dict.items(self.table).enumerate() {
            count += 1;
            let key = self.key(key, i, &string_keys);
            let full = self.full_name(value, name, &key);
            let value = self.item(value, &full, self.costs.max, keep, depth + 1);
            values.extend(value.map(|value| (key, value)));
        }
        (keep && (count == 0 || !values.is_empty())).then_some(Value::Object(values))
    }

    /// Name of the tensors in the item `part` of a container; empty if there are none.
    fn full_name(&mut self, id: ValueId, name: &str, part: impl Display) -> String {
        if self.costs.of(id).tensors > 0 { format!("{name}.{part}") } else { String::new() }
    }

    /// Returns the keys that are strings, if there are keys of other types as well.
    fn string_keys(&self, dict: Dict<'a>) -> HashSet<&'a str> {
        let table = self.table;
        let is_text = |(key, _)| matches!(table.get(key), PickleValue::Text(_));
        if dict.items(table).all(is_text) {
            return HashSet::new();
        }
        dict.items(table).filter_map(|(key, _)| table.text(key).ok()).collect()
    }

    /// Returns the string form of a dictionary's key. A key that has none that can be a name, or whose string form is one
    /// of `string_keys` (1 beside "1"), becomes `$` and its index.
    fn key(&self, key: ValueId, index: usize, string_keys: &HashSet<&str>) -> String {
        let text = match self.table.get(key) {
            PickleValue::Text(span) if span.len as usize <= MAX_NAME_BYTES => {
                return String::from_utf8_lossy(self.table.bytes(*span)).into_owned();
            }
            PickleValue::Int(value) => Some(value.to_string()),
            PickleValue::Float(value) => Some(value.to_string()),
            PickleValue::Bool(true) => Some("True".to_owned()),
            PickleValue::Bool(false) => Some("False".to_owned()),
            PickleValue::None => Some("None".to_owned()),
            _ => None,
        };
        text.filter(|text| !string_keys.contains(text.as_str())).unwrap_or_else(|| format!("${index}"))
    }

    /// Adds a tensor. Returns a placeholder if it is of a kind that is not read.
    fn tensor(&mut self, tensor: TensorCall, name: &str) -> Option<Value> {
        let entry = match self.places.entry(self.table, tensor) {
            Ok(entry) => entry,
            Err(description) => return Some(json!({ "$python": description })),
        };
        if entry::reserve(&mut self.limit, name).is_err() {
            return Some(json!(SKIPPED));
        }
        let entries = &mut self.contents.entries;
        let entry = match entries.contains_key(name) {
            true => {
                let mismatch = ("distinct names".to_owned(), "two tensors of this name".to_owned());
                Entry::invalid(entry.dtype(), entry.shape().to_vec(), mismatch)
            }
            false => entry,
        };
        entries.insert(name.to_owned(), entry);
        None
    }
}

/// A number as JSON, which cannot represent an infinity or a NaN.
fn json_number(number: Number) -> Value {
    match number {
        Number::Bool(value) => json!(value),
        Number::Int(value) => json!(value),
        Number::Float(value) if value.is_finite() => json!(value),
        Number::Float(value) => json!(value.to_string()),
    }
}
