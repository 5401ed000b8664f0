//! Writes the tests' tiny model of four groups to a file, for programs in other languages: `tiny_model PATH`.

#[path = "../tests/common/files.rs"]
#[allow(dead_code)]
mod files;

fn main() -> std::io::Result<()> {
    let path = std::env::args_os().nth(1).expect("the path of the file to write");
    std::fs::write(path, files::model(&files::mrar()))
}
