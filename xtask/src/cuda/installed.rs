//! The C ABI with the CUDA backend as programs meet it: installed, linked to in either way, with a driver and without.

use std::fs;
use std::path::Path;

use super::Build;
use crate::Result;
use crate::ffi::programs::{self, Program};
use crate::ffi::{symbols, tools};
use crate::process::cargo;

/// Where it is installed, and where programs are built.
const FOLDER: &str = "target/cuda-ffi";

/// Installs it, checks that it exports what is promised and loads without CUDA, and builds the examples in C and C++
/// with the shared library and with the static one.
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

/// Generates with every program, with the driver in the folder `emulator` or without any. Those in C++ say on which device
/// they do: `device`.
pub fn run(programs: &[Program], [model, vae]: [&str; 2], emulator: Option<&Path>, device: &str) -> Result {
    for program in programs {
        let out = format!("{FOLDER}/{}.png", program.name);
        let process = program.run_with(emulator).args(&[model, "--vae", vae, "--classes", "1,2"]);
        let (code, said) = process.args(&["--steps", "4", "--out", &out]).code_and_stderr()?;
        let is_named = program.name.starts_with("c-") || said.contains(&format!("on {device}"));
        if code != Some(0) || !is_named || !Path::new(&out).exists() {
            return Err(format!("{}, on {device}: exit code {code:?}, {said}", program.name).into());
        }
        fs::remove_file(&out)?;
    }
    println!("{} programs generate on {device}", programs.len());
    Ok(())
}
