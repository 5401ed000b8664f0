//! Memory that is used again.
//!
//! A pass of the model allocates tensors of the same few sizes over and over. Fresh memory has to be mapped and
//! zeroed by the system first; memory that a buffer gave back does not.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use transdiff_core::DType;

use crate::storage::Data;

/// Buffers below this size, in bytes, are left to the allocator, which is fast for them.
const SMALL: usize = 4096;

/// Memory that was given back, by type and length. Used and kept memory together never exceed the most that was
/// in use at one time.
#[derive(Debug, Default)]
pub(crate) struct Recycler(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    kept: HashMap<(DType, usize), Vec<Data>>,
    bytes_kept: usize,
    bytes_used: usize,
    most_used: usize,
}

fn size(dtype: DType, len: usize) -> usize {
    len.saturating_mul(dtype.size())
}

impl Recycler {
    fn books(&self) -> MutexGuard<'_, Books> {
        // The books are whole whenever the lock is free: a panic cannot come between two entries.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory for `len` elements that is kept, if there is some. Counts it as used either way.
    pub(crate) fn take(&self, dtype: DType, len: usize) -> Option<Data> {
        let bytes = size(dtype, len);
        if bytes < SMALL {
            return None;
        }
        let mut books = self.books();
        books.bytes_used += bytes;
        let found = books.kept.get_mut(&(dtype, len)).and_then(Vec::pop);
        if found.is_some() {
            books.bytes_kept -= bytes;
            if books.kept.get(&(dtype, len)).is_some_and(Vec::is_empty) {
                books.kept.remove(&(dtype, len));
            }
        }
        books.most_used = books.most_used.max(books.bytes_used);
        books.make_room();
        found
    }

    /// Takes memory back.
    pub(crate) fn give(&self, data: Data) {
        let (dtype, len) = (data.dtype(), data.len());
        let bytes = size(dtype, len);
        if bytes < SMALL {
            return;
        }
        let mut books = self.books();
        books.bytes_used -= bytes;
        books.bytes_kept += bytes;
        books.kept.entry((dtype, len)).or_default().push(data);
    }

    /// Frees what is kept.
    pub(crate) fn trim(&self) {
        let mut books = self.books();
        books.kept.clear();
        books.bytes_kept = 0;
        books.most_used = books.bytes_used;
    }

    /// Takes back the count of memory that could not be had.
    pub(crate) fn forget(&self, dtype: DType, len: usize) {
        let bytes = size(dtype, len);
        if bytes >= SMALL {
            self.books().bytes_used -= bytes;
        }
    }
}

impl Books {
    /// Frees kept memory while there is more in all than was ever used.
    fn make_room(&mut self) {
        while self.bytes_used + self.bytes_kept > self.most_used {
            let Some(&key) = self.kept.keys().next() else { return };
            let list = self.kept.remove(&key).unwrap_or_default();
            self.bytes_kept -= list.len() * size(key.0, key.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use transdiff_core::backend::Storage;

    use super::*;
    use crate::Cpu;

    #[test]
    fn memory_comes_back_and_never_exceeds_what_was_used() {
        let cpu = Cpu::new(Some(1)).unwrap();
        let alloc = |len| cpu.alloc(DType::F32, len).unwrap();
        let totals = || {
            let books = cpu.recycler().books();
            (books.bytes_used, books.bytes_kept, books.most_used)
        };
        let (a, b) = (alloc(10_000), alloc(5_000));
        drop(a);
        assert_eq!(totals(), (20_000, 40_000, 60_000));
        let again = alloc(10_000);
        assert_eq!(totals(), (60_000, 0, 60_000));
        drop((again, b));
        assert_eq!(totals(), (0, 60_000, 60_000));
        // Of another size: something that is kept has to go.
        let other = alloc(2_000);
        let (used, kept, most) = totals();
        assert!(used == 8_000 && used + kept <= most);
        drop(other);
        drop(alloc(100));
        assert_eq!(totals().0, 0);
    }
}
