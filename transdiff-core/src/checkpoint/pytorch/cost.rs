//! Memory that values take once they are in a table of contents, computed before anything is built.

use super::super::entry;
use super::reducers::{Meaning, meaning};
use super::tensors::{self, Unreadable};
use super::value::{PickleValue, ValueId, ValueTable};

/// Number of levels that dictionaries and lists may nest; checkpoints have about five.
pub(super) const MAX_DEPTH: usize = 32;
/// Bytes of a value without items, in a list that grows by doubling.
const VALUE_BYTES: u32 = 64;
/// Bytes of a list without its items.
const LIST_BYTES: u32 = 128;
/// Bytes of a dictionary without its items.
const DICT_BYTES: u32 = 640;
/// Bytes of a dictionary's item without the characters of its key.
const ITEM_BYTES: u32 = 256;
/// Bytes of the plain data that represents a value that is not built.
const PLACEHOLDER_BYTES: u32 = DICT_BYTES + ITEM_BYTES;

/// Bytes that a value takes as plain data, and those that the tensors in it take as entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    pub values: u32,
    pub tensors: u32,
}

impl Cost {
    const ZERO: Self = Self { values: 0, tensors: 0 };
    /// Cost of a value that contains itself, or is nested too deep.
    const INFINITE: Self = Self { values: u32::MAX, tensors: u32::MAX };
    /// Cost that is not computed yet.
    const UNKNOWN: Self = Self { values: u32::MAX, tensors: u32::MAX - 1 };
    /// Cost that is being computed.
    const STARTED: Self = Self { values: u32::MAX, tensors: u32::MAX - 2 };

    fn plus(self, other: Self) -> Self {
        Self {
            values: self.values.saturating_add(other.values),
            tensors: self.tensors.saturating_add(other.tensors),
        }
    }

    /// The cost of a container of `items` items: finding the tensors among them takes time, which counts as bytes.
    fn with_search(mut self, items: usize) -> Self {
        if self.tensors > 0 {
            self.tensors = self.tensors.saturating_add(u32::try_from(items).unwrap_or(u32::MAX));
        }
        self
    }

    /// The cost, without what is more than `max`.
    pub fn within(self, max: Self) -> Self {
        match self {
            Self { tensors, .. } if tensors > max.tensors => Self::ZERO,
            Self { values, tensors } if values > max.values => Self { values: 0, tensors },
            cost => cost,
        }
    }
}

const _: () = assert!(size_of::<Cost>() == size_of::<u64>(), "the table reserves eight bytes per value");

/// Costs of the values of a table, each computed once, so that the time is linear.
pub(super) struct Costs<'a> {
    table: &'a ValueTable<'a>,
    known: Vec<Cost>,
    /// Limit per item of a dictionary; an item above it is skipped.
    pub max: Cost,
}

impl<'a> Costs<'a> {
    pub fn new(table: &'a ValueTable<'a>, max: Cost) -> Self {
        Self { table, known: vec![Cost::UNKNOWN; table.len()], max }
    }

    /// Cost of the value `id`, without the items of dictionaries that are skipped.
    pub fn of(&mut self, id: ValueId) -> Cost {
        self.at_depth(id, 0)
    }

    /// Cost of an item of a dictionary, without its value.
    pub fn of_key(&self, key: ValueId) -> u32 {
        match self.table.get(key) {
            PickleValue::Text(span) => span.len.saturating_add(ITEM_BYTES),
            _ => ITEM_BYTES,
        }
    }

    fn at_depth(&mut self, id: ValueId, depth: usize) -> Cost {
        match self.known[id as usize] {
            Cost::UNKNOWN if depth < MAX_DEPTH => self.known[id as usize] = Cost::STARTED,
            // Nested too deep, or in itself. It stays infinite, wherever else it is.
            Cost::UNKNOWN | Cost::STARTED => self.known[id as usize] = Cost::INFINITE,
            known => return known,
        }
        if self.known[id as usize] == Cost::STARTED {
            let cost = self.computed(id, depth);
            if self.known[id as usize] == Cost::STARTED {
                self.known[id as usize] = cost;
            }
        }
        self.known[id as usize]
    }

    fn computed(&mut self, id: ValueId, depth: usize) -> Cost {
        let table = self.table;
        let values = |values| Cost { values, tensors: 0 };
        match meaning(table, id) {
            Meaning::Plain(PickleValue::Numbers(numbers)) => {
                values(numbers.count.saturating_mul(VALUE_BYTES))
            }
            Meaning::Plain(PickleValue::Text(span)) => values(VALUE_BYTES.saturating_add(span.len)),
            Meaning::Plain(
                PickleValue::None | PickleValue::Bool(_) | PickleValue::Int(_) | PickleValue::Float(_),
            ) => values(VALUE_BYTES),
            Meaning::Plain(_) => values(PLACEHOLDER_BYTES),
            Meaning::Named(class) => {
                let name = table.global(class).map_or(0, |(module, name)| module.len() + name.len());
                values(u32::try_from(name).unwrap_or(u32::MAX).saturating_add(PLACEHOLDER_BYTES))
            }
            Meaning::Tensor(tensor) => match tensors::describe(table, tensor) {
                Err(Unreadable::Placeholder(_)) => values(PLACEHOLDER_BYTES),
                Ok(_) | Err(Unreadable::Invalid(_)) => Cost { values: 0, tensors: entry::TABLE_BYTES as u32 },
            },
            Meaning::List(parts) => {
                let items = parts.iter().flat_map(|items| items.iter());
                let sum =
                    items.fold(values(LIST_BYTES), |sum, &item| sum.plus(self.at_depth(item, depth + 1)));
                sum.with_search(parts[0].len() + parts[1].len())
            }
            Meaning::Dict(dict) => {
                let mut count = 0;
                let sum = dict.items(table).fold(values(DICT_BYTES), |sum, (key, value)| {
                    count += 1;
                    let item = self.at_depth(value, depth + 1).within(self.max);
                    sum.plus(values(self.of_key(key))).plus(item)
                });
                sum.with_search(count)
            }
        }
    }
}
