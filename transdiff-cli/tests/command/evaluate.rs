//! `transdiff evaluate` on models, folders of pictures and npz files, with a network whose weights follow a formula.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use image::{Rgb, RgbImage};
use transdiff::checkpoint::{WeightFile, write_atomic};
use transdiff::datasets::npz::{NpzFile, npz_bytes};

use crate::files::{Folder, one_step};
use crate::inception;
use crate::process::{command, run, succeed};

/// Features per picture.
const FEATURES: usize = 2048;

/// Folder with the network, which takes seconds to write.
static NETWORK: LazyLock<Folder> = LazyLock::new(|| {
    let folder = Folder::new();
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/inception.safetensors");
    let names = serde_json::from_str(&WeightFile::open(golden).unwrap().metadata()["names"]).unwrap();
    let weights = inception::weights(&names);
    write_atomic(folder.path("inception.safetensors"), &weights, &BTreeMap::new()).unwrap();
    folder
});

/// Draws `count` pictures of 20×16 pixels, each from its number and `seed`.
fn pictures(folder: &Folder, name: &str, count: u32, seed: u32) -> String {
    let root = folder.path(name);
    fs::create_dir_all(&root).unwrap();
    for number in 0..count {
        let byte = |x: u32, y: u32, c: u32| (x * (7 + number) + y * (3 + seed) + 80 * c * (number + 1)) as u8;
        let picture = RgbImage::from_fn(20, 16, |x, y| Rgb([0, 1, 2].map(|c| byte(x, y, c))));
        picture.save(format!("{root}/{number:03}.png")).unwrap();
    }
    root
}

/// Arguments that compare two sets.
fn compare<'a>(images: &'a str, reference: &'a str, network: &'a str) -> Vec<&'a str> {
    vec!["evaluate", "--images", images, "--reference", reference, "--inception", network, "--device", "cpu"]
}

/// The last line of a run that fails.
fn refused(args: &[&str]) -> String {
    let done = run(args);
    assert_eq!((done.code, &*done.stdout), (Some(1), ""), "{}", done.stderr);
    done.stderr.lines().last().unwrap().to_owned()
}

/// The number behind `label` in a report.
fn figure(report: &str, label: &str) -> f64 {
    let line = report
        .lines()
        .find(|line| line.trim_start().starts_with(label))
        .unwrap_or_else(|| panic!("{report}"));
    line.trim_start()[label.len()..].split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn folders_and_their_statistics_give_the_same_figures() {
    let (folder, network) = (Folder::new(), NETWORK.path("inception.safetensors"));
    let (a, b) = (pictures(&folder, "a", 5, 1), pictures(&folder, "b", 6, 9));
    fs::write(format!("{a}/notes.txt"), "no picture").unwrap();
    let done = run(&compare(&a, &b, &network));
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("notes.txt"), "{}", done.stderr);
    assert!(done.stderr.contains("warning: 5 pictures are fewer than the 2048 features"), "{}", done.stderr);
    let distance = figure(&done.stdout, "Fréchet Inception distance");
    assert!(distance > 0.01, "{}", done.stdout);

    let statistics = folder.path("b.npz");
    let write =
        ["evaluate", "--statistics", &b, "--inception", &network, "--out", &statistics, "--device", "cpu"];
    assert_eq!(succeed(&write), format!("{statistics}: statistics of 6 pictures\n"));
    assert!(refused(&write).contains("already exists; add --force"));
    let report = succeed(&compare(&a, &statistics, &network));
    assert_eq!(figure(&report, "Fréchet Inception distance"), distance);
    assert!(!report.contains("precision"), "statistics have no pictures: {report}");

    // In single precision, as some programs write them.
    let mut file = NpzFile::open(&statistics).unwrap();
    let mut single = |key: &str| -> Vec<u8> {
        file.array::<f64>(key).unwrap().values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect()
    };
    let (mean, covariance) = (single("mu"), single("sigma"));
    let arrays: [(_, _, &[usize], _); 2] =
        [("mu", "<f4", &[FEATURES], mean), ("sigma", "<f4", &[FEATURES; 2], covariance)];
    write_npz(&statistics, &arrays);
    let report = succeed(&compare(&a, &statistics, &network));
    let rounded = figure(&report, "Fréchet Inception distance");
    assert!((rounded - distance).abs() < 1e-3 * distance, "{rounded}, {distance}");

    let same = succeed(&compare(&b, &b, &network));
    assert!(figure(&same, "Fréchet Inception distance") < 1e-3, "{same}");
    assert_eq!([figure(&same, "precision"), figure(&same, "recall")], [1.0, 1.0]);
}

