//! The command on emulated GPUs, as the ranks of a launcher like torchrun. `LD_LIBRARY_PATH` has to name the folder of the
//! emulator of the CUDA backend; with any other driver, or none, the tests print SKIPPED.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::{env, fs};

use image::{Rgb, RgbImage};
use transdiff::checkpoint::WeightFile;

/// Settings of a tiny model on pictures.
const TINY: [&str; 8] = [
    "data.codec=patch:4",
    "data.size=16",
    "model.width=8",
    "model.heads=2",
    "model.encoder_blocks=1",
    "model.decoder_blocks=1",
    "model.mlp_ratio=2",
    "train.sample_every=0",
];

/// Returns whether the emulator is there.
fn emulated() -> bool {
    let folders = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let found = env::split_paths(&folders).any(|folder| folder.join("objects").is_dir());
    if !found {
        println!("SKIPPED: LD_LIBRARY_PATH has no emulator");
    }
    found
}

fn draw(root: &Path) {
    for (label, class) in ["a", "b"].iter().enumerate() {
        fs::create_dir_all(root.join(class)).unwrap();
        for number in 0..4 {
            let level = |i: u32| (40 + 60 * label as u32 + 16 * i + 5 * number) as u8;
            let tile =
                RgbImage::from_fn(16, 16, |x, y| Rgb([level(x / 4), level(y / 4), level((x + y) / 8)]));
            tile.save(root.join(class).join(format!("{number}.png"))).unwrap();
        }
    }
}

/// The command that trains on the pictures in `folder` for two steps, with further settings.
fn train(folder: &Path, out: &str, settings: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_transdiff"));
    command.args(["train", "--steps", "2", "--threads", "1", "--timeout", "60"]);
    command.arg("--data").arg(folder.join("pictures")).arg("--out").arg(folder.join(out));
    for setting in TINY.iter().chain(settings) {
        command.args(["--set", setting]);
    }
    command.env("EMULATED_CUDA_DEVICES", "2").stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["TORCHELASTIC_RUN_ID", "NCCL_COMM_ID", "RANK", "WORLD_SIZE"] {
        command.env_remove(name);
    }
    command
}

/// Runs the command as two ranks of torchrun.
fn in_two_ranks(make: impl Fn() -> Command) -> [Output; 2] {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().min(65_534);
    let start = |rank: &str| {
        let mut command = make();
        command.env("RANK", rank).env("WORLD_SIZE", "2").env("TORCHELASTIC_RUN_ID", "none");
        command.env("LOCAL_RANK", rank).env("LOCAL_WORLD_SIZE", "2");
        command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
        command.spawn().unwrap()
    };
    ["0", "1"].map(start).map(|process| process.wait_with_output().unwrap())
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn two_ranks_of_torchrun_train_the_model_of_one_process() {
    if !emulated() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    draw(&folder.path().join("pictures"));
    let one = || train(folder.path(), "one", &["train.batch=2", "train.accumulate=2"]);
    let two = || train(folder.path(), "two", &["train.batch=2", "train.accumulate=1"]);
    let alone = one().args(["--device", "cuda"]).output().unwrap();
    assert!(alone.status.success(), "{}", stderr(&alone));
    let ranks = in_two_ranks(|| {
        let mut command = two();
        command.args(["--device", "cuda"]);
        command
    });
    for output in &ranks {
        assert!(output.status.success(), "{}", stderr(output));
    }
    let [one, two] = ["one", "two"].map(|run| {
        let file = folder.path().join(run).join("checkpoint-00000002.safetensors");
        WeightFile::open(file.to_str().unwrap()).unwrap()
    });
    let mut weights = 0;
    for (name, _) in one.entries().iter().filter(|(name, _)| name.starts_with("model.")) {
        assert!(one.tensor(name).unwrap() == two.tensor(name).unwrap(), "{name}");
        weights += 1;
    }
    assert!(weights > 0);
}

#[test]
fn ranks_of_torchrun_on_cpus_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    draw(&folder.path().join("pictures"));
    let ranks = in_two_ranks(|| {
        let mut command = train(folder.path(), "out", &["train.batch=2"]);
        command.args(["--device", "cpu"]);
        command
    });
    for output in ranks {
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("WORLD_SIZE: expected a single process, got one of 2"), "{message}");
        assert!(message.contains("Processes of torchrun need a GPU each"), "{message}");
    }
    assert!(!folder.path().join("out").exists());
}
