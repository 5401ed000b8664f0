//! `transdiff sample` after a failure: only complete files are left, and the same command goes on with the rest.

use std::collections::BTreeMap;
use std::fs;

use transdiff::checkpoint::WeightFile;

use crate::files::{Folder, one_step};
use crate::process::{RunResult, command, fail, succeed};

/// A command that generates six images to `out`.
fn arguments(folder: &Folder, out: &str) -> Vec<String> {
    let model = folder.path("model.safetensors");
    if !fs::exists(&model).unwrap() {
        folder.model("model.safetensors", &one_step());
    }
    let out = folder.path(out);
    let args = ["sample", "--model", &model, "--class", "3", "--count", "6", "--batch", "4", "--steps", "2"];
    args.into_iter().chain(["--out", &out]).map(String::from).collect()
}

const NAMES: [&str; 6] = ["3-0.png", "3-1.png", "3-2.png", "3-3.png", "3-4.png", "3-5.png"];

/// Contents of the files of a folder.
fn contents(folder: &Folder, inside: &str) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| (name.clone(), fs::read(folder.path(&format!("{inside}/{name}"))).unwrap());
    folder.names(inside).into_iter().map(read).collect()
}

/// Removes the images from the one with index `complete` on and the grid, as if the command had failed there.
fn remove_from(folder: &Folder, inside: &str, complete: usize) {
    for name in NAMES[complete..].iter().chain(&["grid.png"]) {
        fs::remove_file(folder.path(&format!("{inside}/{name}"))).unwrap();
    }
}

#[test]
fn same_command_goes_on_with_the_missing_images() {
    let folder = Folder::new();
    let args = arguments(&folder, "out");
    succeed(&args);
    let whole = contents(&folder, "out");
    for complete in [1, 3, 6] {
        remove_from(&folder, "out", complete);
        let first = folder.path("out/3-0.png");
        let before = fs::metadata(&first).unwrap().modified().unwrap();
        let done = crate::process::run(&args);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        assert!(done.stderr.contains(&format!("resuming: {complete} of 6 images are complete")));
        assert!(done.stdout.starts_with(&format!("{} image", 6 - complete)), "{}", done.stdout);
        assert!(contents(&folder, "out") == whole, "{complete} complete images");
        assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), before, "it is kept");
    }
    assert!(fail(&args).contains("out/grid.png: already exists; add --force"), "nothing is left to do");
}

/// Pictures of another model, of other settings or of other programs are not taken for complete.
#[test]
fn images_of_other_commands_are_not_resumed_or_replaced() {
    let folder = Folder::new();
    let args = arguments(&folder, "out");
    succeed(&args);
    remove_from(&folder, "out", 1);
    let image = folder.path("out/3-0.png");
    let kept = fs::read(&image).unwrap();
    let rejects = |args: &[String]| {
        assert!(fail(args).contains("out/3-0.png: already exists; add --force"));
        assert_eq!(folder.names("out"), ["3-0.png"]);
    };
    for more in
        [["--guidance", "2"], ["--solver", "euler"], ["--drift-scale", "0.5"], ["--noise-scale", "0.5"]]
    {
        rejects(&[&args[..], &more.map(String::from)].concat());
    }
    fs::write(&image, &kept[..kept.len() / 4]).unwrap();
    rejects(&args);
    fs::write(&image, "").unwrap();
    rejects(&args);
    let (model, other) = (folder.path("model.safetensors"), folder.path("other"));
    succeed(&["sample", "--model", &model, "--class", "3", "--seed", "7", "--steps", "2", "--out", &other]);
    fs::copy(folder.path("other/3-7.png"), &image).unwrap();
    rejects(&args);
    fs::write(&image, &kept).unwrap();
    folder.model("model.safetensors", &one_step());
    rejects(&args);
    succeed(&[&args[..], &["--force".to_owned()]].concat());
    assert_eq!(folder.names("out").len(), 7);
}

