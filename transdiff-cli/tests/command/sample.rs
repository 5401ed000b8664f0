//! `transdiff sample`.

use std::fs::{self, File};
use std::io::BufReader;

use transdiff::checkpoint::WeightFile;
use transdiff::diffusion::{
    Euler, Guidance, Interpolant, Preset, Sampling, SamplingSettings, Schedule, SolverKind, Timesteps,
};
use transdiff::models::CodecFile;
use transdiff::models::transdiff::TransDiffConfig;
use transdiff::pipeline::{LoadOptions, Output, OutputSelection, Pipeline, PixelFormat, Request, to_pixels};

use crate::files::{Folder, mrar, one_step};
use crate::process::{fail, run, succeed};

/// Colour type, rows, columns, bytes.
type Decoded = (png::ColorType, usize, usize, Vec<u8>);

pub fn decoded(path: &str) -> Decoded {
    let mut reader = png::Decoder::new(BufReader::new(File::open(path).unwrap())).read_info().unwrap();
    let mut bytes = vec![0; reader.output_buffer_size().unwrap()];
    let frame = reader.next_frame(&mut bytes).unwrap();
    (frame.color_type, frame.height as usize, frame.width as usize, bytes)
}

/// Output of the library for the same request.
pub fn expected(model: &str, vae: Option<&str>, change: impl FnOnce(&Pipeline, &mut Request)) -> Output {
    let open = |path: &str| WeightFile::open(path).unwrap();
    let vae = vae.map(|path| CodecFile::from(open(path)));
    let pipeline =
        Pipeline::load(&open(model), vae.as_ref(), &LoadOptions::default(), &mut |_, _| ()).unwrap();
    let sampling = SamplingSettings::from(Preset::PLAIN).with_steps(3).build(1).unwrap();
    let mut request = Request::new(vec![7, 7, 2, 2], vec![4, 5, 4, 5], sampling);
    request.outputs = OutputSelection { images: vae.is_some(), features: false };
    change(&pipeline, &mut request);
    pipeline.session().generate(&request, &mut |_| std::ops::ControlFlow::Continue(())).unwrap()
}

/// RGB bytes of every image.
pub fn rgb(output: &Output) -> Vec<Vec<u8>> {
    let images = output.images.as_ref().unwrap();
    let mut bytes = vec![0; images.data().len()];
    to_pixels(images, PixelFormat::Rgb8Hwc, &mut bytes).unwrap();
    bytes.chunks_exact(bytes.len() / images.shape()[0]).map(<[u8]>::to_vec).collect()
}

pub const IMAGES: [&str; 4] = ["7-4.png", "7-5.png", "2-4.png", "2-5.png"];

#[test]
fn images_match_the_library_for_any_batch_size() {
    let folder = Folder::new();
    let (model, vae) = (folder.model("model.safetensors", &one_step()), folder.vae("vae.safetensors"));
    let want = expected(&model, Some(&vae), |_, _| ());
    let (out, latents) = (folder.path("out"), folder.path("latents.safetensors"));
    for batch in ["1", "3", "100"] {
        let args =
            ["sample", "--model", &model, "--codec", &vae, "--class", "7,2", "--seed", "4", "--count", "2"];
        let more = ["--steps", "3", "--batch", batch, "--out", &out, "--latents", &latents, "--force"];
        let stdout = succeed(&[&args[..], &more].concat());
        assert!(stdout.starts_with("4 images in ") && stdout.contains("images/s"), "{stdout}");
        assert_eq!(folder.names("out"), ["2-4.png", "2-5.png", "7-4.png", "7-5.png", "grid.png"]);
        for (name, bytes) in IMAGES.iter().zip(rgb(&want)) {
            let png = decoded(&format!("{out}/{name}"));
            assert!(png == (png::ColorType::Rgb, 8, 8, bytes), "{name} in batches of {batch}");
        }
        let saved = WeightFile::open(&latents).unwrap();
        assert_eq!(saved.tensor("latents").unwrap(), want.latents);
        assert_eq!(
            (&*saved.metadata()["classes"], &*saved.metadata()["seeds"]),
            ("[7, 7, 2, 2]", "[4, 5, 4, 5]")
        );
    }
    // Two rows and two columns of images of 8×8 pixels, enlarged six times, with gaps of four pixels.
    let (color, height, width, grid) = decoded(&format!("{out}/grid.png"));
    assert_eq!((color, height, width), (png::ColorType::Rgb, 108, 108));
    let at = |y: usize, x: usize| &grid[3 * (y * width + x)..][..3];
    let last = &rgb(&want)[3];
    assert_eq!((at(56, 56), at(103, 103), at(104, 104)), (&last[..3], &last[189..], &[255; 3][..]));
}

