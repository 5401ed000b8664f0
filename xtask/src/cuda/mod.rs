//! Checks of the CUDA backend on a machine without a GPU: it compiles, what is built and installed with it runs without a
//! driver, and its kernels are correct under the emulator, which runs them on the CPU.

mod emulated;
mod installed;

use std::path::{Path, PathBuf};

use clap::Args;

use crate::Result;
use crate::ffi::programs::Program;
use crate::process::{Process, cargo};

/// Pinned Python packages with nvcc: the part of a CUDA toolkit that the build needs.
const WHEELS: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];
/// Folder of the toolkit made from these packages.
const TOOLKIT: &str = "target/cuda-toolkit";
/// Folders of the built emulator and of its source.
const EMULATOR: &str = "target/emulator";
const EMULATOR_SOURCE: &str = "transdiff-cuda/tests/emulator";
/// The `transdiff` command, as built by these checks.
const COMMAND: &str = "target/debug/transdiff";
/// A tiny model and its VAE.
const TINY: [&str; 2] = ["target/cuda-model.safetensors", "target/cuda-vae.safetensors"];
/// The packages with the feature `cuda`, and the backend itself.
const PACKAGES: [&str; 4] =
    ["--package=transdiff", "--package=transdiff-cuda", "--package=transdiff-ffi", "--package=transdiff-cli"];
const FEATURES: &str = "--features=transdiff/cuda,transdiff-ffi/cuda,transdiff-cli/cuda";

/// Extent of the checks
#[derive(Args)]
pub struct Options {
    /// Only prepare the toolkit and the emulator, and print the variables for running single tests
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

/// Checks that a file can be loaded on a machine without a driver.
fn loads_without_cuda(file: &Path) -> Result {
    let needed = Process::new("readelf").arg("-d").arg(file).stdout()?;
    if ["libcuda", "libcublas", "libnccl"].iter().any(|library| needed.contains(library)) {
        return Err(format!("{} cannot be loaded without CUDA:\n{needed}", file.display()).into());
    }
    Ok(())
}

/// Folder of the toolkit: `CUDA_PATH`, or one made from the pinned packages. An `nvcc` on `PATH` is not used, because its
/// version is arbitrary.
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
    // nvcc expects its libraries in lib64, as in an installed toolkit.
    std::os::unix::fs::symlink("lib", folder.join("lib64"))?;
    Ok(folder)
}

/// Cargo commands with the feature `cuda`.
struct Build {
    toolkit: PathBuf,
}

impl Build {
    fn cargo(&self, command: &[&str], rest: &[&str]) -> Process {
        self.environment(cargo(command).args(&PACKAGES).arg(FEATURES).args(rest))
    }

    /// Sets the variables of the kernels' build script; another value would recompile the kernels.
    fn environment(&self, process: Process) -> Process {
        process.env("CUDA_PATH", &self.toolkit).env("TRANSDIFF_CUDA_WERROR", "1")
    }

    /// Runs tests of the given targets.
    fn tests(&self, targets: &[&str], filters: &[&str]) -> Process {
        self.cargo(&["test", "--locked"], targets).args(&["--", "--nocapture"]).args(filters)
    }

    /// Runs Clippy, which has a build of its own: kernels for a single architecture are enough.
    fn lints(&self) -> Result {
        let clippy = self.cargo(&["clippy", "--locked", "--all-targets"], &["--", "-D", "warnings"]);
        clippy.env("TRANSDIFF_CUDA_ARCHITECTURES", "compute_80").run()
    }

    /// Checks that requests for a GPU fail with the reason, and that the others run.
    fn without_a_driver(&self, programs: &[Program]) -> Result {
        if Process::new("sh").args(&["-c", "ldconfig -p | grep -q libcuda.so.1"]).run().is_ok() {
            println!("SKIPPED: this machine has a CUDA driver, so runs without one are not tested");
            return Ok(());
        }
        let (code, stderr) = sample("cuda", None)?;
        if code == Some(0) || !stderr.contains("there is no CUDA driver: libcuda.so.1") {
            return Err(format!("--device cuda without a driver: exit code {code:?}, {stderr}").into());
        }
        let (code, stderr) = sample("auto", None)?;
        let chosen = "device: cpu, because cuda:0 cannot be used: there is no CUDA driver";
        if code != Some(0) || !stderr.contains(chosen) {
            return Err(format!("--device auto without a driver: exit code {code:?}, {stderr}").into());
        }
        installed::run(programs, TINY, None, "cpu")?;
        let printed = self.tests(&["--test=backend_equivalence"], &["cuda"]).stdout()?;
        let skipped = "SKIPPED: device cuda:0: there is no CUDA driver: libcuda.so.1";
        if printed.contains(skipped) { Ok(()) } else { Err(format!("{printed}expected {skipped}").into()) }
    }

    /// Checks that the command, and programs that use the C ABI, find the emulated GPU.
    fn under_the_emulator(&self, emulator: &Path, programs: &[Program]) -> Result {
        for device in ["cuda", "auto"] {
            let (code, stderr) = sample(device, Some(emulator))?;
            if code != Some(0) || !stderr.contains("device: cuda:0") {
                return Err(format!("--device {device} with a GPU: exit code {code:?}, {stderr}").into());
            }
        }
        installed::run(programs, TINY, Some(emulator), "Emulated GPU")
    }
}

/// Generates on `device` with the `transdiff` command; returns its exit code and standard error.
fn sample(device: &str, emulator: Option<&Path>) -> Result<(Option<i32>, String)> {
    let [model, vae] = TINY;
    let sample = Process::new(COMMAND).args(&["sample", "--model", model, "--codec", vae, "--class", "1"]);
    let sample = sample.args(&["--steps", "4", "--out", "target/cuda-out", "--force", "--device", device]);
    match emulator {
        Some(emulator) => sample.env("LD_LIBRARY_PATH", emulator).code_and_stderr(),
        None => sample.code_and_stderr(),
    }
}
