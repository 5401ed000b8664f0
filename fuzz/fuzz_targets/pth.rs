//! Fuzz target of PyTorch checkpoints: an input is a complete archive, or a pickle, which is put into an archive with two
//! storages.
#![no_main]

use transdiff_fuzz::check_file;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if bytes.starts_with(b"PK") {
        check_file(bytes);
    } else {
        check_file(&transdiff_fuzz::archive(bytes));
    }
});
