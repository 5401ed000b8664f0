//! Fuzz target of npz files.
#![no_main]

use transdiff_data::npz::NpzFile;
use transdiff_fuzz::bounded;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (len, bytes) = (bytes.len(), bytes.to_vec());
    bounded(len, || {
        let arrays = NpzFile::from_bytes("input", bytes).and_then(|mut file| {
            let keys: Vec<String> = file.keys().collect();
            keys.iter().map(|key| file.array(key)).collect::<transdiff_core::Result<Vec<_>>>()
        });
        match arrays {
            Ok(arrays) => {
                let is_whole = |shape: &[usize], len| shape.iter().product::<usize>() == len;
                assert!(arrays.iter().all(|array| is_whole(&array.shape, array.values.len())));
            }
            Err(error) => assert_ne!(error.to_string(), ""),
        }
    });
});
