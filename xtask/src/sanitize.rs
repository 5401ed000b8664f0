//! Stress test of the C ABI, `tests/ffi/stress.cpp`, without and with the compiler's sanitizers, with which the test of the
//! C++ header and the C example run as well; and the CPU kernels under AddressSanitizer.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::Result;
use crate::process::{Process, cargo};

/// Build folder.
const ROOT: &str = "target/sanitize";

/// Options of the sanitizers
#[derive(Args)]
pub struct Options {
    /// Build to skip: plain, address or thread, which requires the toolchain component rust-src
    #[arg(long, value_name = "BUILD", value_parser = ["plain", "address", "thread"])]
    without: Vec<String>,
}

/// Build of the library and the programs, and the length of the run.
struct Mode {
    name: &'static str,
    /// Sanitizer of both the library and the programs.
    sanitizer: Option<Sanitizer>,
    /// Number of rounds per thread, and of the loop.
    rounds: [&'static str; 2],
}

struct Sanitizer {
    flag: &'static str,
    /// Runtime library of the Rust toolchain, since that of the C++ compiler may have a different version.
    runtime: &'static str,
    /// Builds the standard library as well: ThreadSanitizer reports false races for uninstrumented locks.
    builds_std: bool,
}

const MODES: [Mode; 3] = [
    // Memory is measured in this mode only, because sanitizers delay freeing.
    Mode { name: "plain", sanitizer: None, rounds: ["100", "2600"] },
    Mode {
        name: "address",
        sanitizer: Some(Sanitizer { flag: "address", runtime: "asan", builds_std: false }),
        rounds: ["30", "100"],
    },
    Mode {
        name: "thread",
        sanitizer: Some(Sanitizer { flag: "thread", runtime: "tsan", builds_std: true }),
        rounds: ["30", "50"],
    },
];

/// Builds and runs every mode. Requires C and C++ compilers (`CC` and `CXX`, by default `cc` and `c++`), libpng, and for the
/// last mode the toolchain component rust-src.
pub fn run(options: &Options) -> Result {
    std::fs::create_dir_all(ROOT)?;
    let tiny = [format!("{ROOT}/model.safetensors"), format!("{ROOT}/vae.safetensors")];
    let [model, vae] = tiny.each_ref().map(String::as_str);
    // Of all packages, as the tests build it: with `--package`, dependencies have fewer features and are compiled again.
    cargo(&["run", "--locked", "--example=tiny_model", "--", model, vae]).run()?;
    let chosen = MODES.iter().filter(|mode| options.without.iter().all(|left_out| left_out != mode.name));
    chosen.into_iter().try_for_each(|mode| mode.run(model, vae))
}

impl Mode {
    fn run(&self, model: &str, vae: &str) -> Result {
        println!("stress, {}", self.name);
        let library = self.library()?;
        let stress = self.program("tests/ffi/stress.cpp", &library)?;
        for (what, rounds) in ["threads", "loop"].into_iter().zip(self.rounds) {
            Process::new(&stress).args(&[what, model, vae, rounds]).run()?;
        }
        if self.sanitizer.is_none() {
            return Ok(()); // `cargo xtask ffi` runs the other programs without a sanitizer.
        }
        let generate = Process::new(self.program("examples/c/generate.c", &library)?);
        let arguments = ["--classes", "0,1", "--steps", "2", "--out", &format!("{ROOT}/generated.png")];
        generate.args(&[model, "--codec", vae]).args(&arguments).run()?;
        self.wrapper(&library)?;
        if self.name == "address" { self.kernels() } else { Ok(()) }
    }

    /// Tests the CPU kernels of all instruction sets that this processor has, on tensors that end where their memory does.
    fn kernels(&self) -> Result {
        println!("kernels, {}", self.name);
        self.cargo("test")?.args(&["--locked", "--package=transdiff-cpu", "--test=bounds"]).run()
    }

