//! Limit on the memory that the table of contents of a file may take.

/// Bytes that any file may allocate, whatever its length.
const BASE_BYTES: u64 = 12 << 20;
/// Bytes that the length of a file adds at most. The tables of the largest checkpoints take a quarter of it, and the
/// length of a sparse file says nothing about its contents.
const MAX_ADDED_BYTES: u64 = 64 << 20;
/// Bytes of the length of an archive that count, twice.
const MAX_ARCHIVE_BYTES: u64 = 256 << 20;

/// Memory left for a table of contents. It starts at [`BASE_BYTES`] plus the length of the file, of which at most
/// [`MAX_ADDED_BYTES`] count.
///
/// Readers reserve from it before they allocate anything whose size or number the file claims. A small file therefore
/// cannot make a reader allocate much, and a large one no more than its own length.
#[derive(Clone, Debug)]
pub(super) struct AllocationLimit {
    remaining: u64,
}

impl AllocationLimit {
    /// Returns the limit for a file of `len` bytes.
    pub fn for_file(len: u64) -> Self {
        Self { remaining: BASE_BYTES + len.min(MAX_ADDED_BYTES) }
    }

    /// Raises the limit for a part of the file of `len` bytes that has been read: beyond [`MAX_ADDED_BYTES`] its length
    /// says as much as its contents.
    pub fn raise_for_read(&mut self, len: u64) {
        self.remaining += len.saturating_sub(MAX_ADDED_BYTES);
    }

    /// Returns the limit for an archive of `len` bytes, a copy of its pickle included. The values of a pickle take memory in
    /// proportion to the pickle, so that the length of a sparse file cannot raise it far.
    pub fn for_archive(len: u64) -> Self {
        Self { remaining: BASE_BYTES + 2 * len.min(MAX_ARCHIVE_BYTES) }
    }

    /// Memory left, in bytes.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Takes `bytes` of the limit for another table.
    pub fn split_off(&mut self, bytes: u64) -> Self {
        let taken = bytes.min(self.remaining);
        self.remaining -= taken;
        Self { remaining: taken }
    }

    /// Returns the limit with what is left of `other`.
    pub fn joined(self, other: Self) -> Self {
        Self { remaining: self.remaining + other.remaining }
    }

    /// Reserves memory for `count` values of type `T`, twice over: a table grows by doubling.
    pub fn reserve<T>(&mut self, count: usize) -> Result<(), String> {
        self.reserve_bytes(count.saturating_mul(2 * size_of::<T>()))
    }

    /// Reserves `bytes`.
    pub fn reserve_bytes(&mut self, bytes: usize) -> Result<(), String> {
        match self.remaining.checked_sub(bytes as u64) {
            Some(remaining) => self.remaining = remaining,
            None => {
                return Err("the contents exceed the allocation limit for a file of this size".to_owned());
            }
        }
        Ok(())
    }
}
