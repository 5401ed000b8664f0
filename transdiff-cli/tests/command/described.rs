//! Models whose files describe codec, images and classes.

use std::fs;
use std::num::NonZeroUsize;

use image::{DynamicImage, GrayImage, ImageFormat, Luma};
use serde_json::{Value, json};
use transdiff::checkpoint::{FORMAT_KEY, FORMAT_VERSION, WeightFile};
use transdiff::models::{CodecSource, ImageSpec};
use transdiff::pipeline::{PixelFormat, Request, from_pixels, to_pixels};

use crate::files::{Folder, grey, mrar, one_step};
use crate::process::{fail, succeed};
use crate::sample::{decoded, expected};

/// Bytes of every image of the library for the request of [`expected`], with grey pixels.
fn grey_bytes(model: &str, change: impl FnOnce(&mut Request)) -> Vec<Vec<u8>> {
    let output = expected(model, None, |_, request| {
        request.outputs.images = true;
        request.batch = NonZeroUsize::new(3);
        change(request);
    });
    let mut bytes = vec![0; 4 * 64];
    to_pixels(output.images.as_ref().unwrap(), PixelFormat::Gray8, &mut bytes).unwrap();
    bytes.chunks_exact(64).map(<[u8]>::to_vec).collect()
}

#[test]
fn described_models_are_sampled_without_further_flags() {
    let folder = Folder::new();
    let (model, out) = (folder.described("model.safetensors", &one_step(), &grey()), folder.path("out"));
    let args = ["sample", "--model", &model, "--class", "trouser,3", "--count", "2", "--seed", "4"];
    let args = [&args[..], &["--steps", "3", "--out", &out]].concat();
    succeed(&args);
    assert_eq!(
        folder.names("out"),
        ["Class_3-4.png", "Class_3-5.png", "grid.png", "trouser-4.png", "trouser-5.png"]
    );
    let want = grey_bytes(&model, |request| {
        request.conditioning = transdiff::models::Conditioning::Classes(vec![1, 1, 3, 3]);
    });
    for (name, bytes) in ["trouser-4", "trouser-5", "Class_3-4", "Class_3-5"].iter().zip(want) {
        let png = decoded(&format!("{out}/{name}.png"));
        assert!(png == (png::ColorType::Grayscale, 8, 8, bytes), "{name}");
    }
    assert_eq!(decoded(&format!("{out}/grid.png")).0, png::ColorType::Grayscale);
    // The command goes on where it was.
    fs::remove_file(format!("{out}/grid.png")).unwrap();
    fs::remove_file(format!("{out}/Class_3-5.png")).unwrap();
    assert!(succeed(&args).starts_with("1 image in "));

    let unknown = fail(&["sample", "--model", &model, "--class", "skirt"]);
    assert!(
        unknown.contains("--class: expected a number from 0 to 9 or a name such as 'Class/0', got 'skirt'")
    );
    let other = ["sample", "--model", &model, "--class", "class 0", "--codec", "patch:1", "--out", &out];
    assert!(fail(&other).contains("--codec: expected a codec for latents of 4 channels"));
    // Without the codec, latents are shown.
    let latents = folder.path("latents");
    let none = ["sample", "--model", &model, "--class", "7", "--codec", "none", "--out", &latents];
    succeed(&[&none[..], &["--steps", "2"]].concat());
    assert_eq!(folder.names("latents"), ["Class_7-0.png", "grid.png"]);
    let given = ["sample", "--model", &model, "--class", "7", "--codec", "patch:2", "--out", &out];
    succeed(&[&given[..], &["--steps", "2", "--force"]].concat());
    assert_eq!(decoded(&format!("{out}/Class_7-0.png")).0, png::ColorType::Grayscale);
    assert!(succeed(&["sample", "--model", &model, "--estimate"]).contains("peak"));
}

#[test]
fn grey_references_are_encoded() {
    let folder = Folder::new();
    let (model, out) = (folder.described("model.safetensors", &mrar(), &grey()), folder.path("out"));
    let picture = GrayImage::from_fn(8, 8, |x, y| Luma([(31 * x + 7 * y) as u8]));
    let path = folder.path("a.png");
    DynamicImage::from(picture.clone()).save_with_format(&path, ImageFormat::Png).unwrap();
    let args =
        ["sample", "--model", &model, "--class", "7,2", "--seeds", "4,5", "--steps", "3", "--out", &out];
    succeed(&[&args[..], &["--reference", &path]].concat());
    let want = expected(&model, None, |pipeline, request| {
        let image = from_pixels(&picture.repeat(4), PixelFormat::Gray8, 4, 8, 8).unwrap();
        request.references = vec![pipeline.session().encode(&image, None).unwrap()];
        request.outputs.images = true;
    });
    let mut bytes = vec![0; 4 * 64];
    to_pixels(want.images.as_ref().unwrap(), PixelFormat::Gray8, &mut bytes).unwrap();
    assert_eq!(decoded(&format!("{out}/Class_7-4.png")).3, bytes[..64]);
}

