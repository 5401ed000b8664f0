//! Tests that run under the emulator.

use std::path::Path;

use super::Build;
use crate::Result;
use crate::process::in_parallel;

/// Tests of some targets, with filters and environment.
struct Tests {
    /// Cargo targets, in all packages that have them.
    targets: &'static [&'static str],
    /// Test name filters; none runs all tests.
    filters: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
}

/// Only one of the golden files and a few training steps: the emulator is slow. The longest are first.
const TESTS: [Tests; 7] = [
    Tests { targets: &["--test=backend_equivalence"], filters: &["cuda"], env: &[] },
    Tests { targets: &["--test=golden"], filters: &["cuda::onestep_256"], env: &[] },
    Tests { targets: &["--lib", "--test=emulated"], filters: &[], env: &[] },
    Tests { targets: &["--test=cuda"], filters: &[], env: &[("TRANSDIFF_TRAINING_STEPS", "3")] },
    Tests {
        targets: &["--test=backend_equivalence"],
        filters: &["cuda"],
        env: &[
            ("EMULATED_CUDA_ORDER", "reverse"),
            ("EMULATED_CUDA_CHECK", "1"),
            ("EMULATED_CUDA_MULTIPROCESSORS", "132"),
            ("TRANSDIFF_CASES", CASES),
        ],
    },
    Tests {
        targets: &["--test=backend_equivalence"],
        filters: &["cuda"],
        env: &[
            ("EMULATED_CUDA_ORDER", "shuffled"),
            ("EMULATED_CUDA_CHECK", "1"),
            ("EMULATED_CUDA_MULTIPROCESSORS", "132"),
            ("TRANSDIFF_CASES", CASES),
        ],
    },
    Tests { targets: &["--test=golden_sampler", "--test=golden_vae"], filters: &["cuda"], env: &[] },
];
/// Cases per operation in other orders of threads and blocks: enough for every kernel, aligned and unaligned.
const CASES: &str = "4";

/// All targets, so that they are built at once.
pub fn targets() -> Vec<&'static str> {
    TESTS.iter().flat_map(|tests| tests.targets).copied().collect()
}

/// Runs all tests, several at a time. A skipped test is an error.
pub fn check(build: &Build, emulator: &Path) -> Result {
    in_parallel(&TESTS, |tests| {
        let set = |(name, value): &(&str, &str)| format!("{name}={value}");
        let env = tests.env.iter().map(set).collect::<Vec<_>>().join(" ");
        let process = build.tests(tests.targets, tests.filters).env("LD_LIBRARY_PATH", emulator);
        let process = tests.env.iter().fold(process, |process, (name, value)| process.env(name, value));
        let (printed, success) = process.stdout_and_result()?;
        print!("{} {env}\n{printed}", tests.targets.join(" "));
        success?;
        if printed.contains("SKIPPED") || !all_ran(&printed) {
            return Err(format!("{}: some tests did not run", tests.targets.join(" ")).into());
        }
        Ok(())
    })
}

/// Returns whether every test program of this output ran at least one test, and none failed.
fn all_ran(printed: &str) -> bool {
    let mut results = printed.lines().filter_map(|line| line.strip_prefix("test result: ")).peekable();
    results.peek().is_some()
        && results.all(|result| result.starts_with("ok. ") && !result.starts_with("ok. 0 "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_without_a_match_is_detected() {
        let result = |passed| format!("test result: ok. {passed} passed; 0 failed; 0 ignored\n");
        assert!(all_ran(&result(12)) && all_ran(&(result(10) + &result(1))));
        assert!(!all_ran(&result(0)) && !all_ran(&(result(3) + &result(0))) && !all_ran("no test"));
        assert!(!all_ran("test result: FAILED. 3 passed; 1 failed"));
    }
}
