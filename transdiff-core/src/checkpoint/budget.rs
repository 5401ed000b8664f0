//! How much memory the table of contents of a file may take.

/// What any file may ask for.
const BASE: u64 = 8 << 20;
/// What a file's length adds at most: tables of the largest checkpoints take a quarter of it, and a length may be that
/// of a hole.
const MOST: u64 = 64 << 20;

/// Memory for a table of contents: [`BASE`] and the length of the file, up to [`MOST`]. Whoever makes something that is as large or
/// as many as the file says takes it from here first; so a small file cannot ask for much, and a large one for no
/// more than itself.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    left: u64,
}

impl Budget {
    pub fn of_file(len: u64) -> Self {
        Self { left: BASE + len.min(MOST) }
    }

    /// Takes memory for `count` values of type `T`, and as much again for a table that grows by doubling.
    pub fn take<T>(&mut self, count: usize) -> Result<(), String> {
        self.take_bytes(count.saturating_mul(2 * size_of::<T>()))
    }

    /// Takes `bytes`.
    pub fn take_bytes(&mut self, bytes: usize) -> Result<(), String> {
        match self.left.checked_sub(bytes as u64) {
            Some(left) => self.left = left,
            None => return Err("what it describes takes more memory than the file warrants".to_owned()),
        }
        Ok(())
    }
}
