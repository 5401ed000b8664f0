//! The C++ header at work: tests/linking/wrapper.cpp in every way that it can be compiled.

use std::path::Path;

use super::headers::WARNINGS;
use crate::Result;
use crate::process::Process;

const WAYS: [(&str, &[&str]); 4] = [
    ("g++", &["-std=c++17", "-fsanitize=address,undefined", "-fno-sanitize-recover"]),
    ("g++", &["-std=c++20", "-fno-exceptions"]),
    ("clang++", &["-std=c++17", "-fno-exceptions"]),
    ("clang++", &["-std=c++20"]),
];

/// Compiles and runs it against what is installed, with a model and a VAE that `linking small` made.
pub fn check(folder: &Path, installed: &Path, model: &Path, vae: &Path) -> Result {
    let program = folder.join("wrapper");
    let (include, lib) = (installed.join("include"), installed.join("lib"));
    for (compiler, flags) in WAYS {
        let command = Process::new(compiler).args(&WARNINGS).args(flags).arg("-I").arg(&include);
        let command = command.arg("tests/linking/wrapper.cpp").arg("-o").arg(&program);
        command.arg("-L").arg(&lib).args(&["-ltranscdiff"]).run()?;
        Process::new(&program).arg(model).arg(vae).env("LD_LIBRARY_PATH", &lib).run()?;
    }
    println!("the C++ header does what it says in {} ways of compiling it", WAYS.len());
    Ok(())
}