#[test]
fn described_codec_files_are_checked() {
    let folder = Folder::new();
    let vae = folder.vae("vae.safetensors");
    let codec = CodecSource::File(vae.clone().into()).open(3).unwrap().record().unwrap();
    let images = ImageSpec { codec, channels: 3, size: 8, classes: Vec::new() };
    let (model, out) = (folder.described("model.safetensors", &one_step(), &images), folder.path("out"));
    let args = ["sample", "--model", &model, "--class", "7", "--steps", "2", "--out", &out];
    succeed(&args);
    let described = decoded(&format!("{out}/7-0.png"));
    succeed(&[&args[..], &["--codec", &vae, "--force"]].concat());
    assert_eq!(decoded(&format!("{out}/7-0.png")), described);
    fs::rename(&vae, folder.path("other")).unwrap();
    let line = fail(&args);
    assert!(line.contains("model.safetensors: its codec's file vae.safetensors is not beside it"), "{line}");
    fs::copy(&model, &vae).unwrap();
    let line = fail(&args);
    assert!(line.contains("vae.safetensors: not the codec that "), "{line}");
}

#[test]
fn conversion_keeps_the_description_and_inspection_shows_it() {
    let folder = Folder::new();
    let model = folder.described("model.safetensors", &one_step(), &grey());
    let out = folder.path("small.safetensors");
    succeed(&["convert", &model, &out, "--dtype", "bf16"]);
    let file = WeightFile::open(&out).unwrap();
    let kept: ImageSpec = serde_json::from_str(&file.metadata()[ImageSpec::METADATA_KEY]).unwrap();
    assert_eq!((kept, file.format_version()), (grey(), Some(FORMAT_VERSION)));

    let text = succeed(&["inspect", &out]);
    let rows: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for row in ["format version 2", "codec patch:2", "image size 8×8", "channels 1"] {
        assert!(rows.iter().any(|line| line == row), "{row}: {text}");
    }
    assert!(rows.iter().any(|line| line.starts_with("classes 10: Class/0, trouser, Class/2")), "{text}");
    assert!(!text.contains(ImageSpec::METADATA_KEY) && !text.contains(FORMAT_KEY), "{text}");
    let summary: Value = serde_json::from_str(&succeed(&["inspect", &out, "--json"])).unwrap();
    assert_eq!((&summary["format_version"], &summary["images"]["size"]), (&json!(2), &json!(8)));
    assert_eq!(summary["images"]["classes"][1], json!("trouser"));

    let wrong = folder.described("wrong.safetensors", &one_step(), &ImageSpec { size: 7, ..grey() });
    let text = succeed(&["inspect", &wrong]);
    assert!(text.contains("not available: transdiff.images: config value size: expected"), "{text}");
    for command in ["convert", "sample"] {
        let args = match command {
            "convert" => vec![command, &wrong, "never"],
            _ => vec![command, "--model", &wrong, "--class", "1"],
        };
        assert!(fail(&args).contains("wrong.safetensors: transdiff.images: config value size"), "{command}");
    }
}

#[test]
fn files_of_newer_versions_are_refused() {
    let folder = Folder::new();
    let model = folder.model("model.safetensors", &one_step());
    let bytes = fs::read(&model).unwrap();
    let written = format!("\"{FORMAT_KEY}\":\"{FORMAT_VERSION}\"");
    let start = bytes.windows(written.len()).position(|part| part == written.as_bytes()).unwrap();
    let newer =
        [&bytes[..start], written.replace('2', "9").as_bytes(), &bytes[start + written.len()..]].concat();
    fs::write(&model, newer).unwrap();
    for args in [&["inspect", &model][..], &["sample", "--model", &model, "--class", "1"]] {
        let line = fail(args);
        assert!(line.contains("model.safetensors: format version 9: ") && line.contains("update"), "{line}");
    }
}