#[test]
fn broken_sets_are_named_errors() {
    let (folder, network) = (Folder::new(), NETWORK.path("inception.safetensors"));
    let (a, b) = (pictures(&folder, "a", 5, 1), pictures(&folder, "b", 5, 9));
    let one = pictures(&folder, "one", 1, 1);
    let message = refused(&compare(&one, &b, &network));
    assert!(
        message.contains("one: expected at least 4 images, for precision and recall, got 1"),
        "{message}"
    );
    let message = refused(&compare(&a, &one, &network));
    assert!(message.contains("one: expected at least 4 images"), "{message}");
    let statistics =
        ["evaluate", "--statistics", &one, "--inception", &network, "--out", &folder.path("one.npz")];
    assert!(refused(&statistics).contains("one: expected at least 2 images, for a covariance, got 1"));
    let empty = folder.path("empty");
    fs::create_dir(&empty).unwrap();
    assert!(refused(&compare(&empty, &b, &network)).contains("empty: expected pictures"));
    fs::write(format!("{a}/003.png"), "no picture").unwrap();
    assert!(refused(&compare(&a, &b, &network)).contains("003.png: expected a picture"));
    RgbImage::new(8, 8).save(format!("{a}/003.png")).unwrap();
    let message = refused(&compare(&a, &b, &network));
    assert!(message.contains("003.png: expected 20×16 pixels") && message.ends_with("got 8×8"), "{message}");
    assert!(refused(&compare(&b, &b, &folder.path("missing.pth"))).contains("missing.pth"));
}

#[test]
fn wrong_statistics_are_named_before_anything_is_measured() {
    let (folder, network) = (Folder::new(), NETWORK.path("inception.safetensors"));
    let (a, file) = (pictures(&folder, "a", 4, 1), folder.path("ref.npz"));
    let refused = |arrays: &[(&str, &[usize], &[f64])], more: &[&str]| {
        fs::write(&file, npz_bytes(arrays).unwrap()).unwrap();
        refused(&[&compare(&a, &file, &network)[..], more].concat())
    };
    let (mean, covariance) = (vec![0.0; FEATURES], vec![0.0; FEATURES * FEATURES]);
    let square = [FEATURES, FEATURES];
    let message = refused(&[("mu", &[FEATURES], &mean)], &[]);
    assert!(message.contains("ref.npz") && message.contains("no array sigma"), "{message}");
    let message = refused(&[("mu", &[2], &mean[..2]), ("sigma", &[2, 2], &covariance[..4])], &[]);
    assert!(message.contains("mu: expected shape [2048], got [2]"), "{message}");
    let mut broken = mean.clone();
    broken[7] = f64::NAN;
    let message = refused(&[("mu", &[FEATURES], &broken), ("sigma", &square, &covariance)], &[]);
    assert!(message.contains("mu: expected finite values, got NaN at element 7"), "{message}");
    let message =
        refused(&[("mu", &[FEATURES], &mean), ("sigma", &square, &covariance)], &["--preset", "adm"]);
    assert!(message.contains("precision and recall need the pictures of the reference"), "{message}");
    assert_eq!(NpzFile::open(&file).unwrap().array::<f64>("mu").unwrap().values, mean);
}

