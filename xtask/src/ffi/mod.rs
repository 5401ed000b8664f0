//! The C ABI as its users meet it: headers that every compiler takes, the symbols and layouts that were promised, an
//! installation that programs are built against in every way, and the same pictures from each of them and from the
//! `transdiff` command.

mod headers;
pub mod layout;
mod pictures;
pub mod programs;
pub mod tools;
mod wrapper;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::install::{self, Profile};
use crate::process::Process;
use crate::{Result, header};

/// What the check makes is made anew.
const FOLDER: &str = "target/ffi";
/// Not where the files are: what is installed has to work wherever it was moved to.
const PREFIX: &str = "/opt/transcdiff";

/// How it is checked.
#[derive(Args)]
pub struct Options {
    /// Cargo's profile for everything that is built
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
}

/// Everything that programs in C, C++ and Python rely on.
pub fn check(options: &Options) -> Result {
    tools::present()?;
    header::run(true)?;
    layout::run(true)?;
    let folder = std::path::absolute(FOLDER)?;
    let installed = install(&folder, options.profile)?;
    symbols(&installed.join("lib/libtranscdiff.so"))?;
    headers::check(&folder, &installed)?;
    let small = folder.join("small");
    Process::new(programs::rust_example("linking", options.profile)?).arg("small").arg(&small).run()?;
    let (model, vae) = (small.join("model.safetensors"), small.join("vae.safetensors"));
    wrapper::check(&folder, &installed, &model, &vae)?;
    let programs = programs::build(&folder, &installed, options.profile)?;
    pictures::check(&folder, &small, &programs, options.profile)
}

/// Installs as a packager would, to a folder that is then not the prefix.
fn install(folder: &Path, profile: Profile) -> Result<PathBuf> {
    let stage = folder.join("stage");
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    install::run(&install::Options { prefix: PREFIX.into(), destdir: Some(stage), profile, cuda: false })
}

/// The shared library exports what include/transcdiff.symbols lists, and nothing else.
pub fn symbols(library: &Path) -> Result {
    let printed = Process::new("nm").args(&["-D", "--defined-only", "-P"]).arg(library).stdout()?;
    let mut exported: Vec<&str> = printed.lines().filter_map(|line| line.split(' ').next()).collect();
    exported.sort_unstable();
    let promised = fs::read_to_string(header::SYMBOLS)?;
    let promised: Vec<&str> = promised.lines().collect();
    let without =
        |a: &[&str], b: &[&str]| a.iter().filter(|x| !b.contains(x)).copied().collect::<Vec<_>>().join(" ");
    let (missing, extra) = (without(&promised, &exported), without(&exported, &promised));
    if missing.is_empty() && extra.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}: symbols that are missing: [{missing}], that nobody promised: [{extra}]",
        library.display()
    )
    .into())
}
