//! Pipelines: from a class to an image, on a device that is chosen at run time.
//!
//! A [`Pipeline`] is a generator, with a codec or without, behind a type that names neither backend nor model; its inputs
//! and outputs are in host memory. The C ABI and the command line are built on it. Programs that know their backend and
//! their model can use [`TransDiff`](crate::TransDiff) and [`Session`](crate::models::transdiff::Session) directly, with
//! the same results.

mod device_session;
mod estimate;
mod info;
mod load;
#[expect(clippy::module_inception, reason = "the type that the module is about")]
mod pipeline;
mod pixels;
mod request;
mod session;

pub use estimate::MemoryEstimate;
pub use info::Info;
pub use load::{LoadOptions, LogLevel};
pub use pipeline::Pipeline;
pub use pixels::{PixelFormat, from_pixels, to_pixels};
pub use request::{Output, OutputSelection, Progress, Request};
pub use session::{Batch, Batches, Observer, PipelineSession};
