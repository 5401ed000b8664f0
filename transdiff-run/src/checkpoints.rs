//! Checkpoints in the directory of a run.

use std::fs;
use std::path::PathBuf;

use transdiff_core::{Error, Result};
use transdiff_terminal::bytes;

use crate::RunDirectory;

const PREFIX: &str = "checkpoint-";
const SUFFIX: &str = ".safetensors";
/// Space that a checkpoint leaves free: room for the log, the events and the samples until the next one.
const RESERVE: u64 = 16 << 20;

/// A checkpoint of a run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointFile {
    /// Number of steps before it.
    pub step: u64,
    /// Path of the file.
    pub path: PathBuf,
}

impl RunDirectory {
    /// Path of the checkpoint after `step` steps.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.path().join(format!("{PREFIX}{step:08}{SUFFIX}"))
    }

    /// All checkpoints, the oldest first.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn checkpoints(&self) -> Result<Vec<CheckpointFile>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.path()).map_err(Error::io(self.path()))? {
            let entry = entry.map_err(Error::io(self.path()))?;
            let name = entry.file_name();
            let digits = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX));
            let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            if let Some(step) = digits.and_then(|digits| digits.parse().ok()) {
                found.push(CheckpointFile { step, path: entry.path() });
            }
        }
        found.sort();
        Ok(found)
    }

    /// Loads the newest checkpoint that can be loaded, by `load`. A damaged one is reported by `warn`, renamed to
    /// `….damaged`, and the one before it is tried. Returns `None` in a run without checkpoints.
    ///
    /// # Errors
    /// That of the newest checkpoint if none can be loaded; an error that says nothing about the file, such as
    /// [`Error::OutOfMemory`], at once.
    pub fn load_newest<T>(
        &self,
        mut load: impl FnMut(&CheckpointFile) -> Result<T>,
        mut warn: impl FnMut(&str),
    ) -> Result<Option<(CheckpointFile, T)>> {
        let mut damaged: Vec<(CheckpointFile, Error)> = Vec::new();
        for file in self.checkpoints()?.into_iter().rev() {
            match load(&file) {
                Ok(loaded) => {
                    for (file, error) in damaged {
                        set_aside(&file, &error, &mut warn)?;
                    }
                    return Ok(Some((file, loaded)));
                }
                Err(error) if is_damage(&error) => damaged.push((file, error)),
                Err(error) => return Err(error),
            }
        }
        // Without one that loads, the fault may be elsewhere: the files stay as they are.
        damaged.into_iter().next().map_or(Ok(None), |(_, error)| Err(error))
    }

    /// Checks that there is space for a checkpoint of `size` bytes beside those that exist.
    ///
    /// # Errors
    /// [`Error::Format`] with the free space and the space that is needed; [`Error::Io`].
    pub fn check_free_space(&self, size: u64) -> Result<()> {
        let (free, needed) = (self.free_space()?, size.saturating_add(RESERVE));
        if free >= needed {
            return Ok(());
        }
        let [free, needed] = [free, needed].map(bytes);
        let message =
            format!("a checkpoint needs {needed}, and {free} are free; the earlier checkpoints are intact");
        Err(Error::format(self.path(), message))
    }

    /// Removes all checkpoints but the last `keep_last`, at least one, and those whose step is a multiple of `keep_every`;
    /// 0 keeps none of these.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn prune(&self, keep_last: usize, keep_every: u64) -> Result<()> {
        let files = self.checkpoints()?;
        let old = files.len().saturating_sub(keep_last.max(1));
        // `is_multiple_of(0)` holds for 0 alone.
        let kept = |file: &CheckpointFile| keep_every > 0 && file.step.is_multiple_of(keep_every);
        for file in files[..old].iter().filter(|file| !kept(file)) {
            fs::remove_file(&file.path).map_err(Error::io(&file.path))?;
        }
        Ok(())
    }
}

/// Returns whether the error is one of the contents of a file.
fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Format { .. } | Error::Tensor { .. } | Error::TensorNames { .. })
}

