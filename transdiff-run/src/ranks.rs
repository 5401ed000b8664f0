//! Division of a step's samples among processes.

use crate::settings::{Result, RunConfig, SettingError, required};

/// Settings of a step's passes that the user has given for this number of processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// `train.batch`, which does not change then.
    pub batch: bool,
    /// `train.accumulate`, which is then the number of passes of each process.
    pub accumulate: bool,
}

impl RunConfig {
    /// The settings for `ranks` processes. The passes of a step are divided among them, so that a step has the same samples; if
    /// their number is not a multiple of `ranks`, smaller passes are, unless the size is `given`.
    ///
    /// # Errors
    /// [`SettingError`] for settings that are not complete, and for a step whose samples cannot be divided.
    pub fn on_ranks(&self, ranks: usize, given: Given) -> Result<Self> {
        let mut config = self.clone();
        config.train.ranks = ranks;
        let batch = required("train.batch", self.train.batch)?;
        let accumulate = required("train.accumulate", self.train.accumulate)?;
        if given.accumulate || ranks == self.train.ranks {
            return Ok(config);
        }
        let refused = || {
            let message = format!(
                "expected samples that {ranks} processes can divide, got {} · {accumulate} passes of {batch} per step; --set \
                 train.accumulate=N gives each process N passes",
                self.train.ranks
            );
            SettingError::new("train.accumulate", message)
        };
        let passes = accumulate.checked_mul(self.train.ranks).ok_or_else(refused)?;
        if passes.is_multiple_of(ranks) {
            config.train.accumulate = Some(passes / ranks);
            return Ok(config);
        }
        if given.batch {
            return Err(refused());
        }
        let samples = passes.checked_mul(batch).filter(|samples| samples.is_multiple_of(ranks));
        let own = samples.ok_or_else(refused)? / ranks;
        let largest = (1..=batch.min(own)).rev().find(|&batch| own.is_multiple_of(batch)).unwrap_or(1);
        (config.train.batch, config.train.accumulate) = (Some(largest), Some(own / largest));
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets;

    fn settings(batch: usize, accumulate: usize, ranks: usize) -> RunConfig {
        let mut layers = presets::layers("small").unwrap();
        for (key, value) in [("batch", batch), ("accumulate", accumulate), ("ranks", ranks)] {
            layers.add_assignment(&format!("train.{key}={value}")).unwrap();
        }
        layers.resolve("test").unwrap()
    }

    #[test]
    fn processes_divide_the_passes_of_a_step() {
        let of = |(batch, accumulate, before), ranks, accumulate_given| {
            let given = Given { accumulate: accumulate_given, batch: false };
            let config = settings(batch, accumulate, before).on_ranks(ranks, given).unwrap();
            assert_eq!(config.train.ranks, ranks);
            (config.train.batch.unwrap(), config.train.accumulate.unwrap())
        };
        for (before, ranks, after) in [
            ((64, 32, 1), 1, (64, 32)),
            ((64, 32, 1), 16, (64, 2)),
            ((64, 32, 1), 64, (32, 1)),
            ((64, 1, 1), 2, (32, 1)),
            ((48, 1, 1), 3, (16, 1)),
            ((64, 3, 1), 2, (48, 2)),
            ((8, 2, 2), 4, (8, 1)),
            ((8, 1, 4), 1, (8, 4)),
        ] {
            assert_eq!(of(before, ranks, false), after, "{before:?} on {ranks}");
            let (batch, accumulate, _) = before;
            assert_eq!(of(before, ranks, true), (batch, accumulate));
        }
        let message = settings(8, 1, 4).on_ranks(3, Given::default()).unwrap_err().to_string();
        assert!(
            message.starts_with(
                "train.accumulate: expected samples that 3 processes can divide, got 4 · 1 passes of 8 per step"
            ),
            "{message}"
        );
        // A batch that was given stays.
        let given = Given { batch: true, accumulate: false };
        assert!(settings(64, 1, 1).on_ranks(2, given).is_err());
        assert_eq!(settings(64, 4, 1).on_ranks(2, given).unwrap().train.accumulate, Some(2));
    }
}
