//! Compiles the kernels with nvcc to one fatbin per file, and the forwarders that load the driver at run time.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Machine code for Ampere and Hopper, and PTX that the driver compiles for later GPUs.
const ARCHITECTURES: &str = "sm_80,sm_90a,compute_80";

/// Set to 1 during development of kernels, to fail on warnings and on register spilling. By default a warning of a newer nvcc does
/// not fail the build.
const WARNINGS_ARE_ERRORS: &str = "TRANSDIFF_CUDA_WERROR";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    forwarders(&out);
    if let Err(message) = kernels(&out) {
        eprintln!("error: {message}");
        std::process::exit(1);
    }
}

/// Defines every driver function that `cust` links to, so that programs start without libcuda.
fn forwarders(out: &Path) {
    for file in ["driver/forwarders.c", "driver/functions.inc", "driver/codes.inc"] {
        println!("cargo:rerun-if-changed={file}");
    }
    cc::Build::new()
        .file("driver/forwarders.c")
        .std("c11")
        .opt_level(2)
        .flag("-fvisibility=hidden")
        .cargo_metadata(false)
        .compile("transdiff_forwarders");
    println!("cargo:rustc-link-search=native={}", out.display());
    // The whole archive, so that the link order does not matter; the linker drops unused sections.
    println!("cargo:rustc-link-lib=static:+whole-archive=transdiff_forwarders");
    // `cust` passes -lcuda to the linker: an empty linker script satisfies it.
    fs::write(out.join("libcuda.so"), "/* in transdiff_forwarders */\n").expect("OUT_DIR can be written to");
}

fn kernels(out: &Path) -> Result<(), String> {
    for name in ["CUDA_PATH", "TRANSDIFF_CUDA_ARCHITECTURES", WARNINGS_ARE_ERRORS, "PATH"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=kernels");
    let sources = sources(Path::new("kernels"))?;
    let targets = targets()?;
    let nvcc = nvcc();
    let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1usize).max(1);
    for batch in sources.chunks(jobs) {
        std::thread::scope(|scope| {
            let running: Vec<_> =
                batch.iter().map(|source| scope.spawn(|| compile(&nvcc, &targets, source, out))).collect();
            running.into_iter().try_for_each(|one| one.join().expect("compiling does not panic"))
        })?;
    }
    let mut table = String::from("[\n");
    for stem in sources.iter().map(|source| stem(source)) {
        writeln!(
            table,
            "    ({stem:?}, &Image(*include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{stem}.fatbin\")))),"
        )
        .expect("a string can be written to");
    }
    fs::write(out.join("modules.rs"), table + "]\n").map_err(|e| format!("{}: {e}", out.display()))
}

fn stem(source: &Path) -> String {
    source.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut sources: Vec<PathBuf> = entries
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.sort();
    Ok(sources)
}

/// Returns nvcc of the toolkit in `CUDA_PATH`, otherwise the one on `PATH`.
fn nvcc() -> OsString {
    match env::var_os("CUDA_PATH") {
        Some(toolkit) => PathBuf::from(toolkit).join("bin/nvcc").into(),
        None => "nvcc".into(),
    }
}

/// Returns the nvcc options for the target architectures, which do not depend on a GPU in this machine.
fn targets() -> Result<Vec<String>, String> {
    let list = env::var("TRANSDIFF_CUDA_ARCHITECTURES").unwrap_or_else(|_| ARCHITECTURES.into());
    list.split(',').map(|name| target(name.trim())).collect()
}

fn target(name: &str) -> Result<String, String> {
    let number = name.strip_prefix("sm_").or_else(|| name.strip_prefix("compute_"));
    let digits = number.map(|n| n.trim_end_matches(['a', 'f']));
    if !digits.is_some_and(|d| d.parse::<u32>().is_ok_and(|n| n >= 80)) {
        return Err(format!(
            "TRANSDIFF_CUDA_ARCHITECTURES: expected names such as {ARCHITECTURES}, 80 or later, got {name:?}"
        ));
    }
    Ok(format!("-gencode=arch=compute_{},code={name}", number.unwrap_or_default()))
}

fn compile(nvcc: &OsString, targets: &[String], source: &Path, out: &Path) -> Result<(), String> {
    let to = out.join(source.file_stem().unwrap_or_default()).with_extension("fatbin");
    let mut command = Command::new(nvcc);
    command.args(["-O3", "-std=c++17", "-fatbin", "-lineinfo"]);
    let strict = env::var_os(WARNINGS_ARE_ERRORS).is_some_and(|value| value == "1");
    if strict {
        command.args(["-Werror", "all-warnings", "--resource-usage"]);
    }
    // Compress machine code too, not only PTX: a tenth of the size in every program. The driver decompresses it.
    command.args(["-Xfatbin", "-compress-all"]);
    command.args(targets).arg(source).arg("-o").arg(to);
    let ran = command.output().map_err(|e| {
        format!(
            "{}: {e}. The feature `cuda` compiles kernels with nvcc: install a CUDA toolkit, 12.4 or later, and set \
             CUDA_PATH to its folder or add its nvcc to PATH. Builds without the feature do not need it.",
            nvcc.to_string_lossy()
        )
    })?;
    let printed = String::from_utf8_lossy(&ran.stderr);
    let checked = match ran.status.success() {
        // PTX alone has no registers yet.
        true if strict && targets.iter().any(|target| target.contains("code=sm_")) => {
            check_resources(&printed)
        }
        true => Ok(()),
        false => Err(printed.into_owned()),
    };
    checked.map_err(|error| format!("{}: {error}", source.display()))
}

/// Checks the compiler's report on the kernels of a file: none uses the stack, where spilled registers and arrays with indices
/// unknown to the compiler are, and none that blocks of 1,024 threads run takes more than 64 registers.
fn check_resources(printed: &str) -> Result<(), String> {
    let number = |line: &str, before: &str| -> Option<u32> {
        line.split_once(before)?.0.split_whitespace().next_back()?.parse().ok()
    };
    let (mut kernel, mut checked) = ("", 0);
    for line in printed.lines() {
        if let Some((_, found)) = line.split_once("Compiling entry function") {
            kernel = found.trim();
        }
        if number(line, " bytes stack frame").is_some_and(|bytes| bytes > 0) {
            return Err(format!("{kernel} uses the stack: {}", line.trim()));
        }
        let Some(registers) = number(line, " registers") else { continue };
        checked += 1;
        if registers > 64 && kernel.contains("'norm_block") {
            return Err(format!("{kernel} takes {registers} registers, blocks of 1,024 threads have 64"));
        }
    }
    if checked == 0 { Err(format!("the compiler reports no registers: {printed}")) } else { Ok(()) }
}
