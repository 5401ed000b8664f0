//! C ABI of TransDiff: the source of `include/transcdiff.h` and of its documentation.
//!
//! Every exported function runs its body in a guard ([`status`]), so that no panic crosses the boundary. Calls that can fail
//! return a status and an optional error object. Structs begin with their size ([`versioned`]). Arguments are validated
//! before memory is allocated for them.

#![allow(non_camel_case_types)] // C names
#![allow(clippy::too_many_arguments)] // plain C signatures instead of argument structs

#[cfg(not(target_pointer_width = "64"))]
compile_error!("the struct layouts of the C ABI require 64-bit pointers");
#[cfg(panic = "abort")]
compile_error!(
    "panics must unwind to become TRANSCDIFF_INTERNAL instead of ending the process: build with panic = \"unwind\""
);

mod buffers;
mod cancellation;
mod codec;
mod features;
mod generate;
mod input;
mod load;
mod log;
mod model;
mod options;
mod pixel_format;
mod request;
mod session;
mod status;
mod version;
mod versioned;

pub use cancellation::*;
pub use codec::*;
pub use features::*;
pub use generate::*;
pub use load::*;
pub use log::*;
pub use model::*;
pub use options::*;
pub use pixel_format::*;
pub use session::*;
pub use status::*;
pub use version::*;
