//! Agreement of all ranks on the outcome of something that each has done alone.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Communicator;
use crate::{Error, Result};

/// Exchanges the outcomes of all ranks. Returns the values in the order of the ranks, or, on all ranks alike, the error of the
/// first rank that failed: none goes on alone.
///
/// # Errors
/// [`Error::Rank`]; those of the communicator.
pub fn agree<T: Serialize + DeserializeOwned>(
    communicator: &dyn Communicator,
    outcome: Result<T>,
) -> Result<Vec<T>> {
    let outcome: Result<T, (usize, String)> = outcome.map_err(|error| match error {
        // One that was agreed on before.
        Error::Rank { rank, message } => (rank, message),
        error => (communicator.rank(), error.to_string()),
    });
    let sent = serde_json::to_vec(&outcome).expect("outcomes are plain data");
    let mut values = Vec::with_capacity(communicator.size());
    for (rank, bytes) in communicator.gather(&sent)?.into_iter().enumerate() {
        let outcome: Result<T, (usize, String)> =
            serde_json::from_slice(&bytes).map_err(|error| Error::Backend {
                op: "agree",
                message: format!("rank {rank} sent something else than an outcome: {error}"),
            })?;
        values.push(outcome.map_err(|(rank, message)| Error::Rank { rank, message })?);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::super::Solo;
    use super::*;

    #[test]
    fn outcomes_are_values_or_the_error_of_a_rank() {
        assert_eq!(agree(&Solo, Ok(vec![1.5f64])).unwrap(), [[1.5]]);
        let error = agree::<()>(&Solo, Err(Error::NonFinite { stage: "loss" })).unwrap_err();
        assert_eq!(error.to_string(), "rank 0: loss: a value is not finite");
        let of_another = Error::Rank { rank: 3, message: "a full disk".to_owned() };
        assert_eq!(agree::<()>(&Solo, Err(of_another)).unwrap_err().to_string(), "rank 3: a full disk");
    }
}
