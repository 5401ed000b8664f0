//! Fuzz target of indices of caches: an input is the index of a cache with three shards.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| transdiff_fuzz::check_cache_index(bytes));
