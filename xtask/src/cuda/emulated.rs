//! The tests that run under the emulator.

use std::path::Path;

use super::Build;
use crate::Result;

/// Tests of some targets.
struct Tests {
    /// What cargo builds, of all packages that have it.
    targets: &'static [&'static str],
    /// Which of their tests; all if none is named.
    filters: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
}

/// One golden file stands for all, and a few steps for a training run: a CPU takes long to be a GPU.
const TESTS: [Tests; 7] = [
    Tests { targets: &["--lib", "--test=emulated"], filters: &[], env: &[] },
    Tests { targets: &["--test=backend_equivalence"], filters: &["cuda"], env: &[] },
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
    Tests { targets: &["--test=golden"], filters: &["cuda::onestep_256"], env: &[] },
    Tests { targets: &["--test=golden_sampler", "--test=golden_vae"], filters: &["cuda"], env: &[] },
    Tests { targets: &["--test=cuda"], filters: &[], env: &[("TRANSDIFF_TRAINING_STEPS", "3")] },
];
/// Cases of an operation where the order of threads and blocks is another: enough for every kernel, and aligned ones and
/// others among them.
const CASES: &str = "4";

/// All that is built for them, so that it is built at once.
pub fn targets() -> Vec<&'static str> {
    TESTS.iter().flat_map(|tests| tests.targets).copied().collect()
}

/// Runs them all. None may be skipped.
pub fn check(build: &Build, emulator: &Path) -> Result {
    TESTS.iter().try_for_each(|tests| {
        let set = |(name, value): &(&str, &str)| format!("{name}={value}");
        println!("{} {}", tests.targets.join(" "), tests.env.iter().map(set).collect::<Vec<_>>().join(" "));
        let process = build.tests(tests.targets, tests.filters).env("LD_LIBRARY_PATH", emulator);
        let printed = tests.env.iter().fold(process, |process, (name, value)| process.env(name, value));
        let printed = printed.stdout()?;
        print!("{printed}");
        if printed.contains("SKIPPED") || !all_ran(&printed) {
            return Err(format!("{}: some tests did not run", tests.targets.join(" ")).into());
        }
        Ok(())
    })
}

/// Whether every program that printed this ran a test, and none failed.
fn all_ran(printed: &str) -> bool {
    let mut results = printed.lines().filter_map(|line| line.strip_prefix("test result: ")).peekable();
    results.peek().is_some()
        && results.all(|result| result.starts_with("ok. ") && !result.starts_with("ok. 0 "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_names_no_test_is_found() {
        let result = |passed| format!("test result: ok. {passed} passed; 0 failed; 0 ignored\n");
        assert!(all_ran(&result(12)) && all_ran(&(result(10) + &result(1))));
        assert!(!all_ran(&result(0)) && !all_ran(&(result(3) + &result(0))) && !all_ran("no test"));
        assert!(!all_ran("test result: FAILED. 3 passed; 1 failed"));
    }
}
