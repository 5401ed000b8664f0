//! Help, completions, and usage errors.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::process::{run, succeed};

#[test]
fn every_command_has_help_with_examples() {
    for command in ["inspect", "convert", "cache", "sample", "train", "completions"] {
        let help = succeed(&[command, "--help"]);
        assert!(help.contains("Usage: transdiff") && help.contains("Examples:"), "{help}");
        assert!(succeed(&["--help"]).contains(command));
    }
    assert_eq!(succeed(&["--version"]), format!("transdiff {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn usage_errors_exit_2_and_name_the_argument() {
    let cases: [(&[&str], &str); 18] = [
        (&[], "Usage"),
        (&["paint"], "paint"),
        (&["inspect"], "<FILE|DIR>"),
        (&["convert", "a.pth"], "<OUT>"),
        (&["convert", "a", "b", "--dtype", "f16"], "--dtype"),
        (&["sample", "--class", "1"], "--model"),
        (&["sample", "--model", "m"], "--class"),
        (&["sample", "--model", "m", "--class", "1", "--seeds", "1,x"], "--seeds"),
        (&["sample", "--model", "m", "--class", "1", "--seeds", "1", "--count", "2"], "--count"),
        (&["sample", "--model", "m", "--class", "1", "--steps", "0"], "--steps"),
        (&["sample", "--model", "m", "--class", "1", "--batch", "0"], "expected an integer of at least 1"),
        (&["sample", "--model", "m", "--class", "1", "--device", "tpu"], "device"),
        (
            &["sample", "--model", "m", "--class", "1", "--codec", "patch:0"],
            "expected patch:N with N from 1 to",
        ),
        (&["sample", "--model", "m", "--class", "1", "--codec", "patch:x"], "or the path of a codec's file"),
        (&["train", "--out", "r", "--dry-run"], "--data"),
        (&["train", "--data", "d"], "--out"),
        (&["train", "--resume", "r", "--preset", "small", "--dry-run"], "--preset"),
        (
            &["train", "--data", "d", "--out", "r", "--dry-run", "--steps", "0"],
            "expected an integer of at least 1",
        ),
    ];
    for (args, named) in cases {
        let done = run(args);
        assert_eq!(done.code, Some(2), "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(named), "{args:?}: {}", done.stderr);
    }
}

/// Not "unexpected argument '-1'", which says nothing about the values that are accepted.
#[test]
fn numbers_out_of_range_and_empty_items_are_named_with_what_is_accepted() {
    let cases = [
        ("--seed", "-1", "expected an integer of at least 0"),
        ("--seed", "18446744073709551616", "expected an integer of at most 18446744073709551615"),
        ("--seeds", "-1", "expected an integer of at least 0"),
        ("--seeds", "3,-1", "expected an integer of at least 0"),
        ("--seeds", "-1,3", "expected an integer of at least 0"),
        ("--seeds", "3,", "got nothing; remove any extra comma"),
        ("--seeds", ",3", "got nothing; remove any extra comma"),
        ("--class", "3,", "got nothing; remove any extra comma"),
        ("--class", "3,,4", "got nothing; remove any extra comma"),
        ("--count", "-2", "expected an integer of at least 1"),
        ("--count", "two", "expected an integer from 1 to "),
        ("--steps", "-1", "expected an integer of at least 1"),
        ("--steps", "4000000000", "expected an integer of at most 1000000"),
        ("--batch", "-8", "expected an integer of at least 1"),
        ("--threads", "-1", "expected an integer of at least 1"),
        ("--heads", "-1", "expected an integer of at least 1"),
        ("--guidance", "1.5,", "got nothing; remove any extra comma"),
        ("--guidance", "1,5x", "expected a number"),
        ("--guidance-interval", "-,1", "expected a number"),
        ("--drift-scale", "-x", "expected a number"),
    ];
    for (flag, value, named) in cases {
        let given = format!("{flag}={value}");
        for given in [vec![flag, value], vec![&*given]] {
            // A word that begins with a hyphen and is no number is taken for a flag.
            if given == ["--drift-scale", "-x"] {
                continue;
            }
            let done = run(&[vec!["sample", "--model", "m"], given].concat());
            assert_eq!(done.code, Some(2), "{flag} {value}: {}", done.stderr);
            let line = done.stderr.lines().next().unwrap_or_default();
            assert!(line.contains(flag) && line.contains(named), "{flag} {value}: {line}");
        }
    }
}

/// `--vae` is the former name of `--codec`.
#[test]
fn vae_is_a_hidden_alias_of_codec() {
    let help = succeed(&["sample", "--help"]);
    assert!(help.contains("--codec") && !help.contains("--vae"), "{help}");
    assert!(!succeed(&["completions", "bash"]).contains("--vae"));
    for flags in [&["--vae", "no-such-file"][..], &["--vae=no-such-file"], &["--codec", "no-such-file"]] {
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/pth/checkpoint-last.pth");
        let done = run(&[&["sample", "--model", model, "--heads", "4", "--class", "1"], flags].concat());
        assert_eq!(done.code, Some(1), "{flags:?}: {}", done.stderr);
        assert!(done.stderr.contains("no-such-file"), "{flags:?}: {}", done.stderr);
    }
}

#[test]
fn completions_cover_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = succeed(&["completions", shell]);
        assert!(script.contains("guidance-interval") && script.contains("adams-bashforth"), "{shell}");
    }
}

#[test]
fn bash_accepts_its_completions() {
    let started = Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut bash) = started else {
        eprintln!("SKIPPED: bash is not installed");
        return;
    };
    let script = succeed(&["completions", "bash"]);
    bash.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("bash reads");
    let done = bash.wait_with_output().expect("bash ends");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
