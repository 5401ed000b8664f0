//! What several test files share.

// Every test file is a crate of its own and uses its part.
#![allow(dead_code)]

pub mod golden;
