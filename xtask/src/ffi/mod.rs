//! Checks of the C ABI from the user's side: headers with every compiler, symbols and layouts, programs built against an
//! installation in every supported way, and equal images from all of them and from the `transdiff` command.

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

/// Folder for the files of the checks, which are created again in every run.
const FOLDER: &str = "target/ffi";
/// Prefix other than the location of the files: the installation must be relocatable.
const PREFIX: &str = "/opt/transcdiff";

/// Options of the checks.
#[derive(Args)]
pub struct Options {
    /// Cargo profile of all builds
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
}

/// Checks everything that programs in C, C++ and Python depend on.
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
    wrapper::check(&folder, &installed, &small)?;
    let programs = programs::build(&folder, &installed, options.profile)?;
    pictures::check(&folder, &small, &programs, options.profile)
}

/// Installs to a staging folder, as a packager would.
fn install(folder: &Path, profile: Profile) -> Result<PathBuf> {
    let stage = folder.join("stage");
    if stage.exists() {
        fs::remove_dir_all(&stage)?;
    }
    install::run(&install::Options { prefix: PREFIX.into(), destdir: Some(stage), profile, cuda: false })
}

/// Checks that the shared library exports exactly the symbols of include/transcdiff.symbols.
pub fn symbols(library: &Path) -> Result {
    let printed = Process::new("nm").args(&["-D", "--defined-only", "-P"]).arg(library).stdout()?;
    let mut exported: Vec<&str> = printed.lines().filter_map(|line| line.split(' ').next()).collect();
    exported.sort_unstable();
    let listed = fs::read_to_string(header::SYMBOLS)?;
    let listed: Vec<&str> = listed.lines().collect();
    let without =
        |a: &[&str], b: &[&str]| a.iter().filter(|x| !b.contains(x)).copied().collect::<Vec<_>>().join(" ");
    let (missing, extra) = (without(&listed, &exported), without(&exported, &listed));
    if missing.is_empty() && extra.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}: missing symbols: [{missing}]; symbols not in {}: [{extra}]",
        library.display(),
        header::SYMBOLS
    )
    .into())
}
