//! What a machine with a GPU, and without Rust, needs to test and measure the CUDA backend: one folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;

use crate::Result;
use crate::process::{Process, cargo};

/// The tests that run on a GPU if there is one: packages, and which of theirs. A package has a folder of its own, for two
/// of them may call a test alike. (Unit tests, transdiff-cuda's included, touch no device.)
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

/// What is copied as it is.
const FILES: [&str; 4] =
    ["benches/gpu/run.sh", "benches/gpu/table.py", "benches/gpu/ceilings.py", "benches/peer/peer_pytorch.py"];
/// The recorded numbers that the golden tests compare with.
const GOLDEN: &str = "tests/golden";

/// Libraries that every Linux with glibc has.
const LIBRARIES: [&str; 4] = ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"];

/// The newest glibc that programs may ask for: that of 2021.
const GLIBC: (u32, u32) = (2, 34);

/// So that it is quickly sent.
const LIMIT: u64 = 64 << 20;

#[derive(Args)]
pub struct Options {
    /// The folder, which is replaced
    #[arg(long, value_name = "DIR", default_value = "target/gpu")]
    out: PathBuf,
    /// What the kernels are compiled for; by default Hopper, and what other drivers make their code from, to stay small
    #[arg(long, value_name = "LIST", default_value = "sm_90a,compute_80")]
    architectures: String,
}

/// A line of what cargo tells of a build.
#[derive(Deserialize)]
struct Message {
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Builds the programs, with nvcc, and collects the folder; `run.sh` in it does the rest.
pub fn run(options: &Options) -> Result {
    let out = &options.out;
    if out.exists() && !out.join("run.sh").exists() {
        return Err(format!("{} is there and is no such folder: name another", out.display()).into());
    }
    let programs = options.programs()?;
    if out.exists() {
        fs::remove_dir_all(out)?;
    }
    fs::create_dir_all(out.join("golden"))?;
    let copied = programs.iter().map(|(name, built)| strip(built, &out.join(name)));
    let mut size = copied.sum::<Result<u64>>()?;
    for file in FILES.iter().map(PathBuf::from) {
        size += fs::copy(&file, out.join(file.file_name().unwrap_or_default()))?;
    }
    for entry in fs::read_dir(GOLDEN)? {
        let file = entry?.path();
        if file.extension().is_some_and(|e| e == "safetensors") {
            size += fs::copy(&file, out.join("golden").join(file.file_name().unwrap_or_default()))?;
        }
    }
    println!("{}: {:.1} MiB", out.display(), size as f64 / f64::from(1 << 20));
    if size > LIMIT {
        return Err(format!("{}: at most {} MiB", out.display(), LIMIT >> 20).into());
    }
    Ok(())
}

impl Options {
    /// What is built, under its name in the folder: the tests as `cargo test` builds them, optimised and with their
    /// checks, and the benchmark as `cargo bench` does.
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

    /// Names and paths of the programs that a command of cargo builds.
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

/// The programs by name. Of two with one name a copy would be lost.
fn distinct(programs: Vec<(String, PathBuf)>) -> Result<BTreeMap<String, PathBuf>> {
    let mut by_name = BTreeMap::new();
    for (name, path) in programs {
        if let Some(other) = by_name.insert(name.clone(), path.clone()) {
            return Err(format!("{name} is {} and {}", other.display(), path.display()).into());
        }
    }
    Ok(by_name)
}

/// Copies a program without what debuggers read, and checks what it needs to start; its size.
fn strip(built: &Path, to: &Path) -> Result<u64> {
    to.parent().map_or(Ok(()), fs::create_dir_all)?;
    Process::new("strip").arg("-o").arg(to).arg(built).run()?;
    let needs = Needs::of(to)?;
    println!("{}: {needs}", to.display());
    needs.check(to)?;
    Ok(fs::metadata(to)?.len())
}

/// What the dynamic linker has to find.
#[derive(Debug, Default, PartialEq)]
struct Needs {
    libraries: BTreeSet<String>,
    /// The newest version of glibc that a symbol is of, and these symbols.
    glibc: (u32, u32),
    newest: BTreeSet<String>,
}

impl Needs {
    fn of(program: &Path) -> Result<Self> {
        let read = Process::new("readelf").args(&["--wide", "--dynamic", "--dyn-syms"]).arg(program);
        Ok(Self::parse(&read.stdout()?))
    }

    /// Of what `readelf --dynamic --dyn-syms` prints.
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
        let strange: Vec<_> = self.libraries.iter().filter(|l| !LIBRARIES.contains(&l.as_str())).collect();
        if !strange.is_empty() {
            return Err(format!("{} needs {strange:?}, which a machine may lack", program.display()).into());
        }
        if self.glibc > GLIBC {
            let (major, minor) = GLIBC;
            return Err(format!("{}: built for a glibc after {major}.{minor}", program.display()).into());
        }
        Ok(())
    }
}

impl fmt::Display for Needs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
        let (major, minor) = self.glibc;
        let newest = list(&self.newest);
        write!(f, "needs {}, of glibc {major}.{minor} {newest}", list(&self.libraries))
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
    fn needs_are_read() {
        let needs = Needs::parse(PRINTED);
        assert_eq!(needs.to_string(), "needs libc.so.6 libm.so.6, of glibc 2.33 fstat64 stat64");
        let program = Path::new("program");
        needs.check(program).unwrap();
        let driver = PRINTED.replace("libm.so.6", "libcuda.so.1");
        assert!(Needs::parse(&driver).check(program).unwrap_err().to_string().contains("libcuda.so.1"));
        let new = PRINTED.replace("GLIBC_2.14", "GLIBC_2.38");
        assert!(Needs::parse(&new).check(program).unwrap_err().to_string().contains("after 2.34"));
    }

    #[test]
    fn no_program_takes_the_place_of_another() {
        let named = |names: [&str; 2]| distinct(names.map(|name| (name.into(), "built".into())).into());
        assert_eq!(named(["tests/a/cuda", "tests/b/cuda"]).unwrap().len(), 2);
        assert!(named(["tests/a/cuda"; 2]).unwrap_err().to_string().starts_with("tests/a/cuda is built and"));
    }
}
