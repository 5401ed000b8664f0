//! Tensors in host memory: read from files, drawn from random streams, downloaded from devices.

use half::bf16;

use crate::{DType, Error, Result};

/// Elements in host memory, row-major.
#[derive(Clone, Debug, PartialEq)]
pub enum HostData {
    /// Single precision.
    F32(Vec<f32>),
    /// Double precision.
    F64(Vec<f64>),
    /// bfloat16.
    BF16(Vec<bf16>),
    /// Integers.
    I32(Vec<i32>),
}

impl HostData {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::F64(v) => v.len(),
            Self::BF16(v) => v.len(),
            Self::I32(v) => v.len(),
        }
    }

    /// Returns whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::F64(_) => DType::F64,
            Self::BF16(_) => DType::BF16,
            Self::I32(_) => DType::I32,
        }
    }

    /// Elements as f64 (exact for every type).
    pub fn to_f64(&self) -> Vec<f64> {
        match self {
            Self::F32(v) => v.iter().map(|&x| f64::from(x)).collect(),
            Self::F64(v) => v.clone(),
            Self::BF16(v) => v.iter().map(|x| x.to_f64()).collect(),
            Self::I32(v) => v.iter().map(|&x| f64::from(x)).collect(),
        }
    }

    /// Elements as f32, rounded to nearest even.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Self::F32(v) => v.clone(),
            Self::F64(v) => v.iter().map(|&x| x as f32).collect(),
            Self::BF16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Self::I32(v) => v.iter().map(|&x| x as f32).collect(),
        }
    }

    /// Converts `values` to the type `dtype`, rounded to nearest even (truncated for integers).
    pub fn from_f64(values: Vec<f64>, dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32(values.into_iter().map(|x| x as f32).collect()),
            DType::F64 => Self::F64(values),
            DType::BF16 => Self::BF16(values.into_iter().map(bf16_from_f64).collect()),
            DType::I32 => Self::I32(values.into_iter().map(|x| x as i32).collect()),
        }
    }

    /// Converts the elements to the type `dtype`, rounded as by [`from_f64`](Self::from_f64).
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn cast(self, dtype: DType) -> Result<Self> {
        match (self, dtype) {
            (data, to) if data.dtype() == to => Ok(data),
            // Every model in bf16 needs these two; they skip the conversion to f64.
            (Self::F32(v), DType::BF16) => Ok(Self::BF16(converted(&v, bf16::from_f32)?)),
            (Self::BF16(v), DType::F32) => Ok(Self::F32(converted(&v, bf16::to_f32)?)),
            (Self::F32(v), to) => rounded(&v, to),
            (Self::F64(v), to) => rounded(&v, to),
            (Self::BF16(v), to) => rounded(&v, to),
            (Self::I32(v), to) => rounded(&v, to),
        }
    }

    /// Returns whether every element is finite.
    pub fn is_finite(&self) -> bool {
        match self {
            Self::F32(v) => v.iter().all(|x| x.is_finite()),
            Self::F64(v) => v.iter().all(|x| x.is_finite()),
            Self::BF16(v) => v.iter().all(|x| x.is_finite()),
            Self::I32(_) => true,
        }
    }
}

/// Converts `values` to the type `dtype` by way of f64, which represents the values of every type exactly.
fn rounded<T: Copy + Into<f64>>(values: &[T], dtype: DType) -> Result<HostData> {
    Ok(match dtype {
        DType::F32 => HostData::F32(converted(values, |x| x.into() as f32)?),
        DType::F64 => HostData::F64(converted(values, T::into)?),
        DType::BF16 => HostData::BF16(converted(values, |x| bf16_from_f64(x.into()))?),
        DType::I32 => HostData::I32(converted(values, |x| x.into() as i32)?),
    })
}

fn converted<T: Copy, U>(values: &[T], convert: impl Fn(T) -> U) -> Result<Vec<U>> {
    let mut out = try_with_capacity("cast", values.len())?;
    out.extend(values.iter().map(|&x| convert(x)));
    Ok(out)
}

/// Allocates an empty vector with capacity for `len` elements. Unlike `Vec::with_capacity` it does not abort if memory
/// runs out: callers and files often choose `len`.
///
/// # Errors
/// [`Error::OutOfMemory`], which names the operation `op`.
pub fn try_with_capacity<T>(op: &'static str, len: usize) -> Result<Vec<T>> {
    let mut out = Vec::new();
    let bytes = len.saturating_mul(size_of::<T>());
    out.try_reserve_exact(len).map_err(|_| Error::out_of_memory(op, bytes))?;
    Ok(out)
}

