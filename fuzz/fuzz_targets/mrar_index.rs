//! Fuzz target of MRAR indices: an input is the text of one, resolved against a cache of twelve pictures.
#![no_main]

use transdiff_core::data::Dataset;
use transdiff_data::mrar_index::MrarIndex;
use transdiff_fuzz::{CACHE, bounded};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let cache = &CACHE.cache;
    bounded(bytes.len(), || match MrarIndex::from_reader(bytes, "input", cache) {
        Ok(index) => {
            for group in index.groups() {
                assert!(
                    group.entries.iter().all(|&entry| cache.label(entry as usize) == group.label as usize)
                );
            }
        }
        Err(error) => assert_ne!(error.to_string(), ""),
    });
});
