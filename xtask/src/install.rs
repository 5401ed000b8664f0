//! Installs the C ABI as `make install` would: libraries, headers, and what pkg-config and CMake want to know.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::Result;
use crate::process::cargo;

const PACKAGING: &str = "transdiff-ffi/packaging";
const HEADERS: [&str; 2] = ["transcdiff.h", "transcdiff.hpp"];

/// Where the C ABI goes, and how it is built.
#[derive(Args)]
pub struct Options {
    /// Folder that lib/ and include/ are in
    #[arg(long, value_name = "DIR", default_value = "/usr/local", value_parser = absolute)]
    pub prefix: PathBuf,
    /// Folder that stands for the root, for building packages
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub destdir: Option<PathBuf>,
    /// Cargo's profile
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    pub profile: Profile,
    /// With the CUDA backend, which takes nvcc; the libraries still load on machines without a driver
    #[arg(long)]
    pub cuda: bool,
}

/// Cargo's profiles that are worth installing.
#[derive(Clone, Copy, ValueEnum)]
pub enum Profile {
    Release,
    Dev,
}

impl Profile {
    /// The name that Cargo has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "dev",
        }
    }
}

/// Relative to where the command is given, not to the workspace.
fn absolute(path: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

/// Builds the libraries and installs them; the folder that stands for the prefix.
pub fn run(options: &Options) -> Result<PathBuf> {
    if !cfg!(any(target_os = "linux", target_os = "freebsd")) {
        return Err("only systems with ELF libraries, Linux and FreeBSD, are known to it".into());
    }
    let version = version()?;
    let built = build(options)?;
    let root = match &options.destdir {
        Some(destdir) => destdir.join(options.prefix.strip_prefix("/")?),
        None => options.prefix.clone(),
    };
    let (lib, include) = (root.join("lib"), root.join("include"));
    for folder in [&lib.join("pkgconfig"), &lib.join("cmake/transcdiff"), &include] {
        fs::create_dir_all(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    libraries(&built, &version, &lib)?;
    for header in HEADERS {
        copy(&Path::new("include").join(header), &include.join(header))?;
    }
    let fill = |template: &str| fill(template, &version, &built.system_libraries);
    write(&lib.join("pkgconfig/transcdiff.pc"), &fill("transcdiff.pc.in")?)?;
    for name in ["transcdiffConfig.cmake", "transcdiffConfigVersion.cmake"] {
        write(&lib.join("cmake/transcdiff").join(name), &fill(&format!("{name}.in"))?)?;
    }
    println!("transcdiff {version} is installed in {}", root.display());
    Ok(root)
}

/// The shared library under its version, with the links that the loader and the linker look for, and the static one.
fn libraries(built: &Built, version: &str, lib: &Path) -> Result {
    let name = format!("libtranscdiff.so.{version}");
    copy(&built.shared, &lib.join(&name))?;
    for link in [format!("libtranscdiff.so.{}", major(version)), "libtranscdiff.so".into()] {
        let link = lib.join(link);
        remove(&link)?;
        symlink(&name, &link).map_err(|e| format!("{}: {e}", link.display()))?;
    }
    copy(&built.fixed, &lib.join("libtranscdiff.a"))
}

/// What Cargo made.
struct Built {
    shared: PathBuf,
    fixed: PathBuf,
    /// Flags of the system's libraries that the static library needs.
    system_libraries: Vec<String>,
}

fn build(options: &Options) -> Result<Built> {
    let command = ["rustc", "--locked", "--lib", "--package", "transdiff-ffi", "--message-format", "json"];
    let features: &[&str] = if options.cuda { &["--features=cuda"] } else { &[] };
    let (printed, success) = cargo(&command)
        .args(features)
        .args(&["--profile", options.profile.name(), "--", "--print", "native-static-libs"])
        .stdout_even_if_failed()?;
    let messages: Vec<Value> = printed.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let note = |message: &Value| system_libraries(message.pointer("/message/message")?.as_str()?);
    for message in
        messages.iter().filter(|m| m.pointer("/message/level").is_some_and(|level| level != "note"))
    {
        eprint!("{}", message.pointer("/message/rendered").and_then(Value::as_str).unwrap_or(""));
    }
    success?;
    let files: Vec<PathBuf> = messages.iter().flat_map(artifacts).collect();
    let find = |name: &str| {
        let found = files.iter().find(|file| file.ends_with(name)).cloned();
        found.ok_or_else(|| format!("cargo made no {name}"))
    };
    let system_libraries = messages.iter().find_map(note).ok_or("rustc did not tell native-static-libs")?;
    Ok(Built { shared: find("libtranscdiff.so")?, fixed: find("libtranscdiff.a")?, system_libraries })
}

/// The flags in rustc's note of what a static library needs, but for the driver: bindings ask for it, forwarders that are
/// in the library stand for it, and it is looked for at run time.
fn system_libraries(note: &str) -> Option<Vec<String>> {
    let flags = note.strip_prefix("native-static-libs: ")?.split_whitespace();
    Some(flags.filter(|&flag| flag != "-lcuda").map(str::to_owned).collect())
}

/// The files that a message of Cargo says it made.
fn artifacts(message: &Value) -> Vec<PathBuf> {
    let files = message.get("filenames").and_then(Value::as_array);
    files.into_iter().flatten().filter_map(Value::as_str).map(PathBuf::from).collect()
}

/// The version of the workspace.
pub fn version() -> Result<String> {
    let manifest: toml::Value = toml::from_str(&fs::read_to_string("Cargo.toml")?)?;
    let version = manifest.get("workspace").and_then(|w| w.get("package")?.get("version")?.as_str());
    Ok(version.ok_or("Cargo.toml: no workspace.package.version")?.to_owned())
}

fn major(version: &str) -> &str {
    version.split('.').next().unwrap_or(version)
}

/// A template with its @NAMES@ replaced.
fn fill(template: &str, version: &str, system_libraries: &[String]) -> Result<String> {
    let path = Path::new(PACKAGING).join(template);
    let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let names: Vec<&str> = system_libraries.iter().map(|l| l.strip_prefix("-l").unwrap_or(l)).collect();
    Ok(text
        .replace("@VERSION@", version)
        .replace("@MAJOR@", major(version))
        .replace("@LINK_FLAGS@", &system_libraries.join(" "))
        .replace("@LINK_LIST@", &names.join(";"))
        .replace("@POINTER_BYTES@", &size_of::<usize>().to_string()))
}

/// Removes a file first: programs that run with the old one keep it.
fn copy(from: &Path, to: &Path) -> Result {
    remove(to)?;
    fs::copy(from, to).map_err(|e| format!("{} to {}: {e}", from.display(), to.display()))?;
    Ok(())
}

fn write(path: &Path, text: &str) -> Result {
    remove(path)?;
    Ok(fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?)
}

fn remove(path: &Path) -> Result {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(format!("{}: {e}", path.display()).into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_linked_to_a_driver() {
        let flags = system_libraries("native-static-libs: -lcuda -lgcc_s -lutil -lcudart").unwrap();
        assert_eq!(flags, ["-lgcc_s", "-lutil", "-lcudart"]);
        assert_eq!(system_libraries("unused variable"), None);
    }
}