/// Arguments that evaluate a model in `out`: 40 images in three shards, against a folder; with other values of the flags in
/// `changed`, and more flags.
fn evaluate<'a>([model, network, reference, out]: [&'a str; 4], changed: &[[&'a str; 2]]) -> Vec<&'a str> {
    let flags = [
        ["--model", model],
        ["--codec", "patch:2"],
        ["--inception", network],
        ["--reference", reference],
        ["--total", "40"],
        ["--out", out],
        ["--steps", "2"],
        ["--guidance", "1.5"],
        ["--batch", "7"],
        ["--device", "cpu"],
    ];
    let kept = flags.iter().filter(|[flag, _]| changed.iter().all(|[other, _]| other != flag));
    ["evaluate"].into_iter().chain(kept.chain(changed).flatten().copied()).collect()
}

/// The files of a folder below `root` with their contents.
fn contents(root: &str) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    entries
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(path).unwrap()))
        .collect()
}

/// The figures and the settings of a manifest, without times.
fn manifest(out: &str) -> [serde_json::Value; 2] {
    let text = fs::read_to_string(format!("{out}/manifest.json")).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let timed = manifest["figures"].as_object_mut().unwrap().remove("seconds_per_image").unwrap();
    assert!(timed["mean"].as_f64().unwrap() > 0.0);
    [manifest["figures"].clone(), manifest["settings"].clone()]
}

#[test]
fn a_killed_evaluation_goes_on_and_equals_one_in_parts() {
    let (folder, network) = (Folder::new(), NETWORK.path("inception.safetensors"));
    let (model, reference) =
        (folder.model("model.safetensors", &one_step()), pictures(&folder, "real", 6, 9));
    let [whole, parts, again] = ["whole", "parts", "again"].map(|name| folder.path(name));
    let args = evaluate([&model, &network, &reference, &whole], &[]);
    let mut child = command().args(&args).stderr(Stdio::null()).spawn().unwrap();
    while !Path::new(&format!("{whole}/shard-00000.safetensors")).exists() {
        assert_eq!(child.try_wait().unwrap(), None, "it ends before its first shard");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!Path::new(&format!("{whole}/manifest.json")).exists());
    // What a process leaves that is killed while it writes.
    for name in [".writing-a", "images/.writing-b"] {
        fs::write(format!("{whole}/{name}"), "").unwrap();
    }
    let report = succeed(&args);
    let images = contents(&format!("{whole}/images"));
    assert_eq!(images.len(), 40);
    assert!(!Path::new(&format!("{whole}/.writing-a")).exists());
    assert_eq!(images.keys().next_back().unwrap(), "000039.png");

    // Batches of another size, too.
    let part = |part| {
        let changed = [["--batch", "3"], ["--part", part]];
        succeed(&evaluate([&model, &network, &reference, &parts], &changed))
    };
    assert!(["2/3", "0/3"].map(part).iter().all(|done| done.contains("--merge")));
    assert!(
        refused(&["evaluate", "--merge", &parts]).contains("1 of 3 shards are missing, the first number 1")
    );
    part("1/3");
    // A shard is not taken for another one, a damaged one not for a whole one, and the reference is no longer needed.
    let shard = |number: usize| format!("{parts}/shard-0000{number}.safetensors");
    let first = fs::read(shard(0)).unwrap();
    let mut flipped = first.clone();
    flipped[first.len() - 9] ^= 0x40;
    for (bytes, problem) in [(fs::read(shard(1)).unwrap(), "of another name"), (flipped, "damaged")] {
        fs::write(shard(0), bytes).unwrap();
        let message = refused(&["evaluate", "--merge", &parts]);
        assert!(message.contains("shard-00000.safetensors") && message.contains(problem), "{message}");
    }
    fs::write(shard(0), first).unwrap();
    fs::rename(&reference, folder.path("moved")).unwrap();
    let merged = succeed(&["evaluate", "--merge", &parts, "--device", "cpu"]);
    fs::rename(folder.path("moved"), &reference).unwrap();
    assert!(images == contents(&format!("{parts}/images")), "the images differ");
    assert_eq!(manifest(&whole), manifest(&parts));
    for label in ["Fréchet Inception distance", "Inception Score", "precision", "recall", "diversity, mean"]
    {
        assert_eq!(figure(&report, label), figure(&merged, label), "{label}");
    }

    // Events under the published names.
    let events: Vec<u8> = contents(&format!("{whole}/events")).into_values().flatten().collect();
    for tag in [&b"fid_cfg1.5"[..], b"is_cfg1.5"] {
        assert!(events.windows(tag.len()).any(|bytes| bytes == tag), "{}", String::from_utf8_lossy(tag));
    }

    let repeat = ["evaluate", "--again", &format!("{whole}/manifest.json"), "--out", &again, "--discard"];
    assert!(succeed(&repeat).ends_with("All figures are those of the manifest.\n"));
    assert!(!Path::new(&format!("{again}/images")).exists());
    fs::write(format!("{reference}/000.png"), fs::read(format!("{reference}/001.png")).unwrap()).unwrap();
    let message = refused(&repeat);
    assert!(message.contains("real: expected the contents of the manifest, SHA-256"), "{message}");
}

