//! Programs that measure the same passes in Python.

use std::fs;
use std::path::Path;

use clap::ValueEnum;

use super::{Format, Measurement, Options, name};
use crate::Result;
use crate::process::Process;

/// Folder of the models that OpenVINO has converted, shared by the rounds of a comparison.
const MODELS: &str = "target/peer-openvino";

#[derive(Clone, Copy, ValueEnum)]
pub enum Opponent {
    /// PyTorch as published
    Plain,
    /// PyTorch, optimised, with torch.compile
    Strong,
    /// OpenVINO, compiled for this CPU
    Openvino,
}

impl Opponent {
    /// Passes that its program measures as `measure` does.
    pub fn passes(self) -> &'static [&'static str] {
        match self {
            Self::Plain | Self::Strong => &["ar", "step", "train", "sample", "vae"],
            Self::Openvino => &["ar", "step", "vae"],
        }
    }

    /// Passes that are measured unless others are named.
    pub fn default_passes(self) -> &'static [&'static str] {
        &self.passes()[..3]
    }

    pub fn has_int8(self) -> bool {
        matches!(self, Self::Openvino)
    }

    /// Python packages that it needs, the one that is measured first.
    pub fn packages(self, dtype: Format) -> &'static [&'static str] {
        match (self, dtype) {
            (Self::Plain | Self::Strong, _) => &["torch"],
            (Self::Openvino, Format::F32 | Format::Bf16) => &["openvino", "torch"],
            (Self::Openvino, Format::Int8) => &["openvino", "torch", "nncf"],
        }
    }
}

/// An opponent's program, ready to run. Its converted models are removed when it is dropped.
pub struct Program<'a> {
    python: &'a Path,
    threads: &'a str,
    opponent: Opponent,
    version: String,
}

impl<'a> Program<'a> {
    /// The opponent of `options`; an error if its packages cannot be imported by `python`.
    pub fn new(options: &Options, python: &'a Path, threads: &'a str) -> Result<Self> {
        let packages = options.opponent.packages(options.dtype);
        // NNCF prints lines of its own when it is imported; the version comes last.
        let source = format!("import {}; print({}.__version__)", packages.join(", "), packages[0]);
        let printed = Process::new(python).args(&["-c", &source]).stdout();
        let printed = printed.map_err(|e| format!("cannot import {}: {e}", packages.join(", ")))?;
        let version = printed.lines().last().unwrap_or_default().trim().to_owned();
        remove_models();
        Ok(Self { python, threads, opponent: options.opponent, version })
    }

    pub fn description(&self) -> String {
        match self.opponent {
            Opponent::Plain | Opponent::Strong => format!("PyTorch {} {}", self.version, name(self.opponent)),
            Opponent::Openvino => format!("OpenVINO {}", self.version),
        }
    }

    pub fn measure(&self, options: &Options, what: &str) -> Result<Measurement> {
        let python = Process::new(self.python).env("OMP_NUM_THREADS", self.threads);
        let program = match self.opponent {
            Opponent::Plain | Opponent::Strong => {
                let implementation = name(self.opponent);
                python.args(&["benches/peer/peer_pytorch.py", "--device", "cpu", "--impl", &implementation])
            }
            Opponent::Openvino => {
                let program = "benches/peer/peer_openvino.py";
                python.args(&[program, "--threads", self.threads, "--models", MODELS])
            }
        };
        options.measure(what, program)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        remove_models();
    }
}

/// Removes converted models: those of an earlier run may be of another version of the scripts.
fn remove_models() {
    // There are none unless OpenVINO was measured.
    let _ = fs::remove_dir_all(MODELS);
}
