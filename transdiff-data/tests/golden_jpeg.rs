//! Decoding of many formats against Pillow's.

mod common;

use std::path::Path;

use common::{Bar, RESAMPLED, assert_all, cases, compare, folder, try_read};
use serde_json::Value;
use transdiff_data::pictures::{Limits, Resampler, adm_crop};

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

/// Compares a picture's pixels, and their crop, with Pillow's.
fn check(folder: &Path, case: &Value) -> [Result<(), String>; 2] {
    let file = case["file"].as_str().expect("a file");
    let path = folder.join(file);
    let stem = Path::new(file).file_stem().and_then(|stem| stem.to_str()).expect("a name");
    let expected = |suffix: &str| try_read(&folder.join(format!("{stem}_{suffix}.png")));
    let picture = match try_read(&path) {
        Ok(picture) => picture,
        Err(error) => return [Err(error), Ok(())],
    };
    let size = serde_json::json!([picture.width(), picture.height()]);
    if case["size"] != size {
        return [Err(format!("{file}: expected size {}, got {size}", case["size"])), Ok(())];
    }
    let bars = if is_lossless(&std::fs::read(&path).expect("the file was read before")) {
        [Bar { max: 0, mean: 0.0, equal: 1.0 }, RESAMPLED]
    } else {
        [Bar { max: 8, mean: 0.35, equal: 0.0 }, Bar { max: 6, mean: 0.5, equal: 0.0 }]
    };
    let crop = adm_crop(&mut Resampler::default(), &picture, 64, &Limits::default()).expect("a crop");
    [
        expected("rgb").and_then(|expected| compare(file, &picture, &expected, bars[0])),
        expected("adm64").and_then(|expected| compare(&format!("crop of {file}"), &crop, &expected, bars[1])),
    ]
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
            Err(error) if error.contains(&name) => Ok(println!("{error}")),
            Err(error) => Err(format!("{name}: expected its name in {error}")),
        });
    }
    assert_all(results);
}
