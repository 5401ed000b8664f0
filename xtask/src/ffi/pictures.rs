//! Checks of the example programs: equal images, recognisable digits, exit on SIGINT, and error messages.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::Path;

use super::programs::{Program, command_line, rust_example};
use crate::Result;
use crate::install::Profile;
use crate::process::{Process, cargo};

/// Number of training steps after which most digits are recognised.
const TRAINING_STEPS: &str = "300";
const DIGITS: usize = 120;
/// Number of digits that every program generates for comparison.
const COMPARED: usize = 20;
/// Minimum recognised fraction. Chance is 0.1. `quickstart --steps 300 --samples 600` reports 0.947 without guidance; the
/// fraction of this many digits scatters by 0.02 around the trained accuracy, which varies slightly between processors.
const MIN_RECOGNISED: f64 = 0.8;
/// Exit code after Ctrl-C.
const INTERRUPTED: i32 = 130;
/// Number of sampling steps that outlasts the time until a program is interrupted.
const ENDLESS_STEPS: &str = "100000";

/// Checks that all programs generate the images of the first one; `small` is a folder with a random model, its VAE, and a
/// model whose file describes its images.
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
    same(&small.join("pictures"), programs, |p| p.arg(&model).arg("--codec").arg(&vae).args(&asked))?;

    let described = small.join("described.safetensors");
    let asked = ["--classes", "trouser,boot,2", "--steps", "4"];
    same(&small.join("described"), programs, |p| p.arg(&described).args(&asked))?;

    let small_model = |p: Process| p.arg(&model).arg("--codec").arg(&vae);
    let command = |p: Process| p.arg("--model").arg(&model).arg("--codec").arg(&vae);
    commanded(&small.join("command"), &programs[0], small_model, command, profile)?;

    for program in programs {
        let endless = program.run().arg(&digits).args(&["--steps", ENDLESS_STEPS, "--out", "never.png"]);
        let code = endless.interrupt_after(b'%')?;
        if code != Some(INTERRUPTED) {
            return Err(
                format!("{}: Ctrl-C: expected exit code {INTERRUPTED}, got {code:?}", program.name).into()
            );
        }
        reports_missing_model(program)?;
    }
    println!("{} programs generate equal images, exit on Ctrl-C and report errors", programs.len());
    Ok(())
}

fn train(folder: &Path, profile: Profile) -> Result {
    let folder = folder.to_str().ok_or("the folder name is not UTF-8")?;
    let command =
        ["run", "--quiet", "--locked", "--example", "quickstart", "--profile", profile.name(), "--"];
    // Its own samples and metrics are not used.
    let few = ["--fresh", "--samples", "100", "--sampling-steps", "1"];
    cargo(&command).args(&["--steps", TRAINING_STEPS, "--out", folder]).args(&few).run()
}

/// Runs every program with the same arguments and checks that all images in `folder` are equal.
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

/// Checks that the `transdiff` command, which writes one file per image, generates the same images as the program.
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
            return Err(format!(
                "{}: {name} of the command differs from the program's image",
                folder.display()
            )
            .into());
        }
    }
    Ok(())
}

/// Reads the size, colour type and pixels of a PNG.
fn read(path: &Path) -> Result<(u32, u32, png::ColorType, Vec<u8>)> {
    let file = File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut reader = png::Decoder::new(BufReader::new(file)).read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size().ok_or("the image is too large for memory")?];
    let frame = reader.next_frame(&mut pixels)?;
    Ok((frame.width, frame.height, frame.color_type, pixels))
}

/// Checks that the quickstart's classifier recognises most digits of an image.
fn recognised(linking: &Path, picture: &Path) -> Result {
    let fraction: f64 = Process::new(linking).arg("recognise").arg(picture).stdout()?.trim().parse()?;
    println!("recognised fraction of {DIGITS} digits: {fraction}");
    if fraction >= MIN_RECOGNISED {
        return Ok(());
    }
    let image = picture.display();
    Err(format!("{image}: expected a recognised fraction of at least {MIN_RECOGNISED}, got {fraction}")
        .into())
}

/// Checks that a program without a readable model fails and names the file.
fn reports_missing_model(program: &Program) -> Result {
    let (code, stderr) = program.run().arg("nowhere.safetensors").code_and_stderr()?;
    if code == Some(1) && stderr.contains("nowhere.safetensors") {
        return Ok(());
    }
    let name = &program.name;
    Err(format!(
        "{name}: missing model: expected exit code 1 and the file name, got {code:?} and \"{stderr}\""
    )
    .into())
}

fn joined(numbers: impl Iterator<Item = usize>) -> String {
    numbers.map(|n| n.to_string()).collect::<Vec<_>>().join(",")
}