#[test]
fn a_folder_has_a_manifest_that_repeats_it() {
    let (folder, network) = (Folder::new(), NETWORK.path("inception.safetensors"));
    let (a, b) = (pictures(&folder, "a", 5, 1), pictures(&folder, "b", 6, 9));
    let [out, again] = ["out", "again"].map(|name| folder.path(name));
    let args = [&compare(&a, &b, &network)[..], &["--out", &out]].concat();
    succeed(&args);
    assert!(refused(&args).contains("manifest.json: already exists; add --force"));
    let path = format!("{out}/manifest.json");
    let repeat = ["evaluate", "--again", &path, "--out", &again];
    assert!(succeed(&repeat).ends_with("All figures are those of the manifest.\n"));
    // Figures that do not repeat are shown beside those of the manifest.
    let text = fs::read_to_string(&path).unwrap();
    let changed = text.replacen("\"frechet_distance\": ", "\"frechet_distance\": 9", 1);
    fs::write(&path, changed).unwrap();
    let done = run(&[&repeat[..], &["--force"]].concat());
    let message = done.stderr.lines().last().unwrap();
    assert_eq!(done.code, Some(1));
    assert!(message.contains("manifest.json: other figures than here: frechet_distance is 9"), "{message}");
    let message = refused(&["evaluate", "--again", &path, "--out", &out, "--force"]);
    assert!(
        message.contains("has the results of") && message.contains("choose another directory"),
        "{message}"
    );
    fs::write(&path, text.replacen("\"format\": 1", "\"format\": 7", 1)).unwrap();
    assert!(refused(&repeat).contains("format version 7 of a manifest, expected version 1"));
    fs::write(&path, "{}").unwrap();
    assert!(refused(&repeat).contains("no manifest of an evaluation"));
}

#[test]
fn impossible_evaluations_of_models_are_refused_before_anything_is_made() {
    let (folder, network) = (Folder::new(), NETWORK.path("inception.safetensors"));
    let (model, reference) =
        (folder.model("model.safetensors", &one_step()), pictures(&folder, "real", 6, 9));
    let out = folder.path("out");
    let missing = folder.path("missing.npz");
    let with = |flag, value| refused(&evaluate([&model, &network, &reference, &out], &[[flag, value]]));
    for total in ["8", "41"] {
        let message = with("--total", total);
        assert!(
            message.ends_with(&format!("expected a multiple of the model's 10 classes, got {total}")),
            "{message}"
        );
    }
    assert!(with("--seed", "18446744073709551600").contains("the last seed exceeds 18446744073709551615"));
    assert!(with("--codec", "patch:3").contains("codec"));
    assert!(with("--guidance", "0.5").contains("guidance"));
    assert!(with("--inception", &model).contains("model.safetensors: "));
    assert!(with("--reference", &missing).contains("missing.npz: "));
    fs::write(format!("{reference}/005.png"), "no picture").unwrap();
    assert!(with("--seed", "1").contains("005.png: expected a picture"));
    assert!(!Path::new(&out).exists(), "it was begun");
    fs::create_dir_all(format!("{out}/images")).unwrap();
    fs::copy(format!("{reference}/000.png"), format!("{reference}/005.png")).unwrap();
    assert!(with("--seed", "1").contains("images already exists; choose another directory"));
}

