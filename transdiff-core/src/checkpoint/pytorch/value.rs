//! Values built by a pickle, in a table that refers to them by index.

use std::fmt;

use super::super::allocation_limit::AllocationLimit;

/// Index of a value in the [`ValueTable`].
pub(super) type ValueId = u32;

/// A value. Strings borrow from the pickle.
#[derive(Debug)]
pub(super) enum PickleValue<'p> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'p str),
    /// A value that is only described: bytes, an integer beyond 64 bits, a string or a tensor that cannot be read.
    Opaque(&'static str),
    Tuple(Vec<ValueId>),
    /// A list or a set.
    List(Vec<ValueId>),
    Dict(Vec<(ValueId, ValueId)>),
    /// A class or function, by the strings of its module and its name.
    Global {
        module: ValueId,
        name: ValueId,
    },
    /// An instance of a class, or the result of a function that is not called, with its state.
    Instance {
        class: ValueId,
        state: Option<ValueId>,
    },
    Storage(Box<Storage<'p>>),
    Tensor(Box<Tensor>),
}

/// Elements of tensors, in an entry of the archive.
#[derive(Debug)]
pub(super) struct Storage<'p> {
    pub dtype: ::safetensors::tensor::Dtype,
    /// Name of the entry, under `data/`.
    pub key: &'p str,
    pub elements: usize,
}

/// A view of a storage.
#[derive(Debug)]
pub(super) struct Tensor {
    pub storage: ValueId,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// All values built by a pickle.
#[derive(Debug)]
pub(super) struct ValueTable<'p> {
    values: Vec<PickleValue<'p>>,
    /// Memory left for the values, and for everything built from them.
    pub limit: AllocationLimit,
}

/// Result of reading a pickle; the error is a message.
pub(super) type Result<T, E = String> = std::result::Result<T, E>;

impl<'p> ValueTable<'p> {
    pub fn new(limit: AllocationLimit) -> Self {
        Self { values: Vec::new(), limit }
    }

    /// Adds a value. The caller reserves the memory that the value owns on the heap.
    pub fn add(&mut self, value: PickleValue<'p>) -> Result<ValueId> {
        self.limit.reserve::<PickleValue<'_>>(1)?;
        self.values.push(value);
        ValueId::try_from(self.values.len() - 1).map_err(|_| "more than 2^32 values".to_owned())
    }

    /// Reserves memory for `n` more items of a value.
    pub fn reserve_items(&mut self, n: usize) -> Result<()> {
        self.limit.reserve::<ValueId>(n)
    }

    pub fn get(&self, id: ValueId) -> &PickleValue<'p> {
        &self.values[id as usize]
    }

    pub fn get_mut(&mut self, id: ValueId) -> &mut PickleValue<'p> {
        &mut self.values[id as usize]
    }

    /// Returns the string `id`.
    pub fn text(&self, id: ValueId) -> Result<&'p str> {
        match self.get(id) {
            PickleValue::Text(text) => Ok(text),
            other => Err(format!("expected a string, got {other}")),
        }
    }

    /// Returns the integer `id`, which must not be negative.
    pub fn count(&self, id: ValueId) -> Result<usize> {
        match self.get(id) {
            PickleValue::Int(n) => {
                usize::try_from(*n).map_err(|_| format!("expected a non-negative integer, got {n}"))
            }
            other => Err(format!("expected a non-negative integer, got {other}")),
        }
    }

    /// Returns the items of the tuple or list `id`.
    pub fn items(&self, id: ValueId) -> Result<&[ValueId]> {
        match self.get(id) {
            PickleValue::Tuple(items) | PickleValue::List(items) => Ok(items),
            other => Err(format!("expected a tuple or list, got {other}")),
        }
    }

    /// Returns the module and the name of the class or function `id`.
    pub fn global(&self, id: ValueId) -> Option<(&'p str, &'p str)> {
        match self.get(id) {
            PickleValue::Global { module, name } => Some((self.text(*module).ok()?, self.text(*name).ok()?)),
            _ => None,
        }
    }
}

impl fmt::Display for PickleValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Text(_) => "a string",
            Self::Opaque(what) => what,
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Global { .. } => "a class",
            Self::Instance { .. } => "an instance",
            Self::Storage(_) => "a storage",
            Self::Tensor(_) => "a tensor",
        })
    }
}
