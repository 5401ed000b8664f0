//! Machines that make and measure images.

use std::fs;

use serde::{Deserialize, Serialize};
use transdiff::{Backend, DeviceTask};

use super::args::EvaluateArgs;
use crate::failure::Result;

/// Machine that made and measured images, and how it was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub device: String,
    pub processor: String,
    pub cores: usize,
    /// CPU threads, if their number was given.
    pub threads: Option<usize>,
    /// Images at a time.
    pub batch: usize,
    pub system: String,
}

impl Machine {
    pub fn current(args: &EvaluateArgs) -> Result<Self> {
        Ok(Self {
            device: args.device.run(args.threads, DeviceName)?,
            processor: processor(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            threads: args.threads,
            batch: args.batch,
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        })
    }
}

/// Name of a device.
struct DeviceName;

impl DeviceTask for DeviceName {
    type Output = String;

    fn run<B: Backend>(self, backend: B) -> transdiff::Result<String> {
        Ok(backend.name())
    }
}

/// Name of the processor where the system tells it, and otherwise the architecture.
fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or(std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned())
}
