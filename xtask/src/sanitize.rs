//! The C ABI under threads and over time: `tests/ffi/stress.cpp`, plain and under the compiler's sanitizers; under these
//! the C++ header's test and the example in C as well.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::Result;
use crate::process::{Process, cargo};

/// Where everything is built.
const ROOT: &str = "target/sanitize";

/// What is run
#[derive(Args)]
pub struct Options {
    /// A build to leave out: plain, address or thread (which needs the toolchain's component rust-src)
    #[arg(long, value_name = "BUILD", value_parser = ["plain", "address", "thread"])]
    without: Vec<String>,
}

/// A way of building the library and the program, and what the program then does.
struct Mode {
    name: &'static str,
    /// Of the library and of the program alike.
    sanitizer: Option<Sanitizer>,
    /// Rounds of each of the eight threads, and of the loop.
    rounds: [&'static str; 2],
}

struct Sanitizer {
    flag: &'static str,
    /// The runtime library that comes with the Rust toolchain. The C++ compiler's own may be of another version.
    runtime: &'static str,
    /// Whether the standard library has to be built too. Without its locks ThreadSanitizer sees races that are none.
    builds_std: bool,
}

const MODES: [Mode; 3] = [
    // The loop's memory is measured here; sanitizers keep what is freed for a while.
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

/// Builds and runs every mode. Needs compilers of C and C++ (`CC` and `CXX`, else `cc` and `c++`), libpng, and for the last
/// mode the toolchain's component rust-src.
pub fn run(options: &Options) -> Result {
    std::fs::create_dir_all(ROOT)?;
    let tiny = [format!("{ROOT}/model.safetensors"), format!("{ROOT}/vae.safetensors")];
    let [model, vae] = tiny.each_ref().map(String::as_str);
    cargo(&["run", "--locked", "--package=transdiff-ffi", "--example=tiny_model", "--", model, vae]).run()?;
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
            return Ok(()); // `cargo xtask ffi` runs the others without one.
        }
        let generate = Process::new(self.program("examples/c/generate.c", &library)?);
        let asked = ["--classes", "0,1", "--steps", "2", "--out", &format!("{ROOT}/generated.png")];
        generate.args(&[model, "--vae", vae]).args(&asked).run()?;
        self.wrapper(&library)
    }

    /// Builds and runs the C++ header's test, with the model that it is written for.
    fn wrapper(&self, library: &Path) -> Result {
        println!("wrapper, {}", self.name);
        let small = format!("{ROOT}/small");
        cargo(&["run", "--locked", "--example=linking", "--", "small", &small]).run()?;
        let program = self.program("tests/linking/wrapper.cpp", library)?;
        let files = ["model", "vae"].map(|of| format!("{small}/{of}.safetensors"));
        Process::new(&program).args(&files.each_ref().map(String::as_str)).run()
    }

    /// Builds the static library.
    fn library(&self) -> Result<PathBuf> {
        let build = cargo(&["build", "--locked", "--package=transdiff-ffi", "--lib"]);
        let Some(sanitizer) = &self.sanitizer else {
            build.run()?;
            return Ok("target/debug/libtranscdiff.a".into());
        };
        let host = Process::new("rustc").args(&["--print=host-tuple"]).stdout()?;
        let (folder, target) = (format!("{ROOT}/{}", self.name), format!("--target={}", host.trim()));
        let std: &[&str] = if sanitizer.builds_std { &["-Zbuild-std=std,panic_unwind"] } else { &[] };
        // With a target named, build scripts are not instrumented. Sanitizers are part of the stable compiler, their
        // flag is not.
        let build = build.args(&[&target]).args(std).env("RUSTC_BOOTSTRAP", "1");
        // Compiling takes longer than running here.
        let build = build.env("CARGO_PROFILE_DEV_OPT_LEVEL", "1").env("CARGO_PROFILE_DEV_DEBUG", "none");
        let flags = format!("-Zsanitizer={}", sanitizer.flag);
        build.env("RUSTFLAGS", &flags).env("CARGO_TARGET_DIR", &folder).run()?;
        Ok(Path::new(&folder).join(host.trim()).join("debug/libtranscdiff.a"))
    }

    /// Compiles the program and links it with the library.
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

impl Sanitizer {
    /// The path of the runtime library.
    fn runtime(&self) -> Result<String> {
        let folder = Process::new("rustc").args(&["--print=target-libdir"]).stdout()?;
        let suffix = format!("_rt.{}.a", self.runtime);
        let entries = std::fs::read_dir(folder.trim())?.collect::<std::io::Result<Vec<_>>>()?;
        let found = entries.iter().map(|e| e.path()).find(|p| p.to_string_lossy().ends_with(&suffix));
        let found = found.ok_or_else(|| format!("no *{suffix} in {}", folder.trim()))?;
        Ok(found.to_string_lossy().into_owned())
    }
}
