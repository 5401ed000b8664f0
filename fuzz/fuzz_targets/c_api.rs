//! Sequences of calls of the C ABI: handles and hostile arguments, spelt by the input.
#![no_main]

#[path = "../../transdiff-ffi/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(
    // The models are made by the first call, and are no input's.
    init: common::sequences::run(&[]),
    |bytes: &[u8]| transdiff_fuzz::bounded(bytes.len(), || common::sequences::run(bytes))
);
