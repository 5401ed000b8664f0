//! The same weights on any number of ranks, also where the number changes.

use std::fs;

use crate::drawing::{resume, tiles, train};
use crate::files::Folder;
use crate::job::{assert_same, digits, succeed_on};
use crate::process::succeed;

const STEPS: &str = "50";

/// Trains on `data` in a process of its own, and on 1, 2 and 4 ranks with as many passes per step, 4 · `passes`, and compares.
fn assert_equal_on_all(folder: &Folder, data: &str, passes: usize, settings: &[&str], args: &[&str]) {
    let passes_on = |ranks: usize| format!("train.accumulate={}", passes * 4 / ranks);
    let run = |name: &str, ranks: usize| {
        let (out, passes) = (folder.path(name), passes_on(ranks));
        let settings = [settings, &["train.report_every=10", &passes]].concat();
        let mut all = train(data, &out, STEPS, &settings);
        all.extend(args);
        match name {
            "alone" => drop(succeed(&all)),
            _ => drop(succeed_on(ranks, &all)),
        }
        out
    };
    let alone = run("alone", 1);
    for (name, ranks) in [("one", 1), ("two", 2), ("four", 4)] {
        assert_same(&alone, &run(name, ranks), 50);
    }
}

#[test]
fn weights_of_a_one_step_model_are_equal_on_any_number_of_ranks() {
    let folder = Folder::new();
    let settings = ["train.dropout=0.1", "train.label_drop=0.3", "data.val=0.1", "train.checkpoint_every=20"];
    assert_equal_on_all(&folder, &digits(&folder), 2, &settings, &[]);
}

#[test]
fn weights_of_mrar_with_gradient_checkpointing_are_equal_on_any_number_of_ranks() {
    let folder = Folder::new();
    let settings =
        ["model.groups=4", "train.gradient_checkpointing=true", "train.dropout=0.1", "data.val=0.05"];
    assert_equal_on_all(&folder, &digits(&folder), 1, &settings, &[]);
}

#[test]
fn weights_of_a_divided_optimiser_are_equal_on_any_number_of_ranks() {
    let folder = Folder::new();
    let settings = ["train.accumulate_as=sum", "train.max_grad_norm=0.5", "train.dropout=0.1"];
    assert_equal_on_all(&folder, &digits(&folder), 1, &settings, &["--shard", "optimizer"]);
}

#[test]
fn weights_of_mrar_on_pictures_with_a_divided_optimiser_are_equal_on_any_number_of_ranks() {
    let folder = Folder::new();
    let data = tiles(&folder, "pictures", &["a", "b"], 24);
    let pictures = ["data.codec=patch:4", "data.size=16", "data.flip=true", "data.val=0.4"];
    let settings =
        [&pictures[..], &["model.groups=4", "train.label_drop=0.2", "train.sample_every=25"]].concat();
    let sampling = ["--shard", "optimizer", "--set", "train.sample_steps=2"];
    assert_equal_on_all(&folder, &data, 1, &settings, &sampling);
    // Weights of all ranks are in the samples, too.
    let grid = |run: &str| fs::read(folder.path(&format!("{run}/samples/00000050.png"))).unwrap();
    assert!(grid("alone") == grid("two") && grid("alone") == grid("four"));
}

#[test]
fn resumed_run_goes_on_bitwise_on_another_number_of_ranks() {
    let folder = Folder::new();
    let (data, whole, run) = (digits(&folder), folder.path("whole"), folder.path("run"));
    let settings = ["train.warmup=0", "train.decay=constant", "train.dropout=0.1", "data.val=0.1"];
    let with = |more: &'static str| [&settings[..], &[more]].concat();
    succeed(&train(&data, &whole, "36", &with("train.accumulate=4")));
    succeed_on(2, &train(&data, &run, "12", &with("train.accumulate=2")));
    for (ranks, before, passes, steps, more) in
        [(4, 2, 1, "24", &["--shard", "optimizer"][..]), (1, 4, 4, "36", &[])]
    {
        let args = [&resume(&run, &[])[..], &["--steps", steps], more].concat();
        let done = succeed_on(ranks, &args);
        let changed = format!("changed: train.ranks: {ranks}, before {before}");
        assert_eq!(done.stderr.matches(&changed).count(), 1, "{}", done.stderr);
        let saved = fs::read_to_string(format!("{run}/config.toml")).unwrap();
        let has = |line: String| saved.lines().any(|saved| saved == line);
        assert!(has(format!("ranks = {ranks}")) && has(format!("accumulate = {passes}")), "{saved}");
    }
    assert_same(&whole, &run, 36);
}
