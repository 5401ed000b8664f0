//! Fuzz target of the C ABI: the input encodes a sequence of calls, with handles and invalid arguments.
#![no_main]

#[path = "../../transdiff-ffi/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(
    // The first call creates the models, whose memory does not count for any input.
    init: common::sequences::run(&[]),
    |bytes: &[u8]| transdiff_fuzz::bounded(bytes.len(), || common::sequences::run(bytes))
);
