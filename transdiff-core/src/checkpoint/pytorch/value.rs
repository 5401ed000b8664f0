//! Values built by a pickle, in a table that refers to them by index.
//!
//! The table is compact, because a checkpoint may hold logs and lists beside the weights: a value takes 16 bytes,
//! strings and runs of numbers stay in the pickle, and calls are recorded, not interpreted.

use std::fmt;

use super::super::allocation_limit::AllocationLimit;
use super::super::errors::Mismatch;
use super::numbers::{Number, Numbers};

/// Index of a value in the [`ValueTable`].
pub(super) type ValueId = u32;

/// Values per block of the table: it grows without copying.
const BLOCK: usize = 1 << 10;
/// Bytes reserved per value, with eight for what is computed about each of them.
const VALUE_BYTES: usize = size_of::<PickleValue>() + size_of::<u64>();
/// Number of small integers that are in every table, once.
const SMALL_INTEGERS: u32 = 256;

/// A part of the pickle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start: u32,
    pub len: u32,
}

/// A value.
#[derive(Debug)]
pub(super) enum PickleValue {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    /// A run of numbers, which stands for them among the items of a list or a tuple.
    Numbers(Numbers),
    Text(Span),
    Bytes(Span),
    /// A value that is only described.
    Opaque(Opaque),
    /// A tuple of at most three items.
    Short(u8, [ValueId; 3]),
    Tuple(Box<Items>),
    /// A list or a set.
    List(Box<Items>),
    Dict(Box<Pairs>),
    /// A class or function, by the strings of its module and its name.
    Global {
        module: ValueId,
        name: ValueId,
    },
    /// The result of calling a class or function.
    Call(Call),
    /// The result of a call that items or a state were added to.
    Object(Box<Object>),
    /// The storage that a tuple describes.
    Storage(ValueId),
}

/// Values that are not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opaque {
    WideInteger,
    InvalidText,
}

/// Items of a list or a tuple.
#[derive(Debug, Default)]
pub(super) struct Items(pub Vec<ValueId>);

/// Items of a dictionary.
#[derive(Debug, Default)]
pub(super) struct Pairs(pub Vec<(ValueId, ValueId)>);

/// A call: the class or function, and the tuple of its arguments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub callee: ValueId,
    pub arguments: ValueId,
}

/// The result of a call, and what was added to it: items of a list or of a dictionary, and the state of an instance.
#[derive(Debug)]
pub(super) struct Object {
    pub call: Call,
    pub state: Option<ValueId>,
    pub items: Items,
    pub pairs: Pairs,
}

/// All values built by a pickle.
#[derive(Debug)]
pub(super) struct ValueTable<'p> {
    code: &'p [u8],
    blocks: Vec<Vec<PickleValue>>,
    len: usize,
    /// Memory left for the values.
    pub limit: AllocationLimit,
}

/// Result of reading a pickle; the error is a message.
pub(super) type Result<T, E = String> = std::result::Result<T, E>;

impl<'p> ValueTable<'p> {
    pub const NONE: ValueId = 0;
    pub const FALSE: ValueId = 1;
    pub const TRUE: ValueId = 2;
    pub const EMPTY_TUPLE: ValueId = 3;
    const FIRST_INTEGER: ValueId = 4;

    /// Returns a table for the pickle `code`, with the values that every pickle repeats.
    pub fn new(code: &'p [u8], limit: AllocationLimit) -> Result<Self> {
        let mut table = Self { code, blocks: Vec::new(), len: 0, limit };
        table.add(PickleValue::None)?;
        table.add(PickleValue::Bool(false))?;
        table.add(PickleValue::Bool(true))?;
        table.add(PickleValue::Short(0, [0; 3]))?;
        for n in 0..SMALL_INTEGERS {
            table.add(PickleValue::Int(n.into()))?;
        }
        Ok(table)
    }

    /// Adds a value. The caller reserves the memory that the value owns on the heap.
    pub fn add(&mut self, value: PickleValue) -> Result<ValueId> {
        self.limit.reserve_bytes(VALUE_BYTES)?;
        let id = ValueId::try_from(self.len).map_err(|_| "more than 2^32 values".to_owned())?;
        match self.blocks.last_mut().filter(|block| block.len() < BLOCK) {
            Some(block) => block.push(value),
            None => {
                let mut block = Vec::with_capacity(BLOCK);
                block.push(value);
                self.blocks.push(block);
            }
        }
        self.len += 1;
        Ok(id)
    }

    /// Returns the value of a number, without adding it if every table has it.
    pub fn number(&mut self, number: Number) -> Result<ValueId> {
        match number {
            Number::Bool(value) => Ok(if value { Self::TRUE } else { Self::FALSE }),
            Number::Int(n) if (0..i64::from(SMALL_INTEGERS)).contains(&n) => {
                Ok(Self::FIRST_INTEGER + n as ValueId)
            }
            Number::Int(value) => self.add(PickleValue::Int(value)),
            Number::Float(value) => self.add(PickleValue::Float(value)),
        }
    }

