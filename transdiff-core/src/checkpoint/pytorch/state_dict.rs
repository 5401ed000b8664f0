//! Reader of state dicts: turns the values built by a pickle into named tensors and plain data.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::allocation_limit::AllocationLimit;
use super::super::contents::Contents;
use super::super::entry::{self, Entry, Strided};
use super::super::errors::tensor_error;
use super::reducers;
use super::value::{PickleValue, Tensor, ValueId, ValueTable};
use super::zip::Archive;
use crate::{Error, Result};

/// Number of levels that dictionaries and lists may nest; checkpoints have about five.
const MAX_DEPTH: usize = 32;
/// Bytes that a name may have.
const MAX_NAME_BYTES: usize = 1 << 12;
/// Bytes that a dictionary takes, however few its keys.
const DICTIONARY_BYTES: usize = 640;
/// Ratio of the bytes that all tensors together may take in memory to the bytes of their storages. Tied weights are few,
/// but a checkpoint may hold one set of weights under several names, and elements may be twice as wide in memory as in
/// the file.
const MAX_SHARING: u64 = 4;
/// Bytes that all tensors together may take beyond that, for expanded buffers.
const MAX_EXPANDED_BYTES: u64 = 8 << 20;

/// Traversal of the values built by a pickle.
pub(super) struct StateDictReader<'a> {
    table: &'a ValueTable<'a>,
    archive: &'a Archive,
    /// Folder of the archive, with its trailing slash.
    folder: &'a str,
    path: &'a Path,
    contents: Contents,
    /// Values from the root to the current one.
    ancestors: Vec<ValueId>,
    /// Memory left by the unpickler.
    limit: AllocationLimit,
    sharing: StorageSharing,
}

/// Degree to which tensors share their storages.
#[derive(Default)]
struct StorageSharing {
    /// Positions of the storages in the file.
    storages: BTreeSet<u64>,
    /// Bytes of all storages in the file.
    stored: u64,
    /// Bytes of all tensors in memory, once they are read.
    decoded: u64,
}

impl<'a> StateDictReader<'a> {
    pub fn new(table: &'a ValueTable<'a>, archive: &'a Archive, folder: &'a str, path: &'a Path) -> Self {
        Self {
            table,
            archive,
            folder,
            path,
            contents: Contents::default(),
            ancestors: Vec::new(),
            limit: table.limit.clone(),
            sharing: StorageSharing::default(),
        }
    }

    /// Returns the table of contents of the dictionary `root`.
    pub fn contents(mut self, root: ValueId) -> Result<Contents> {
        let PickleValue::Dict(_) = self.table.get(root) else {
            let got = self.table.get(root);
            return Err(Error::format(
                self.path,
                format!("expected a dictionary of tensors and data, got {got}"),
            ));
        };
        if let Some(Value::Object(values)) = self.visit(root, "")? {
            self.contents.values = values;
        }
        self.check_sharing()?;
        Ok(self.contents)
    }

    /// Checks that reading all tensors takes memory in proportion to the file, although each tensor may be as large as
    /// its storage.
    fn check_sharing(&self) -> Result<()> {
        let StorageSharing { stored, decoded, .. } = self.sharing;
        let max = stored.saturating_mul(MAX_SHARING).saturating_add(MAX_EXPANDED_BYTES);
        if decoded <= max {
            return Ok(());
        }
        let message = format!(
            "tensors of {decoded} bytes in memory share storages of {stored} bytes, at most {max} bytes are allowed"
        );
        Err(Error::format(self.path, message))
    }

    fn error(&self, name: &str, message: impl std::fmt::Display) -> Error {
        let name = if name.is_empty() { "top level" } else { name };
        Error::format(self.path, format!("{name}: {message}"))
    }

    /// Adds every tensor in the value `id`, whose name is `name`, to the table of contents. Returns the plain data in
    /// the value, if any.
    fn visit(&mut self, id: ValueId, name: &str) -> Result<Option<Value>> {
        // A value may be reached on many paths, and takes memory on each.
        self.reserve(2 * size_of::<Value>(), name)?;
        let table = self.table;
        match table.get(id) {
            PickleValue::None => Ok(Some(Value::Null)),
            PickleValue::Bool(value) => Ok(Some(json!(value))),
            PickleValue::Int(value) => Ok(Some(json!(value))),
            PickleValue::Float(value) if value.is_finite() => Ok(Some(json!(value))),
            PickleValue::Float(value) => Ok(Some(json!(value.to_string()))),
            PickleValue::Text(text) => {
                self.reserve(text.len(), name)?;
                Ok(Some(json!(text)))
            }
            PickleValue::Opaque(description) => self.placeholder(description, name).map(Some),
            PickleValue::Global { .. } => self.global_placeholder(id, name).map(Some),
            PickleValue::Storage(_) => Ok(None), // a bare storage has no shape
            PickleValue::Tensor(tensor) => self.add_tensor(tensor, name).map(|()| None),
            PickleValue::Tuple(items) | PickleValue::List(items) => {
                self.nested(id, name, |reader| reader.list(items, name))
            }
            PickleValue::Dict(items) => self.nested(id, name, |reader| reader.dictionary(items, name)),
            PickleValue::Instance { class, state } => {
                self.nested(id, name, |reader| reader.instance(*class, *state, name))
            }
        }
    }

    /// Runs `visit` on the items of the value `id`.
    fn nested(
        &mut self,
        id: ValueId,
        name: &str,
        visit: impl FnOnce(&mut Self) -> Result<Option<Value>>,
    ) -> Result<Option<Value>> {
        if self.ancestors.contains(&id) {
            return Err(self.error(name, "contains itself"));
        }
        if self.ancestors.len() == MAX_DEPTH {
            return Err(self.error(name, format!("nested more than {MAX_DEPTH} levels deep")));
        }
        self.ancestors.push(id);
        let out = visit(self);
        self.ancestors.pop();
        out
    }

