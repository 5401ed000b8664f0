//! `transdiff cache`: caches of pictures in parts, and the import of npz files.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;
use transdiff::data::Dataset;
use transdiff::datasets::cache::{CachedDataset, Expected};
use transdiff::rng::{Purpose, StreamKey};

use crate::drawing::{cache, tiles, train};
use crate::files::Folder;
use crate::process::{fail, run, succeed};

/// Contents of all files in a directory but those of the lock.
pub fn contents(folder: &Folder, inside: &str) -> BTreeMap<String, Vec<u8>> {
    let names = folder.names(inside).into_iter().filter(|name| name != ".lock");
    let read = |name: String| {
        let bytes = fs::read(folder.path(&format!("{inside}/{name}"))).unwrap();
        (name, bytes)
    };
    names.map(read).collect()
}

/// Writes more pictures than a shard has, and returns their folder.
pub fn two_shards(folder: &Folder) -> String {
    let data = tiles(folder, "many", &["a", "b"], 4);
    for number in 0..4100 {
        let picture = fs::read(format!("{data}/a/{}.png", number % 4)).unwrap();
        fs::write(format!("{data}/a/{:05}.png", 10_000 + number), picture).unwrap();
    }
    data
}

#[test]
fn parts_make_the_cache_of_a_single_run() {
    let folder = Folder::new();
    let data = two_shards(&folder);
    let (whole, parts) = (folder.path("whole"), folder.path("parts"));
    assert_eq!(succeed(&cache(&data, "8", &whole)), format!("{whole}: 4108 pictures in 2 shards\n"));
    let part = |part: &str| succeed(&[&cache(&data, "8", &parts)[..], &["--part", part]].concat());
    let done = format!("part 1/2 is done; when all parts are: transdiff cache --merge {parts}\n");
    assert_eq!(part("1/2"), done);
    let merge = ["cache", "--merge", &parts];
    let missing = fail(&merge);
    assert!(missing.contains("1 of 2 shards are not finished: 0 (") && missing.contains(&parts), "{missing}");
    let message = fail(&train(&parts, &folder.path("run"), "1", &[]));
    assert!(message.contains("the cache has no index"), "{message}");
    part("0/2");
    assert_eq!(succeed(&merge), format!("{parts}: 4108 pictures in 2 shards\n"));
    assert!(contents(&folder, "whole") == contents(&folder, "parts"));
    // Again, nothing is done.
    assert_eq!(part("1/2"), done);
    assert!(contents(&folder, "whole") == contents(&folder, "parts"));
    // As a launcher gives it.
    let other = folder.path("other");
    let mut command = crate::process::command();
    command.args(cache(&data, "8", &other)).env("RANK", "1").env("WORLD_SIZE", "2");
    assert!(command.output().unwrap().stdout.starts_with(b"part 1/2 is done"));
}

#[test]
fn another_cache_in_the_same_directory_is_refused() {
    let folder = Folder::new();
    let (data, out) = (tiles(&folder, "pictures", &["a", "b"], 2), folder.path("cache"));
    succeed(&cache(&data, "8", &out));
    let before = contents(&folder, "cache");
    let more = tiles(&folder, "more", &["a", "b"], 3);
    for (args, difference) in [
        (cache(&data, "16", &out), "size is 8, expected 16"),
        ([&cache(&data, "8", &out)[..], &["--fit", "pad"]].concat(), "fit is crop, expected pad"),
        ([&cache(&data, "8", &out)[..], &["--no-flip"]].concat(), "mirror images is stored, expected not"),
        ([&cache(&data, "8", &out)[..], &["--channels", "1"]].concat(), "channels is 3, expected 1"),
        ([&cache(&data, "8", &out)[..], &["--dtype", "bf16"]].concat(), "dtype is f32, expected bf16"),
        (cache(&more, "8", &out), "number of pictures is 4, expected 6"),
    ] {
        let message = fail(&args);
        assert!(message.contains(&out) && message.contains(difference), "{message}");
    }
    let codec = ["cache", "--data", &data, "--codec", "patch:2", "--size", "8", "--out", &out];
    assert!(fail(&codec).contains("codec is patch:4, expected patch:2"));
    assert!(contents(&folder, "cache") == before);
}

#[test]
fn broken_pictures_stop_the_cache_or_are_left_out() {
    let folder = Folder::new();
    let (data, out) = (tiles(&folder, "pictures", &["a", "b"], 3), folder.path("cache"));
    fs::write(format!("{data}/a/1.png"), "no picture").unwrap();
    let stopped = run(&cache(&data, "8", &out));
    let line = stopped.stderr.lines().last().unwrap();
    assert!(stopped.code == Some(1) && line.starts_with("error: ") && line.contains("a/1.png"), "{line}");
    let skipped = run(&[&cache(&data, "8", &out)[..], &["--on-broken", "skip"]].concat());
    assert_eq!(skipped.stdout, format!("{out}: 5 pictures in 1 shard, 1 broken one left out\n"));
    assert!(skipped.stderr.lines().any(|line| line.starts_with("left out: ") && line.contains("a/1.png")));
}

#[test]
fn wrong_sizes_and_codecs_are_named() {
    let folder = Folder::new();
    let (data, out) = (tiles(&folder, "pictures", &["a", "b"], 1), folder.path("cache"));
    assert!(fail(&cache(&data, "10", &out)).contains("--size: expected a multiple of 4"));
    let missing = ["cache", "--data", &data, "--codec", "missing.ckpt", "--size", "8", "--out", &out];
    assert!(fail(&missing).contains("--codec: expected patch:N or the path of a codec's file"));
    assert!(fail(&cache(&folder.path("none"), "8", &out)).contains("none: "));
    assert!(fail(&["cache", "--merge", &data]).contains("cache.json is missing"));
    assert!(!fs::exists(&out).unwrap());
}