#[test]
fn images_of_changed_shards_are_not_resumed() {
    let folder = Folder::new();
    let model = folder.model("model.safetensors", &one_step());
    let shard = folder.path("model-00001-of-00001.safetensors");
    fs::rename(&model, &shard).unwrap();
    let file = WeightFile::open(&shard).unwrap();
    let names = file.entries().keys().map(|name| format!("{name:?}: \"model-00001-of-00001.safetensors\""));
    let index = folder.path("model.safetensors.index.json");
    fs::write(&index, format!("{{\"weight_map\": {{{}}}}}", names.collect::<Vec<_>>().join(", "))).unwrap();
    let mut args = arguments(&folder, "out");
    args[2] = index;
    succeed(&args);
    remove_from(&folder, "out", 1);
    fs::rename(folder.model("other.safetensors", &one_step()), &shard).unwrap();
    assert!(fail(&args).contains("out/3-0.png: already exists; add --force"));
}

/// No output replaces an input or another output, not even with `--force`.
#[test]
fn outputs_are_neither_inputs_nor_each_other() {
    let folder = Folder::new();
    let args = arguments(&folder, "out");
    let (model, out) = (folder.path("model.safetensors"), folder.path("out"));
    let before = fs::read(&model).unwrap();
    let (image, grid) = (folder.path("out/3-1.png"), folder.path("out/grid.png"));
    for (latents, reason) in [
        (&model, "model.safetensors: an input of this command"),
        (&image, "out/3-1.png: the name of an image of this command"),
        (&grid, "out/grid.png: the name of an image of this command"),
        (&out, "out: the directory of the images"),
    ] {
        let line = fail(&[&args[..], &["--force", "--latents", latents].map(String::from)].concat());
        assert!(line.contains(reason), "{line}");
    }
    assert!(fs::read(&model).unwrap() == before && !fs::exists(&out).unwrap());
    fs::create_dir(&out).unwrap();
    fs::rename(&model, &image).unwrap();
    let mut args = args;
    args[2].clone_from(&image);
    args.push("--force".to_owned());
    assert!(fail(&args).contains("out/3-1.png: an input of this command"));
    assert!(fs::read(&image).unwrap() == before);
}

/// Latents are part of an image that is complete.
#[test]
fn latents_of_complete_images_are_kept() {
    let folder = Folder::new();
    let latents = folder.path("latents.safetensors");
    let args = [arguments(&folder, "out"), vec!["--latents".to_owned(), latents.clone()]].concat();
    succeed(&args);
    let (whole, all) = (contents(&folder, "out"), fs::read(&latents).unwrap());
    fs::remove_dir_all(folder.path("out")).unwrap();
    fs::remove_file(&latents).unwrap();

    // The third image cannot be written.
    fs::create_dir_all(folder.path("out/3-2.png")).unwrap();
    let line = fail_with_progress(&[&args[..], &["--force".to_owned()]].concat());
    assert!(line.contains("; 2 of 6 images are complete, in "), "{line}");
    assert_eq!(WeightFile::open(&latents).unwrap().tensor("latents").unwrap().shape(), [2, 4, 4, 4]);
    fs::remove_dir(folder.path("out/3-2.png")).unwrap();
    let done = crate::process::run(&args);
    assert!(done.stderr.contains("resuming: 2 of 6 images are complete"), "{}", done.stderr);
    assert!(contents(&folder, "out") == whole && fs::read(&latents).unwrap() == all);

    // Without their latents, images are generated again.
    fs::remove_file(&latents).unwrap();
    fs::remove_file(folder.path("out/grid.png")).unwrap();
    assert!(succeed(&args).starts_with("6 images in "));
    assert!(contents(&folder, "out") == whole && fs::read(&latents).unwrap() == all);
}

/// The last line of stderr of a command that fails after it has printed its progress.
fn fail_with_progress(args: &[String]) -> String {
    last_line(command().args(args).output().unwrap().into())
}

fn last_line(done: RunResult) -> String {
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), ""), "{}", done.stderr);
    done.stderr.lines().last().unwrap().to_owned()
}

