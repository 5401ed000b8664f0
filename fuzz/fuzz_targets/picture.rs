//! Fuzz target of pictures: an input is a file, which is decoded and cropped.
#![no_main]

use std::path::Path;

use transdiff_core::rng::{Purpose, StreamKey};
use transdiff_data::pictures::{Limits, Resampler, adm_crop, decode, pad, random_crop};

/// The WebP decoder allocates a partition of the claimed size, 24 bits, before it reads it: 16 MiB more than other files may
/// take, which is twice this.
const PARTITION: usize = 8 << 20;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let limits = Limits { max_pixels: 1 << 16, max_bytes: 1 << 20 };
    transdiff_fuzz::bounded(bytes.len() + PARTITION, || {
        let picture = match decode(Path::new("input"), bytes, 3, &limits) {
            Ok(picture) => picture,
            Err(error) => return assert!(error.to_string().starts_with("input: ")),
        };
        let mut resampler = Resampler::default();
        let mut stream = StreamKey::new(bytes.len() as u64, Purpose::Data, 0, 0).stream();
        let size = 24;
        let crop = random_crop(&mut resampler, &picture, size, &mut stream);
        assert_eq!(crop.pixels().len(), 3 * size * size);
        assert_eq!(pad(&mut resampler, &picture, size).pixels().len(), 3 * size * size);
        if let Ok(crop) = adm_crop(&mut resampler, &picture, size, &limits) {
            assert_eq!(crop.pixels().len(), 3 * size * size);
        }
    });
});
