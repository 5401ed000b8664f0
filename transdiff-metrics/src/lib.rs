//! Quality of generated images, from the features that a network has of them.
//!
//! Everything is computed in f64 on the CPU, in an order that does not depend on the number of threads.

mod frechet;
mod inception_score;
mod permutation;
mod precision_recall;
mod rows;

pub use frechet::Statistics;
pub use inception_score::{Score, equal_splits, inception_score};
pub use permutation::numpy_permutation;
pub use precision_recall::{PrecisionRecall, precision_recall};
pub use rows::Rows;
