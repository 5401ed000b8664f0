//! Example programs in every language, built against the installation as they document. All take the same arguments and
//! generate the same images. New examples are added to [`build`].

use std::fs;
use std::path::{Path, PathBuf};

use super::tools::pkg_config;
use crate::Result;
use crate::install::Profile;
use crate::process::{Process, cargo};

/// Example program.
pub struct Program {
    /// Human-readable name, also used as a file name.
    pub name: String,
    path: PathBuf,
    first: Vec<String>,
    library_path: Option<PathBuf>,
}

impl Program {
    fn new(name: String, path: impl Into<PathBuf>) -> Self {
        Self { name, path: path.into(), first: Vec::new(), library_path: None }
    }

    /// Process of the program, without its arguments.
    pub fn run(&self) -> Process {
        self.run_with(None)
    }

    /// Process of the program, with an additional folder of libraries.
    pub fn run_with(&self, more: Option<&Path>) -> Process {
        let first: Vec<&str> = self.first.iter().map(String::as_str).collect();
        let process = Process::new(&self.path).args(&first);
        let folders: Vec<&Path> = self.library_path.as_deref().into_iter().chain(more).collect();
        match std::env::join_paths(&folders) {
            Ok(path) if !folders.is_empty() => process.env("LD_LIBRARY_PATH", path),
            _ => process,
        }
    }
}

/// Builds every program; the first one is in Rust, without the C ABI.
pub fn build(folder: &Path, installed: &Path, profile: Profile) -> Result<Vec<Program>> {
    let mut programs = vec![rust(profile)?];
    for compiler in ["gcc", "clang"] {
        programs.push(c(folder, installed, compiler, true)?);
        programs.push(c(folder, installed, compiler, false)?);
    }
    for compiler in ["g++", "clang++"] {
        programs.push(cpp(folder, installed, compiler, true)?);
        programs.push(cpp(folder, installed, compiler, false)?);
    }
    programs.push(python(installed)?);
    Ok(programs)
}

/// Builds a Rust example and returns its path.
pub fn rust_example(name: &str, profile: Profile) -> Result<PathBuf> {
    built(&["--example", name], profile)
}

/// Builds the `transdiff` command and returns its path.
pub fn command_line(profile: Profile) -> Result<PathBuf> {
    built(&["--package", "transdiff-cli", "--bin", "transdiff"], profile)
}

/// Builds `target` and returns the path of its executable.
fn built(target: &[&str], profile: Profile) -> Result<PathBuf> {
    let command = ["build", "--quiet", "--locked", "--message-format", "json", "--profile", profile.name()];
    let printed = cargo(&command).args(target).stdout()?;
    let executable = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    };
    Ok(printed
        .lines()
        .find_map(executable)
        .ok_or_else(|| format!("cargo built no executable for {target:?}"))?)
}

fn rust(profile: Profile) -> Result<Program> {
    Ok(Program::new("rust".into(), rust_example("generate", profile)?))
}

fn link_name(shared: bool) -> &'static str {
    if shared { "shared" } else { "static" }
}

/// Builds the C example with the commands of examples/c/README.md.
pub fn c(folder: &Path, installed: &Path, compiler: &str, shared: bool) -> Result<Program> {
    let name = format!("c-{compiler}-{}", link_name(shared));
    let path = folder.join("programs").join(&name);
    fs::create_dir_all(folder.join("programs"))?;
    let flags = match shared {
        true => pkg_config(installed, &["--cflags", "--libs", "transcdiff", "libpng"])?,
        false => [
            pkg_config(installed, &["--cflags", "transcdiff", "libpng"])?,
            pkg_config(installed, &["--variable=static_libs", "transcdiff"])?,
            pkg_config(installed, &["--libs", "libpng"])?,
        ]
        .concat(),
    };
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let command = Process::new(compiler).args(&["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
    command.arg("examples/c/generate.c").arg("-o").arg(&path).args(&flags).args(&["-lm"]).run()?;
    let mut program = Program::new(name, path);
    // Statically linked programs run without it, which shows that they do not need the shared library.
    program.library_path = shared.then(|| installed.join("lib"));
    Ok(program)
}

/// Builds the C++ example with the commands of examples/cpp/CMakeLists.txt.
pub fn cpp(folder: &Path, installed: &Path, compiler: &str, shared: bool) -> Result<Program> {
    let name = format!("cpp-{compiler}-{}", link_name(shared));
    let build = folder.join("cmake").join(&name);
    if build.exists() {
        fs::remove_dir_all(&build)?;
    }
    let define = |name: &str, value: &str| format!("-D{name}={value}");
    let prefix = define("CMAKE_PREFIX_PATH", installed.to_str().ok_or("the folder name is not UTF-8")?);
    let compiler = define("CMAKE_CXX_COMPILER", compiler);
    let link = define("STATIC_TRANSCDIFF", if shared { "OFF" } else { "ON" });
    let warnings = define("CMAKE_CXX_FLAGS", "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror");
    let configure = Process::new("cmake").args(&["-S", "examples/cpp", "-B"]).arg(&build);
    configure.args(&[&prefix, &compiler, &link, &warnings]).stdout()?;
    Process::new("cmake").arg("--build").arg(&build).stdout()?;
    Ok(Program::new(name, build.join("generate")))
}

fn python(installed: &Path) -> Result<Program> {
    let library =
        installed.join("lib/libtranscdiff.so").to_str().ok_or("the folder name is not UTF-8")?.into();
    let first = vec!["examples/python/generate.py".into(), "--library".into(), library];
    Ok(Program { first, ..Program::new("python".into(), "python3") })
}
