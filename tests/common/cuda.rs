//! The GPU of this machine, if it has one.

use transdiff::{Cuda, Error};

/// The first GPU, or `None`, after a line with SKIPPED, where there is none; panics on any other error.
pub fn device() -> Option<Cuda> {
    match Cuda::new(0) {
        Ok(cuda) => Some(cuda),
        Err(error @ Error::Unavailable { .. }) => {
            println!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}
