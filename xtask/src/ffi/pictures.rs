//! What the programs make: the same pixels from each, digits that are recognised, and an end when they are told to.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use super::programs::{Program, command_line, rust_example};
use crate::Result;
use crate::install::Profile;
use crate::process::{Process, cargo};

/// Training steps after which most digits are recognised.
const TRAINING_STEPS: &str = "300";
const DIGITS: usize = 120;
/// Of these, those that every program makes.
const COMPARED: usize = 20;
/// Chance is 0.1. `quickstart --steps 300 --samples 600` reports 0.947 without guidance, and the share of this many digits
/// scatters by 0.02 around what training reached, which is a little different on every kind of processor.
const LEAST_RECOGNISED: f64 = 0.8;
/// Exit code of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;
/// More steps of the sampler than can be done before a program is interrupted.
const ENDLESS: &str = "100000";

/// Every program makes what the first one makes; `small` is a folder with a random model and its VAE.
pub fn check(folder: &Path, small: &Path, programs: &[Program], profile: Profile) -> Result {
    let digits = folder.join("digits/model.safetensors");
    train(&folder.join("digits"), profile)?;
    let ask = |process: Process, count: usize| {
        let (classes, seeds) = (joined((0..count).map(|i| i % 10)), joined(1000..1000 + count));
        process.arg(&digits).args(&["--classes", &classes, "--seeds", &seeds, "--steps", "25"])
    };
    let picture = folder.join("digits/recognised.png");
    ask(programs[0].run(), DIGITS).arg("--out").arg(&picture).run_quietly()?;
    recognised(&rust_example("linking", profile)?, &picture)?;
    same(&folder.join("digits/pictures"), programs, |p| ask(p, COMPARED))?;

    let (model, vae) = (small.join("model.safetensors"), small.join("vae.safetensors"));
    let asked = ["--classes", "0,2,1", "--steps", "4", "--guidance", "1.5", "--columns", "2"];
    same(&small.join("pictures"), programs, |p| p.arg(&model).arg("--vae").arg(&vae).args(&asked))?;

    let small_model = |p: Process| p.arg(&model).arg("--vae").arg(&vae);
    let command = |p: Process| p.arg("--model").arg(&model).arg("--vae").arg(&vae);
    commanded(&small.join("command"), &programs[0], small_model, command, profile)?;

    for program in programs {
        let endless = program.run().arg(&digits).args(&["--steps", ENDLESS, "--out", "never.png"]);
        let code = endless.interrupted_after(b'%')?;
        if code != Some(INTERRUPTED) {
            return Err(format!("{}: Ctrl-C: exit code {code:?}, not {INTERRUPTED}", program.name).into());
        }
        refused(program)?;
    }
    println!("{} programs make the same pictures, stop when told to, and say what is wrong", programs.len());
    Ok(())
}

fn train(folder: &Path, profile: Profile) -> Result {
    let folder = folder.to_str().ok_or("a folder name that is not UTF-8")?;
    let command =
        ["run", "--quiet", "--locked", "--example", "quickstart", "--profile", profile.name(), "--"];
    // What it generates and measures is not looked at.
    let few = ["--fresh", "--samples", "100", "--sampling-steps", "1"];
    cargo(&command).args(&["--steps", TRAINING_STEPS, "--out", folder]).args(&few).run()
}

/// Runs every program with the same arguments in `folder`: all pictures are equal.
fn same(folder: &Path, programs: &[Program], ask: impl Fn(Process) -> Process) -> Result {
    fs::create_dir_all(folder)?;
    let path = |program: &Program| folder.join(format!("{}.png", program.name));
    let mut first = None;
    for program in programs {
        ask(program.run()).arg("--out").arg(path(program)).run_quietly()?;
        let picture = read(&path(program))?;
        match &first {
            None => first = Some(picture),
            Some(first) if *first == picture => {}
            Some(_) => {
                let (a, b) = (path(&programs[0]), path(program));
                return Err(format!("{} and {} differ", a.display(), b.display()).into());
            }
        }
    }
    Ok(())
}

/// The `transdiff` command, which writes a file an image, makes what the program makes one by one.
fn commanded(
    folder: &Path,
    program: &Program,
    ask_program: impl Fn(Process) -> Process,
    ask_command: impl Fn(Process) -> Process,
    profile: Profile,
) -> Result {
    let sampler = ["--steps", "4", "--guidance", "1.5"];
    let command = Process::new(command_line(profile)?).arg("sample").args(&sampler);
    let asked = ["--class", "0,2", "--seeds", "7,8", "--batch", "3", "--force", "--out"];
    ask_command(command).args(&asked).arg(folder).run_quietly()?;
    for (class, seed) in [("0", "7"), ("0", "8"), ("2", "7"), ("2", "8")] {
        let (alone, name) = (folder.join("alone.png"), format!("{class}-{seed}.png"));
        let one = ask_program(program.run()).args(&sampler).args(&["--classes", class, "--seeds", seed]);
        one.arg("--out").arg(&alone).run_quietly()?;
        if read(&alone)? != read(&folder.join(&name))? {
            return Err(format!("{}: {name} of the command is another", folder.display()).into());
        }
    }
    Ok(())
}

/// Sizes and pixels.
fn read(path: &Path) -> Result<(u32, u32, png::ColorType, Vec<u8>)> {
    let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut reader = png::Decoder::new(BufReader::new(file)).read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size().ok_or("a picture too large for memory")?];
    let frame = reader.next_frame(&mut pixels)?;
    Ok((frame.width, frame.height, frame.color_type, pixels))
}

/// The quickstart's classifier sees in most of the picture's digits what they should be.
fn recognised(linking: &Path, picture: &Path) -> Result {
    let share: f64 = Process::new(linking).arg("recognise").arg(picture).stdout()?.trim().parse()?;
    println!("{share} of {DIGITS} digits are recognised");
    if share >= LEAST_RECOGNISED {
        return Ok(());
    }
    Err(format!("{}: {share} are recognised, expected {LEAST_RECOGNISED} or more", picture.display()).into())
}

/// A program that cannot read its model says so, names it, and fails.
fn refused(program: &Program) -> Result {
    let (code, said) = program.run().arg("nowhere.safetensors").complaint()?;
    if code == Some(1) && said.contains("nowhere.safetensors") {
        return Ok(());
    }
    Err(format!("{}: without a model: exit code {code:?}, and \"{said}\"", program.name).into())
}

fn joined(numbers: impl Iterator<Item = usize>) -> String {
    numbers.map(|n| n.to_string()).collect::<Vec<_>>().join(",")
}
