//! Test of the event files of training runs with the reader of the Python package `tensorboard`.

use std::path::PathBuf;

use crate::Result;
use crate::process::{Process, cargo};

/// Pinned Python package with the reader.
const PACKAGE: &str = "tensorboard==2.21.0";
/// Folder of the package and its dependencies.
const FOLDER: &str = "target/tensorboard";
/// Seconds and attempts after which pip gives up on a registry that does not answer.
const LIMITS: [&str; 2] = ["--timeout=10", "--retries=1"];

/// Runs the test. Without pip or a registry it is skipped, with a message.
pub fn check() -> Result {
    let package = match package() {
        Ok(package) => package,
        Err(error) => {
            println!("SKIPPED: {PACKAGE} is not installed, and pip cannot install it: {error}");
            return Ok(());
        }
    };
    let test = ["test", "--locked", "--package=transdiff-run", "--test=tensorboard", "--", "--nocapture"];
    let (printed, success) = cargo(&test).env("PYTHONPATH", package).stdout_and_result()?;
    print!("{printed}");
    success?;
    match printed.contains("SKIPPED") {
        true => Err(format!("{PACKAGE} is installed, but cannot be imported").into()),
        false => Ok(()),
    }
}

/// Folder from which Python imports the package, which is installed if it is not there.
fn package() -> Result<PathBuf> {
    let folder = std::path::absolute(FOLDER)?;
    if folder.exists() {
        return Ok(folder);
    }
    // Installed elsewhere first, so that a folder of this name is complete.
    let partial = folder.with_extension("partial");
    let pip = ["-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", "--upgrade"];
    let install = Process::new("python3").args(&pip).args(&LIMITS).arg("--target").arg(&partial);
    install.arg(PACKAGE).run()?;
    std::fs::rename(&partial, &folder)?;
    Ok(folder)
}