#[test]
fn sampling_flags_reach_the_solver() {
    let folder = Folder::new();
    let model = folder.model("model.safetensors", &mrar());
    let latents = folder.path("latents.safetensors");
    let latents_with = |flags: &[&str]| {
        let args =
            ["sample", "--model", &model, "--class", "7,2", "--seeds", "4,5", "--out", &folder.path("out")];
        succeed(&[&args, flags, &["--latents", &latents, "--force"]].concat());
        WeightFile::open(&latents).unwrap().tensor("latents").unwrap()
    };
    let want = expected(&model, None, |_, request| {
        let scales = [1.0, 1.2, 1.3, 1.4];
        let guidance = scales.map(|scale| Guidance::within(scale, 0.2, 0.9).unwrap()).to_vec();
        let preset = Preset { guidance: 1.0, drift_scale: 0.9, noise_scale: 0.8 };
        request.sampling =
            Sampling { guidance, ..SamplingSettings::from(preset).with_steps(5).build(1).unwrap() };
    });
    let flags = ["--guidance", "1,1.2,1.3,1.4", "--guidance-interval", "0.2,0.9", "--drift-scale", "0.9"];
    let stochastic = latents_with(&[&flags[..], &["--noise-scale", "0.8", "--steps", "5"]].concat());
    assert_eq!(stochastic, want.latents);
    let want = expected(&model, None, |_, request| {
        let timesteps = Timesteps::uniform(4).unwrap();
        request.sampling.solvers = vec![Euler::new(timesteps, Interpolant::Linear).into()];
    });
    assert_eq!(latents_with(&["--solver", "euler", "--steps", "4"]), want.latents);
    assert_ne!(latents_with(&["--solver", "heun", "--steps", "4"]), want.latents);
    let settings = |solver, schedule| {
        let settings = SamplingSettings::from(Preset::PLAIN).with_solver(solver);
        SamplingSettings { schedule, ..settings }
    };
    let (each, warp) = (vec![2, 1, 3, 2], [1.17, 0.8, 1.1]);
    let times = Schedule::Times(vec![1.0, 0.6, 0.1, 0.0]);
    for (flags, settings) in [
        (
            &["--solver", "exponential-sde", "--order", "1", "--times", "1,0.6,0.1,0"][..],
            SamplingSettings { order: Some(1), ..settings(SolverKind::ExponentialSde, times) },
        ),
        (
            &["--solver", "adams-bashforth", "--order", "4", "--steps", "2,1,3,2", "--warp", "1.17,0.8,1.1"],
            SamplingSettings {
                order: Some(4),
                ..settings(SolverKind::AdamsBashforth, Schedule::Warped(each.clone(), warp))
            },
        ),
        (
            &["--solver", "euler", "--extrapolation", "0.3", "--steps", "2,1,3,2"],
            SamplingSettings {
                extrapolation: Some(0.3),
                ..settings(SolverKind::Euler, Schedule::Steps(each.clone()))
            },
        ),
    ] {
        let want = expected(&model, None, |_, request| request.sampling = settings.build(4).unwrap());
        assert_eq!(latents_with(flags), want.latents, "{flags:?}");
    }
    let draft = ["--solver", "exponential-sde", "--steps", "6,6,6,8"];
    let guided = |flags: &[&str]| latents_with(&[flags, &["--guidance", "1.5"]].concat());
    for interval in [&[][..], &["--guidance-interval", "0,0.5"]] {
        let with_interval = |flags: &[&str]| guided(&[flags, interval].concat());
        assert_eq!(with_interval(&["--quality", "draft"]), with_interval(&draft));
    }
}

#[test]
fn latents_are_rendered_without_a_codec() {
    let folder = Folder::new();
    let model = folder.model("model.safetensors", &one_step());
    let out = folder.path("out");
    succeed(&[
        "sample", "--model", &model, "--class", "7,2", "--seeds", "4,5", "--steps", "3", "--out", &out,
    ]);
    let latents = expected(&model, None, |_, _| ()).latents.to_f32();
    let (color, height, width, bytes) = decoded(&format!("{out}/7-4.png"));
    assert_eq!((color, height, width), (png::ColorType::Grayscale, 8, 8));
    for (pixel, byte) in bytes.into_iter().enumerate() {
        let (y, x) = (pixel / 8, pixel % 8);
        let value = latents[(y % 2 * 2 + x % 2) * 16 + y / 2 * 4 + x / 2];
        assert_eq!(f32::from(byte), ((value + 1.0) * 127.5).clamp(0.0, 255.0).round(), "{y}, {x}");
    }
}

