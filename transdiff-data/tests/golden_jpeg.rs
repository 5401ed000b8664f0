//! Decoding of many formats against Pillow's.

mod common;

use std::path::Path;

use common::{Bar, RESAMPLED, assert_all, cases, compare, folder, try_read};
use serde_json::Value;
use transdiff_data::pictures::{Limits, Picture, Resampler, adm_crop};

/// Returns whether every decoder has to produce the same pixels.
fn is_lossless(bytes: &[u8]) -> bool {
    let lossy_webp = bytes.starts_with(b"RIFF") && !bytes.windows(4).take(64).any(|name| name == b"VP8L");
    !bytes.starts_with(&[0xFF, 0xD8]) && !lossy_webp
}

#[test]
fn pixels_are_pillows() {
    let Some(folder) = folder("jpeg") else { return };
    let cases = cases(&folder);
    let cases = cases.as_array().expect("a list of cases");
    assert_all(cases.iter().flat_map(|case| check(&folder, case)).collect());
}

#[test]
fn pixels_of_format_variants_are_pillows() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures");
    let cases = cases(&folder);
    let cases = cases.as_array().expect("a list of cases");
    assert_all(cases.iter().map(|case| check_pixels(&folder, case).map(|_| ())).collect());
}

/// Compares a picture's pixels, and their crop, with Pillow's.
fn check(folder: &Path, case: &Value) -> [Result<(), String>; 2] {
    let (file, picture, lossless) = match check_pixels(folder, case) {
        Ok(checked) => checked,
        Err(error) => return [Err(error), Ok(())],
    };
    let bar = if lossless { RESAMPLED } else { Bar { max: 6, mean: 0.5, equal: 0.0 } };
    let crop = adm_crop(&mut Resampler::default(), &picture, 64, &Limits::default()).expect("a crop");
    let crop = expected(folder, file, "adm64")
        .and_then(|expected| compare(&format!("crop of {file}"), &crop, &expected, bar));
    [Ok(()), crop]
}

/// Compares a picture's pixels with Pillow's. Returns the file, the picture, and whether its format is lossless.
fn check_pixels<'a>(folder: &Path, case: &'a Value) -> Result<(&'a str, Picture, bool), String> {
    let file = case["file"].as_str().ok_or("expected a file")?;
    let path = folder.join(file);
    let picture = try_read(&path)?;
    let size = serde_json::json!([picture.width(), picture.height()]);
    if case["size"] != size {
        return Err(format!("{file}: expected size {}, got {size}", case["size"]));
    }
    let lossless = is_lossless(&std::fs::read(&path).map_err(|e| e.to_string())?);
    let bar =
        if lossless { Bar { max: 0, mean: 0.0, equal: 1.0 } } else { Bar { max: 8, mean: 0.35, equal: 0.0 } };
    compare(file, &picture, &expected(folder, file, "rgb")?, bar)?;
    Ok((file, picture, lossless))
}

/// Pillow's picture for a file.
fn expected(folder: &Path, file: &str, suffix: &str) -> Result<Picture, String> {
    let stem = Path::new(file).file_stem().and_then(|stem| stem.to_str()).ok_or("expected a name")?;
    try_read(&folder.join(format!("{stem}_{suffix}.png")))
}

#[test]
fn broken_pictures_are_errors_that_name_the_file() {
    let Some(folder) = folder("jpeg") else { return };
    let mut results = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        if !name.starts_with("broken_") {
            continue;
        }
        results.push(match try_read(&path) {
            Ok(_) => Err(format!("{name}: expected an error")),
            Err(error) if error.contains(&name) => {
                println!("{error}");
                Ok(())
            }
            Err(error) => Err(format!("{name}: expected its name in {error}")),
        });
    }
    assert_all(results);
}
