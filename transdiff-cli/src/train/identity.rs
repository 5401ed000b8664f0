//! Comparison of the ranks before they train: all run the same program on equal data with equal arguments and settings, on
//! devices of one type.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use transdiff::checkpoint::{sha256, sha256_of};
use transdiff::data::Dataset;
use transdiff::rng::{Purpose, StreamKey};
use transdiff::{Backend, DeviceTask, OpenDevice};
use transdiff_run::settings::RunConfig;

use super::args::{RunArgs, Shard};
use super::data::TrainingData;
use crate::failure::{Failure, Result};
use crate::job::Job;

/// Items of the data whose contents are compared.
const ITEMS: usize = 4;

/// Everything about a rank that has to be equal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Machine, which may differ, for messages.
    host: String,
    /// Version, and checksum of the executable file.
    program: String,
    /// Arguments and settings by name, as text and TOML. Files that are read at the start have checksums.
    settings: Vec<(String, String)>,
    /// Number of items, and checksum of labels and some contents.
    data: String,
    /// Type of the device, and instructions of the CPU, whose roundings differ.
    device: String,
}

impl Identity {
    pub fn of(
        args: &RunArgs,
        settings: &RunConfig,
        data: &TrainingData,
        device: &OpenDevice,
    ) -> Result<Self> {
        Ok(Self {
            host: host(),
            program: program()?,
            settings: of_settings(args, settings)?,
            data: of_data(&*data.set)?,
            device: device.clone().run(DeviceType)?,
        })
    }

    /// Fails, on all ranks alike, if a rank differs from rank 0.
    pub fn check_equal(identity: Result<Self>, job: &Job) -> Result<()> {
        let all = job.agree(identity)?;
        for (rank, other) in all.iter().enumerate() {
            if let Some(difference) = all[0].difference(other) {
                let (host, main) = (&other.host, &all[0].host);
                return Err(Failure::Agreed(format!(
                    "rank {rank} on {host}, rank 0 on {main}: {difference}"
                )));
            }
        }
        Ok(())
    }

    /// The first difference: what, and both values, those of `other` first.
    fn difference(&self, other: &Self) -> Option<String> {
        let of_program = [("program", &self.program, &other.program)];
        let of_rest = [("data", &self.data, &other.data), ("device", &self.device, &other.device)];
        let differing = |(what, own, other): &(&str, &String, &String)| {
            (own != other).then(|| format!("another {what}: {other} and {own}"))
        };
        let value = |settings: &Self, key: &str| {
            let found = settings.settings.iter().find(|(name, _)| name == key);
            found.map_or_else(|| "none".to_owned(), |(_, value)| value.clone())
        };
        let keys = self.settings.iter().chain(&other.settings).map(|(key, _)| key);
        let setting = keys.map(|key| (key, value(self, key), value(other, key))).find(|(_, a, b)| a != b);
        of_program
            .iter()
            .find_map(differing)
            .or_else(|| setting.map(|(key, own, other)| format!("another {key}: {other} and {own}")))
            .or_else(|| of_rest.iter().find_map(differing))
    }
}

/// Name of the machine.
fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    name.map_or_else(|| "this machine".to_owned(), |name| name.trim().to_owned())
}

fn program() -> Result<String> {
    let path: PathBuf =
        std::env::current_exe().map_err(|error| format!("the program's own file: {error}"))?;
    Ok(format!("version {}, {}", env!("CARGO_PKG_VERSION"), checksum(&path)?))
}

/// Arguments and settings by name. The same file may have another path on another machine.
fn of_settings(args: &RunArgs, settings: &RunConfig) -> Result<Vec<(String, String)>> {
    let kind = if args.resume.is_some() { "resumed" } else { "new" };
    let shard = args.shard.map_or("none", |Shard::Optimizer| "optimizer");
    let mut all = vec![("kind of run", kind.to_owned()), ("--shard", shard.to_owned())];
    for (key, value) in settings.entries() {
        let file = match key {
            "train.init" => settings.train.init.as_deref(),
            "distill.teacher" => settings.distill.teacher.as_deref(),
            "data.mrar_index" => settings.data.mrar_index.as_deref(),
            _ => None,
        };
        match (key, file) {
            // A resumed run does not read the initial weights, and has its teacher in its directory.
            ("train.init" | "distill.teacher", _) if args.resume.is_some() => {}
            // Its contents are compared.
            ("data.path", _) => {}
            (_, Some(path)) => all.push((key, checksum(Path::new(path))?)),
            (_, None) => all.push((key, value)),
        }
    }
    Ok(all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Checksum of a file, for messages.
fn checksum(path: &Path) -> Result<String> {
    Ok(format!("sha256 {}", &sha256(path)?[..16]))
}

/// Number of items, and checksum of the labels and of items from the first to the last.
fn of_data(set: &dyn Dataset) -> Result<String> {
    let mut bytes: Vec<u8> =
        (0..set.len()).flat_map(|index| (set.label(index) as u64).to_le_bytes()).collect();
    for index in (0..ITEMS).map(|place| place * set.len().saturating_sub(1) / (ITEMS - 1)) {
        let mut values = Vec::new();
        // Items that cannot be read are reported where they are trained on.
        let mut stream = StreamKey::new(0, Purpose::Item, 0, index as u32).stream();
        if set.read(index, &mut stream, &mut values).is_ok() {
            bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
    let shape = set.item_shape().map(|size| size.to_string()).join("×");
    Ok(format!("{} items of {shape}, sha256 {}", set.len(), &sha256_of(&bytes)[..16]))
}

/// Type of a device.
struct DeviceType;

impl DeviceTask for DeviceType {
    type Output = String;

    fn run<B: Backend>(self, backend: B) -> transdiff::Result<String> {
        let name = backend.name();
        Ok(match name.as_str() {
            "cpu" => format!("cpu with {}", instructions()),
            _ => name,
        })
    }
}

/// Vector instructions that the CPU's kernels choose by.
#[cfg(target_arch = "x86_64")]
fn instructions() -> &'static str {
    match () {
        () if std::arch::is_x86_feature_detected!("avx512f") => "AVX-512",
        () if std::arch::is_x86_feature_detected!("avx2") => "AVX2",
        () => "SSE2",
    }
}

/// Vector instructions that the CPU's kernels choose by.
#[cfg(not(target_arch = "x86_64"))]
fn instructions() -> &'static str {
    std::env::consts::ARCH
}
