//! Reference images of `transdiff sample`.

use std::fs;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use transdiff::pipeline::{PixelFormat, from_pixels};

use crate::files::{Folder, mrar};
use crate::process::{fail, succeed};
use crate::sample::{IMAGES, decoded, expected, rgb};

/// A picture of side×side pixels with few colours, so that GIF keeps them.
fn picture(side: u32) -> RgbImage {
    RgbImage::from_fn(side, side, |x, y| {
        Rgb([37 * (x % 4) as u8, 50 * (y % 3) as u8, 29 * ((x + y) % 5) as u8])
    })
}

/// Writes a picture to a file whose name does not tell the format.
fn write(folder: &Folder, name: &str, picture: &DynamicImage, format: ImageFormat) -> String {
    let path = folder.path(name);
    picture.save_with_format(&path, format).unwrap();
    path
}

/// Arguments with reference images.
fn with(folder: &Folder, references: &[&str]) -> Vec<String> {
    let (model, vae, out) =
        (folder.path("model.safetensors"), folder.path("vae.safetensors"), folder.path("out"));
    let args =
        ["sample", "--model", &model, "--codec", &vae, "--class", "7,2", "--seeds", "4,5", "--steps", "3"];
    let flags = references.iter().flat_map(|&path| ["--reference", path]);
    args.into_iter().chain(["--out", &out, "--force"]).chain(flags).map(String::from).collect()
}

fn models() -> Folder {
    let folder = Folder::new();
    folder.model("model.safetensors", &mrar());
    folder.vae("vae.safetensors");
    folder
}

/// Checks that the images of the command are those of the library for a reference with these pixels.
fn assert_used(folder: &Folder, path: &str, pixels: &[u8]) {
    let (model, vae) = (folder.path("model.safetensors"), folder.path("vae.safetensors"));
    let want = expected(&model, Some(&vae), |pipeline, request| {
        let image = from_pixels(&pixels.repeat(4), PixelFormat::Rgb8Hwc, 4, 8, 8).unwrap();
        request.references = vec![pipeline.session().encode(&image, None).unwrap()];
    });
    succeed(&with(folder, &[path]));
    for (name, bytes) in IMAGES.iter().zip(rgb(&want)) {
        assert!(decoded(&folder.path(&format!("out/{name}"))).3 == bytes, "{path}: {name}");
    }
    let plain = expected(&model, Some(&vae), |_, _| ());
    assert!(rgb(&plain) != rgb(&want), "the reference image changes the output");
}

#[test]
fn pictures_of_lossless_formats_are_used_pixel_by_pixel() {
    let (folder, pixels) = (models(), picture(8));
    let image = DynamicImage::from(pixels.clone());
    let formats = [
        ("png", ImageFormat::Png),
        ("webp", ImageFormat::WebP),
        ("bmp", ImageFormat::Bmp),
        ("tiff", ImageFormat::Tiff),
        ("gif", ImageFormat::Gif),
    ];
    for (name, format) in formats {
        // The encoder of GIF takes pictures with an alpha channel.
        let image = if format == ImageFormat::Gif { image.to_rgba8().into() } else { image.clone() };
        assert_used(&folder, &write(&folder, name, &image, format), &pixels);
    }
    let grey = image.to_luma8();
    let repeated: Vec<u8> = grey.iter().flat_map(|&value| [value; 3]).collect();
    assert_used(&folder, &write(&folder, "grey", &grey.clone().into(), ImageFormat::Png), &repeated);
    let wide = DynamicImage::from(image.to_rgb16());
    assert_used(&folder, &write(&folder, "wide", &wide, ImageFormat::Png), &pixels);
}

#[test]
fn jpeg_pictures_are_used() {
    let folder = models();
    let path = write(&folder, "photo.png", &picture(8).into(), ImageFormat::Jpeg);
    let pixels = image::load_from_memory(&fs::read(&path).unwrap()).unwrap().to_rgb8();
    assert_used(&folder, &path, &pixels);
}

#[test]
fn unusable_pictures_are_named_with_what_is_expected() {
    let folder = models();
    let small = write(&folder, "a.png", &picture(8).into(), ImageFormat::Png);
    let large = write(&folder, "large.webp", &picture(16).into(), ImageFormat::WebP);
    let line = fail(&with(&folder, &[&small, &large]));
    assert!(line.contains("large.webp: expected an image of 8×8 pixels, got 16×16; resize"), "{line}");
    let line = fail(&with(&folder, &[&folder.path("model.safetensors")]));
    assert!(line.contains("model.safetensors: expected a picture (PNG, JPEG,"), "{line}");
    let line = fail(&with(&folder, &[&folder.path("missing.png")]));
    assert!(line.contains("missing.png: "), "{line}");
    let icon = folder.path("icon.png");
    fs::write(&icon, [0, 0, 1, 0, 1, 0, 8, 8]).unwrap();
    let line = fail(&with(&folder, &[&icon]));
    assert!(
        line.contains("icon.png: expected a picture in the format PNG, ") && line.contains("got .ico"),
        "{line}"
    );
    for (name, format) in
        [("cut.png", ImageFormat::Png), ("cut.jpg", ImageFormat::Jpeg), ("cut.gif", ImageFormat::Gif)]
    {
        let image = DynamicImage::from(DynamicImage::from(picture(8)).to_rgb8());
        let path = write(&folder, name, &image, format);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 3]).unwrap();
        let line = fail(&with(&folder, &[&path]));
        assert!(line.contains(&format!("{name}: cannot decode the ")), "{line}");
    }
    assert!(fail(&with(&folder, &[small.as_str(); 4])).contains("--reference:"));
}

#[test]
fn images_of_a_changed_reference_are_not_resumed() {
    let (folder, image) = (models(), DynamicImage::from(picture(8)));
    let path = write(&folder, "a", &image, ImageFormat::Png);
    let args: Vec<String> = with(&folder, &[&path]).into_iter().filter(|arg| arg != "--force").collect();
    succeed(&args);
    let remove_last = || {
        for name in ["grid.png", "2-5.png"] {
            fs::remove_file(folder.path(&format!("out/{name}"))).unwrap();
        }
    };
    remove_last();
    assert!(succeed(&args).starts_with("1 image in "));
    remove_last();
    write(&folder, "a", &DynamicImage::from(RgbImage::from_pixel(8, 8, Rgb([200, 9, 60]))), ImageFormat::Png);
    assert!(fail(&args).contains("already exists; add --force"));
}
