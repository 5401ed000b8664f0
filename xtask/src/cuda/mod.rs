//! The CUDA backend on a machine without a GPU: that everything of it compiles, that what is built and installed with it
//! runs without a driver, and that its kernels are right, under the emulator that runs them on the CPU.

mod emulated;
mod installed;

use std::path::{Path, PathBuf};

use clap::Args;

use crate::Result;
use crate::ffi::programs::Program;
use crate::process::{Process, cargo};

/// The compiler for GPUs, from the registry of Python packages: what a toolkit has of it, pinned.
const WHEELS: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];
/// Where it goes.
const TOOLKIT: &str = "target/cuda-toolkit";
/// Where the emulator is built.
const EMULATOR: &str = "target/emulator";
const EMULATOR_SOURCE: &str = "transdiff-cuda/tests/emulator";
/// The `transdiff` command as it is built here.
const COMMAND: &str = "target/debug/transdiff";
/// A tiny model and its VAE.
const TINY: [&str; 2] = ["target/cuda-model.safetensors", "target/cuda-vae.safetensors"];
/// The packages that have the feature, or are it.
const PACKAGES: [&str; 4] =
    ["--package=transdiff", "--package=transdiff-cuda", "--package=transdiff-ffi", "--package=transdiff-cli"];
const FEATURES: &str = "--features=transdiff/cuda,transdiff-ffi/cuda,transdiff-cli/cuda";

/// How much of it
#[derive(Args)]
pub struct Options {
    /// Only make the toolkit and the emulator, and say how they are used
    #[arg(long)]
    prepare: bool,
}

pub fn check(options: &Options) -> Result {
    let toolkit = toolkit()?;
    let emulator = std::path::absolute(EMULATOR)?;
    Process::new("sh").arg(format!("{EMULATOR_SOURCE}/build.sh")).arg(&emulator).run()?;
    if options.prepare {
        println!("CUDA_PATH={}", toolkit.display());
        println!("LD_LIBRARY_PATH={}", emulator.display());
        return Ok(());
    }
    Process::new("sh").arg(format!("{EMULATOR_SOURCE}/test.sh")).arg("target/emulator-test").run()?;
    let build = Build { toolkit };
    build.lints()?;
    build.cargo(&["build", "--locked"], &["--bins", "--example=tiny_model"]).run()?;
    build.cargo(&["test", "--locked", "--no-run"], &emulated::targets()).run()?;
    loads_without_cuda(Path::new(COMMAND))?;
    Process::new("target/debug/examples/tiny_model").args(&TINY).run()?;
    let programs = installed::programs(&build)?;
    build.without_a_driver(&programs)?;
    build.under_the_emulator(&emulator, &programs)?;
    emulated::check(&build, &emulator)
}

/// The file can be loaded on a machine without a driver.
fn loads_without_cuda(file: &Path) -> Result {
    let needed = Process::new("readelf").arg("-d").arg(file).stdout()?;
    if needed.contains("libcuda") || needed.contains("libcublas") {
        return Err(format!("{} cannot be loaded without CUDA:\n{needed}", file.display()).into());
    }
    Ok(())
}

/// The toolkit's folder: `CUDA_PATH`, or what is made of the wheels. `nvcc` on `PATH` alone is a toolkit too, but which
/// one is chance.
fn toolkit() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CUDA_PATH") {
        return Ok(path.into());
    }
    let folder = std::path::absolute(TOOLKIT)?;
    if folder.join("bin/nvcc").exists() {
        return Ok(folder);
    }
    let wheels = std::path::absolute("target/cuda-wheels")?;
    let pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--disable-pip-version-check"];
    Process::new("python3").args(&pip).arg("--target").arg(&wheels).args(&WHEELS).run()?;
    std::fs::rename(wheels.join("nvidia/cu13"), &folder)?;
    std::fs::remove_dir_all(&wheels)?;
    // The compiler looks for its libraries where a toolkit has them.
    std::os::unix::fs::symlink("lib", folder.join("lib64"))?;
    Ok(folder)
}

/// Builds with the feature.
struct Build {
    toolkit: PathBuf,
}

impl Build {
    fn cargo(&self, command: &[&str], rest: &[&str]) -> Process {
        self.environment(cargo(command).args(&PACKAGES).arg(FEATURES).args(rest))
    }

    /// The variables that kernels are compiled by: another value of one would compile them again.
    fn environment(&self, process: Process) -> Process {
        process.env("CUDA_PATH", &self.toolkit).env("TRANSDIFF_CUDA_WERROR", "1")
    }

    /// Tests of the targets that are named.
    fn tests(&self, targets: &[&str], filters: &[&str]) -> Process {
        self.cargo(&["test", "--locked"], targets).args(&["--", "--nocapture"]).args(filters)
    }

    /// Clippy has a build of its own, for which a kernel is as good for one GPU as for all.
    fn lints(&self) -> Result {
        let clippy = self.cargo(&["clippy", "--locked", "--all-targets"], &["--", "-D", "warnings"]);
        clippy.env("TRANSDIFF_CUDA_ARCHITECTURES", "compute_80").run()
    }

    /// What asks for a driver is told why there is none.
    fn without_a_driver(&self, programs: &[Program]) -> Result {
        if Process::new("sh").args(&["-c", "ldconfig -p | grep -q libcuda.so.1"]).run().is_ok() {
            println!("this machine has a driver: what happens without one is not tested");
            return Ok(());
        }
        let (code, said) = sample("cuda", None)?;
        if code == Some(0) || !said.contains("there is no CUDA driver: libcuda.so.1") {
            return Err(format!("cuda where there is none: exit code {code:?}, {said}").into());
        }
        let (code, said) = sample("auto", None)?;
        let chosen = "device: cpu, because cuda:0 cannot be used: there is no CUDA driver";
        if code != Some(0) || !said.contains(chosen) {
            return Err(format!("auto where there is no GPU: exit code {code:?}, {said}").into());
        }
        installed::run(programs, TINY, None, "cpu")?;
        let printed = self.tests(&["--test=backend_equivalence"], &["cuda"]).stdout()?;
        let skipped = "SKIPPED: device cuda:0: there is no CUDA driver: libcuda.so.1";
        if printed.contains(skipped) { Ok(()) } else { Err(format!("{printed}expected {skipped}").into()) }
    }

    /// The command, and programs against the C ABI, find the GPU.
    fn under_the_emulator(&self, emulator: &Path, programs: &[Program]) -> Result {
        for device in ["cuda", "auto"] {
            let (code, said) = sample(device, Some(emulator))?;
            if code != Some(0) || !said.contains("device: cuda:0") {
                return Err(format!("{device} where there is a GPU: exit code {code:?}, {said}").into());
            }
        }
        installed::run(programs, TINY, Some(emulator), "Emulated GPU")
    }
}

/// What the `transdiff` command says when it is to generate on `device`, and its exit code.
fn sample(device: &str, emulator: Option<&Path>) -> Result<(Option<i32>, String)> {
    let [model, vae] = TINY;
    let sample = Process::new(COMMAND).args(&["sample", "--model", model, "--vae", vae, "--class", "1"]);
    let sample = sample.args(&["--steps", "4", "--out", "target/cuda-out", "--force", "--device", device]);
    match emulator {
        Some(emulator) => sample.env("LD_LIBRARY_PATH", emulator).code_and_stderr(),
        None => sample.code_and_stderr(),
    }
}