/// Renames a damaged checkpoint, so that it counts as none.
fn set_aside(file: &CheckpointFile, error: &Error, warn: &mut impl FnMut(&str)) -> Result<()> {
    let mut name = file.path.clone().into_os_string();
    name.push(".damaged");
    fs::rename(&file.path, &name).map_err(Error::io(&file.path))?;
    warn(&format!(
        "{error}; renamed to {}, going on from an earlier checkpoint",
        PathBuf::from(name).display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_with(steps: &[u64]) -> (tempfile::TempDir, RunDirectory) {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDirectory::create(folder.path()).unwrap();
        steps.iter().for_each(|&step| fs::write(run.checkpoint(step), step.to_string()).unwrap());
        (folder, run)
    }

    fn steps(run: &RunDirectory) -> Vec<u64> {
        run.checkpoints().unwrap().into_iter().map(|file| file.step).collect()
    }

    /// Loads a file that has its step as contents.
    fn load(file: &CheckpointFile) -> Result<u64> {
        let text = fs::read_to_string(&file.path).map_err(Error::io(&file.path))?;
        text.parse().map_err(|_| Error::format(&file.path, "damaged"))
    }

    #[test]
    fn checkpoints_are_found_in_the_order_of_their_steps() {
        let (_folder, run) = run_with(&[1000, 200, 123_456_789]);
        for name in [
            "checkpoint-.safetensors",
            "checkpoint-+5.safetensors",
            "checkpoint-7.safetensors.damaged",
            "model.safetensors",
        ] {
            fs::write(run.path().join(name), "").unwrap();
        }
        assert_eq!(steps(&run), [200, 1000, 123_456_789]);
    }

    #[test]
    fn last_checkpoints_and_milestones_are_kept() {
        let (_folder, run) = run_with(&[100, 200, 300, 400, 500, 600]);
        run.prune(2, 300).unwrap();
        assert_eq!(steps(&run), [300, 500, 600]);
        run.prune(0, 0).unwrap();
        assert_eq!(steps(&run), [600]);
        run.prune(9, 0).unwrap();
        assert_eq!(steps(&run), [600]);
    }

    #[test]
    fn damaged_checkpoints_are_named_and_the_one_before_is_loaded() {
        let (_folder, run) = run_with(&[100, 200, 300]);
        fs::write(run.checkpoint(300), "x").unwrap();
        let mut warnings = Vec::new();
        let (file, loaded) =
            run.load_newest(load, |warning| warnings.push(warning.to_owned())).unwrap().unwrap();
        assert_eq!((file.step, loaded), (200, 200));
        assert!(warnings.len() == 1 && warnings[0].contains("checkpoint-00000300.safetensors: damaged"));
        assert_eq!(steps(&run), [100, 200]);
        assert!(run.path().join("checkpoint-00000300.safetensors.damaged").exists());
    }

    #[test]
    fn checkpoints_stay_when_none_can_be_loaded() {
        let (_folder, run) = run_with(&[100, 200]);
        [100, 200].iter().for_each(|&step| fs::write(run.checkpoint(step), "x").unwrap());
        let error = run.load_newest(load, |warning| panic!("{warning}")).unwrap_err();
        assert!(error.to_string().contains("checkpoint-00000200"), "{error}");
        let refused = |_: &CheckpointFile| -> Result<()> { Err(Error::out_of_memory("load", 1)) };
        assert!(matches!(run.load_newest(refused, |_| ()), Err(Error::OutOfMemory { .. })));
        assert_eq!(steps(&run), [100, 200]);
        let (_folder, empty) = run_with(&[]);
        assert!(empty.load_newest(load, |_| ()).unwrap().is_none());
    }

    #[test]
    fn missing_space_is_an_error_with_both_sizes() {
        let (_folder, run) = run_with(&[]);
        run.check_free_space(1).unwrap();
        let message = run.check_free_space(u64::MAX).unwrap_err().to_string();
        assert!(
            message.contains("a checkpoint needs 16384.0 PiB, and ") && message.contains("are free"),
            "{message}"
        );
    }
}
