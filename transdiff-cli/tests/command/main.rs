//! Tests of the `transdiff` command as a process with arguments, output and an exit code.

mod convert;
mod files;
mod inspect;
mod interrupts;
mod process;
mod references;
mod resume;
mod sample;
mod usage;
