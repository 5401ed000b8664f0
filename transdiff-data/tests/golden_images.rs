//! Crops against Pillow's.

mod common;

use std::path::Path;

use common::{RESAMPLED, assert_all, cases, compare, folder, try_read};
use transdiff_data::pictures::{Area, Filter, Limits, Resampler, adm_crop};

#[test]
fn crops_are_pillows() {
    let Some(folder) = folder("images") else { return };
    let cases = cases(&folder);
    let cases = cases["cases"].as_array().expect("a list of cases");
    let mut results = Vec::new();
    let read = |path: &Path| try_read(path).unwrap_or_else(|e| panic!("{e}"));
    let mut resampler = Resampler::default();
    for case in cases {
        let name = case["name"].as_str().expect("a name");
        let number =
            |key: &str| case[key].as_u64().unwrap_or_else(|| panic!("{name}: no number {key}")) as usize;
        let size = number("size");
        let picture = read(&folder.join(format!("{name}.png")));
        assert_eq!([picture.width(), picture.height()], [number("width"), number("height")], "{name}");

        let adm = adm_crop(&mut resampler, &picture, size, &Limits::default()).expect("a crop");
        let expected = format!("{name}_adm{size}");
        results.push(compare(&expected, &adm, &read(&folder.join(format!("{expected}.png"))), RESAMPLED));

        let side = number("side");
        let area = Area { x: number("crop_x"), y: number("crop_y"), width: side, height: side };
        let crop = resampler.resize(&picture, area, [size, size], Filter::Bicubic);
        let expected = format!("{name}_crop{size}");
        results.push(compare(&expected, &crop, &read(&folder.join(format!("{expected}.png"))), RESAMPLED));
    }
    assert_all(results);
}
