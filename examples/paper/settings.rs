//! Command line.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use transdiff::Device;
use transdiff_terminal::whole;

use crate::experiments::Experiment;

/// Maximum number of seeds.
const MAX_SEEDS: u64 = 100;

/// Repeats the claims of the TransDiff paper on Fashion-MNIST
#[derive(Clone, Debug, Parser)]
#[command(after_help = "Examples:
  cargo run --release --example paper -- --out paper
  cargo run --release --example paper -- --out paper --seeds 1 --experiments guidance,scales
  cargo run --release --example paper -- --out paper --seeds 8    # three more than the first command

Ctrl-C keeps what is complete and writes a checkpoint; the same command goes on from there.")]
pub struct Arguments {
    /// Output directory for the report, figures, models and measures
    #[arg(long, value_name = "DIR", default_value = "out/paper")]
    pub out: PathBuf,
    /// Folder with the four idx files of Fashion-MNIST, plain or with the ending .gz
    #[arg(long, value_name = "DIR", default_value = "/usr/share/datasets/fashion-mnist")]
    pub data: PathBuf,
    /// Experiments: all, or names separated by commas: guidance, scales, diversity, features, mrar, references,
    /// evaluations
    #[arg(long, value_name = "LIST", default_value = "all")]
    pub experiments: Experiments,
    /// Number of seeds, 1 to 100: each trains models of its own; a verdict needs at least 2
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = whole(1..=MAX_SEEDS))]
    #[arg(allow_negative_numbers = true)]
    pub seeds: u64,
    /// Device: cpu, cuda, cuda:N or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub device: Device,
    /// CPU threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = whole(1..=usize::MAX), allow_negative_numbers = true)]
    pub threads: Option<usize>,
}

/// Experiments of a run, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experiments(pub BTreeSet<Experiment>);

impl FromStr for Experiments {
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        if list == "all" {
            return Ok(Self(Experiment::ALL.into()));
        }
        let found = |name: &str| Experiment::ALL.into_iter().find(|experiment| experiment.name() == name);
        let parsed = list.split(',').map(|name| {
            let names = Experiment::ALL.map(Experiment::name).join(", ");
            found(name).ok_or_else(|| format!("expected all, or names of {names}; got {name:?}"))
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn experiments_are_a_list_of_names() {
        let parse = |list: &str| Experiments::from_str(list);
        assert_eq!(parse("all").unwrap().0.len(), 7);
        let two = parse("mrar,guidance,mrar").unwrap();
        assert!(two.0.into_iter().eq([Experiment::Guidance, Experiment::Mrar]));
        for wrong in ["", "mrar,", "Mrar", "mrar, scales"] {
            assert!(parse(wrong).unwrap_err().contains("expected all, or names of guidance, scales"));
        }
    }

    #[test]
    fn counts_out_of_range_are_rejected() {
        for (flag, value, named) in [
            ("--seeds", "0", "expected an integer of at least 1"),
            ("--seeds", "101", "expected an integer of at most 100"),
            ("--seeds", "-1", "expected an integer of at least 1"),
            ("--threads", "0", "expected an integer of at least 1"),
        ] {
            let error = Arguments::try_parse_from(["paper", flag, value]).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains(named), "{error}");
        }
    }
}
