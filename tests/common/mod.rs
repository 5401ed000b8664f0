//! Parts shared by several test files.

// Every crate of tests uses a part of them.
#![allow(dead_code)]

pub mod archive;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod difference;
pub mod golden;
pub mod inception;
pub mod pickle;
pub mod sampling;
pub mod tiny;

use proptest::test_runner::{Config, RngSeed};

/// Configuration of property tests: `cases` cases, drawn from a fixed seed so that runs are reproducible.
pub fn cases(cases: u32) -> Config {
    let rng_seed = RngSeed::Fixed(0x7472_616e_7364_6966);
    Config { cases, rng_seed, failure_persistence: None, ..Config::default() }
}
