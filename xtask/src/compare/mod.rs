//! Speed, memory and share of the chip's peak, compared with PyTorch or OpenVINO. Both sides run alternately, so that a
//! machine that is slower for a while is slower for both; the result is the ratio of neighbouring runs.

mod opponent;
mod peak;

use std::fmt::Display;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::Result;
use crate::process::{Process, cargo};
use opponent::{Opponent, Program};
use peak::PeakProgram;

/// Environment variable with the default of --python.
const PYTHON: &str = "TRANSDIFF_PYTHON";

#[derive(Args)]
pub struct Options {
    /// Python interpreter with the opponent's packages [default: TRANSDIFF_PYTHON]
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Implementation to compare with
    #[arg(long, alias = "baseline", value_enum, default_value = "plain")]
    opponent: Opponent,
    /// Number format of both sides; int8 only with OpenVINO
    #[arg(long, value_enum, default_value = "f32")]
    dtype: Format,
    /// Model size
    #[arg(long, default_value = "base", value_parser = ["tiny", "base", "large", "huge"])]
    preset: String,
    /// Passes to measure, as the --what of the benchmark `measure` [default: ar,step,train; with OpenVINO ar,step,vae]
    #[arg(long, value_delimiter = ',')]
    what: Vec<String>,
    /// Images per pass; with guidance, twice as many sequences
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Rounds; each measures both sides
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Timed runs per round, after a warm-up run; the median counts
    #[arg(long, default_value_t = 3)]
    repeat: usize,
}

/// Number format, from the widest to the narrowest: each can be widened to those before it.
#[derive(Clone, Copy, PartialEq, PartialOrd, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    F32,
    Bf16,
    Int8,
}

/// Line of output of either side; the keys are the same, except that only ours counts operations.
#[derive(Deserialize)]
struct Measurement {
    what: String,
    median_s: f64,
    /// Peak memory of the process.
    peak_mib: Option<u64>,
    /// Floating-point operations of a run, in 10^12.
    tflop: Option<f64>,
}

/// Name of a value on the command line.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().expect("no value is skipped").get_name().to_owned()
}

/// Prints one row per round, and the medians of ratio and share.
pub fn run(options: &Options) -> Result {
    options.check()?;
    let python = options.python.clone().or_else(|| std::env::var_os(PYTHON).map(PathBuf::from));
    let Some(python) = python else {
        return Err(format!(
            "expected a Python interpreter with {}: pass --python FILE or set {PYTHON}=FILE",
            options.opponent.packages(options.dtype).join(", ")
        )
        .into());
    };
    let threads = std::thread::available_parallelism()?.to_string();
    let program = Program::new(options, &python, &threads)?;
    let peak = PeakProgram::build();
    println!("{}, {}, {}, {threads} threads", program.description(), name(options.dtype), options.preset);
    println!(
        "{:<8} {:>5} {:>10} {:>10} {:>7} {:>10} {:>11} {:>12} {:>6}",
        "what", "batch", "ours, s", "theirs, s", "ratio", "ours, MiB", "theirs, MiB", "peak, Gop/s", "share"
    );
    for what in options.passes() {
        let (mut ratios, mut shares) = (Vec::new(), Vec::new());
        for _ in 0..options.rounds.max(1) {
            let peak = peak.as_ref().and_then(|peak| peak.measure(options.dtype, &threads));
            let ours = ours(options, what, &threads)?;
            let round = Round { peak, ours, theirs: program.measure(options, what)? };
            ratios.push(round.ratio());
            shares.extend(round.share());
            println!("{}", round.row(options.batch_of(what)));
        }
        let (ratio, share) = (median(&mut ratios), median(&mut shares).map(percent));
        println!("{what:<8} median ratio {}, share of the peak {}", cell(ratio.map(two_digits)), cell(share));
    }
    Ok(())
}

impl Options {
    fn passes(&self) -> Vec<&str> {
        if self.what.is_empty() {
            return self.opponent.default_passes().to_vec();
        }
        self.what.iter().map(String::as_str).collect()
    }

    /// Rejects what the opponent cannot measure.
    fn check(&self) -> Result {
        let (opponent, measured) = (name(self.opponent), self.opponent.passes());
        if let Some(what) = self.passes().into_iter().find(|what| !measured.contains(what)) {
            let measured = measured.join(", ");
            return Err(format!("--what {what}: --opponent {opponent} measures only {measured}").into());
        }
        if self.dtype == Format::Int8 && !self.opponent.has_int8() {
            return Err(format!(
                "--dtype int8: expected --opponent openvino, which alone has int8, got --opponent {opponent}"
            )
            .into());
        }
        Ok(())
    }

    /// Batch size of a pass; a training step has its own.
    fn batch_of(&self, what: &str) -> usize {
        if what == "train" { 2 } else { self.batch }
    }

    /// Arguments that both sides share.
    fn arguments(&self, what: &str) -> Vec<String> {
        let (batch, repeat, dtype) = (self.batch.to_string(), self.repeat.to_string(), name(self.dtype));
        let pairs = [
            ("--what", what),
            ("--preset", &self.preset),
            ("--dtype", &dtype),
            ("--batch", &batch),
            ("--repeat", &repeat),
        ];
        pairs.iter().flat_map(|&(flag, value)| [flag.to_owned(), value.to_owned()]).collect()
    }