#[test]
fn another_evaluation_in_the_same_directory_is_refused() {
    let (folder, network) = (Folder::new(), NETWORK.path("inception.safetensors"));
    let (model, reference) =
        (folder.model("model.safetensors", &one_step()), pictures(&folder, "real", 6, 9));
    let out = folder.path("out");
    let paths = [&model, &network, &reference, &out].map(String::as_str);
    let done = [["--part", "0/3"], ["--total", "10"]];
    succeed(&evaluate(paths, &done));
    let message = refused(&evaluate(paths, &[done[0], done[1], ["--seed", "4"]]));
    assert!(message.contains("of another evaluation: images.seed is 0 there and 4 here"), "{message}");

    let path = format!("{out}/evaluation.json");
    let edited =
        fs::read_to_string(&path).unwrap().replace("\"total\": 10", "\"total\": 1000000000000000000");
    fs::write(&path, edited).unwrap();
    let message = refused(&["evaluate", "--merge", &out]);
    assert!(message.contains("evaluation.json") && message.contains("at most 1000000 images"), "{message}");
}

#[test]
fn arguments_that_would_be_ignored_are_refused() {
    for (subject, ignored) in [
        (["--again", "m.json", "--out", "o"], ["--total", "10"]),
        (["--again", "m.json", "--out", "o"], ["--preset", "adm"]),
        (["--images", "a", "--inception", "i"], ["--steps", "5"]),
        (["--statistics", "a", "--inception", "i"], ["--reference", "r"]),
        (["--merge", "a", "--threads", "1"], ["--part", "0/2"]),
    ] {
        let done = run(&[&["evaluate"][..], &subject, &ignored].concat());
        assert_eq!(done.code, Some(2));
        assert!(
            done.stderr.contains("cannot be used with") && done.stderr.contains(ignored[0]),
            "{}",
            done.stderr
        );
    }
}

#[test]
fn pictures_of_an_npz_file_are_a_reference_with_precision_and_recall() {
    let (folder, network) = (Folder::new(), NETWORK.path("inception.safetensors"));
    let (a, b) = (pictures(&folder, "a", 5, 1), pictures(&folder, "b", 6, 9));
    let file = folder.path("ref.npz");
    let pixels: Vec<u8> = contents(&b)
        .into_values()
        .flat_map(|png| image::load_from_memory(&png).unwrap().into_rgb8().into_raw())
        .collect();
    write_pictures(&file, [6, 16, 20, 3], &pixels);
    let from_folder = succeed(&[&compare(&a, &b, &network)[..], &["--preset", "adm"]].concat());
    let from_file = succeed(&[&compare(&a, &file, &network)[..], &["--preset", "adm"]].concat());
    assert_eq!(from_folder, from_file);
    write_pictures(&file, [5, 16, 20, 3], &pixels);
    assert!(refused(&compare(&a, &file, &network)).contains("ref.npz"));
}

/// Writes an npz file with 8-bit pictures.
fn write_pictures(path: &str, shape: [usize; 4], pixels: &[u8]) {
    write_npz(path, &[("arr_0", "|u1", &shape, pixels.to_vec())]);
}

/// Writes an npz file of arrays: name, type, shape and bytes.
fn write_npz(path: &str, arrays: &[(&str, &str, &[usize], Vec<u8>)]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, descr, shape, bytes) in arrays {
        let sizes: String = shape.iter().map(|size| format!("{size}, ")).collect();
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}\n");
        zip.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(b"\x93NUMPY\x01\x00").unwrap();
        zip.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        zip.write_all(header.as_bytes()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}