    /// Builds and runs the test of the C++ header with its small model.
    fn wrapper(&self, library: &Path) -> Result {
        println!("wrapper, {}", self.name);
        let small = format!("{ROOT}/small");
        cargo(&["run", "--locked", "--example=linking", "--", "small", &small]).run()?;
        let program = self.program("tests/linking/wrapper.cpp", library)?;
        let files = ["model", "vae", "described", "student"].map(|of| format!("{small}/{of}.safetensors"));
        Process::new(&program).args(&files.each_ref().map(String::as_str)).run()
    }

    /// Builds the static library.
    fn library(&self) -> Result<PathBuf> {
        self.cargo("build")?.args(&["--locked", "--package=transdiff-ffi", "--lib"]).run()?;
        Ok(match &self.sanitizer {
            Some(_) => self.folder().join(host()?).join("debug/libtranscdiff.a"),
            None => "target/debug/libtranscdiff.a".into(),
        })
    }

    /// Folder of what the sanitizer instruments.
    fn folder(&self) -> PathBuf {
        Path::new(ROOT).join(self.name)
    }

    /// A command of cargo that instruments what it builds.
    fn cargo(&self, command: &str) -> Result<Process> {
        let build = cargo(&[command]);
        let Some(sanitizer) = &self.sanitizer else { return Ok(build) };
        let std: &[&str] = if sanitizer.builds_std { &["-Zbuild-std=std,panic_unwind"] } else { &[] };
        // With an explicit target, build scripts are not instrumented. The stable compiler contains the sanitizers, but
        // accepts their flag only with RUSTC_BOOTSTRAP.
        let build = build.args(&[&format!("--target={}", host()?)]).args(std).env("RUSTC_BOOTSTRAP", "1");
        // Compile time dominates here.
        let build = build.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1").env("CARGO_PROFILE_DEV_DEBUG", "none");
        let flags = format!("-Zsanitizer={}", sanitizer.flag);
        Ok(build.env("RUSTFLAGS", &flags).env("CARGO_TARGET_DIR", self.folder()))
    }

    /// Compiles a program and links it with the library.
    fn program(&self, source: &str, library: &Path) -> Result<PathBuf> {
        let (variable, compiler, standard) = match source.ends_with(".c") {
            true => ("CC", "cc", "-std=c99"),
            false => ("CXX", "c++", "-std=c++17"),
        };
        let compiler = std::env::var(variable).unwrap_or_else(|_| compiler.into());
        let stem = Path::new(source).file_stem().unwrap_or_default().to_string_lossy();
        let program = format!("{ROOT}/{stem}-{}", self.name);
        let object = format!("{program}.o");
        let sanitize = self.sanitizer.as_ref().map(|s| format!("-fsanitize={}", s.flag));
        let flags = [standard, "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-Iinclude"];
        Process::new(&compiler)
            .args(&flags)
            .args(&sanitize.iter().map(String::as_str).collect::<Vec<_>>())
            .args(&["-c", source, "-o", &object])
            .run()?;
        let library = library.to_string_lossy();
        let mut link = Process::new(&compiler).args(&[&object, &library]);
        if let Some(sanitizer) = &self.sanitizer {
            link = link.args(&["-Wl,--whole-archive", &sanitizer.runtime()?, "-Wl,--no-whole-archive"]);
        }
        link.args(&["-lpng", "-lpthread", "-ldl", "-lm", "-o", &program]).run()?;
        Ok(program.into())
    }
}

/// The target of this machine.
fn host() -> Result<String> {
    Ok(Process::new("rustc").args(&["--print=host-tuple"]).stdout()?.trim().to_owned())
}

impl Sanitizer {
    /// Path of the runtime library.
    fn runtime(&self) -> Result<String> {
        let folder = Process::new("rustc").args(&["--print=target-libdir"]).stdout()?;
        let suffix = format!("_rt.{}.a", self.runtime);
        let entries = std::fs::read_dir(folder.trim())?.collect::<std::io::Result<Vec<_>>>()?;
        let found = entries.iter().map(|e| e.path()).find(|p| p.to_string_lossy().ends_with(&suffix));
        let found = found.ok_or_else(|| format!("no *{suffix} in {}", folder.trim()))?;
        Ok(found.to_string_lossy().into_owned())
    }
}
