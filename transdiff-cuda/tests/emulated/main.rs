//! The backend on the emulated driver of `tests/emulator/`: errors, launches, memory, recordings. What operations compute is
//! tested elsewhere, by the equivalence of backends.
//!
//! With `LD_LIBRARY_PATH` at the folder of the emulator; on any other driver, and without one, the tests say that they
//! are skipped.

mod emulator;
mod every_kernel;
mod failures;
#[allow(dead_code)] // other tests use the rest
#[path = "../../../tests/common/guarded.rs"]
mod guarded;
mod launches;
mod memory;
mod opening;
mod products;
mod recordings;
mod steps;
#[allow(dead_code)] // other tests use the rest
#[path = "../../../tests/common/tiny.rs"]
mod tiny;
mod workload;
