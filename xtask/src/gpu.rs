//! Bundle of tests and benchmarks of the CUDA backend, for a machine with a GPU and without Rust.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use crate::Result;
use crate::process::{Process, cargo};

/// Tests that use a GPU, by package. Each package has its own folder, because test names may repeat. (Unit tests use no
/// device, including those of transdiff-cuda.)
const TESTS: [(&str, &[&str]); 2] = [
    (
        "transdiff",
        &[
            "--test=backend_equivalence",
            "--test=cuda",
            "--test=golden",
            "--test=golden_sampler",
            "--test=golden_vae",
        ],
    ),
    ("transdiff-ffi", &["--test=cuda"]),
];

/// Files that are copied unchanged.
const FILES: &[&str] = &[
    "benches/gpu/run.sh",
    "benches/gpu/table.py",
    "benches/gpu/kernels.py",
    "benches/gpu/ceilings.py",
    "benches/gpu/planted_race.cu",
    "benches/peer/peer_pytorch.py",
];
/// The golden values of the tests.
const GOLDEN: &[&str] = &[
    "tests/golden/onestep_256.safetensors",
    "tests/golden/onestep_512.safetensors",
    "tests/golden/mrar_256.safetensors",
    "tests/golden/sampler.safetensors",
    "tests/golden/solvers.safetensors",
    "tests/golden/vae.safetensors",
];
/// Archive of the programs, which `run.sh` unpacks.
const PROGRAMS: &str = "programs.tar.xz";

/// Shared libraries that every Linux system with glibc has.
const LIBRARIES: [&str; 4] = ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"];

/// Newest version of glibc that programs may require; it is of 2021.
const GLIBC: (u32, u32) = (2, 34);

/// Maximum size of the bundle in bytes, so that it is quick to transfer.
const LIMIT: u64 = 40 << 20;

#[derive(Args)]
pub struct Options {
    /// Output folder; replaced if it exists
    #[arg(long, value_name = "DIR", default_value = "target/gpu")]
    out: PathBuf,
    /// Architectures of the kernels; by default Hopper alone, to keep the bundle small
    #[arg(long, value_name = "LIST", default_value = "sm_90a")]
    architectures: String,
}

/// A JSON message of cargo.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Builds the programs and assembles the folder, whose `run.sh` runs them.
pub fn run(options: &Options) -> Result {
    let out = &options.out;
    if out.exists() && !out.join("run.sh").exists() {
        return Err(format!("{} exists and is not a bundle: choose another folder", out.display()).into());
    }
    let programs = options.programs()?;
    if out.exists() {
        fs::remove_dir_all(out)?;
    }
    fs::create_dir_all(out.join("golden"))?;
    programs.iter().try_for_each(|(name, built)| strip(built, &out.join(name)))?;
    let mut size = pack(out)?;
    for (files, to) in [(FILES, out.clone()), (GOLDEN, out.join("golden"))] {
        for file in files.iter().map(Path::new) {
            size += fs::copy(file, to.join(file.file_name().unwrap_or_default()))?;
        }
    }
    println!("{}: {:.1} MiB", out.display(), size as f64 / f64::from(1 << 20));
    if size > LIMIT {
        return Err(format!("{}: expected at most {} MiB", out.display(), LIMIT >> 20).into());
    }
    Ok(())
}

impl Options {
    /// Builds the programs and returns them by name in the bundle: the tests as `cargo test` builds them, optimised and with
    /// debug assertions, and the benchmark as `cargo bench` does.
    fn programs(&self) -> Result<BTreeMap<String, PathBuf>> {
        let mut programs = Vec::new();
        for (package, which) in TESTS {
            let test = cargo(&["test", "--features=cuda", "--package", package]);
            let built = self.built(test.args(which))?;
            programs.extend(built.into_iter().map(|(name, path)| (format!("tests/{package}/{name}"), path)));
        }
        programs.extend(self.built(cargo(&["bench", "--features=cuda", "--bench=measure"]))?);
        distinct(programs)
    }

    /// Names and paths of the programs that a cargo command builds.
    fn built(&self, command: Process) -> Result<Vec<(String, PathBuf)>> {
        let command = command.env("TRANSDIFF_CUDA_ARCHITECTURES", &self.architectures);
        let command = command.args(&["--no-run", "--locked", "--message-format=json-render-diagnostics"]);
        let mut programs = Vec::new();
        for line in command.stdout()?.lines() {
            let message: Message = serde_json::from_str(line)?;
            if let (Some(target), Some(executable)) = (message.target, message.executable) {
                programs.push((target.name, executable));
            }
        }
        Ok(programs)
    }
}

