//! Messages at the end of `transdiff cache`.

use std::path::Path;

use transdiff::datasets::cache::{CacheSummary, Part};

use crate::failure::{Failure, Result};
use crate::output::{print, print_to_stderr};

/// Broken pictures that are named.
const NAMED: usize = 10;

/// Says of an interrupted command what there is.
pub fn interrupted(failure: Failure) -> Failure {
    match failure {
        Failure::Interrupted(_) => {
            Failure::Interrupted("finished shards are kept; run the command again to go on".to_owned())
        }
        other => other,
    }
}

pub fn report_part(cache: &Path, part: Part) -> Result<()> {
    let cache = cache.display();
    print(format!("part {part} is done; when all parts are: transdiff cache --merge {cache}\n"))
}

pub fn report(cache: &Path, summary: &CacheSummary) -> Result<()> {
    for skipped in summary.skipped.iter().take(NAMED) {
        print_to_stderr(&format!("left out: {}", skipped.reason));
    }
    let broken = match summary.skipped.len() {
        0 => String::new(),
        n => format!(", {} left out", counted(n, "broken one")),
    };
    let (pictures, shards) = (counted(summary.entries, "picture"), counted(summary.shards, "shard"));
    print(format!("{}: {pictures} in {shards}{broken}\n", cache.display()))
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
