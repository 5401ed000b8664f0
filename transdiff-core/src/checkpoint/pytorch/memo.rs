//! Memo of the unpickler: values that the pickle refers to again, by number.

use std::collections::BTreeMap;

use super::super::allocation_limit::AllocationLimit;
use super::value::{Result, ValueId};

/// Entries per page.
const PAGE: u32 = 1 << 8;
/// Bytes that a page takes, with its place in the map.
const PAGE_BYTES: usize = PAGE as usize * size_of::<ValueId>() + 64;
/// Entry that is not set.
const UNSET: ValueId = ValueId::MAX;

/// Memo in pages, because picklers number values consecutively.
#[derive(Default)]
pub(super) struct Memo {
    pages: BTreeMap<u32, Box<[ValueId; PAGE as usize]>>,
    /// Number of entries.
    len: u32,
}

impl Memo {
    /// Sets the entry `key`.
    pub fn set(&mut self, key: u32, id: ValueId, limit: &mut AllocationLimit) -> Result<()> {
        let page = match self.pages.entry(key / PAGE) {
            std::collections::btree_map::Entry::Occupied(page) => page.into_mut(),
            std::collections::btree_map::Entry::Vacant(page) => {
                limit.reserve_bytes(PAGE_BYTES)?;
                page.insert(Box::new([UNSET; PAGE as usize]))
            }
        };
        let entry = &mut page[(key % PAGE) as usize];
        self.len += u32::from(*entry == UNSET);
        *entry = id;
        Ok(())
    }

    /// Sets the next entry.
    pub fn push(&mut self, id: ValueId, limit: &mut AllocationLimit) -> Result<()> {
        self.set(self.len, id, limit)
    }

    /// Returns the entry `key`.
    pub fn get(&self, key: u32) -> Result<ValueId> {
        let entry = self.pages.get(&(key / PAGE)).map(|page| page[(key % PAGE) as usize]);
        entry.filter(|&id| id != UNSET).ok_or_else(|| format!("no memo entry {key}"))
    }
}