#[test]
fn imagenet_models_take_class_names() {
    let folder = Folder::new();
    let model = folder.model("model.safetensors", &TransDiffConfig { classes: 1000, ..one_step() });
    let out = folder.path("out");
    let args = ["sample", "--model", &model, "--steps", "1", "--out", &out, "--class"];
    let done = run(&[&args[..], &["Golden Retriever,otter,9"]].concat());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(folder.names("out"), ["207-0.png", "360-0.png", "9-0.png", "grid.png"]);
    assert!(
        done.stderr
            .contains("classes: 207 (golden retriever), 360 (otter), 9 (ostrich); solver: euler-maruyama"),
        "{}",
        done.stderr
    );
    let error = fail(&[&args[..], &["CARDIGAN"]].concat());
    assert!(error.contains("264 (Cardigan), 474 (cardigan)"), "{error}");
}

#[test]
fn estimate_generates_nothing() {
    let folder = Folder::new();
    let (model, vae) = (folder.model("model.safetensors", &one_step()), folder.vae("vae.safetensors"));
    let out = folder.path("out");
    let stdout = succeed(&["sample", "--model", &model, "--codec", &vae, "--estimate", "--out", &out]);
    assert!(stdout.starts_with("estimate, device cpu") && stdout.contains("peak"), "{stdout}");
    assert!(stdout.contains("network passes per image") && stdout.contains("seconds per image"), "{stdout}");
    assert_eq!(folder.names(""), ["model.safetensors", "vae.safetensors"]);
}

/// Latents of `transdiff sample --dtype DTYPE`.
fn latents(folder: &Folder, model: &str, name: &str, dtype: &str) -> Vec<f32> {
    let (out, latents) = (folder.path(name), folder.path(&format!("{name}-latents.safetensors")));
    let flags = ["--class", "1", "--steps", "3", "--dtype", dtype, "--out", &out, "--latents", &latents];
    succeed(&[&["sample", "--model", model], &flags[..]].concat());
    WeightFile::open(&latents).unwrap().tensor("latents").unwrap().to_f32()
}

#[test]
fn other_number_formats_are_close_to_f32() {
    let folder = Folder::new();
    let model = folder.model("model.safetensors", &one_step());
    let wide = latents(&folder, &model, "f32", "f32");
    let largest = wide.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    for dtype in ["bf16", "int8"] {
        let narrow = latents(&folder, &model, dtype, dtype);
        let error = wide.iter().zip(&narrow).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
        // The model has large random weights, which amplify rounding.
        assert!((1e-6..2e-1).contains(&error), "{dtype}: {error:e}");
    }
}

#[test]
fn converted_integers_generate_the_same_latents() {
    let folder = Folder::new();
    let (model, small) = (folder.model("model.safetensors", &one_step()), folder.path("int8.safetensors"));
    succeed(&["convert", &model, &small, "--dtype", "int8"]);
    let want = latents(&folder, &model, "from-f32", "int8");
    assert_eq!(latents(&folder, &small, "from-int8", "int8"), want);
    // Unchanged by a copy, and readable in any format.
    let copy = folder.path("copy.safetensors");
    succeed(&["convert", &small, &copy]);
    assert!(fs::read(&copy).unwrap() == fs::read(&small).unwrap());
    let listed = succeed(&["inspect", &small]);
    assert!(listed.contains("i8"), "{listed}");
    let wide = folder.path("wide.safetensors");
    succeed(&["convert", &small, &wide, "--dtype", "f32"]);
    assert_eq!(latents(&folder, &wide, "from-wide", "f32"), latents(&folder, &small, "read-wide", "f32"));
}

