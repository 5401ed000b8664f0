//! Fuzz target of indexes of shards: an input is the text of an index, in a folder with two shards.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| transdiff_fuzz::check_index(bytes));
