//! Measured peak of the chip: operations per second of its vector instructions.

use std::fs;

use serde::Deserialize;

use super::Format;
use crate::Result;
use crate::process::Process;

const SOURCE: &str = "benches/peer/peak.c";
const PROGRAM: &str = "target/peak";

/// Line of output of the program.
#[derive(Deserialize)]
struct Peak {
    what: Format,
    gop_s: f64,
}

/// The compiled program that measures the peak.
pub struct PeakProgram;

impl PeakProgram {
    /// Compiles the program; `None`, with a note, if the machine has no C compiler that can.
    pub fn build() -> Option<Self> {
        let built = fs::create_dir_all("target").map_err(Into::into).and_then(|()| {
            Process::new("cc").args(&["-O2", "-pthread", SOURCE, "-o", PROGRAM]).run_quietly()
        });
        built.map_err(|e| eprintln!("no share of the peak: {e}")).ok().map(|()| Self)
    }

    /// Peak for numbers in `format`, in 10^9 operations per second; `None` on processors that the program does not know.
    pub fn measure(&self, format: Format, threads: &str) -> Option<f64> {
        let printed: Result<String> = Process::new(PROGRAM).args(&[threads]).stdout();
        let printed = printed.map_err(|e| eprintln!("no share of the peak: {e}")).ok()?;
        limit(&printed, format)
    }
}

/// Peak of the fastest way to multiply numbers in `format`: in it, or after widening them. Some Intel Xeons, for example, do
/// half as many operations per second with the dot product of bf16 as with f32.
fn limit(printed: &str, format: Format) -> Option<f64> {
    let lines = printed.lines().filter_map(|line| serde_json::from_str::<Peak>(line).ok());
    lines.filter(|peak| peak.what <= format).map(|peak| peak.gop_s).max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(f32: f64, bf16: f64) -> String {
        let line = |what, gop_s| format!("{{\"what\":\"{what}\",\"threads\":2,\"gop_s\":{gop_s:.1}}}\n");
        line("f32", f32) + &line("bf16", bf16) + &line("int8", 1462.0)
    }

    #[test]
    fn slow_bf16_instruction_leaves_the_peak_of_f32() {
        assert_eq!(limit(&printed(345.0, 171.0), Format::Bf16), Some(345.0));
        assert_eq!(limit(&printed(227.0, 448.0), Format::Bf16), Some(448.0));
    }

    #[test]
    fn narrower_formats_do_not_count() {
        assert_eq!(limit(&printed(227.0, 448.0), Format::F32), Some(227.0));
        assert_eq!(limit(&printed(227.0, 448.0), Format::Int8), Some(1462.0));
    }

    #[test]
    fn peak_of_a_format_without_instructions_is_that_of_the_wider_one() {
        let f32 = printed(345.0, 171.0).lines().next().unwrap_or_default().to_owned();
        assert_eq!(limit(&f32, Format::Int8), Some(345.0));
    }

    #[test]
    fn peak_of_another_processor_is_unknown() {
        assert_eq!(limit("", Format::F32), None);
    }
}