    /// Adds a tuple.
    pub fn tuple(&mut self, items: &[ValueId]) -> Result<ValueId> {
        if items.is_empty() {
            return Ok(Self::EMPTY_TUPLE);
        }
        if items.len() <= 3 {
            let mut short = [0; 3];
            short[..items.len()].copy_from_slice(items);
            return self.add(PickleValue::Short(items.len() as u8, short));
        }
        self.limit.reserve_bytes(size_of::<Items>() + size_of_val(items))?;
        self.add(PickleValue::Tuple(Box::new(Items(items.to_vec()))))
    }

    /// Reserves memory for `n` more items of a list or a dictionary.
    pub fn reserve_items(&mut self, n: usize) -> Result<()> {
        self.limit.reserve::<ValueId>(n)
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, id: ValueId) -> &PickleValue {
        &self.blocks[id as usize / BLOCK][id as usize % BLOCK]
    }

    pub fn get_mut(&mut self, id: ValueId) -> &mut PickleValue {
        &mut self.blocks[id as usize / BLOCK][id as usize % BLOCK]
    }

    /// Returns the bytes of a part of the pickle.
    pub fn bytes(&self, span: Span) -> &'p [u8] {
        &self.code[span.start as usize..][..span.len as usize]
    }

    /// Returns the string `id`.
    pub fn text(&self, id: ValueId) -> Result<&'p str, Mismatch> {
        match self.get(id) {
            PickleValue::Text(span) => {
                Ok(std::str::from_utf8(self.bytes(*span)).expect("texts are checked when they are added"))
            }
            other => Err(mismatch("a string", other)),
        }
    }

    /// Returns the integer `id`, which must not be negative.
    pub fn count(&self, id: ValueId) -> Result<usize, Mismatch> {
        const EXPECTED: &str = "a non-negative integer";
        match self.get(id) {
            PickleValue::Int(n) => usize::try_from(*n).map_err(|_| mismatch(EXPECTED, n)),
            other => Err(mismatch(EXPECTED, other)),
        }
    }

    /// Returns the items of the tuple or list `id`.
    pub fn items(&self, id: ValueId) -> Result<&[ValueId], Mismatch> {
        match self.get(id) {
            PickleValue::Short(len, items) => Ok(&items[..usize::from(*len)]),
            PickleValue::Tuple(items) | PickleValue::List(items) => Ok(&items.0),
            other => Err(mismatch("a tuple or list", other)),
        }
    }

    /// Returns the module and the name of the class or function `id`.
    pub fn global(&self, id: ValueId) -> Option<(&'p str, &'p str)> {
        match self.get(id) {
            PickleValue::Global { module, name } => Some((self.text(*module).ok()?, self.text(*name).ok()?)),
            _ => None,
        }
    }

    /// Returns the call that built the value `id`, if one did.
    pub fn call(&self, id: ValueId) -> Option<Call> {
        match self.get(id) {
            PickleValue::Call(call) => Some(*call),
            PickleValue::Object(object) => Some(object.call),
            _ => None,
        }
    }

    /// Returns the object `id`, which becomes one if it is a call without items and state so far.
    pub fn object_mut(&mut self, id: ValueId) -> Result<Option<&mut Object>> {
        if let PickleValue::Call(call) = *self.get(id) {
            self.limit.reserve_bytes(size_of::<Object>())?;
            let object = Object { call, state: None, items: Items::default(), pairs: Pairs::default() };
            *self.get_mut(id) = PickleValue::Object(Box::new(object));
        }
        Ok(match self.get_mut(id) {
            PickleValue::Object(object) => Some(object),
            _ => None,
        })
    }
}

/// An unexpected value.
pub(super) fn mismatch(expected: &str, got: impl fmt::Display) -> Mismatch {
    (expected.to_owned(), got.to_string())
}

impl fmt::Display for Opaque {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WideInteger => "an integer beyond 64 bits",
            Self::InvalidText => "a string that is not UTF-8",
        })
    }
}

impl fmt::Display for PickleValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Numbers(_) => "numbers",
            Self::Text(_) => "a string",
            Self::Bytes(_) => "bytes",
            Self::Opaque(opaque) => return opaque.fmt(f),
            Self::Short(..) | Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Global { .. } => "a class",
            Self::Call(_) | Self::Object(_) => "an instance",
            Self::Storage(_) => "a storage",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::PickleValue;

    #[test]
    fn a_value_takes_16_bytes() {
        assert_eq!(size_of::<PickleValue>(), 16);
    }
}
