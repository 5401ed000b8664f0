//! The backend on the emulated driver of `tests/emulator/`: errors, launch geometry, memory, graphs. The results of
//! operations are tested by the equivalence of backends.
//!
//! `LD_LIBRARY_PATH` has to name the folder of the emulator. With any other driver, or none, the tests print SKIPPED.

mod counts;
mod emulator;
mod every_kernel;
mod failures;
mod graphs;
#[allow(dead_code)] // shared with other tests
#[path = "../../../tests/common/guarded.rs"]
mod guarded;
mod launched;
mod launches;
mod matmul;
mod memory;
mod nccl;
mod opening;
mod ranks;
mod steps;
#[allow(dead_code)] // shared with other tests
#[path = "../../../tests/common/tiny.rs"]
mod tiny;
mod training;
mod workload;
