//! Required tools besides Rust.

use std::process::{Command, Stdio};

use crate::Result;
use crate::process::Process;

/// Required programs and their Debian packages.
const PROGRAMS: [(&str, &str); 9] = [
    ("gcc", "gcc"),
    ("g++", "g++"),
    ("clang", "clang"),
    ("clang++", "clang"),
    ("cmake", "cmake"),
    ("make", "make"),
    ("pkg-config", "pkg-config"),
    ("nm", "binutils"),
    ("python3", "python3"),
];

/// Checks that all tools are installed; the error names the missing ones and their packages.
pub fn present() -> Result {
    let runs = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let mut missing: Vec<(&str, &str)> =
        PROGRAMS.into_iter().filter(|(program, _)| !runs(program, &["--version"])).collect();
    if runs("pkg-config", &["--version"]) && !runs("pkg-config", &["--exists", "libpng"]) {
        missing.push(("libpng", "libpng-dev"));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let (names, mut packages): (Vec<&str>, Vec<&str>) = missing.into_iter().unzip();
    packages.dedup();
    Err(format!("missing: {}; on Debian, apt-get install {}", names.join(", "), packages.join(" ")).into())
}

/// Output of `pkg-config`, split into words, for the library in `installed` and for libpng.
pub fn pkg_config(installed: &std::path::Path, args: &[&str]) -> Result<Vec<String>> {
    let path = installed.join("lib/pkgconfig");
    let output = Process::new("pkg-config").args(args).env("PKG_CONFIG_PATH", path).stdout()?;
    Ok(output.split_whitespace().map(str::to_owned).collect())
}
