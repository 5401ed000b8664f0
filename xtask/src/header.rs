//! Generation of the C header from the source of the C ABI.

use std::fs;
use std::path::Path;

use crate::Result;

const CRATE: &str = "transdiff-ffi";
/// Path of the C header.
pub const HEADER: &str = "include/transcdiff.h";
/// Path of the list of functions that the header declares, one per line.
pub const SYMBOLS: &str = "include/transcdiff.symbols";

/// Writes the header and the list of exported symbols, or with `check` compares the committed files with the source.
pub fn run(check: bool) -> Result {
    let config = cbindgen::Config::from_file(Path::new(CRATE).join("cbindgen.toml"))?;
    let bindings = cbindgen::Builder::new().with_crate(CRATE).with_config(config).generate()?;
    let mut header = Vec::new();
    bindings.write(&mut header);
    // Rust's heading for the contract of an unsafe function.
    let header = String::from_utf8(header)?.replace(" * # Safety\n", " * Contract:\n");
    let symbols = symbols(&header);
    for (path, text) in [(HEADER, header), (SYMBOLS, symbols)] {
        if !check {
            fs::write(path, text)?;
        } else if fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))? != text {
            return Err(format!(
                "{path} does not match the source: run `cargo xtask header` and review the changes"
            )
            .into());
        }
    }
    Ok(())
}

/// Sorted names of the functions that a header declares, one per line.
fn symbols(header: &str) -> String {
    let name = |line: &str| {
        let before = line.split_once('(')?.0;
        let name = before.rsplit([' ', '*']).next()?;
        let declares = !line.starts_with([' ', '/', '*', '#', '}']) && !line.starts_with("typedef");
        (declares && name.starts_with("transcdiff_")).then(|| name.to_owned())
    };
    let mut names: Vec<String> = header.lines().filter_map(name).collect();
    names.sort();
    names.iter().flat_map(|name| [name, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn declared_functions_are_found() {
        let header = "typedef void (*transcdiff_log_callback)(uint32_t level);\n#define X 1\n/*\n * int no(void)\n */\n\
                      uint32_t transcdiff_b(const char *x,\n                      int y);\nconst char *transcdiff_a(void);\n";
        assert_eq!(symbols(header), "transcdiff_a\ntranscdiff_b\n");
    }
}
