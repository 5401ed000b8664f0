//! Behaviour that the `transdiff` command and the examples share as programs in a terminal: signals, and the parsing of
//! numbers in arguments.

mod numbers;
mod signals;

pub use numbers::{MAX_COUNT, number, whole};
pub use signals::{INTERRUPTED, fail_writes_beyond_size_limit, set_on_interrupt};