/// Rounds `x` to the nearest bf16, ties to even. (`bf16::from_f64` truncates the low half of the number first, and so
/// mistakes values next to a tie for a tie.)
pub fn bf16_from_f64(x: f64) -> bf16 {
    let near = x as f32;
    if x.is_nan() || f64::from(near) == x {
        return bf16::from_f32(near);
    }
    // Rounding to odd: towards zero, with the last bit set for the lost bits, so that the second rounding sees them.
    let beyond = f64::from(near).abs() > x.abs();
    bf16::from_f32(f32::from_bits((near.to_bits() - u32::from(beyond)) | 1))
}

/// A shape and its elements in row-major order, in host memory.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    shape: Vec<usize>,
    data: HostData,
}

impl HostTensor {
    /// Creates a tensor of `shape` with the elements `data`.
    ///
    /// # Errors
    /// [`Error::Shape`] if the number of elements does not match the shape.
    pub fn new(shape: &[usize], data: HostData) -> Result<Self> {
        let want = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        if want != Some(data.len()) {
            return Err(Error::shape(
                "HostTensor::new",
                format!("a shape of {} elements", data.len()),
                shape,
            ));
        }
        Ok(Self { shape: shape.to_vec(), data })
    }

    /// Creates a tensor of f32.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn f32(shape: &[usize], data: Vec<f32>) -> Result<Self> {
        Self::new(shape, HostData::F32(data))
    }

    /// Size per axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Elements, row-major.
    pub fn data(&self) -> &HostData {
        &self.data
    }

    /// Elements, if they are f32.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            HostData::F32(values) => Some(values),
            _ => None,
        }
    }

    /// Returns the elements without copying them.
    pub fn into_data(self) -> HostData {
        self.data
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.data.dtype()
    }

    /// Elements as f32, rounded to nearest even.
    pub fn to_f32(&self) -> Vec<f32> {
        self.data.to_f32()
    }

    /// Elements as f64 (exact).
    pub fn to_f64(&self) -> Vec<f64> {
        self.data.to_f64()
    }

    /// Converts the elements to the type `dtype`, like [`HostData::cast`].
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn cast(self, dtype: DType) -> Result<Self> {
        Ok(Self { shape: self.shape, data: self.data.cast(dtype)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cast_rounds_like_from_f64() {
        const TYPES: [DType; 4] = [DType::F32, DType::F64, DType::BF16, DType::I32];
        let values = vec![0.0, 1.0, -2.5, 1.0 + 1.0 / 256.0, std::f64::consts::PI, -7e8];
        for from in TYPES {
            let data = HostData::from_f64(values.clone(), from);
            for to in TYPES {
                let want = HostData::from_f64(data.to_f64(), to);
                assert_eq!(data.clone().cast(to).unwrap(), want, "{from} to {to}");
            }
        }
    }

    #[test]
    fn bf16_rounds_to_nearest_even() {
        let (ulp, tiny) = (1.0 / 128.0, 1e-14);
        let cases = [
            (1.0 + 0.5 * ulp, 1.0),
            (1.0 + 0.5 * ulp + 1e-7, 1.0 + ulp),
            (1.0 + 0.5 * ulp + tiny, 1.0 + ulp),
            (-1.0 - 0.5 * ulp - tiny, -1.0 - ulp),
            (1.0 + 1.5 * ulp, 1.0 + 2.0 * ulp),
            (1.0 + 1.5 * ulp - tiny, 1.0 + ulp),
            (1e300, f64::INFINITY),
            (3.39e38, f64::from_bits(0x47ef_e000_0000_0000)),
            (-3.4e38, f64::NEG_INFINITY),
            (1e-300, 0.0),
            (2f64.powi(-134), 0.0),
            (2f64.powi(-134) * (1.0 + tiny), 2f64.powi(-133)),
        ];
        for (x, want) in cases {
            assert_eq!(HostData::from_f64(vec![x], DType::BF16).to_f64(), [want], "{x:e}");
        }
        assert!(HostData::from_f64(vec![f64::NAN], DType::BF16).to_f64()[0].is_nan());
    }
}
