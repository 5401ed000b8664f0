//! The installed C ABI with the CUDA backend: linked statically and dynamically, with a driver and without.

use std::fs;
use std::path::Path;

use super::Build;
use crate::Result;
use crate::ffi::programs::{self, Program};
use crate::ffi::{symbols, tools};
use crate::process::cargo;

/// Folder of the installation and of the programs.
const FOLDER: &str = "target/cuda-ffi";

/// Installs the library, checks its symbols and that it loads without CUDA, and builds the examples in C and C++ with the
/// shared and with the static library.
pub fn programs(build: &Build) -> Result<Vec<Program>> {
    tools::present()?;
    let folder = std::path::absolute(FOLDER)?;
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    let installed = folder.join("installed");
    let install = cargo(&["xtask", "install", "--cuda", "--profile=dev", "--prefix"]).arg(&installed);
    build.environment(install).run()?;
    let library = installed.join("lib/libtranscdiff.so");
    symbols(&library)?;
    super::loads_without_cuda(&library)?;
    let mut all = Vec::new();
    for shared in [true, false] {
        all.push(programs::c(&folder, &installed, "gcc", shared)?);
        all.push(programs::cpp(&folder, &installed, "g++", shared)?);
    }
    Ok(all)
}

/// Generates an image with every program, with the driver in the folder `emulator` or without a driver. The programs in C++
/// print the device, which has to be `device`.
pub fn run(programs: &[Program], [model, vae]: [&str; 2], emulator: Option<&Path>, device: &str) -> Result {
    for program in programs {
        let out = format!("{FOLDER}/{}.png", program.name);
        let process = program.run_with(emulator).args(&[model, "--codec", vae, "--classes", "1,2"]);
        let (code, stderr) = process.args(&["--steps", "4", "--out", &out]).code_and_stderr()?;
        let is_named = program.name.starts_with("c-") || stderr.contains(&format!("device: {device}"));
        if code != Some(0) || !is_named || !Path::new(&out).exists() {
            return Err(format!("{}, on {device}: exit code {code:?}, {stderr}", program.name).into());
        }
        fs::remove_file(&out)?;
    }
    println!("{} programs generate on {device}", programs.len());
    Ok(())
}
