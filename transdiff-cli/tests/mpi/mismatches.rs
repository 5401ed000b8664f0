//! Ranks that differ: the job ends before the run begins, with the difference named.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;

use crate::drawing::{latents, resume, train};
use crate::files::Folder;
use crate::job::{PROGRAM, fail_with, launched_by};
use crate::process::succeed;

/// The message of a job whose ranks 0 and 1 have the given programs and arguments. None of them creates `out`.
fn refused(out: &str, ranks: [(&str, &[&str]); 2]) -> String {
    let parts = ranks.map(|(program, args)| (1, program, args));
    let line = fail_with(launched_by("mpirun", &parts));
    assert!(!fs::exists(out).unwrap(), "{line}");
    line
}

#[test]
fn ranks_with_other_arguments_or_settings_are_named() {
    let folder = Folder::new();
    let (data, out) = (latents(&folder, "cache", |_| false), folder.path("run"));
    let train = |steps, passes| train(&data, &out, steps, &[passes]);
    let args = train("4", "train.accumulate=1");
    let own = [&args[..], &["--set", "train.lr=0.002"]].concat();
    let begun = folder.path("begun");
    succeed(&crate::drawing::train(&data, &begun, "2", &[]));
    let resumed = [&resume(&begun, &["train.accumulate=1"])[..], &["--steps", "4"]].concat();
    for (other, difference) in [
        (own, "another train.lr: 0.002 and \"auto\""),
        (train("5", "train.accumulate=1"), "another train.steps: 5 and 4"),
        (train("4", "train.accumulate=2"), "another train.accumulate: 2 and 1"),
        ([&args[..], &["--shard", "optimizer"]].concat(), "another --shard: optimizer and none"),
        (resumed, "another kind of run: resumed and new"),
    ] {
        let line = refused(&out, [(PROGRAM, &args), (PROGRAM, &other)]);
        let start = line.starts_with("error: rank 1 on ") && line.contains(", rank 0 on ");
        assert!(start && line.ends_with(difference), "{line}");
    }
}

#[test]
fn ranks_with_other_data_are_named() {
    let folder = Folder::new();
    let (data, out) = (latents(&folder, "cache", |_| false), folder.path("run"));
    let args = train(&data, &out, "4", &[]);
    let (other, missing) = (latents(&folder, "other", |i| i == 0), folder.path("missing"));
    let line = refused(&out, [(PROGRAM, &args), (PROGRAM, &train(&other, &out, "4", &[]))]);
    assert!(line.contains("another data: 64 items of 4×2×2, sha256 "), "{line}");
    for ranks in [[&data, &missing], [&missing, &data]] {
        let args = ranks.map(|data| train(data, &out, "4", &[]));
        let line = refused(&out, [(PROGRAM, &args[0]), (PROGRAM, &args[1])]);
        let rank = ranks.iter().position(|&path| *path == missing).unwrap();
        assert!(line.starts_with(&format!("error: rank {rank}: {missing}: ")), "{line}");
    }
    // The same data at another place.
    fs::rename(&other, folder.path("gone")).unwrap();
    let copy = latents(&folder, "copy", |_| false);
    let args = [&data, &copy].map(|data| train(data, &out, "4", &[]));
    let parts = [(1, PROGRAM, &args[0][..]), (1, PROGRAM, &args[1][..])];
    assert_eq!(crate::job::ended(crate::job::spawn(launched_by("mpirun", &parts))).code, Some(0));
}

#[test]
fn ranks_with_other_initial_weights_are_named() {
    let folder = Folder::new();
    let (data, out) = (latents(&folder, "cache", |_| false), folder.path("run"));
    let inits = ["1", "2"].map(|seed| {
        let run = folder.path(seed);
        let seed = format!("train.seed={seed}");
        succeed(&train(&data, &run, "1", &[&seed]));
        format!("{run}/model.safetensors")
    });
    let args = inits.each_ref().map(|init| [&train(&data, &out, "4", &[])[..], &["--init", init]].concat());
    let line = refused(&out, [(PROGRAM, &args[0]), (PROGRAM, &args[1])]);
    assert!(line.contains("another train.init: sha256 "), "{line}");
}

#[test]
fn ranks_with_another_program_are_named() {
    let folder = Folder::new();
    let (data, out, program) =
        (latents(&folder, "cache", |_| false), folder.path("run"), folder.path("other"));
    fs::copy(PROGRAM, &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::File::options().append(true).open(&program).unwrap().write_all(b"0").unwrap();
    let args = train(&data, &out, "4", &[]);
    let line = refused(&out, [(PROGRAM, &args), (&program, &args)]);
    assert!(line.contains("another program: version ") && line.contains(", sha256 "), "{line}");
}
