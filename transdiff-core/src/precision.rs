//! Number formats of computation.

use std::fmt;
use std::str::FromStr;

use crate::{DType, Error};

/// Number format in which a model computes.
///
/// A type of tensors, or 8-bit integers: then tensors are bf16, and linear layers of the model's blocks multiply 8-bit integers,
/// which takes a quarter of the memory of f32 for their weights. The residual stream, and the layers that it begins and ends with,
/// are in the [accumulator](DType::accumulator)'s type in every format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Precision {
    dtype: DType,
    is_int8: bool,
}

impl Precision {
    /// Weights of the linear layers of blocks, but for the first block of the decoder, as 8-bit integers with one scale per
    /// output, their inputs with one scale per token; everything else as in bf16. A model in this format generates; [`Model::save`](crate::models::Model::save) writes its weights in bf16,
    /// [`WeightView::stored`](crate::checkpoint::WeightView::stored) the integers of a file.
    pub const INT8: Self = Self { dtype: DType::BF16, is_int8: true };

    /// Type of the tensors.
    pub const fn dtype(self) -> DType {
        self.dtype
    }

    /// Returns true if linear layers multiply 8-bit integers.
    pub const fn is_int8(self) -> bool {
        self.is_int8
    }
}

impl From<DType> for Precision {
    fn from(dtype: DType) -> Self {
        Self { dtype, is_int8: false }
    }
}

/// The formats of generation by their names: f32, bf16 and int8.
impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "f32" => Ok(DType::F32.into()),
            "bf16" => Ok(DType::BF16.into()),
            "int8" => Ok(Self::INT8),
            _ => Err(Error::argument("precision", "f32, bf16 or int8", format!("{name:?}"))),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_int8 { f.write_str("int8") } else { self.dtype.fmt(f) }
    }
}