/// Copies a file of the fuzz target's corpus, which NumPy wrote: moments of two channels of 2 × 2.
fn npz(name: &str, path: &str) {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/npz");
    fs::create_dir_all(std::path::Path::new(path).parent().unwrap()).unwrap();
    fs::copy(corpus.join(name), path).unwrap();
}

#[test]
fn published_npz_files_are_imported() {
    let folder = Folder::new();
    let (data, out) = (folder.path("npz"), folder.path("cache"));
    let codec = folder.vae_of("kl.safetensors", 2);
    for (path, name) in [("n1/b.JPEG", "valid"), ("n1/a.JPEG", "valid_f16"), ("n2/c.JPEG", "valid_deflated")]
    {
        npz(name, &format!("{data}/{path}.npz"));
    }
    let args = ["cache", "--data", &data, "--codec", &codec, "--size", "4", "--out", &out];
    assert_eq!(succeed(&args), format!("{out}: 3 pictures in 1 shard\n"));
    let cached = CachedDataset::open(&out, &Expected::default()).unwrap();
    let spec = &cached.header().spec;
    assert_eq!((spec.latent_scale, spec.shape, spec.flip), (0.2325, [2, 2, 2], true));
    assert_eq!(cached.path(0).unwrap(), "n1/a.JPEG");
    let mut latents = Vec::new();
    cached.read(0, &mut StreamKey::new(1, Purpose::Posterior, 0, 0).stream(), &mut latents).unwrap();
    assert_eq!(latents.len(), 8);
    let summary: Value = serde_json::from_str(&succeed(&["inspect", &out, "--json"])).unwrap();
    assert_eq!(summary["header"]["images"]["codec"]["file"]["name"], "kl.safetensors", "{summary}");
    // The codec is kept, and the cache trains.
    assert!(fs::read(&codec).unwrap() == fs::read(format!("{out}/kl.safetensors")).unwrap());
    succeed(&train(&out, &folder.path("run"), "1", &[]));

    let refused = |more: &[&str]| fail(&[&args[..], more].concat());
    assert!(refused(&["--no-flip"]).contains("--no-flip: npz files hold the moments of mirror images"));
    let other = folder.path("other");
    let patch = ["cache", "--data", &data, "--codec", "patch:2", "--size", "4", "--out", &other];
    assert!(fail(&patch).contains("--codec: expected the file of the KL-VAE that made the npz files"));
    let size = ["cache", "--data", &data, "--codec", &codec, "--size", "8", "--out", &other];
    let message = fail(&size);
    assert!(message.contains("expected shape 4x4x4, got 4x2x2"), "{message}");
}

#[test]
fn broken_npz_files_stop_the_import_or_are_left_out() {
    let folder = Folder::new();
    let (data, out) = (folder.path("npz"), folder.path("cache"));
    let codec = folder.vae_of("kl.safetensors", 2);
    npz("valid", &format!("{data}/n1/a.npz"));
    npz("flip_missing", &format!("{data}/n1/b.npz"));
    let args = ["cache", "--data", &data, "--codec", &codec, "--size", "4", "--out", &out];
    let stopped = run(&args);
    let line = stopped.stderr.lines().last().unwrap();
    assert!(stopped.code == Some(1) && line.contains("b.npz") && line.contains("moments_flip"), "{line}");
    let skipped = run(&[&args[..], &["--on-broken", "skip"]].concat());
    assert_eq!(skipped.stdout, format!("{out}: 1 picture in 1 shard, 1 broken one left out\n"));
}

#[test]
fn outputs_are_kept_apart_from_data_and_from_each_other() {
    let folder = Folder::new();
    let (data, made, run) =
        (tiles(&folder, "pictures", &["a", "b"], 4), folder.path("cache"), folder.path("run"));
    let more = ["data.codec=patch:4", "data.size=16"];
    for inside in [data.clone(), format!("{data}/new"), format!("{data}/a/new/run")] {
        for args in [cache(&data, "16", &inside), train(&data, &inside, "1", &more)] {
            let message = fail(&args);
            assert!(message.contains("--out") && message.contains("outside of the data"), "{message}");
        }
    }
    succeed(&cache(&data, "16", &made));
    succeed(&train(&data, &run, "1", &more));
    assert!(fail(&cache(&data, "16", &run)).contains("holds config.toml of something else"));
    assert!(fail(&train(&data, &made, "1", &more)).contains("holds cache.json of something else"));
    // Beside the folder `train`, in which the classes are, there is nothing to find.
    let root = folder.path("root");
    fs::create_dir(&root).unwrap();
    fs::rename(&data, format!("{root}/train")).unwrap();
    succeed(&cache(&root, "16", &format!("{root}/cache")));
    // A class may be named `train`.
    let vehicles = tiles(&folder, "vehicles", &["plane", "train"], 4);
    assert!(fail(&cache(&vehicles, "16", &format!("{vehicles}/new"))).contains("outside of the data"));
}

#[test]
fn a_cache_without_a_readable_picture_is_an_error() {
    let folder = Folder::new();
    let (data, made) = (tiles(&folder, "pictures", &["a"], 2), folder.path("cache"));
    (0..2).for_each(|number| fs::write(format!("{data}/a/{number}.png"), "no picture").unwrap());
    let mut args = cache(&data, "16", &made);
    args.extend(["--on-broken", "skip"]);
    let done = run(&args);
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("none of 2 pictures could be read; the first: "), "{}", done.stderr);
}
