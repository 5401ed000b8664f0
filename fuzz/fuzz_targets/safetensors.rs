//! Fuzz target of safetensors files.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| transdiff_fuzz::check_file(bytes));
