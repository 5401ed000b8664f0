//! TransDiff.
