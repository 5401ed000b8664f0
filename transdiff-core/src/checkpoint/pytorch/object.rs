//! What a pickle built: objects in a table, referred to by their number.

use std::fmt;

use super::super::budget::Budget;

/// Number of an object.
pub(super) type Id = u32;

/// An object. Strings are the pickle's.
#[derive(Debug)]
pub(super) enum Object<'p> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(&'p str),
    /// What is not looked into: bytes, an integer beyond 64 bits, a string or a tensor that cannot be read.
    Opaque(&'static str),
    Tuple(Vec<Id>),
    /// A list or a set.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A class or function: the texts of its module and its name.
    Global {
        module: Id,
        name: Id,
    },
    /// An instance of a class, or what a function would have returned, with its state.
    Instance {
        class: Id,
        state: Option<Id>,
    },
    Storage(Box<Storage<'p>>),
    Tensor(Box<Tensor>),
}

/// The elements of tensors, in an entry of the archive.
#[derive(Debug)]
pub(super) struct Storage<'p> {
    pub dtype: ::safetensors::tensor::Dtype,
    /// The entry's name under `data/`.
    pub key: &'p str,
    pub elements: usize,
}

/// A view of a storage.
#[derive(Debug)]
pub(super) struct Tensor {
    pub storage: Id,
    pub offset: usize,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
}

/// Every object that a pickle built.
#[derive(Debug)]
pub(super) struct Objects<'p> {
    table: Vec<Object<'p>>,
    /// Memory that is left for them, and for what is made of them.
    pub budget: Budget,
}

/// What is wrong with a pickle.
pub(super) type Result<T, E = String> = std::result::Result<T, E>;

impl<'p> Objects<'p> {
    pub fn new(budget: Budget) -> Self {
        Self { table: Vec::new(), budget }
    }

    /// Takes a new object. What it holds beside itself is taken from the budget by whoever makes it.
    pub fn add(&mut self, object: Object<'p>) -> Result<Id> {
        self.budget.take::<Object<'_>>(1)?;
        self.table.push(object);
        Id::try_from(self.table.len() - 1).map_err(|_| "more objects than can be counted".to_owned())
    }

    /// Takes memory for `n` more references from an object.
    pub fn take_items(&mut self, n: usize) -> Result<()> {
        self.budget.take::<Id>(n)
    }

    pub fn get(&self, id: Id) -> &Object<'p> {
        &self.table[id as usize]
    }

    pub fn get_mut(&mut self, id: Id) -> &mut Object<'p> {
        &mut self.table[id as usize]
    }

    /// The string `id`.
    pub fn text(&self, id: Id) -> Result<&'p str> {
        match self.get(id) {
            Object::Text(text) => Ok(text),
            other => Err(format!("expected a string, got {other}")),
        }
    }

    /// The number `id`, which counts something.
    pub fn count(&self, id: Id) -> Result<usize> {
        match self.get(id) {
            Object::Int(n) => usize::try_from(*n).map_err(|_| format!("expected a count, got {n}")),
            other => Err(format!("expected a count, got {other}")),
        }
    }

    /// The items of the tuple or list `id`.
    pub fn items(&self, id: Id) -> Result<&[Id]> {
        match self.get(id) {
            Object::Tuple(items) | Object::List(items) => Ok(items),
            other => Err(format!("expected a tuple, got {other}")),
        }
    }

    /// The module and the name of the class or function `id`.
    pub fn global(&self, id: Id) -> Option<(&'p str, &'p str)> {
        match self.get(id) {
            Object::Global { module, name } => Some((self.text(*module).ok()?, self.text(*name).ok()?)),
            _ => None,
        }
    }
}

impl fmt::Display for Object<'_> {
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
