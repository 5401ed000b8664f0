//! The ranks of a job on this machine: exchanges, sums, and jobs that fail. Needs `mpirun`.

mod collectives;
mod launch;
#[path = "../../../tests/common/open_mpi.rs"]
mod open_mpi;
mod transport;
