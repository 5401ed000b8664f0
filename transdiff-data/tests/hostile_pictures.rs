//! Broken and hostile pictures: errors that name file and cause, without the memory that a header claims.

#[path = "../../tests/common/allocation.rs"]
mod allocation;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use transdiff_data::pictures::{Limits, Picture, decode};

#[global_allocator]
static ALLOCATOR: allocation::Counting = allocation::Counting;

/// Memory is counted for the whole process: one test runs at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Decodes a file of the name `hostile`, which the error has to contain.
fn attempt(bytes: &[u8]) -> Result<Picture, String> {
    let result = decode(Path::new("hostile"), bytes, 3, &Limits::default()).map_err(|e| e.to_string());
    if let Err(error) = &result {
        assert!(error.starts_with("hostile: "), "{error}");
    }
    result
}

/// Decodes a file that has to be refused with `cause`, within 16 MiB.
fn refused(bytes: &[u8], cause: &str) {
    let (result, peak) = allocation::peak_of(|| attempt(bytes));
    let error = result.map(|picture| [picture.width(), picture.height()]).unwrap_err();
    assert!(error.contains(cause), "expected {cause:?} in {error:?}");
    assert!(peak <= 16 << 20, "{error}: {peak} bytes");
}

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Replaces bytes at `at`.
fn patched(mut bytes: Vec<u8>, at: usize, new: &[u8]) -> Vec<u8> {
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// A PNG whose header claims width×height pixels of 8-bit RGB, with the data `deflated`.
fn png(width: u32, height: u32, deflated: Option<&[u8]>) -> Vec<u8> {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
    let mut chunk = |name: &[u8; 4], data: &[u8]| {
        out.extend((data.len() as u32).to_be_bytes());
        let start = out.len();
        out.extend_from_slice(name);
        out.extend_from_slice(data);
        let checksum = crc32(&out[start..]);
        out.extend(checksum.to_be_bytes());
    };
    chunk(b"IHDR", &header);
    if let Some(data) = deflated {
        chunk(b"IDAT", data);
        chunk(b"IEND", &[]);
    }
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn files_that_are_no_pictures_are_named() {
    let _alone = alone();
    refused(b"", "got an empty file");
    refused(b"not a picture at all", "got another file");
    refused(b"GIF89a\x01\0\x01\0\0\0\0;", "got a GIF, which is not supported");
    refused(b"\xFF\xD8\xFF", "cannot decode the JPEG picture: the file is truncated");
    refused(b"\x89PNG\r\n\x1a\n", "cannot decode the PNG picture");
    refused(b"RIFF\x10\0\0\0WEBP", "cannot decode the WebP picture");
    refused(b"BM", "cannot decode the BMP picture");
    refused(b"II*\0\x08\0\0\0", "cannot decode the TIFF picture");
    refused(b"P6 10", "cannot decode the PNM picture: the file is truncated");
}

#[test]
fn truncated_pictures_are_errors_at_every_length() {
    let _alone = alone();
    let names =
        ["progressive.jpg", "restart_blocks.jpg", "cmyk.jpg", "lossless.webp", "pnm_rgb.ppm", "bmp_rgb.bmp"];
    for name in names {
        let bytes = file(name);
        for len in 0..bytes.len() {
            // A bitmap may end in padding.
            assert!(attempt(&bytes[..len]).is_err() || bytes.len() - len < 4, "{name}: {len} bytes");
        }
    }
    let bytes = file("rgb_16_interlaced.png");
    // The checksum of the data, its chunk's, and the end chunk are no pixels.
    for len in 0..bytes.len() - 20 {
        assert!(attempt(&bytes[..len]).is_err(), "PNG: {len} bytes");
    }
}

#[test]
fn damaged_pictures_never_panic() {
    let _alone = alone();
    for name in ["progressive.jpg", "palette_4.png", "lossy.webp", "bmp_palette.bmp", "tiff_tiff_lzw.tiff"] {
        let bytes = file(name);
        for at in 0..bytes.len().min(700) {
            for value in [0, 0x7F, 0xFF, bytes[at] ^ 1] {
                let _ = attempt(&patched(bytes.clone(), at, &[value]));
            }
        }
    }
}

#[test]
fn huge_dimensions_are_errors_without_allocation() {
    let _alone = alone();
    refused(&png(60_000, 60_000, None), "expected at most 178956970 pixels, got 60000×60000");
    refused(&png(13_000, 13_000, Some(b"\x78\x9c")), "13000×13000 pixels take more than");
    refused(&png(0, 5, Some(b"\x78\x9c")), "PNG");
    let jpeg = file("progressive.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC2]).unwrap();
    refused(&patched(jpeg.clone(), frame + 5, &[0xFF; 4]), "got 65535×65535");
    refused(&patched(jpeg.clone(), frame + 5, &[0x30, 0, 0x30, 0]), "12288×12288 pixels take more than");
    refused(&patched(jpeg, frame + 5, &[0; 4]), "JPEG");
    refused(b"P5 60000 60000 255\n", "got 60000×60000");
    refused(b"P5 10000 10000 255\n", "the file is truncated");
    refused(b"P2 10000 10000 255\n1 2", "the file is truncated");
    refused(b"P6 0 7 255\n", "got 0×7");
    refused(b"P5 99999999999999999999 7 255\n", "up to nine digits");
    refused(b"P5 7 7 65536\n", "got 65536");
    let bitmap = file("bmp_rgb.bmp");
    refused(&patched(bitmap, 18, &[0xFF, 0xFF, 0, 0, 0xFF, 0xFF, 0, 0]), "got 65535×65535");
}

#[test]
fn claimed_numbers_of_tiff_values_are_errors_without_allocation() {
    let _alone = alone();
    let cause = "cannot decode the TIFF picture: the file is truncated: the values of tag 279";
    let little = std::fs::read("../fuzz/corpus/picture/tiff_two_million_strips").unwrap();
    refused(&little, cause);
    // A directory of one entry, with 2^40 values in a big-endian BigTIFF file.
    let header = b"MM\0\x2B\0\x08\0\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x01".to_vec();
    let entry = b"\x01\x17\0\x04\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\0\0";
    refused(&[&header[..], entry].concat(), cause);
}

#[test]
fn limits_of_the_caller_hold() {
    let _alone = alone();
    let limits = Limits { max_pixels: 64 * 48 - 1, ..Limits::default() };
    let error = decode(Path::new("x"), &file("progressive.jpg"), 3, &limits).unwrap_err().to_string();
    assert!(error.contains("expected at most 3071 pixels, got 64×48"), "{error}");
    let limits = Limits { max_bytes: 1000, ..Limits::default() };
    for name in ["progressive.jpg", "rgba_16.png", "lossless.webp", "bmp_rgb.bmp", "tiff_rgba.tif"] {
        let error = decode(Path::new("x"), &file(name), 3, &limits).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("limit"), "{name}: {error}");
    }
}

#[test]
fn decompression_bombs_stop_at_the_picture() {
    let _alone = alone();
    // Zeros, deflated twice as far as the picture of 16×16 pixels reaches, and more.
    let mut encoder = png_encoder_of_zeros(4000, 4000);
    let claimed = [&16u32.to_be_bytes()[..], &16u32.to_be_bytes()].concat();
    encoder = patched(encoder, 16, &claimed);
    let checksum = crc32(&encoder[12..29]).to_be_bytes();
    encoder = patched(encoder, 29, &checksum);
    let (result, peak) = allocation::peak_of(|| attempt(&encoder));
    assert!(peak <= 4 << 20, "{peak} bytes");
    if let Ok(picture) = result {
        assert_eq!(picture.pixels(), [0; 16 * 16 * 3]);
    }
}

fn png_encoder_of_zeros(width: u32, height: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&vec![0; (width * height * 3) as usize]).unwrap();
    writer.finish().unwrap();
    out
}
