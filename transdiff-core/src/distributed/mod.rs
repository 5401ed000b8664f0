//! Several processes that do one job: ranks of a [`Communicator`] exchange bytes in host memory, and the [`Collectives`] of a
//! device sum tensors over all ranks.
//!
//! A transport implements [`Communicator`]. [`HostCollectives`] sums on the CPU, whatever the transport, in an order that is
//! fixed: powers of two of ranks give bitwise equal sums with the same terms.

mod agreement;
mod collectives;
mod communicator;
mod host_collectives;
mod pairwise;

pub use agreement::agree;
pub use collectives::{Collectives, Pending, even_counts};
pub use communicator::{Communicator, Solo};
pub use host_collectives::HostCollectives;
pub use pairwise::TermSum;
