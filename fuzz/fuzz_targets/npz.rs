//! Fuzz target of npz files.
#![no_main]

use transdiff_data::npz::NpzFile;
use transdiff_fuzz::bounded;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (len, bytes) = (bytes.len(), bytes.to_vec());
    bounded(len, || {
        let arrays = NpzFile::from_bytes("input", bytes).and_then(|mut file| {
            let keys: Vec<String> = file.keys().collect();
            let pictures = |key| {
                file.pictures(key, |[height, width], pixels| {
                    assert_eq!(pixels.len(), height * width * 3);
                    Ok(())
                })
            };
            // Errors are looked at below, for arrays of floats.
            let _ =
                keys.iter().map(|key| key.as_str()).map(pictures).collect::<transdiff_core::Result<Vec<_>>>();
            keys.iter().map(|key| file.array::<f32>(key)).collect::<transdiff_core::Result<Vec<_>>>()
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
