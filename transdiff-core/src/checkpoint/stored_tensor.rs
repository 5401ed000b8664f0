//! Tensors of one file as input of a writer of another.

use std::path::Path;

use ::safetensors::tensor::Dtype;
use half::f16;

use super::byte_reader::ByteReader;
use super::entry::{Entry, check_range};
use super::write::{Put, WriteTensor, encode, stored_dtype};
use crate::host::bf16_from_f64;
use crate::{DType, HostData, Int8Weight, Result};

/// A tensor of a file that is copied to another file, in its stored type or another one.
///
/// Row-major tensors are read in pieces. A strided view is read as a whole, which takes memory for it.
#[derive(Clone, Debug)]
pub struct StoredTensor<'a> {
    pub(super) reader: &'a ByteReader,
    pub(super) path: &'a Path,
    /// Name in the file.
    pub(super) name: &'a str,
    pub(super) entry: &'a Entry,
    pub(super) form: Form,
}

/// Form in which a tensor is written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    /// As it is stored.
    Stored,
    /// In a float type.
    Float(DType),
    /// The integers of a matrix that is quantised to 8 bits.
    Int8Values,
    /// Their scales, one per row.
    Int8Scales,
}

impl WriteTensor for StoredTensor<'_> {
    fn dtype(&self) -> Dtype {
        match self.form {
            Form::Stored => self.entry.dtype(),
            Form::Float(dtype) => stored_dtype(dtype),
            Form::Int8Values => Dtype::I8,
            Form::Int8Scales => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        match self.form {
            Form::Int8Scales => &self.entry.shape()[..self.entry.shape().len().min(1)],
            _ => self.entry.shape(),
        }
    }

    /// Fails, as [`WeightFile::tensor`](super::WeightFile::tensor) does, for tensors that cannot be read and values that
    /// are not finite, and for values beyond the range of the type that they are converted to.
    fn write(&self, put: &mut Put<'_>) -> Result<()> {
        match self.form {
            Form::Int8Values => return encode(self.int8()?.values(), i8::to_le_bytes, put),
            Form::Int8Scales => return encode(self.int8()?.scales(), f32::to_le_bytes, put),
            Form::Stored | Form::Float(_) => {}
        }
        for (first, piece) in self.entry.pieces() {
            let host = piece.read(self.reader, self.path, self.name, first)?;
            check_range(self.path, self.name, host.data(), self.dtype(), first)?;
            match host.data() {
                HostData::F32(v) => self.encode_floats(v, put)?,
                HostData::F64(v) => self.encode_floats(v, put)?,
                HostData::BF16(v) => self.encode_floats(v, put)?,
                HostData::I32(v) => self.encode_integers(v, put)?,
            }
        }
        Ok(())
    }
}

impl StoredTensor<'_> {
    /// The tensor as 8-bit integers, as stored or quantised.
    fn int8(&self) -> Result<Int8Weight> {
        if let Some(weight) = self.entry.read_int8(self.reader, self.path, self.name)? {
            return Ok(weight);
        }
        let host = self.entry.read(self.reader, self.path, self.name, 0)?;
        check_range(self.path, self.name, host.data(), Dtype::F32, 0)?;
        Int8Weight::quantize(&host)
    }

    fn encode_integers(&self, values: &[i32], put: &mut Put<'_>) -> Result<()> {
        match self.dtype() {
            Dtype::I32 => encode(values, i32::to_le_bytes, put),
            Dtype::I64 => encode(values, |x| i64::from(x).to_le_bytes(), put),
            _ => self.encode_floats(values, put),
        }
    }

    /// Rounds to the nearest value of the type. f64 represents the values of every type exactly.
    fn encode_floats<T: Copy + Into<f64>>(&self, values: &[T], put: &mut Put<'_>) -> Result<()> {
        match self.dtype() {
            Dtype::F64 => encode(values, |x| x.into().to_le_bytes(), put),
            Dtype::BF16 => encode(values, |x| bf16_from_f64(x.into()).to_le_bytes(), put),
            // Only as the stored type, so that nothing is rounded.
            Dtype::F16 => encode(values, |x| f16::from_f64(x.into()).to_le_bytes(), put),
            _ => encode(values, |x| (x.into() as f32).to_le_bytes(), put),
        }
    }
}
