//! The GPU of this machine, if it has one.

use transdiff::{Cuda, Error};

/// The first GPU. Without one the test that asks says so and is over; any other failure is one.
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
