//! Tests of the `transdiff` command as a process with arguments, output and an exit code.

#[path = "../../../tests/common/archive.rs"]
mod archive;
#[allow(dead_code)] // a part of it is used
#[path = "../../../tests/common/pickle.rs"]
mod pickle;

mod convert;
mod files;
mod inspect;
mod process;
mod sample;
mod usage;
