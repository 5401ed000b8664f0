//! Tests of the `transdiff` command as a process with arguments, output and an exit code.

#[path = "../../../tests/common/archive.rs"]
mod archive;
#[path = "../../../examples/quickstart/cache.rs"]
mod cache;
mod caching;
mod convert;
#[cfg(unix)]
mod convert_output;
mod crash_injection;
mod described;
#[allow(dead_code)] // the quickstart uses the rest
#[path = "../../../examples/quickstart/digits.rs"]
mod digits;
mod distill;
mod drawing;
mod evaluate;
mod files;
#[path = "../../../tests/common/inception.rs"]
mod inception;
mod inspect;
mod inspect_directories;
mod interrupts;
mod kills;
#[allow(dead_code)] // other tests use the rest
#[path = "../../../tests/common/pickle.rs"]
mod pickle;
mod process;
mod quickstart;
mod references;
mod resume;
mod runs;
mod sample;
mod train;
mod training;
mod usage;
