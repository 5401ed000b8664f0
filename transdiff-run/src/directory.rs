//! The directory of a run: the names of its files, and the lock of the process that trains in it.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use transdiff_core::checkpoint::TEMPORARY_PREFIX;
use transdiff_core::{Error, Result};

/// Name of the file with a run's settings, in its directory.
pub const CONFIG_FILE: &str = "config.toml";

/// Directories within that of a run.
const DIRECTORIES: [&str; 2] = ["samples", "events"];

/// The directory of a run, locked by this process unless it is only [viewed](Self::view). The lock ends with the value, or with the process.
#[derive(Debug)]
pub struct RunDirectory {
    path: PathBuf,
    /// `None` on a file system without locks, and in a view.
    lock: Option<File>,
}

impl RunDirectory {
    /// Creates the directory of a new run, or takes one that holds no run.
    ///
    /// # Errors
    /// [`Error::Format`] for a directory that holds a run, or in which another process trains; [`Error::Io`].
    pub fn create(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        fs::create_dir_all(path).map_err(Error::io(path))?;
        let directory = Self::lock(path)?;
        let name = path.display();
        if path.join(CONFIG_FILE).exists() || !directory.checkpoints()?.is_empty() {
            let message = format!("holds a run already; go on with --resume {name}, or choose another --out");
            return Err(Error::format(path, message));
        }
        directory.prepare()
    }

    /// Takes the directory of a run that is resumed.
    ///
    /// # Errors
    /// [`Error::Format`] for a directory that holds no run, or in which another process trains; [`Error::Io`].
    pub fn resume(path: impl AsRef<Path>) -> Result<Self> {
        let path = Self::view(path)?.path;
        Self::lock(&path)?.prepare()
    }

    /// The directory of a run to look at, without a lock: another process may train in it.
    ///
    /// # Errors
    /// [`Error::Format`] for a directory that holds no run; [`Error::Io`].
    pub fn view(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if !fs::metadata(path).map_err(Error::io(path))?.is_dir() {
            return Err(Error::format(path, "expected the directory of a run, got a file"));
        }
        if !path.join(CONFIG_FILE).is_file() {
            let message = format!("expected the directory of a run, got one without {CONFIG_FILE}");
            return Err(Error::format(path, message));
        }
        Ok(Self { path: path.to_owned(), lock: None })
    }

    fn lock(path: &Path) -> Result<Self> {
        let name = path.join(".lock");
        let open = File::options().create(true).truncate(false).read(true).write(true).open(&name);
        let file = open.map_err(Error::io(&name))?;
        let lock = match file.try_lock() {
            Ok(()) => Some(file),
            Err(TryLockError::WouldBlock) => {
                let message = "another process trains in this directory; wait until it has ended";
                return Err(Error::format(path, message));
            }
            // Some network file systems have no locks.
            Err(TryLockError::Error(_)) => None,
        };
        Ok(Self { path: path.to_owned(), lock })
    }

    /// Creates the directories within, and removes what killed runs have left.
    fn prepare(self) -> Result<Self> {
        for name in DIRECTORIES {
            let directory = self.path.join(name);
            fs::create_dir_all(&directory).map_err(Error::io(&directory))?;
        }
        // Without a lock the temporary files may be those of a process that is running.
        if self.lock.is_some() {
            remove_temporaries(&self.path)?;
            DIRECTORIES.iter().try_for_each(|name| remove_temporaries(&self.path.join(name)))?;
        }
        Ok(self)
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns whether the directory is locked: not in a view, and not on a file system without locks, where two processes
    /// that train in one directory are not noticed.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Path of the settings.
    pub fn config(&self) -> PathBuf {
        self.path.join(CONFIG_FILE)
    }

    /// Path of the model with the EMA weights.
    pub fn model(&self) -> PathBuf {
        self.path.join("model.safetensors")
    }

    /// Path of the log, JSON lines.
    pub fn log(&self) -> PathBuf {
        self.path.join("log.jsonl")
    }

    /// Path of the plot of the losses.
    pub fn loss_plot(&self) -> PathBuf {
        self.path.join("loss.svg")
    }

    /// Directory of the event files for TensorBoard.
    pub fn events(&self) -> PathBuf {
        self.path.join("events")
    }

    /// Path of the grid of samples after `step` steps.
    pub fn samples(&self, step: u64) -> PathBuf {
        self.path.join("samples").join(format!("{step:08}.png"))
    }

    /// Free space of the directory's file system for this user, in bytes.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn free_space(&self) -> Result<u64> {
        fs4::available_space(&self.path).map_err(Error::io(&self.path))
    }
}

/// Removes the temporary files in a directory. A file that has gone in the meantime is none to remove.
fn remove_temporaries(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).map_err(Error::io(directory))? {
        let entry = entry.map_err(Error::io(directory))?;
        let is_file = entry.file_type().map_err(Error::io(entry.path()))?.is_file();
        if is_file && entry.file_name().as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
            match fs::remove_file(entry.path()) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io(entry.path())(e)),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_run(parent: &Path) -> PathBuf {
        let path = parent.join("runs/a");
        let run = RunDirectory::create(&path).unwrap();
        fs::write(run.config(), "").unwrap();
        path
    }

    #[test]
    fn directory_of_a_run_takes_no_second_new_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = new_run(folder.path());
        let message = RunDirectory::create(&path).unwrap_err().to_string();
        assert!(message.contains(&format!("--resume {}", path.display())), "{message}");
        RunDirectory::resume(&path).unwrap();
        fs::remove_file(path.join(CONFIG_FILE)).unwrap();
        RunDirectory::create(&path).unwrap();
        fs::write(path.join("checkpoint-00000012.safetensors"), "").unwrap();
        assert!(RunDirectory::create(&path).is_err());
    }

    #[test]
    fn only_directories_of_runs_are_resumed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for (path, problem) in [
            (folder.path().to_owned(), "got one without config.toml"),
            (file, "got a file"),
            (folder.path().join("missing"), "missing: "),
        ] {
            let message = RunDirectory::resume(&path).unwrap_err().to_string();
            assert!(message.contains(problem), "{message}");
        }
    }

    #[test]
    fn second_process_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = new_run(folder.path());
        let first = RunDirectory::resume(&path).unwrap();
        let message = RunDirectory::resume(&path).unwrap_err().to_string();
        assert!(message.contains("another process trains"), "{message}");
        assert!(!RunDirectory::view(&path).unwrap().is_locked(), "a view does not wait");
        drop(first);
        RunDirectory::resume(&path).unwrap();
    }

    #[test]
    fn temporaries_of_killed_runs_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = new_run(folder.path());
        let strays = [".writing-a", "samples/.writing-b", "events/.writing-c"].map(|name| path.join(name));
        let others = ["writing-a", "samples/00000010.png"].map(|name| path.join(name));
        strays.iter().chain(&others).for_each(|path| fs::write(path, "").unwrap());
        fs::create_dir(path.join(".writing-directory")).unwrap();
        RunDirectory::resume(&path).unwrap();
        assert!(strays.iter().all(|path| !path.exists()) && others.iter().all(|path| path.exists()));
        assert!(path.join(".writing-directory").exists());
    }
}