/// The limit on file sizes stands for a disk that is full: a write fails after a part of the file.
#[cfg(unix)]
#[test]
fn failed_writes_leave_complete_images_alone() {
    let folder = Folder::new();
    let whole = {
        succeed(&arguments(&folder, "whole"));
        contents(&folder, "whole")
    };
    let sizes = NAMES.map(|name| whole[name].len() as u64);
    // The grid is larger than any image.
    let largest = *sizes.iter().max().unwrap();
    assert!(whole["grid.png"].len() as u64 > largest);
    for (limit, complete) in
        [(0, 0), (largest - 1, sizes.iter().position(|&size| size == largest).unwrap()), (largest, 6)]
    {
        let out = format!("out-{limit}");
        let args = arguments(&folder, &out);
        let mut sample = crate::process::limited(libc::RLIMIT_FSIZE, limit);
        let line = last_line(sample.args(&args).output().unwrap().into());
        let name = if complete == 6 { "grid.png" } else { NAMES[complete] };
        assert!(line.starts_with(&format!("error: {}: ", folder.path(&format!("{out}/{name}")))), "{line}");
        assert!(line.contains(&format!("; {complete} of 6 images are complete")), "{line}");
        assert_eq!(folder.names(&out), NAMES[..complete], "{line}");
        succeed(&args);
        assert!(contents(&folder, &out) == whole, "{complete} complete images");
    }
}

/// Neither read, which could wait forever, nor replaced.
#[cfg(unix)]
#[test]
fn special_files_are_refused() {
    use std::os::unix::fs::FileTypeExt;

    let folder = Folder::new();
    let args = arguments(&folder, "out");
    fs::create_dir(folder.path("out")).unwrap();
    for (name, flag) in [("out/3-1.png", None), ("out/grid.png", None), ("latents", Some("--latents"))] {
        let path = folder.path(name);
        let pipe = std::ffi::CString::new(&*path).unwrap();
        // SAFETY: the string ends with a zero byte and outlives the call.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        let latents = flag.map_or_else(Vec::new, |flag| vec![String::from(flag), path.clone()]);
        for force in [&[][..], &["--force".to_owned()]] {
            let line = fail(&[&args[..], &latents, force].concat());
            assert!(
                line.contains(&format!("{path}: expected a regular file, got a device or a pipe")),
                "{line}"
            );
        }
        assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
        fs::remove_file(&path).unwrap();
    }
}

/// Needs the right to mount.
#[cfg(target_os = "linux")]
#[test]
fn full_disk_leaves_complete_images_alone() {
    let folder = Folder::new();
    succeed(&arguments(&folder, "whole"));
    fs::create_dir(folder.path("disk")).unwrap();
    let args = arguments(&folder, "disk/out");
    // Three pages: three images.
    let Some(disk) = Disk::mount(folder.path("disk"), "size=12k") else {
        eprintln!("SKIPPED: no right to mount a file system");
        return;
    };
    let line = fail_with_progress(&args);
    assert!(line.contains("; 3 of 6 images are complete, in ") && line.contains("out/3-3.png: "), "{line}");
    assert_eq!(folder.names("disk/out"), NAMES[..3]);
    disk.resize("size=1m");
    assert!(succeed(&args).starts_with("3 images in "));
    assert!(contents(&folder, "disk/out") == contents(&folder, "whole"));
}

/// A small file system in memory, unmounted on drop.
#[cfg(target_os = "linux")]
struct Disk(std::ffi::CString);

#[cfg(target_os = "linux")]
impl Disk {
    fn mount(path: String, options: &str) -> Option<Self> {
        let disk = Self(std::ffi::CString::new(path).unwrap());
        match disk.call_mount(0, options) {
            0 => Some(disk),
            _ => {
                std::mem::forget(disk);
                None
            }
        }
    }

    fn resize(&self, options: &str) {
        assert_eq!(self.call_mount(libc::MS_REMOUNT, options), 0, "{}", std::io::Error::last_os_error());
    }

    fn call_mount(&self, flags: libc::c_ulong, options: &str) -> libc::c_int {
        let options = std::ffi::CString::new(options).unwrap();
        let kind = c"tmpfs".as_ptr();
        // SAFETY: strings end with a zero byte and outlive the call.
        unsafe { libc::mount(kind, self.0.as_ptr(), kind, flags, options.as_ptr().cast()) }
    }
}

#[cfg(target_os = "linux")]
impl Drop for Disk {
    fn drop(&mut self) {
        // SAFETY: the string ends with a zero byte and outlives the call.
        unsafe { libc::umount2(self.0.as_ptr(), libc::MNT_DETACH) };
    }
}
