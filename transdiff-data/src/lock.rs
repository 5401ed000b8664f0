//! Lock of a directory that several processes fill, and removal of the temporary files of killed ones.

use std::fs::{self, File};
use std::path::Path;

use transdiff_core::checkpoint::TEMPORARY_PREFIX;
use transdiff_core::{Error, Result};

/// Shared lock that every process holds while it writes to the directory. It ends with the process.
#[derive(Debug)]
pub struct DirectoryLock(#[allow(dead_code, reason = "it holds the lock")] File);

impl DirectoryLock {
    /// Takes the lock. If no other process holds it, temporary files in the directory, and in those of the folders `within` it
    /// that exist, are remains of killed processes and are removed.
    ///
    /// On a file system without locks nothing is removed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn acquire(directory: &Path, within: &[&str]) -> Result<Self> {
        let path = directory.join(".lock");
        let open = File::options().create(true).truncate(false).write(true).read(true).open(&path);
        let file = open.map_err(Error::io(&path))?;
        if file.try_lock().is_ok() {
            remove_temporaries(directory)?;
            let mut within = within.iter().map(|name| directory.join(name)).filter(|folder| folder.is_dir());
            within.try_for_each(|folder| remove_temporaries(&folder))?;
            // Another process may take the lock in between: this one has no temporary file yet.
            let _ = file.unlock();
        }
        let _ = file.lock_shared();
        Ok(Self(file))
    }
}

fn remove_temporaries(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(Error::io(directory))? {
        let entry = entry.map_err(Error::io(directory))?;
        if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
            fs::remove_file(entry.path()).map_err(Error::io(entry.path()))?;
        }
    }
    Ok(())
}
