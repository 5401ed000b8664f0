//! Installation of the C ABI, as `make install` would do it: libraries, headers, pkg-config and CMake files.

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

/// Options of the installation.
#[derive(Args)]
pub struct Options {
    /// Folder for lib/ and include/
    #[arg(long, value_name = "DIR", default_value = "/usr/local", value_parser = absolute)]
    pub prefix: PathBuf,
    /// Root folder for staged installs, as DESTDIR in make
    #[arg(long, value_name = "DIR", value_parser = absolute)]
    pub destdir: Option<PathBuf>,
    /// Cargo profile
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    pub profile: Profile,
    /// Build with the CUDA backend, which requires nvcc; the libraries still load on machines without a driver
    #[arg(long)]
    pub cuda: bool,
}

/// Cargo profile of a build.
#[derive(Clone, Copy, ValueEnum)]
pub enum Profile {
    Release,
    Dev,
}

impl Profile {
    /// Name of the profile in Cargo.
    pub fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "dev",
        }
    }
}

/// Absolute path, relative to the current folder of the command rather than the workspace.
fn absolute(path: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(path)
}

/// Builds and installs the libraries; returns the folder of the prefix, below `destdir` if that is set.
pub fn run(options: &Options) -> Result<PathBuf> {
    if !cfg!(any(target_os = "linux", target_os = "freebsd")) {
        return Err("installation is supported on Linux and FreeBSD only".into());
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

/// Installs the shared library under its version, with links for the loader and the linker, and the static library.
fn libraries(built: &Built, version: &str, lib: &Path) -> Result {
    let name = format!("libtranscdiff.so.{version}");
    copy(&built.shared_library, &lib.join(&name))?;
    for link in [format!("libtranscdiff.so.{}", major(version)), "libtranscdiff.so".into()] {
        let link = lib.join(link);
        remove(&link)?;
        symlink(&name, &link).map_err(|e| format!("{}: {e}", link.display()))?;
    }
    copy(&built.static_library, &lib.join("libtranscdiff.a"))
}

/// Build artifacts.
struct Built {
    shared_library: PathBuf,
    static_library: PathBuf,
    /// Linker flags of the system libraries that the static library needs.
    system_libraries: Vec<String>,
}

fn build(options: &Options) -> Result<Built> {
    let command = ["rustc", "--locked", "--lib", "--package", "transdiff-ffi", "--message-format", "json"];
    let features: &[&str] = if options.cuda { &["--features=cuda"] } else { &[] };
    let (printed, success) = cargo(&command)
        .args(features)
        .args(&["--profile", options.profile.name(), "--", "--print", "native-static-libs"])
        .stdout_and_result()?;
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
        found.ok_or_else(|| format!("cargo did not build {name}"))
    };
    let system_libraries = messages.iter().find_map(note).ok_or("rustc did not print native-static-libs")?;
    let (shared_library, static_library) = (find("libtranscdiff.so")?, find("libtranscdiff.a")?);
    Ok(Built { shared_library, static_library, system_libraries })
}

/// Linker flags in rustc's note about the static library, without the CUDA driver: the bindings name it, but the library
/// contains forwarders for it and loads it at run time.
fn system_libraries(note: &str) -> Option<Vec<String>> {
    let flags = note.strip_prefix("native-static-libs: ")?.split_whitespace();
    Some(flags.filter(|&flag| flag != "-lcuda").map(str::to_owned).collect())
}

/// Files named by a message of Cargo.
fn artifacts(message: &Value) -> Vec<PathBuf> {
    let files = message.get("filenames").and_then(Value::as_array);
    files.into_iter().flatten().filter_map(Value::as_str).map(PathBuf::from).collect()
}

/// Version of the workspace.
pub fn version() -> Result<String> {
    let manifest: toml::Value = toml::from_str(&fs::read_to_string("Cargo.toml")?)?;
    let version = manifest.get("workspace").and_then(|w| w.get("package")?.get("version")?.as_str());
    Ok(version.ok_or("Cargo.toml: no workspace.package.version")?.to_owned())
}

fn major(version: &str) -> &str {
    version.split('.').next().unwrap_or(version)
}

/// Reads a template and replaces its @NAMES@.
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

/// Copies a file after removing the old one, which running programs keep using.
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
    fn driver_is_not_among_the_linker_flags() {
        let flags = system_libraries("native-static-libs: -lcuda -lgcc_s -lutil -lcudart").unwrap();
        assert_eq!(flags, ["-lgcc_s", "-lutil", "-lcudart"]);
        assert_eq!(system_libraries("unused variable"), None);
    }
}