#[test]
fn invalid_settings_are_rejected_before_loading() {
    let folder = Folder::new();
    let (model, vae) = (folder.model("model.safetensors", &one_step()), folder.vae("vae.safetensors"));
    let three = folder.model("three.safetensors", &TransDiffConfig { latent_channels: 3, ..one_step() });
    let out = folder.path("out");
    let with = |flags: &[&str]| {
        fail(&[&["sample", "--model", &model, "--class", "1", "--out", &out], flags].concat())
    };
    let cases: [(&[&str], &str); 30] = [
        (&["--class", "10"], "--class: expected a class from 0 to 9, got 10"),
        (
            &["--class", "tabby"],
            "--class: expected a number from 0 to 9 (the classes of this model have no names), got 'tabby'",
        ),
        (&["--class", "1"], "--class: expected distinct values, got 1 twice"),
        (&["--seeds", "3,4,3"], "--seeds: expected distinct values, got 3 twice"),
        (
            &["--seed", "18446744073709551615", "--count", "2"],
            "the last seed exceeds the maximum, 18446744073709551615",
        ),
        (&["--count", "1000001"], "--count: expected at most 1000000 images in total, got 1000001"),
        (
            &["--count", "500000", "--class", "2,3"],
            "--count: expected at most 1000000 images in total, got 1500000",
        ),
        (&["--batch", "9999999999", "--count", "1000001"], "--count: expected at most 1000000 images"),
        (&["--guidance", "0.5"], "error: --guidance: expected "),
        (&["--guidance", "1,2"], "--guidance: expected 1 scale, got 2"),
        (
            &["--solver", "adams-bashforth", "--noise-scale", "1"],
            "--noise-scale: expected no value, because the solver adams-bashforth has no scales, got 1",
        ),
        (&["--steps", "3,4"], "--steps: expected 1 number, got 2"),
        (
            &["--times", "1,0.5"],
            "--times: expected times that fall from 1 to 0 by more than 1e-12 each, got the last 0.5",
        ),
        (
            &["--times", "1,0.5,0.5,0"],
            "--times: expected times that fall from 1 to 0 by more than 1e-12 each, got 0.5 after 0.5",
        ),
        (&["--warp", "1,2"], "--warp: expected 3 numbers A,B,C, got 2"),
        (&["--warp", "1,0,1"], "--warp: expected finite exponents above 0, got 0"),
        (
            &["--order", "2"],
            "--order: expected no value, because the solver euler-maruyama has no choice of order",
        ),
        (
            &["--solver", "exponential-sde", "--order", "3"],
            "--order: expected 1 or 2 for exponential-sde, got 3",
        ),
        (
            &["--extrapolation", "0.5"],
            "--extrapolation: expected no value, because the solver euler-maruyama has",
        ),
        (&["--guidance-interval", "0.5"], "--guidance-interval: expected 2 numbers LOW,HIGH, got 1"),
        (&["--guidance-interval", "0.9,0.5"], "--guidance-interval LOW: expected "),
        (&["--drift-scale", "-1"], "--drift-scale: expected "),
        (
            &["--solver", "heun", "--noise-scale", "1"],
            "--noise-scale: expected no value, because the solver heun has no scales, got 1",
        ),
        (&["--latents", &folder.path("")], "latents.safetensors"),
        (
            &["--latents", &format!("{out}/new/"), "--force"],
            "expected a file, got a directory; add a name, as in",
        ),
        (&["--codec", &model], "model.safetensors: "),
        (&["--codec", &vae, "--reference", "x.png"], "--reference: expected no reference images"),
        (
            &["--codec", "patch:3"],
            "--codec: expected a codec for latents of 4 channels, got patch:3, for latents of 9",
        ),
        (
            &["--codec", "nowhere.ckpt"],
            "--codec: expected patch:N or the path of a codec's file, got nowhere.ckpt",
        ),
        (&["--codec", &format!("{vae}x")], "which does not exist"),
    ];
    for (flags, part) in cases {
        let line = with(flags);
        assert!(line.contains(part), "{flags:?}: {line}");
    }
    assert!(fail(&["sample", "--model", &vae, "--class", "1"]).contains("vae.safetensors: "));
    let line = fail(&["sample", "--model", &model, "--class", "1", "--out", &model]);
    assert!(line.contains("model.safetensors: expected a directory, got a file"), "{line}");
    let line = fail(&["sample", "--model", &three, "--codec", &vae, "--class", "1", "--out", &out]);
    assert!(line.contains("--codec: expected a codec for latents of 3 channels, got 4 for "), "{line}");
    let mrar = folder.model("mrar.safetensors", &mrar());
    let line = fail(&["sample", "--model", &mrar, "--class", "1", "--reference", "x.png", "--out", &out]);
    assert!(line.contains("--reference: expected a codec; add --codec CODEC"), "{line}");
    let line = fail(&["sample", "--model", &three, "--class", "1", "--out", &out]);
    assert!(line.contains("three.safetensors: latents of 3 channels cannot be shown"), "{line}");
    assert!(line.contains("add --codec CODEC"), "{line}");
    assert!(!fs::exists(&out).unwrap(), "no directory is created");
}