    /// Runs the program of either side.
    fn measure(&self, what: &str, program: Process) -> Result<Measurement> {
        let program = self.arguments(what).into_iter().fold(program, Process::arg);
        measurement(&program.stdout()?, what)
    }
}

/// Measurements of both sides, and the chip's peak right before them in 10^9 operations per second.
struct Round {
    peak: Option<f64>,
    ours: Measurement,
    theirs: Measurement,
}

impl Round {
    fn ratio(&self) -> f64 {
        self.theirs.median_s / self.ours.median_s
    }

    /// Our operations per second divided by the peak.
    fn share(&self) -> Option<f64> {
        Some(self.ours.tflop? * 1e3 / self.ours.median_s / self.peak?)
    }

    fn row(&self, batch: usize) -> String {
        let Self { peak, ours, theirs } = self;
        format!(
            "{:<8} {batch:>5} {:>10.3} {:>10.3} {:>7.2} {:>10} {:>11} {:>12} {:>6}",
            ours.what,
            ours.median_s,
            theirs.median_s,
            self.ratio(),
            cell(ours.peak_mib),
            cell(theirs.peak_mib),
            cell(peak.map(|peak| format!("{peak:.0}"))),
            cell(self.share().map(percent)),
        )
    }
}

/// A value of a row, `-` if unknown.
fn cell(value: Option<impl Display>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn two_digits(ratio: f64) -> String {
    format!("{ratio:.2}")
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (n > 0).then(|| (values[(n - 1) / 2] + values[n / 2]) / 2.0)
}

fn ours(options: &Options, what: &str, threads: &str) -> Result<Measurement> {
    let measure = cargo(&["bench", "--quiet", "--locked", "--bench", "measure", "--", "--threads", threads]);
    options.measure(what, measure)
}

/// The measurement of `what` in the output of either side.
fn measurement(printed: &str, what: &str) -> Result<Measurement> {
    let mut found = printed.lines().filter_map(|line| serde_json::from_str::<Measurement>(line).ok());
    let found = found.find(|m| m.what == what);
    found.ok_or_else(|| format!("expected a measurement of {what}, got:\n{printed}").into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn parse(arguments: &[&str]) -> Options {
        Command::parse_from([&["compare"], arguments].concat()).options
    }

    fn error(arguments: &[&str]) -> String {
        parse(arguments).check().expect_err("the arguments are rejected").to_string()
    }

    fn measured(line: &str) -> Measurement {
        measurement(line, "ar").expect("the line is a measurement of ar")
    }

    #[test]
    fn each_opponent_measures_its_default_passes() {
        for opponent in ["plain", "strong", "openvino"] {
            let options = parse(&["--opponent", opponent]);
            options.check().expect(opponent);
            assert_eq!(options.passes().contains(&"train"), opponent != "openvino", "{opponent}");
        }
    }

    #[test]
    fn pass_that_the_opponent_lacks_is_rejected() {
        let message = error(&["--opponent", "openvino", "--what", "ar,train"]);
        assert_eq!(message, "--what train: --opponent openvino measures only ar, step, vae");
        assert!(
            error(&["--what", "ar-conditional"]).contains("--opponent plain measures only ar, step, train")
        );
    }

    #[test]
    fn int8_is_rejected_except_with_openvino() {
        for opponent in ["plain", "strong"] {
            let message = error(&["--opponent", opponent, "--dtype", "int8"]);
            assert!(message.ends_with(&format!("got --opponent {opponent}")), "{message}");
        }
        parse(&["--opponent", "openvino", "--dtype", "int8"]).check().expect("OpenVINO has int8");
    }

    #[test]
    fn format_and_size_reach_both_sides() {
        let options = parse(&["--opponent", "openvino", "--dtype", "int8", "--preset", "large"]);
        let arguments = options.arguments("step").join(" ");
        assert_eq!(arguments, "--what step --preset large --dtype int8 --batch 1 --repeat 3");
    }

    #[test]
    fn measurement_is_found_by_its_pass_between_other_lines() {
        let printed = "a warning\n{\"what\":\"step\",\"median_s\":2.0}\n{\"what\":\"ar\",\"median_s\":1.5,\"peak_mib\":70}\n";
        let found = measured(printed);
        assert_eq!((found.median_s, found.peak_mib, found.tflop), (1.5, Some(70), None));
        let message = measurement(printed, "vae").err().expect("no line measures vae").to_string();
        assert!(message.starts_with("expected a measurement of vae, got:\na warning"), "{message}");
    }

    #[test]
    fn row_has_ratio_memory_and_share() {
        let ours = r#"{"what":"ar","median_s":0.5,"peak_mib":1200,"tflop":0.2}"#;
        let theirs = r#"{"what":"ar","median_s":0.75,"peak_mib":1500,"relative_error":1e-7}"#;
        let mut round = Round { peak: Some(800.0), ours: measured(ours), theirs: measured(theirs) };
        let words = |row: String| row.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(words(round.row(1)), "ar 1 0.500 0.750 1.50 1200 1500 800 50 %");
        round.peak = None;
        assert_eq!(words(round.row(1)), "ar 1 0.500 0.750 1.50 1200 1500 - -");
    }

    #[test]
    fn median_of_an_even_count_is_the_mean_of_the_middle_ones() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0, 10.0]), Some(2.5));
        assert_eq!(median(&mut []), None);
    }
}
