//! From what a pickle built to named tensors and plain data.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::super::budget::Budget;
use super::super::entry::{self, Entry, Strided};
use super::super::{Contents, tensor_error};
use super::known;
use super::object::{Id, Object, Objects, Tensor};
use super::zip::Archive;
use crate::{Error, Result};

/// Dictionaries and lists inside of each other; checkpoints have about five.
const MAX_DEPTH: usize = 32;
/// Bytes of a name.
const MAX_NAME: usize = 1 << 12;
/// What a dictionary takes, however few its keys.
const DICTIONARY_BYTES: usize = 640;
/// How many times the bytes of their storages tensors may take together: tied weights are few, but a checkpoint may have
/// one set of weights under several names, and what is read may be twice as wide as what is stored.
const MAX_SHARING: u64 = 4;
/// Bytes that tensors may take together beyond that, for expanded buffers.
const EXPANDED_BYTES: u64 = 8 << 20;

/// Walks over what a pickle built.
pub(super) struct Outline<'a> {
    objects: &'a Objects<'a>,
    archive: &'a Archive,
    /// Of the archive, with its slash.
    folder: &'a str,
    path: &'a Path,
    contents: Contents,
    /// Objects from the root to the current one.
    inside: Vec<Id>,
    /// Memory that the objects have left.
    budget: Budget,
    shared: Shared,
}

/// How much tensors share their storages.
#[derive(Default)]
struct Shared {
    /// Where the storages begin in the file.
    storages: BTreeSet<u64>,
    /// Bytes of the storages.
    stored: u64,
    /// Bytes of the tensors, once they are read.
    read: u64,
}

impl<'a> Outline<'a> {
    pub fn new(objects: &'a Objects<'a>, archive: &'a Archive, folder: &'a str, path: &'a Path) -> Self {
        let contents = Contents::default();
        let (budget, shared) = (objects.budget.clone(), Shared::default());
        Self { objects, archive, folder, path, contents, inside: Vec::new(), budget, shared }
    }

    /// The table of contents of the dictionary `root`.
    pub fn contents(mut self, root: Id) -> Result<Contents> {
        let Object::Dict(_) = self.objects.get(root) else {
            let got = self.objects.get(root);
            return Err(Error::format(
                self.path,
                format!("expected a dictionary of tensors and data, got {got}"),
            ));
        };
        if let Some(Value::Object(values)) = self.visit(root, "")? {
            self.contents.values = values;
        }
        self.check_shared()?;
        Ok(self.contents)
    }

    /// Whoever reads all tensors takes no more memory than the file warrants, though each may be as large as its storage.
    fn check_shared(&self) -> Result<()> {
        let Shared { stored, read, .. } = self.shared;
        let most = stored.saturating_mul(MAX_SHARING).saturating_add(EXPANDED_BYTES);
        if read <= most {
            return Ok(());
        }
        let message = format!("tensors of {read} bytes share storages of {stored}; at most {most} are read");
        Err(Error::format(self.path, message))
    }

    fn fault(&self, name: &str, message: impl std::fmt::Display) -> Error {
        let name = if name.is_empty() { "the whole" } else { name };
        Error::format(self.path, format!("{name}: {message}"))
    }

    /// Enters every tensor in the object `id`, which is called `name`; returns the plain data in it, if any.
    fn visit(&mut self, id: Id, name: &str) -> Result<Option<Value>> {
        // An object may be reached on many paths, and is charged for on each.
        self.charge(2 * size_of::<Value>(), name)?;
        let objects = self.objects;
        match objects.get(id) {
            Object::None => Ok(Some(Value::Null)),
            Object::Bool(value) => Ok(Some(json!(value))),
            Object::Int(value) => Ok(Some(json!(value))),
            Object::Float(value) if value.is_finite() => Ok(Some(json!(value))),
            Object::Float(value) => Ok(Some(json!(value.to_string()))),
            Object::Text(text) => {
                self.charge(text.len(), name)?;
                Ok(Some(json!(text)))
            }
            Object::Opaque(what) => self.foreign(what, name).map(Some),
            Object::Global { .. } => self.foreign_global(id, name).map(Some),
            Object::Storage(_) => Ok(None), // a storage of its own has no shape
            Object::Tensor(tensor) => self.enter(tensor, name).map(|()| None),
            Object::Tuple(items) | Object::List(items) => {
                self.nested(id, name, |outline| outline.list(items, name))
            }
            Object::Dict(items) => self.nested(id, name, |outline| outline.dictionary(items, name)),
            Object::Instance { class, state } => {
                self.nested(id, name, |outline| outline.instance(*class, *state, name))
            }
        }
    }

    /// Runs `walk` inside of the object `id`.
    fn nested(
        &mut self,
        id: Id,
        name: &str,
        walk: impl FnOnce(&mut Self) -> Result<Option<Value>>,
    ) -> Result<Option<Value>> {
        if self.inside.contains(&id) {
            return Err(self.fault(name, "contains itself"));
        }
        if self.inside.len() == MAX_DEPTH {
            return Err(self.fault(name, format!("nested more than {MAX_DEPTH} deep")));
        }
        self.inside.push(id);
        let out = walk(self);
        self.inside.pop();
        out
    }

