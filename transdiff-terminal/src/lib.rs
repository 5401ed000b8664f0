//! Behaviour that the `transdiff` command and the examples share as programs in a terminal: signals, the parsing of
//! numbers in arguments, sizes in messages, and the progress bar of training.

mod bytes;
mod numbers;
mod progress;
mod signals;

pub use bytes::bytes;
pub use numbers::{MAX_COUNT, number, whole};
pub use progress::{StepProgress, TrainingBar};
pub use signals::{
    INTERRUPTED, REQUEUE, StopReason, StopSignals, fail_writes_beyond_size_limit, set_on_interrupt,
};
