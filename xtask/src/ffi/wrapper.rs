//! Test of the C++ header, tests/linking/wrapper.cpp, with every supported compiler and standard.

use std::path::Path;

use super::headers::WARNINGS;
use crate::Result;
use crate::process::{Process, run_all};

const CONFIGURATIONS: [(&str, &[&str]); 4] = [
    ("g++", &["-std=c++17", "-fsanitize=address,undefined", "-fno-sanitize-recover"]),
    ("g++", &["-std=c++20", "-fno-exceptions"]),
    ("clang++", &["-std=c++17", "-fno-exceptions"]),
    ("clang++", &["-std=c++20"]),
];

/// Compiles and runs the test against the installation, with the files that `linking small` wrote to
/// `small`.
pub fn check(folder: &Path, installed: &Path, small: &Path) -> Result {
    let (include, lib) = (installed.join("include"), installed.join("lib"));
    let program = |index: usize| folder.join(format!("wrapper-{index}"));
    let compile = |(index, (compiler, flags)): (usize, &(&str, &[&str]))| {
        let command = Process::new(compiler).args(&WARNINGS).args(flags).arg("-I").arg(&include);
        let command = command.arg("tests/linking/wrapper.cpp").arg("-o").arg(program(index));
        command.arg("-L").arg(&lib).args(&["-ltranscdiff"])
    };
    run_all(CONFIGURATIONS.iter().enumerate().map(compile).collect())?;
    for index in 0..CONFIGURATIONS.len() {
        let test = ["model", "vae", "described", "student"]
            .iter()
            .fold(Process::new(program(index)), |test, name| {
                test.arg(small.join(name).with_extension("safetensors"))
            });
        test.env("LD_LIBRARY_PATH", &lib).run()?;
    }
    println!("the C++ header passes its test in {} build configurations", CONFIGURATIONS.len());
    Ok(())
}
