//! The processes of a job that an MPI launcher starts, as a [`Communicator`](transdiff_core::distributed::Communicator) of
//! `transdiff-core`.
//!
//! Any library of MPI 3 will do, if it lets several threads call it. The programs of a job use the one whose launcher starts
//! them.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use transdiff_core::distributed::Communicator;
//! use transdiff_mpi::{Mpi, launched};
//!
//! # fn main() -> transdiff_core::Result<()> {
//! if launched() {
//!     let mpi = Mpi::new(Duration::from_secs(600))?;
//!     println!("rank {} of {}", mpi.rank(), mpi.size());
//! }
//! # Ok(())
//! # }
//! ```

mod launcher;
mod ranks;
mod transfer;

pub use launcher::launched;
pub use ranks::Mpi;