    fn list(&mut self, items: &[ValueId], name: &str) -> Result<Option<Value>> {
        let mut values = Vec::new();
        for (i, &item) in items.iter().enumerate() {
            values.extend(self.visit(item, &join(name, &i.to_string()))?);
        }
        Ok((items.is_empty() || !values.is_empty()).then_some(Value::Array(values)))
    }

    fn dictionary(&mut self, items: &[(ValueId, ValueId)], name: &str) -> Result<Option<Value>> {
        let mut values = Map::new();
        let string_keys = self.string_keys(items, name)?;
        for (i, &(key, value)) in items.iter().enumerate() {
            let key = self.key(key, i, &string_keys);
            let full = join(name, &key);
            if full.len() > MAX_NAME_BYTES {
                return Err(self.error(name, format!("contains names of more than {MAX_NAME_BYTES} bytes")));
            }
            let Some(value) = self.visit(value, &full)? else { continue };
            if values.is_empty() {
                self.reserve(DICTIONARY_BYTES, name)?;
            }
            self.reserve(DICTIONARY_BYTES / 6 + key.len(), name)?;
            if values.insert(key, value).is_some() {
                return Err(self.error(&full, "duplicate key"));
            }
        }
        Ok((items.is_empty() || !values.is_empty()).then_some(Value::Object(values)))
    }

    /// Returns the keys that are strings, if there are keys of other types as well.
    fn string_keys(&mut self, items: &[(ValueId, ValueId)], name: &str) -> Result<HashSet<&'a str>> {
        let table = self.table;
        let text = |&(key, _): &(ValueId, ValueId)| match table.get(key) {
            PickleValue::Text(text) => Some(*text),
            _ => None,
        };
        let count = items.iter().filter_map(text).count();
        if count == items.len() {
            return Ok(HashSet::new());
        }
        self.reserve(4 * size_of::<&str>() * count, name)?;
        Ok(items.iter().filter_map(text).collect())
    }

    /// Returns the string form of a dictionary's key. A key that has none that can be a name, or whose string form is one
    /// of `string_keys` (1 beside "1"), becomes `$` and its index.
    fn key(&self, key: ValueId, index: usize, string_keys: &HashSet<&str>) -> String {
        let text = match self.table.get(key) {
            PickleValue::Text(text) if text.len() <= MAX_NAME_BYTES => return (*text).to_owned(),
            PickleValue::Int(value) => Some(value.to_string()),
            PickleValue::Float(value) => Some(value.to_string()),
            PickleValue::Bool(true) => Some("True".to_owned()),
            PickleValue::Bool(false) => Some("False".to_owned()),
            PickleValue::None => Some("None".to_owned()),
            _ => None,
        };
        text.filter(|text| !string_keys.contains(text.as_str())).unwrap_or_else(|| format!("${index}"))
    }

    fn instance(&mut self, class: ValueId, state: Option<ValueId>, name: &str) -> Result<Option<Value>> {
        match state {
            Some(state) if reducers::is_namespace(self.table, class) => self.visit(state, name),
            None if reducers::is_namespace(self.table, class) => Ok(Some(json!({}))),
            _ => self.global_placeholder(class, name).map(Some),
        }
    }

    fn global_placeholder(&mut self, id: ValueId, name: &str) -> Result<Value> {
        match self.table.global(id) {
            Some((module, global)) => self.placeholder(&format!("{module}.{global}"), name),
            None => self.placeholder("an instance of an unknown class", name),
        }
    }

    /// Plain data that represents a value that is not built.
    fn placeholder(&mut self, description: &str, name: &str) -> Result<Value> {
        self.reserve(DICTIONARY_BYTES + description.len(), name)?;
        Ok(json!({ "$python": description }))
    }

    fn reserve(&mut self, bytes: usize, name: &str) -> Result<()> {
        self.limit.reserve_bytes(bytes).map_err(|message| self.error(name, message))
    }

    fn add_tensor(&mut self, tensor: &Tensor, name: &str) -> Result<()> {
        entry::reserve(&mut self.limit, name).map_err(|message| self.error(name, message))?;
        let entry = self.entry(tensor, name)?;
        self.sharing.decoded = self.sharing.decoded.saturating_add(entry.decoded_bytes());
        if self.contents.entries.insert(name.to_owned(), entry).is_some() {
            return Err(tensor_error(self.path, name, "distinct names", "two tensors of this name"));
        }
        Ok(())
    }

    fn entry(&mut self, tensor: &Tensor, name: &str) -> Result<Entry> {
        let PickleValue::Storage(storage) = self.table.get(tensor.storage) else {
            unreachable!("reducers build tensors of storages only")
        };
        let file = format!("{}data/{}", self.folder, storage.key);
        let extent = self.archive.get(&file).ok_or_else(|| {
            tensor_error(self.path, name, format!("an entry {file} in the archive"), "none")
        })?;
        let (size, got) = ((storage.dtype.bitsize() / 8) as u64, extent.end - extent.start);
        if (storage.elements as u64).checked_mul(size) != Some(got) {
            let expected = format!("{} elements of {} in {file}", storage.elements, storage.dtype);
            return Err(tensor_error(self.path, name, expected, format!("{got} bytes")));
        }
        if self.sharing.storages.insert(extent.start) {
            self.sharing.stored += got;
        }
        let view = Strided {
            start: extent.start,
            elements: storage.elements,
            offset: tensor.offset,
            strides: tensor.strides.clone(),
        };
        let entry = Entry::strided(storage.dtype, tensor.shape.clone(), view);
        entry.map_err(|(expected, got)| tensor_error(self.path, name, expected, got))
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}
