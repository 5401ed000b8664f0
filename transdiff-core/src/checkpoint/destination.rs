//! The file that a path names for writing.

use std::fs::{self, Permissions};
use std::io;
use std::path::{Path, PathBuf};

use super::errors::not_a_regular_file;
use crate::{Error, Result};

/// Symbolic links that are followed in a row, as many as Linux follows.
const MAX_LINKS: usize = 40;

/// The file that is created or replaced by writing to a path. Symbolic links are followed, also where the last one leads
/// to a file that does not exist yet.
#[derive(Clone, Debug)]
pub struct Destination {
    path: PathBuf,
    permissions: Option<Permissions>,
}

impl Destination {
    /// Finds the file. Nothing is written.
    ///
    /// # Errors
    /// [`Error::Io`] if `path` names something that is neither a regular file nor missing, such as a directory, a device
    /// or a named pipe, or if the system cannot tell.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let permissions = match fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => Some(metadata.permissions()),
            Ok(metadata) => {
                let message = not_a_regular_file(metadata.file_type());
                return Err(Error::io(path)(io::Error::new(io::ErrorKind::InvalidInput, message)));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::io(path)(error)),
        };
        Ok(Self { path: follow_links(path), permissions })
    }

    /// Path of the file, after all symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether there is a file to replace.
    pub fn exists(&self) -> bool {
        self.permissions.is_some()
    }

    /// Permissions of the file to replace.
    pub(super) fn permissions(&self) -> Option<&Permissions> {
        self.permissions.as_ref()
    }
}

/// Path to which the links at `path` lead; the directories of the path are left as they are.
fn follow_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(target) = fs::read_link(&path) else { break };
        path = path.parent().map_or_else(|| target.clone(), |directory| directory.join(&target));
    }
    path
}