    fn list(&mut self, items: &[Id], name: &str) -> Result<Option<Value>> {
        let mut values = Vec::new();
        for (i, &item) in items.iter().enumerate() {
            values.extend(self.visit(item, &join(name, &i.to_string()))?);
        }
        Ok((items.is_empty() || !values.is_empty()).then_some(Value::Array(values)))
    }

    fn dictionary(&mut self, items: &[(Id, Id)], name: &str) -> Result<Option<Value>> {
        let mut values = Map::new();
        let texts = self.texts(items, name)?;
        for (i, &(key, value)) in items.iter().enumerate() {
            let key = self.key(key, i, &texts);
            let full = join(name, &key);
            if full.len() > MAX_NAME {
                return Err(self.fault(name, format!("names in it have more than {MAX_NAME} bytes")));
            }
            let Some(value) = self.visit(value, &full)? else { continue };
            if values.is_empty() {
                self.charge(DICTIONARY_BYTES, name)?;
            }
            self.charge(DICTIONARY_BYTES / 6 + key.len(), name)?;
            if values.insert(key, value).is_some() {
                return Err(self.fault(&full, "comes twice"));
            }
        }
        Ok((items.is_empty() || !values.is_empty()).then_some(Value::Object(values)))
    }

    /// The keys that are texts, where others are beside them.
    fn texts(&mut self, items: &[(Id, Id)], name: &str) -> Result<HashSet<&'a str>> {
        let objects = self.objects;
        let text = |&(key, _): &(Id, Id)| match objects.get(key) {
            Object::Text(text) => Some(*text),
            _ => None,
        };
        let count = items.iter().filter_map(text).count();
        if count == items.len() {
            return Ok(HashSet::new());
        }
        self.charge(4 * size_of::<&str>() * count, name)?;
        Ok(items.iter().filter_map(text).collect())
    }

    /// The text of a dictionary's key, or its place where it has none that can be a name, or one of `texts`: 1 beside "1".
    fn key(&self, key: Id, place: usize, texts: &HashSet<&str>) -> String {
        let text = match self.objects.get(key) {
            Object::Text(text) if text.len() <= MAX_NAME => return (*text).to_owned(),
            Object::Int(value) => Some(value.to_string()),
            Object::Float(value) => Some(value.to_string()),
            Object::Bool(true) => Some("True".to_owned()),
            Object::Bool(false) => Some("False".to_owned()),
            Object::None => Some("None".to_owned()),
            _ => None,
        };
        text.filter(|text| !texts.contains(text.as_str())).unwrap_or_else(|| format!("${place}"))
    }

    fn instance(&mut self, class: Id, state: Option<Id>, name: &str) -> Result<Option<Value>> {
        match state {
            Some(state) if known::is_namespace(self.objects, class) => self.visit(state, name),
            None if known::is_namespace(self.objects, class) => Ok(Some(json!({}))),
            _ => self.foreign_global(class, name).map(Some),
        }
    }

    fn foreign_global(&mut self, id: Id, name: &str) -> Result<Value> {
        match self.objects.global(id) {
            Some((module, global)) => self.foreign(&format!("{module}.{global}"), name),
            None => self.foreign("a value that was not made", name),
        }
    }

    /// What stands in the place of something that is not made.
    fn foreign(&mut self, what: &str, name: &str) -> Result<Value> {
        self.charge(DICTIONARY_BYTES + what.len(), name)?;
        Ok(json!({ "$python": what }))
    }

    fn charge(&mut self, bytes: usize, name: &str) -> Result<()> {
        self.budget.take_bytes(bytes).map_err(|message| self.fault(name, message))
    }

    fn enter(&mut self, tensor: &Tensor, name: &str) -> Result<()> {
        entry::charge(&mut self.budget, name).map_err(|message| self.fault(name, message))?;
        let entry = self.entry(tensor, name)?;
        self.shared.read = self.shared.read.saturating_add(entry.decoded_bytes());
        if self.contents.entries.insert(name.to_owned(), entry).is_some() {
            return Err(tensor_error(self.path, name, "distinct names", "two tensors of this name"));
        }
        Ok(())
    }

    fn entry(&mut self, tensor: &Tensor, name: &str) -> Result<Entry> {
        let Object::Storage(storage) = self.objects.get(tensor.storage) else {
            unreachable!("a tensor is made of a storage")
        };
        let file = format!("{}data/{}", self.folder, storage.key);
        let extent = self.archive.get(&file).ok_or_else(|| {
            tensor_error(self.path, name, format!("an entry {file} in the archive"), "none")
        })?;
        let (size, got) = ((storage.dtype.bitsize() / 8) as u64, extent.end - extent.start);
        if (storage.elements as u64).checked_mul(size) != Some(got) {
            let expected = format!("{} elements {} in {file}", storage.elements, storage.dtype);
            return Err(tensor_error(self.path, name, expected, format!("{got} bytes")));
        }
        if self.shared.storages.insert(extent.start) {
            self.shared.stored += got;
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
