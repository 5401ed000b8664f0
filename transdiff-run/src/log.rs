//! The log of a run: a JSON object per report and line.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};
use transdiff_core::checkpoint::write_bytes_atomic;
use transdiff_core::{Error, Result};

/// Measures of the steps since the last report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Number of steps done.
    pub step: u64,
    /// Number of samples that the run has seen.
    pub samples: u64,
    /// Mean training loss; `null` in the file if it is not finite.
    #[serde(deserialize_with = "nan_if_null")]
    pub loss: f64,
    /// Loss on the held-out samples, if there are any.
    pub val_loss: Option<f64>,
    /// Learning rate of the last step.
    pub lr: f64,
    /// Norm of the gradients of the last step, before clipping.
    #[serde(deserialize_with = "nan_if_null")]
    pub grad_norm: f64,
    /// Images per second.
    pub images_per_second: f64,
    /// Seconds of training until now, those of earlier processes included.
    pub seconds: f64,
    /// Times of the ranks, if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<RankTimes>,
}

/// Times of the ranks of a run, means over the steps since the last report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RankTimes {
    /// Number of ranks.
    pub ranks: usize,
    /// Seconds of work per step of the fastest rank.
    pub fastest: f64,
    /// Seconds of work per step of the slowest rank.
    pub slowest: f64,
    /// Seconds per step that a rank has waited for others: for the slowest, and for sums that the work does not hide.
    pub waited: f64,
}

impl fmt::Display for RankTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ranks, fastest, slowest, waited } = self;
        write!(f, "{ranks} ranks work {fastest:.3} to {slowest:.3} s per step, and wait {waited:.3} s")
    }
}

fn nan_if_null<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// The log of a run, to which reports are appended.
#[derive(Debug)]
pub struct RunLog {
    path: PathBuf,
    file: File,
    length: u64,
    reports: Vec<Report>,
}

impl RunLog {
    /// Opens the log of a run that goes on after `step` steps. Later lines are removed, because their steps are done again;
    /// so are lines that are no reports, such as the last one of a process that was killed while it wrote.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: impl AsRef<Path>, step: u64) -> Result<Self> {
        let path = path.as_ref();
        let contents = contents(path)?;
        let (mut kept, mut reports) = (Vec::with_capacity(contents.len()), Vec::new());
        for (line, report) in complete(&contents).filter(|(_, report)| report.step <= step) {
            kept.extend_from_slice(line);
            reports.push(report);
        }
        if kept != contents {
            write_bytes_atomic(path, &kept)?;
        }
        let file = File::options().append(true).create(true).open(path).map_err(Error::io(path))?;
        Ok(Self { path: path.to_owned(), file, length: kept.len() as u64, reports })
    }

    /// Reads the reports in the log at `path`, the oldest first; none if there is no log. Lines that are no reports are left
    /// out, and the file stays as it is.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn read(path: impl AsRef<Path>) -> Result<Vec<Report>> {
        Ok(complete(&contents(path.as_ref())?).map(|(_, report)| report).collect())
    }

    /// Appends a report. If it fails, the file is as before.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn append(&mut self, report: Report) -> Result<()> {
        let mut line = serde_json::to_vec(&report).expect("a report is plain data");
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            // Part of a line would spoil the next one.
            let _ = self.file.set_len(self.length);
            return Err(Error::io(&self.path)(error));
        }
        self.length += line.len() as u64;
        self.reports.push(report);
        Ok(())
    }

    /// All reports of the run, the oldest first.
    pub fn reports(&self) -> &[Report] {
        &self.reports
    }
}

/// Contents of the file at `path`; nothing if there is none.
fn contents(path: &Path) -> Result<Vec<u8>> {
    match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        contents => contents.map_err(Error::io(path)),
    }
}

/// Complete lines that are reports.
fn complete(contents: &[u8]) -> impl Iterator<Item = (&[u8], Report)> {
    let lines = contents.split_inclusive(|&byte| byte == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.filter_map(|line| Some((line, serde_json::from_slice(line).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(step: u64) -> Report {
        Report {
            step,
            samples: 64 * step,
            loss: 0.1 * step as f64,
            val_loss: step.is_multiple_of(2).then_some(0.5),
            lr: 1e-3,
            grad_norm: 0.7,
            images_per_second: 120.0,
            seconds: step as f64,
            ranks: None,
        }
    }

    fn steps(log: &RunLog) -> Vec<u64> {
        log.reports().iter().map(|report| report.step).collect()
    }

    #[test]
    fn reports_are_lines_that_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = RunLog::open(&path, 0).unwrap();
        (1..4).for_each(|step| log.append(report(step)).unwrap());
        let text = fs::read_to_string(&path).unwrap();
        let first = r#"{"step":1,"samples":64,"loss":0.1,"val_loss":null,"lr":0.001,"grad_norm":0.7,"images_per_second":120.0,"seconds":1.0}"#;
        assert_eq!(text.lines().next(), Some(first));
        let log = RunLog::open(&path, 3).unwrap();
        assert_eq!(log.reports(), [report(1), report(2), report(3)]);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn resumed_log_ends_at_the_resumed_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = RunLog::open(&path, 0).unwrap();
        (1..6).for_each(|step| log.append(report(step)).unwrap());
        let mut log = RunLog::open(&path, 3).unwrap();
        log.append(report(4)).unwrap();
        assert_eq!(steps(&RunLog::open(&path, 9).unwrap()), [1, 2, 3, 4]);
    }

    #[test]
    fn torn_lines_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        RunLog::open(&path, 0).unwrap().append(report(1)).unwrap();
        let whole = fs::read(&path).unwrap();
        for torn in [&whole[..whole.len() - 1], &whole[..20], b"\0\0\0", b"\xff\n", b"\n\n{}\n"] {
            let contents = [&whole, torn].concat();
            fs::write(&path, &contents).unwrap();
            assert_eq!(RunLog::read(&path).unwrap(), [report(1)], "{torn:?}");
            assert_eq!(fs::read(&path).unwrap(), contents, "reading changes nothing");
            let mut log = RunLog::open(&path, 5).unwrap();
            log.append(report(2)).unwrap();
            assert_eq!(steps(&RunLog::open(&path, 5).unwrap()), [1, 2], "{torn:?}");
        }
    }

    #[test]
    fn losses_that_are_not_finite_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        let mut log = RunLog::open(&path, 0).unwrap();
        log.append(Report { loss: f64::NAN, grad_norm: f64::INFINITY, ..report(1) }).unwrap();
        let log = RunLog::open(&path, 1).unwrap();
        assert!(log.reports()[0].loss.is_nan());
    }
}
