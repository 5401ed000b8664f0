//! The ranks of a job on this machine: exchanges, sums, and jobs that fail. Needs `mpirun`.

mod collectives;
mod launch;
mod transport;
