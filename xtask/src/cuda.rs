//! The CUDA backend on a machine without a GPU: that everything of it compiles, that what is built with it runs without a
//! driver, and that its kernels are right, under the emulator that runs them on the CPU.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::Result;
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
const EMULATOR_SOURCE: &str = "transdiff-cuda/emulator";
/// The packages that have the feature, or are it.
const PACKAGES: [&str; 4] =
    ["--package=transdiff", "--package=transdiff-cuda", "--package=transdiff-ffi", "--package=transdiff-cli"];
const FEATURES: &str = "--features=transdiff/cuda,transdiff-ffi/cuda,transdiff-cli/cuda";

/// What is tested under the emulator: a test target, and the tests of it. One golden file stands for all, and a few steps
/// for a training run: a CPU takes long to be a GPU.
const EMULATED: [(&str, &[&str]); 6] = [
    ("emulated", &[]),
    ("backend_equivalence", &["cuda"]),
    ("golden", &["cuda::onestep_256"]),
    ("golden_sampler", &["cuda"]),
    ("golden_vae", &["cuda"]),
    ("cuda", &[]),
];

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
    build.cargo(&["clippy", "--locked", "--all-targets"], &["--", "-D", "warnings"]).run()?;
    build.without_a_driver()?;
    build.under_the_emulator(&emulator)
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
        let process = cargo(command).args(&PACKAGES).arg(FEATURES).args(rest);
        process.env("CUDA_PATH", &self.toolkit)
    }

    /// Nothing that is built needs a driver to start, and what asks for one is told why there is none.
    fn without_a_driver(&self) -> Result {
        self.cargo(&["build", "--locked"], &["--lib", "--bins"]).run()?;
        for file in ["target/debug/libtranscdiff.so", "target/debug/transdiff"] {
            let needed = Process::new("readelf").args(&["-d", file]).stdout()?;
            if needed.contains("libcuda") || needed.contains("libcublas") {
                return Err(format!("{file} cannot be loaded without CUDA:\n{needed}").into());
            }
        }
        if Process::new("sh").args(&["-c", "ldconfig -p | grep -q libcuda.so.1"]).run().is_ok() {
            println!("this machine has a driver: what happens without one is not tested");
            return Ok(());
        }
        let (code, said) = self.sample("cuda", None)?;
        if code == Some(0) || !said.contains("there is no CUDA driver: libcuda.so.1") {
            return Err(format!("cuda where there is none: exit code {code:?}, {said}").into());
        }
        let (code, said) = self.sample("auto", None)?;
        if code != Some(0)
            || !said.contains("device: cpu, because cuda:0 cannot be used: there is no CUDA driver")
        {
            return Err(format!("auto where there is no GPU: exit code {code:?}, {said}").into());
        }
        self.tests(
            "backend_equivalence",
            &["cuda"],
            None,
            "SKIPPED: device cuda:0: there is no CUDA driver: libcuda.so.1",
        )
    }

    /// What the `transdiff` command says when it is to generate on `device`, and its exit code.
    fn sample(&self, device: &str, emulator: Option<&Path>) -> Result<(Option<i32>, String)> {
        let [model, vae, out] =
            ["model.safetensors", "vae.safetensors", "out"].map(|f| format!("target/cuda-{f}"));
        let tiny = [
            "run",
            "--quiet",
            "--locked",
            "--package=transdiff-ffi",
            "--features=cuda",
            "--example=tiny_model",
        ];
        cargo(&tiny).args(&["--", &model, &vae]).env("CUDA_PATH", &self.toolkit).run()?;
        let sample =
            Process::new("target/debug/transdiff").args(&["sample", "--model", &model, "--vae", &vae]);
        let sample =
            sample.args(&["--class", "1", "--steps", "4", "--out", &out, "--force", "--device", device]);
        self.emulated(sample, emulator).complaint()
    }

    fn emulated(&self, process: Process, emulator: Option<&Path>) -> Process {
        match emulator {
            Some(emulator) => process.env("LD_LIBRARY_PATH", emulator),
            None => process,
        }
    }

    /// The kernels, the launches and the errors.
    fn under_the_emulator(&self, emulator: &Path) -> Result {
        for device in ["cuda", "auto"] {
            let (code, said) = self.sample(device, Some(emulator))?;
            if code != Some(0) || !said.contains("device: cuda:0") {
                return Err(format!("{device} where there is a GPU: exit code {code:?}, {said}").into());
            }
        }
        EMULATED
            .iter()
            .try_for_each(|(target, filters)| self.tests(target, filters, Some(emulator), "test result: ok"))
    }

    /// Runs tests of the target `target`, which print `mark`.
    fn tests(&self, target: &str, filters: &[&str], emulator: Option<&Path>, mark: &str) -> Result {
        let process =
            self.cargo(&["test", "--locked"], &["--test", target, "--", "--nocapture"]).args(filters);
        let printed = self.emulated(process.env("TRANSDIFF_TRAINING_STEPS", "3"), emulator).stdout()?;
        print!("{printed}");
        let skipped = printed.contains("SKIPPED");
        if !printed.contains(mark) || (emulator.is_some() && skipped) {
            return Err(format!("{target} did not print {mark:?}, or skipped what it should not").into());
        }
        Ok(())
    }
}
