//! The layout of the C structs and the values of the constants, which programs that are compiled already rely on.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use crate::Result;
use crate::header::HEADER;
use crate::process::Process;

const LAYOUT: &str = "include/transcdiff.abi";
const HEADING: &str = "\
# What programs that are compiled against transcdiff.h have in them, with pointers of 8 bytes: the values of constants, the
# size of every struct, and under it the offset and size of its fields. What is here does not change while the soname is
# the same; structs grow at their ends. `cargo xtask layout` writes it.
";

/// Writes the layout as the C compilers see it, or with `check` compares what is committed with it.
pub fn run(check: bool) -> Result {
    let header = fs::read_to_string(HEADER)?;
    let folder = Path::new("target/ffi/layout");
    fs::create_dir_all(folder)?;
    let (source, program) = (folder.join("layout.c"), std::path::absolute(folder.join("layout"))?);
    fs::write(&source, questions(&header))?;
    for compiler in ["gcc", "clang"] {
        let command = Process::new(compiler).args(&["-std=c99", "-Wall", "-Werror", "-Iinclude", "-o"]);
        command.arg(&program).arg(&source).run()?;
        let layout = HEADING.to_owned() + &Process::new(&program).stdout()?;
        if !check {
            fs::write(LAYOUT, layout)?;
        } else if let Some(difference) = difference(&fs::read_to_string(LAYOUT)?, &layout) {
            return Err(format!("{LAYOUT} is not what {compiler} says: {difference}").into());
        }
    }
    Ok(())
}

/// A program that prints the layout of everything that the header declares.
fn questions(header: &str) -> String {
    let mut program = "#include <stdio.h>\n#include <transcdiff.h>\nint main(void) {\n".to_owned();
    let mut within = "";
    let mut ask = |line: std::fmt::Arguments<'_>| program.write_fmt(line).expect("a String takes everything");
    let is_comment = |line: &&str| line.trim_start().starts_with(['/', '*']);
    for line in header.lines().filter(|line| !is_comment(line)) {
        if let Some((name, _value)) = line.strip_prefix("#define ").and_then(|l| l.split_once(' ')) {
            ask(format_args!("    printf(\"{name} %llu\\n\", (unsigned long long){name});\n"));
        } else if let Some(name) = line.strip_prefix("typedef struct ").and_then(|l| l.strip_suffix(" {")) {
            ask(format_args!("    printf(\"{name} %zu\\n\", sizeof({name}));\n"));
            within = name;
        } else if line.starts_with('}') {
            within = "";
        } else if let (false, Some(declared)) = (within.is_empty(), line.strip_suffix(';')) {
            let field = declared.rsplit([' ', '*']).next().unwrap_or(declared);
            let size = format!("sizeof((({within} *)0)->{field})");
            ask(format_args!(
                "    printf(\"    {field} %zu %zu\\n\", offsetof({within}, {field}), {size});\n"
            ));
        }
    }
    program + "    return 0;\n}\n"
}

/// The first line in which two texts differ.
fn difference(expected: &str, got: &str) -> Option<String> {
    let (mut a, mut b) = (expected.lines(), got.lines());
    loop {
        match (a.next(), b.next()) {
            (None, None) => return None,
            (a, b) if a == b => {}
            (a, b) => return Some(format!("expected \"{}\", got \"{}\"", a.unwrap_or(""), b.unwrap_or(""))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_and_constant_is_asked_for() {
        let header = "#ifndef GUARD\n#define GUARD\n#define X_OK 0\ntypedef struct opaque opaque;\n\
                      typedef struct x_point {\n    /**\n     * Not this;\n     */\n    const float *at;\n    size_t n;\n\
                      } x_point;\nint f(int a,\n      int b);\n";
        let program = questions(header);
        let asked: Vec<&str> = program.lines().filter_map(|l| l.trim().strip_prefix("printf(\"")).collect();
        let names: Vec<&str> = asked.iter().filter_map(|l| l.split_whitespace().next()).collect();
        assert_eq!(names, ["X_OK", "x_point", "at", "n"], "{program}");
    }

    #[test]
    fn differences_are_found() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        for (a, b) in [("a\nb", "a\nc"), ("a\nb", "a"), ("a", "a\nb")] {
            assert!(difference(a, b).is_some(), "{a:?} {b:?}");
        }
    }
}
