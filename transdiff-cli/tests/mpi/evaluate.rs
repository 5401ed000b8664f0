//! `transdiff evaluate` on several ranks: the images and the figures of one.

use std::collections::BTreeMap;
use std::fs;

use image::{Rgb, RgbImage};
use transdiff::checkpoint::{WeightFile, write_atomic};

use crate::files::{Folder, one_step};
use crate::inception;
use crate::job::{PROGRAM, fail_with, launched_by, succeed_on};
use crate::process::succeed;

/// Writes the network, whose weights follow a formula.
fn network(folder: &Folder) -> String {
    let path = folder.path("inception.safetensors");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/inception.safetensors");
    let names = serde_json::from_str(&WeightFile::open(golden).unwrap().metadata()["names"]).unwrap();
    write_atomic(&path, &inception::weights(&names), &BTreeMap::new()).unwrap();
    path
}

fn reference(folder: &Folder) -> String {
    let root = folder.path("reference");
    fs::create_dir(&root).unwrap();
    for number in 0..6 {
        let byte = |x: u32, y: u32, c: u32| (x * (7 + number) + y * 5 + 80 * c * (number + 1)) as u8;
        let picture = RgbImage::from_fn(16, 16, |x, y| Rgb([0, 1, 2].map(|c| byte(x, y, c))));
        picture.save(format!("{root}/{number}.png")).unwrap();
    }
    root
}

/// Arguments of an evaluation of 40 images, which are three shards.
fn evaluate<'a>([model, network, reference, out]: [&'a str; 4], seed: &'a str) -> Vec<&'a str> {
    let files =
        ["evaluate", "--model", model, "--inception", network, "--reference", reference, "--out", out];
    let rest = ["--codec", "patch:2", "--total", "40", "--steps", "2", "--seed", seed];
    files.into_iter().chain(rest).chain(["--device", "cpu", "--threads", "1"]).collect()
}

fn figures(out: &str) -> serde_json::Value {
    let text = fs::read_to_string(format!("{out}/manifest.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    // Seconds differ between any two runs.
    manifest["figures"].as_object_mut().unwrap().retain(|name, _| !name.contains("seconds"));
    manifest["figures"].take()
}

#[test]
fn images_and_figures_do_not_depend_on_the_number_of_ranks() {
    let folder = Folder::new();
    let (network, reference) = (network(&folder), reference(&folder));
    let model = folder.model("model.safetensors", &one_step());
    let [alone, two, three, other] = ["alone", "two", "three", "other"].map(|name| folder.path(name));
    let args = |out| evaluate([&model, &network, &reference, out], "3");
    succeed(&args(&alone));
    let images = |out: &str| -> Vec<Vec<u8>> {
        let names = folder.names(&format!("{out}/images"));
        names.iter().map(|name| fs::read(folder.path(&format!("{out}/images/{name}"))).unwrap()).collect()
    };
    for (ranks, name, out) in [(2, "two", &two), (3, "three", &three)] {
        let done = succeed_on(ranks, &args(out));
        assert_eq!(done.stdout.matches("Fréchet Inception distance").count(), 1, "{}", done.stdout);
        assert_eq!(figures(out), figures(&alone), "{ranks} ranks");
        assert_eq!(images(name).len(), 40);
        assert!(images(name) == images("alone"), "{ranks} ranks");
    }
    let (first, second) = (args(&other), evaluate([&model, &network, &reference, &other], "4"));
    let message = fail_with(launched_by("mpirun", &[(1, PROGRAM, &first), (1, PROGRAM, &second)]));
    assert_eq!(message, "error: rank 1: other arguments, or other files, than those of rank 0");
    assert!(!fs::exists(&other).unwrap());
}
