//! Memory that is used again.
//!
//! A pass of the model allocates tensors of the same few sizes over and over. Fresh memory has to be mapped and
//! zeroed by the system first; memory that a buffer gave back does not.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use transdiff_core::{DType, Result};

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

    /// Memory for `len` elements: kept memory, or what `make` gives. If the system refuses that, what is kept is given
    /// back, and the system asked again.
    pub(crate) fn take(&self, dtype: DType, len: usize, make: impl Fn() -> Result<Data>) -> Result<Data> {
        let bytes = size(dtype, len);
        // What no memory holds is not counted either.
        if bytes < SMALL || bytes > isize::MAX as usize {
            return make();
        }
        if let Some(kept) = self.books().begin(dtype, len) {
            return Ok(kept);
        }
        let made = make().or_else(|_| {
            self.books().drop_kept();
            make()
        });
        let mut books = self.books();
        match &made {
            Ok(_) => books.most_used = books.most_used.max(books.bytes_used),
            Err(_) => books.bytes_used -= bytes,
        }
        made
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
        books.drop_kept();
        books.most_used = books.bytes_used;
    }
}

impl Books {
    /// Counts memory for `len` elements as used, and gives kept memory if there is some; else makes room for new. What
    /// was used at most is not raised yet: the system may have no more.
    fn begin(&mut self, dtype: DType, len: usize) -> Option<Data> {
        let bytes = size(dtype, len);
        self.bytes_used += bytes;
        let found = self.kept.get_mut(&(dtype, len)).and_then(Vec::pop);
        if found.is_some() {
            self.bytes_kept -= bytes;
            if self.kept.get(&(dtype, len)).is_some_and(Vec::is_empty) {
                self.kept.remove(&(dtype, len));
            }
        }
        self.make_room(self.most_used.max(self.bytes_used));
        found
    }

    fn drop_kept(&mut self) {
        self.kept.clear();
        self.bytes_kept = 0;
    }

    /// Frees kept memory while there is more than `most` bytes in all.
    fn make_room(&mut self, most: usize) {
        while self.bytes_used + self.bytes_kept > most {
            let Some(&key) = self.kept.keys().next() else { return };
            let list = self.kept.remove(&key).unwrap_or_default();
            self.bytes_kept -= list.len() * size(key.0, key.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use transdiff_core::Error;
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

    #[test]
    fn what_the_system_refuses_is_not_counted() {
        let recycler = Recycler::default();
        let totals = || {
            let books = recycler.books();
            (books.bytes_used, books.bytes_kept, books.most_used)
        };
        let make = |len| Data::F32(vec![0.0; len].into());
        let refuse = || Err(Error::out_of_memory("alloc", 0));
        let [a, b, c] =
            [2000, 3000, 5000].map(|len| recycler.take(DType::F32, len, || Ok(make(len))).unwrap());
        recycler.give(a);
        recycler.give(c);
        assert_eq!(totals(), (12_000, 28_000, 40_000));
        // Whoever is refused gives back what is kept, and asks again.
        let kept = || if totals().1 > 0 { refuse() } else { Ok(make(1500)) };
        recycler.give(recycler.take(DType::F32, 1500, kept).unwrap());
        assert_eq!(totals(), (12_000, 6_000, 40_000));
        for len in [1 << 40, usize::MAX / 4, usize::MAX] {
            assert!(recycler.take(DType::F32, len, refuse).is_err());
            assert_eq!((totals().0, totals().2), (12_000, 40_000), "{len} elements");
        }
        recycler.give(b);
    }
}
