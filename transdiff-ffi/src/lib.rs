//! The C ABI of TransDiff. `include/transcdiff.h` is generated from it and is its documentation.
//!
//! Every exported function runs its body in a guard ([`status`]): nothing leaves as a panic. A call returns a status and, if
//! asked, an error object. Structs begin with their size ([`versioned`]). Everything that a caller hands over is checked
//! before memory is asked for.

#![allow(non_camel_case_types)] // names are as C sees them
#![allow(clippy::too_many_arguments)] // what a struct would hide, C callers see in the signature

#[cfg(not(target_pointer_width = "64"))]
compile_error!("the structs of the C ABI are laid out for pointers of 64 bits");
#[cfg(panic = "abort")]
compile_error!(
    "a panic is to become TRANSCDIFF_INTERNAL, and not to end the program: build with panic = \"unwind\""
);

mod buffers;
mod cancellation;
mod features;
mod generate;
mod input;
mod load;
mod log;
mod model;
mod pixels;
mod request;
mod session;
mod status;
mod version;
mod versioned;

pub use cancellation::*;
pub use features::*;
pub use generate::*;
pub use load::*;
pub use log::*;
pub use model::*;
pub use pixels::*;
pub use session::*;
pub use status::*;
pub use version::*;