/// The stacks of the threads exceed the limit on memory.
#[cfg(unix)]
#[test]
fn failed_thread_start_is_named_with_the_remedy() {
    let folder = Folder::new();
    let model = folder.model("model.safetensors", &one_step());
    let mut sample = crate::process::limited(libc::RLIMIT_AS, 1 << 30);
    sample.args(["sample", "--model", &model, "--class", "1", "--out", &folder.path("out")]);
    let done = crate::process::RunResult::from(sample.args(["--threads", "1024"]).output().unwrap());
    assert_eq!((done.code, folder.names("").len()), (Some(1), 1), "{}", done.stderr);
    let message = "error: --threads: the system cannot start 1024 threads: ";
    assert!(done.stderr.starts_with(message), "{}", done.stderr);
    assert!(
        done.stderr.ends_with("(ulimit -v)\n") && done.stderr.contains("use fewer threads"),
        "{}",
        done.stderr
    );
}

/// Under a limit of memory that a list of the seeds would exceed.
#[cfg(unix)]
#[test]
fn huge_counts_are_refused_before_they_are_expanded() {
    let folder = Folder::new();
    let (model, out) = (folder.model("model.safetensors", &one_step()), folder.path("out"));
    let cases: [(&[&str], u128); 4] = [
        (&["--class", "1", "--count", "4000000000"], 4_000_000_000),
        (&["--class", "1,2,3", "--count", "4000000000", "--seed", "18446744073709551615"], 12_000_000_000),
        (&["--estimate", "--count", "4000000000"], 4_000_000_000),
        (&["--class", "1,2", "--count", "18446744073709551615"], 36_893_488_147_419_103_230),
    ];
    for (flags, images) in cases {
        let mut sample = crate::process::limited(libc::RLIMIT_AS, 1 << 30);
        sample.args(["sample", "--model", &model, "--out", &out]).args(flags);
        let done = crate::process::RunResult::from(sample.output().unwrap());
        assert_eq!(done.code, Some(1), "{flags:?}: {}", done.stderr);
        let message = format!("error: --count: expected at most 1000000 images in total, got {images}\n");
        assert_eq!(done.stderr, message, "{flags:?}");
    }
    assert!(!fs::exists(&out).unwrap(), "no directory is created");
}

#[test]
fn existing_files_are_kept_without_force() {
    let folder = Folder::new();
    let model = folder.model("model.safetensors", &one_step());
    let (out, latents) = (folder.path("out"), folder.path("out/latents.safetensors"));
    let args =
        ["sample", "--model", &model, "--class", "1", "--steps", "1", "--out", &out, "--latents", &latents];
    succeed(&args);
    for name in ["1-0.png", "grid.png", "latents.safetensors"] {
        assert!(fail(&args).contains("already exists; add --force"));
        fs::remove_file(folder.path(&format!("out/{name}"))).unwrap();
    }
    succeed(&args);
}

#[test]
fn closed_stdout_and_stderr_do_not_stop_generation() {
    let folder = Folder::new();
    let model = folder.model("model.safetensors", &one_step());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut sample = crate::process::command();
    sample.args(["sample", "--model", &model, "--class", "1", "--steps", "1", "--out", &folder.path("out")]);
    let status = sample.stdout(writer.try_clone().unwrap()).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(folder.names("out"), ["1-0.png", "grid.png"]);
}

/// The line starts with the first error, then tells the number of complete images, and a second error.
#[test]
fn failure_reports_the_cause_and_the_complete_images() {
    let folder = Folder::new();
    let model = folder.model("model.safetensors", &one_step());
    let out = folder.path("out");
    let args = ["sample", "--model", &model, "--class", "1", "--count", "3", "--steps", "1", "--batch", "1"];
    let last_line = || {
        let done = run(&[&args[..], &["--out", &out, "--force"]].concat());
        assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{}", done.stderr);
        done.stderr.lines().last().unwrap().to_owned()
    };
    fs::create_dir_all(format!("{out}/1-1.png")).unwrap();
    let line = last_line();
    assert!(line.starts_with(&format!("error: {out}/1-1.png: ")), "{line}");
    let rest =
        format!("; 1 of 3 images are complete, in {out}; run the command again without --force to go on");
    assert!(line.ends_with(&rest), "{line}");
    fs::remove_file(format!("{out}/grid.png")).unwrap();
    fs::create_dir(format!("{out}/grid.png")).unwrap();
    let line = last_line();
    assert!(line.starts_with(&format!("error: {out}/1-1.png: ")), "{line}");
    assert!(line.contains(&format!("{rest}; {out}/grid.png: ")), "{line}");
}
