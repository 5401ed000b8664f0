//! The launcher that started this process, by the environment variables that it sets.

use transdiff_core::{Error, Result};

/// Variables of the processes of a job: PMIx (Open MPI, `srun --mpi=pmix`), PMI (MPICH, Intel MPI, Cray, `srun --mpi=pmi2`),
/// and those of single libraries.
const OF_RANKS: [&str; 8] = [
    "PMIX_RANK",
    "PMI_RANK",
    "PMI_SIZE",
    "PMI_ID",
    "OMPI_COMM_WORLD_SIZE",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_SIZE",
    "ALPS_APP_PE",
];
/// Variables with the number of processes, the innermost launcher's first: `mpirun` may itself be started by `srun`.
const OF_SIZES: [&str; 4] =
    ["OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// Returns true if an MPI launcher (`mpirun`, `mpiexec`, `srun --mpi=..`) started this process, perhaps as the only one. Does
/// not start MPI.
pub fn launched() -> bool {
    OF_RANKS.iter().any(|name| std::env::var_os(name).is_some())
}

/// Fails if the launcher started several processes and MPI knows one: each would do the whole job, and write the same files.
pub fn check_size(size: usize) -> Result<()> {
    check_size_in(&|name| std::env::var(name).ok(), launched(), size)
}

fn check_size_in(variable: &dyn Fn(&str) -> Option<String>, launched: bool, size: usize) -> Result<()> {
    let started = OF_SIZES.iter().find_map(|name| Some((name, variable(name)?.parse::<usize>().ok()?)));
    match started {
        Some((name, started)) if launched && size == 1 && started > 1 => Err(Error::Backend {
            op: "MPI",
            message: format!(
                "the launcher started {started} processes ({name}), but the MPI library of this program finds 1: expected the \
                 launcher of the library that the program was built with"
            ),
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)], size: usize) -> Result<()> {
        let value =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string());
        check_size_in(&value, true, size)
    }

    #[test]
    fn launcher_of_another_library_is_an_error() {
        for name in OF_SIZES {
            let error = check(&[(name, "4")], 1).unwrap_err().to_string();
            assert!(error.contains("4 processes") && error.contains(name), "{error}");
            check(&[(name, "4")], 4).unwrap();
            check(&[(name, "1")], 1).unwrap();
        }
    }

    #[test]
    fn innermost_launcher_counts() {
        check(&[("OMPI_COMM_WORLD_SIZE", "1"), ("SLURM_STEP_NUM_TASKS", "8")], 1).unwrap();
        check(&[("OMPI_COMM_WORLD_SIZE", "2"), ("PMI_SIZE", "1")], 1).unwrap_err();
        check(&[("PMI_SIZE", "many")], 1).unwrap();
        check(&[], 1).unwrap();
    }
}
