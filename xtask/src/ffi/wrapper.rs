//! The C++ header at work: tests/linking/wrapper.cpp in every way that it can be compiled.

use std::path::Path;

use super::headers::WARNINGS;
use crate::Result;
use crate::process::{Process, run_all};

const WAYS: [(&str, &[&str]); 4] = [
    ("g++", &["-std=c++17", "-fsanitize=address,undefined", "-fno-sanitize-recover"]),
    ("g++", &["-std=c++20", "-fno-exceptions"]),
    ("clang++", &["-std=c++17", "-fno-exceptions"]),
    ("clang++", &["-std=c++20"]),
];

/// Compiles and runs it against what is installed, with a model and a VAE that `linking small` made.
pub fn check(folder: &Path, installed: &Path, model: &Path, vae: &Path) -> Result {
    let (include, lib) = (installed.join("include"), installed.join("lib"));
    let program = |way: usize| folder.join(format!("wrapper-{way}"));
    let compile = |(way, (compiler, flags)): (usize, &(&str, &[&str]))| {
        let command = Process::new(compiler).args(&WARNINGS).args(flags).arg("-I").arg(&include);
        let command = command.arg("tests/linking/wrapper.cpp").arg("-o").arg(program(way));
        command.arg("-L").arg(&lib).args(&["-ltranscdiff"])
    };
    run_all(WAYS.iter().enumerate().map(compile).collect())?;
    for way in 0..WAYS.len() {
        Process::new(program(way)).arg(model).arg(vae).env("LD_LIBRARY_PATH", &lib).run()?;
    }
    println!("the C++ header does what it says in {} ways of compiling it", WAYS.len());
    Ok(())
}
