//! Element types.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The element type of a tensor, known at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE single precision: weights, activations, optimiser state.
    F32,
    /// IEEE double precision: gradient checks (CPU only).
    F64,
    /// bfloat16: compute type with sums in f32, and storage type of checkpoints.
    BF16,
    /// 32-bit integers: class labels and row indices.
    I32,
}

impl DType {
    /// Size of one element in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F64 => 8,
            Self::BF16 => 2,
        }
    }

    /// Returns whether arithmetic on real numbers is defined for this type.
    pub const fn is_float(self) -> bool {
        !matches!(self, Self::I32)
    }

    /// Accumulator type: the type of sums over values of this type, and of values that are computed once and used often.
    /// f32 for bf16, the type itself for others.
    #[must_use]
    pub const fn accumulator(self) -> Self {
        match self {
            Self::BF16 => Self::F32,
            Self::F32 | Self::F64 | Self::I32 => self,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::BF16 => "bf16",
            Self::I32 => "i32",
        })
    }
}
