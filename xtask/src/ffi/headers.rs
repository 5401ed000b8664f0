//! Compilation of the headers and of the README's programs with every compiler and language standard.

use std::fs;
use std::path::Path;

use crate::Result;
use crate::process::{Process, run_all};

/// Warnings that are treated as errors.
pub const WARNINGS: [&str; 6] = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror"];
const C: [&str; 2] = ["gcc", "clang"];
const CXX: [&str; 2] = ["g++", "clang++"];

/// Compiles every header and every program of the README against the installation, with every supported compiler and
/// standard.
pub fn check(folder: &Path, installed: &Path) -> Result {
    let folder = folder.join("headers");
    fs::create_dir_all(&folder)?;
    let include = format!("-I{}", installed.join("include").display());
    let mut commands = Vec::new();
    let mut compile = |compilers: [&str; 2], standards: &[&str], source: &Path| {
        for (compiler, standard) in compilers.iter().flat_map(|c| standards.iter().map(move |s| (c, s))) {
            let command = Process::new(compiler).args(&WARNINGS).args(&["-fsyntax-only", &include]);
            commands.push(command.args(&standard.split(' ').collect::<Vec<_>>()).arg(source));
        }
    };
    let source = |name: &str, text: &str| -> Result<_> {
        let path = folder.join(name);
        fs::write(&path, text)?;
        Ok(path)
    };
    let (c, cxx) = (
        "#include <transcdiff.h>\nint main(void) { return 0; }\n",
        "#include <transcdiff.hpp>\nint main() {}\n",
    );
    compile(C, &["-std=c99", "-std=c11"], &source("header.c", c)?);
    compile(CXX, &["-std=c++11"], &source("header.cpp", c)?);
    let standards = ["-std=c++17", "-std=c++20", "-std=c++17 -fno-exceptions", "-std=c++20 -fno-exceptions"];
    compile(CXX, &standards, &source("wrapper.cpp", cxx)?);
    let readme = fs::read_to_string("README.md")?;
    compile(C, &["-std=c99", "-std=c11"], &source("readme.c", program(&readme, "c")?)?);
    compile(CXX, &["-std=c++17", "-std=c++20"], &source("readme.cpp", program(&readme, "cpp")?)?);
    run_all(commands)
}

/// The only program in `language` in a Markdown text.
fn program<'a>(markdown: &'a str, language: &str) -> Result<&'a str> {
    let fence = format!("\n```{language}\n");
    let (_, rest) =
        markdown.split_once(&fence).ok_or_else(|| format!("README.md: no program in {language}"))?;
    let (program, rest) = rest.split_once("```").ok_or("README.md: unterminated code block")?;
    if rest.contains(&fence) {
        return Err(format!("README.md: expected one program in {language}, got more").into());
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_in_markdown_are_found() {
        let text = "\n```sh\nmake\n```\n\n```c\nint x;\n```\n```cpp\nint y;\n```\n";
        assert_eq!(program(text, "c").unwrap(), "int x;\n");
        assert_eq!(program(text, "cpp").unwrap(), "int y;\n");
        assert!(program(text, "rust").is_err());
        assert!(program(&text.repeat(2), "c").is_err());
    }
}