/// The programs by name; fails if a name repeats, since one program would overwrite the other.
fn distinct(programs: Vec<(String, PathBuf)>) -> Result<BTreeMap<String, PathBuf>> {
    let mut by_name = BTreeMap::new();
    for (name, path) in programs {
        if let Some(other) = by_name.insert(name.clone(), path.clone()) {
            return Err(format!("{name} is both {} and {}", other.display(), path.display()).into());
        }
    }
    Ok(by_name)
}

/// Moves the programs in `out` to an archive; returns its size.
fn pack(out: &Path) -> Result<u64> {
    let archive = out.join(PROGRAMS);
    let tar = Process::new("tar").arg("-C").arg(out).arg("-cJf").arg(&archive);
    tar.args(&["measure", "tests"]).run()?;
    fs::remove_file(out.join("measure"))?;
    fs::remove_dir_all(out.join("tests"))?;
    Ok(fs::metadata(archive)?.len())
}

/// Copies a program without debug information and checks its dependencies.
fn strip(built: &Path, to: &Path) -> Result {
    to.parent().map_or(Ok(()), fs::create_dir_all)?;
    Process::new("strip").arg("-o").arg(to).arg(built).run()?;
    let needs = Needs::of(to)?;
    println!("{}: {needs}", to.display());
    needs.check(to)
}

/// Requirements of a program on the dynamic linker.
#[derive(Debug, Default, PartialEq)]
struct Needs {
    libraries: BTreeSet<String>,
    /// Newest required version of glibc, and the symbols that require it.
    glibc: (u32, u32),
    newest: BTreeSet<String>,
}

impl Needs {
    fn of(program: &Path) -> Result<Self> {
        let read = Process::new("readelf").args(&["--wide", "--dynamic", "--dyn-syms"]).arg(program);
        Ok(Self::parse(&read.stdout()?))
    }

    /// Parses the output of `readelf --dynamic --dyn-syms`.
    fn parse(printed: &str) -> Self {
        let mut needs = Self::default();
        for line in printed.lines() {
            if let Some((_, library)) = line.split_once("Shared library: [") {
                needs.libraries.insert(library.trim_end_matches(']').to_owned());
            }
            let Some((symbol, version)) = line.split_once("@GLIBC_") else { continue };
            let digits = version.split_whitespace().next().unwrap_or_default();
            let mut numbers = digits.split('.').map_while(|n| n.parse().ok());
            let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            if version > needs.glibc {
                needs.glibc = version;
                needs.newest.clear();
            }
            if version == needs.glibc {
                needs.newest.extend(symbol.split_whitespace().last().map(str::to_owned));
            }
        }
        needs
    }

    fn check(&self, program: &Path) -> Result {
        let unexpected: Vec<_> = self.libraries.iter().filter(|l| !LIBRARIES.contains(&l.as_str())).collect();
        if !unexpected.is_empty() {
            return Err(
                format!("{} requires {unexpected:?}, which a machine may lack", program.display()).into()
            );
        }
        if self.glibc > GLIBC {
            let (major, minor) = GLIBC;
            return Err(format!("{}: requires a glibc newer than {major}.{minor}", program.display()).into());
        }
        Ok(())
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
        let (major, minor) = self.glibc;
        let newest = list(&self.newest);
        write!(f, "requires {}, of glibc {major}.{minor} {newest}", list(&self.libraries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "
 0x0000000000000001 (NEEDED)             Shared library: [libm.so.6]
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
     1: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND memcpy@GLIBC_2.14 (2)
     2: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND stat64@GLIBC_2.33 (4)
     3: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND fstat64@GLIBC_2.33 (4)
     4: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND free@GLIBC_2.2.5 (3)
     5: 0000000000000000     0 FUNC    GLOBAL DEFAULT  UND _Unwind_Backtrace@GCC_3.3 (5)";

    #[test]
    fn requirements_are_parsed_and_checked() {
        let needs = Needs::parse(PRINTED);
        assert_eq!(needs.to_string(), "requires libc.so.6 libm.so.6, of glibc 2.33 fstat64 stat64");
        let program = Path::new("program");
        needs.check(program).unwrap();
        let driver = PRINTED.replace("libm.so.6", "libcuda.so.1");
        assert!(Needs::parse(&driver).check(program).unwrap_err().to_string().contains("libcuda.so.1"));
        let new = PRINTED.replace("GLIBC_2.14", "GLIBC_2.38");
        assert!(Needs::parse(&new).check(program).unwrap_err().to_string().contains("newer than 2.34"));
    }

    #[test]
    fn repeated_program_name_is_an_error() {
        let named = |names: [&str; 2]| distinct(names.map(|name| (name.into(), "built".into())).into());
        assert_eq!(named(["tests/a/cuda", "tests/b/cuda"]).unwrap().len(), 2);
        assert!(
            named(["tests/a/cuda"; 2]).unwrap_err().to_string().starts_with("tests/a/cuda is both built and")
        );
    }
}
