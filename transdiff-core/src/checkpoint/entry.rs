//! Description of a stored tensor, and decoding of its elements.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;

use ::safetensors::tensor::Dtype;
use half::{bf16, f16};

use super::allocation_limit::AllocationLimit;
use super::byte_reader::ByteReader;
use super::errors::{Mismatch, read_error, tensor_error};
use super::strided::{Strided, element_count};
use crate::host::bf16_from_f64;
use crate::{DType, Error, HostData, HostTensor, Int8Weight, Result};

/// Number of axes that a tensor may have.
pub(super) const MAX_RANK: usize = 8;
/// Bytes that an entry takes in a table, apart from the characters of its name.
pub(super) const TABLE_BYTES: usize = 512;
/// Number of elements of a piece of a tensor.
const PIECE: usize = 1 << 16;

/// Description of a stored tensor: element type, shape, and position in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) extent: Extent,
    /// `true` if the elements are the negatives of those in the file.
    pub(super) negated: bool,
    /// Scales of a matrix of 8-bit integers, one per row.
    pub(super) scales: Option<Box<Entry>>,
}

/// Position of the elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// Row-major, beginning at this byte of the file.
    Contiguous(u64),
    /// A strided view of a storage.
    Strided(Box<Strided>),
    /// In text of one character per byte.
    Latin1(Box<Latin1>),
    /// Not where the file says, or not as it says: reading the tensor fails.
    Invalid(Box<Mismatch>),
}

/// Bytes as UTF-8 text of the characters U+0000 to U+00FF, as pickles before protocol 3 hold them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Latin1 {
    /// Position of the text in the file.
    start: u64,
    /// Length of the text in bytes.
    len: u64,
    /// Position of the elements in the decoded bytes.
    decoded: Extent,
}

/// Reserves memory for an entry of a table of contents.
pub(super) fn reserve(limit: &mut AllocationLimit, name: &str) -> Result<(), String> {
    limit.reserve_bytes(TABLE_BYTES + 2 * name.len())
}

impl Entry {
    /// Element type in the file.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Size of every axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Scales of a matrix of 8-bit integers, one per row; they are no tensor of their own.
    pub fn scales(&self) -> Option<&Entry> {
        self.scales.as_deref()
    }

    /// Element type in memory: that of the file, except f32 for F16 and for 8-bit integers with scales, and i32 for I64.
    /// `None` for types that cannot be read.
    pub fn decoded(&self) -> Option<DType> {
        match self.dtype {
            Dtype::I8 if self.scales.is_some() => Some(DType::F32),
            Dtype::F32 | Dtype::F16 => Some(DType::F32),
            Dtype::F64 => Some(DType::F64),
            Dtype::BF16 => Some(DType::BF16),
            Dtype::I32 | Dtype::I64 => Some(DType::I32),
            _ => None,
        }
    }

    /// A row-major tensor that begins at byte `start` of the file.
    pub(super) fn contiguous(dtype: Dtype, shape: Vec<usize>, start: u64) -> Self {
        Self { dtype, shape, extent: Extent::Contiguous(start), negated: false, scales: None }
    }

    /// A tensor that cannot be read. It is an entry, so that the other tensors of the file can be used.
    pub(super) fn invalid(dtype: Dtype, mut shape: Vec<usize>, mismatch: Mismatch) -> Self {
        if element_count(&shape).is_none() {
            shape.clear();
        }
        Self { dtype, shape, extent: Extent::Invalid(Box::new(mismatch)), negated: false, scales: None }
    }

    /// The tensor with the sign of its elements inverted.
    pub(super) fn negated(mut self) -> Self {
        self.negated = !self.negated;
        self
    }

    /// The tensor with its bytes in the text of `len` bytes at `start`.
    pub(super) fn in_latin1(mut self, start: u64, len: u64) -> Self {
        self.extent = Extent::Latin1(Box::new(Latin1 { start, len, decoded: self.extent }));
        self
    }

    /// A view of a storage. Fails if it reaches outside of the storage. A view that repeats its elements too often is
    /// still an entry; only reading it fails.
    pub(super) fn strided(dtype: Dtype, shape: Vec<usize>, view: Strided) -> Result<Self, Mismatch> {
        let numel = view.check(&shape)?;
        let extent = if numel == 0 || view.is_contiguous(&shape) {
            Extent::Contiguous(view.start + (view.offset * dtype.bitsize() / 8) as u64)
        } else {
            Extent::Strided(Box::new(view))
        };
        Ok(Self { dtype, shape, extent, negated: false, scales: None })
    }

    /// Checks that the tensor is where the file says and as it says.
    pub(super) fn check(&self) -> Result<(), Mismatch> {
        match &self.extent {
            Extent::Contiguous(_) | Extent::Latin1(_) => Ok(()),
            Extent::Strided(view) => view.check_repeats(&self.shape),
            Extent::Invalid(mismatch) => Err((**mismatch).clone()),
        }
    }

    /// Position in the file and number of the bytes of the elements `elements`, counted row-major.
    pub(super) fn byte_range(&self, elements: Range<usize>) -> Result<(u64, u64), Mismatch> {
        let numel: usize = self.shape.iter().product();
        if elements.start > elements.end || elements.end > numel {
            let got = format!("{} to {}", elements.start, elements.end);
            return Err((format!("elements within its {numel}"), got));
        }
        match (&self.extent, self.negated, self.dtype.bitsize()) {
            (Extent::Contiguous(start), false, bits) if bits.is_multiple_of(8) => {
                let size = (bits / 8) as u64;
                Ok((start + elements.start as u64 * size, elements.len() as u64 * size))
            }
            _ => Err(("elements stored one after another".to_owned(), "a view".to_owned())),
        }
    }

    /// Bytes that the tensor takes in memory; 0 if it cannot be read.
    pub(super) fn decoded_bytes(&self) -> u64 {
        let size = self.decoded().filter(|_| self.check().is_ok()).map_or(0, DType::size);
        (self.shape.iter().product::<usize>() as u64).saturating_mul(size as u64)
    }

    /// Consecutive pieces of the tensor, each with the index of its first element. A tensor with gaps is one piece.
    pub(super) fn pieces(&self) -> impl Iterator<Item = (usize, Self)> {
        let numel: usize = self.shape.iter().product();
        let len = match &self.extent {
            Extent::Contiguous(_) if self.scales.is_none() => PIECE,
            _ => numel.max(1),
        };
        (0..numel).step_by(len).map(move |first| (first, self.piece(first, len.min(numel - first))))
    }

    fn piece(&self, first: usize, len: usize) -> Self {
        match &self.extent {
            Extent::Contiguous(start) if self.scales.is_none() => {
                let start = start + (first * self.dtype.bitsize() / 8) as u64;
                Self { shape: vec![len], extent: Extent::Contiguous(start), ..self.clone() }
            }
            _ => self.clone(),
        }
    }

    /// The same entry in a file that has `by` bytes more before it.
    pub(super) fn shifted(mut self, by: u64) -> Self {
        match &mut self.extent {
            Extent::Contiguous(start) => *start += by,
            Extent::Strided(view) => view.start += by,
            Extent::Latin1(text) => text.start += by,
            Extent::Invalid(_) => {}
        }
        self.scales = self.scales.map(|scales| Box::new(scales.shifted(by)));
        self
    }

    /// Reads a matrix of 8-bit integers and its scales; `None` for any other tensor.
    pub(super) fn read_int8(
        &self,
        reader: &ByteReader,
        path: &Path,
        name: &str,
    ) -> Result<Option<Int8Weight>> {
        let (Some(scales), &[rows, columns]) = (&self.scales, &self.shape[..]) else { return Ok(None) };
        self.check().map_err(|(expected, got)| tensor_error(path, name, expected, got))?;
        let values = self.elements(reader, i8::from_le_bytes);
        let values = values.map_err(read_error(path, format!("tensor {name}"), self.decoded_bytes()))?;
        let scales = scales.read(reader, path, &scales_name(name), 0)?.to_f32();
        let weight = Int8Weight::new([rows, columns], values, scales).map_err(|error| match error {
            Error::Argument { argument: "scales", expected, got } => {
                tensor_error(path, &scales_name(name), expected, got)
            }
            Error::Argument { expected, got, .. } => tensor_error(path, name, expected, got),
            other => other,
        })?;
        Ok(Some(weight))
    }

    /// Reads the tensor, row-major. Errors about an element count from `first`.
    pub(super) fn read(
        &self,
        reader: &ByteReader,
        path: &Path,
        name: &str,
        first: usize,
    ) -> Result<HostTensor> {
        if let Some(weight) = self.read_int8(reader, path, name)? {
            let values = weight.dequantize()?;
            check_finite(path, name, values.data(), first)?;
            return Ok(values);
        }
        self.check().map_err(|(expected, got)| tensor_error(path, name, expected, got))?;
        let data = match self.dtype {
            Dtype::F32 => self.elements(reader, f32::from_le_bytes).map(HostData::F32),
            Dtype::F64 => self.elements(reader, f64::from_le_bytes).map(HostData::F64),
            Dtype::BF16 => self.elements(reader, bf16::from_le_bytes).map(HostData::BF16),
            Dtype::F16 => self.elements(reader, |b| f16::from_le_bytes(b).to_f32()).map(HostData::F32),
            Dtype::I32 => self.elements(reader, i32::from_le_bytes).map(HostData::I32),
            Dtype::I64 => {
                let mut outside = None;
                let narrow = |b| {
                    let wide = i64::from_le_bytes(b);
                    i32::try_from(wide).unwrap_or_else(|_| *outside.get_or_insert(wide) as i32)
                };
                let data = self.elements(reader, narrow).map(HostData::I32);
                if let Some(wide) = outside {
                    return Err(tensor_error(path, name, "integers that fit in 32 bits", wide));
                }
                data
            }
            Dtype::I8 => {
                let scales = scales_name(name);
                let expected =
                    format!("a matrix of I8 with its scales in {scales}, F32 [rows], as safetensors");
                let got = format!("I8 {:?} without such scales", self.shape);
                return Err(tensor_error(path, name, expected, got));
            }
            other => return Err(tensor_error(path, name, "F32, F64, BF16, F16, I32 or I64 elements", other)),
        };
        let data = data.map_err(read_error(path, format!("tensor {name}"), self.decoded_bytes()))?;
        let data = if self.negated { negative(data) } else { data };
        check_finite(path, name, &data, first)?;
        HostTensor::new(&self.shape, data)
    }

    /// Reads the elements of `SIZE` bytes each, row-major.
    fn elements<const SIZE: usize, T: Copy + Default>(
        &self,
        reader: &ByteReader,
        mut decode: impl FnMut([u8; SIZE]) -> T,
    ) -> io::Result<Vec<T>> {
        let n: usize = self.shape.iter().product();
        let mut out = Vec::new();
        // A sparse file may claim more memory than the machine has: that must be an error, not an abort.
        out.try_reserve_exact(n)?;
        match &self.extent {
            Extent::Contiguous(start) => {
                reader.for_each_chunk(*start..*start + (n * SIZE) as u64, |chunk| {
                    let (whole, _) = chunk.as_chunks::<SIZE>();
                    out.extend(whole.iter().map(|&element| decode(element)));
                })?;
            }
            Extent::Strided(view) => {
                out.resize(n, T::default());
                view.gather(reader, &self.shape, |to, element| out[to] = decode(element))?;
            }
            Extent::Latin1(text) => {
                drop(out); // allocated again, beside the decoded bytes
                let bytes = ByteReader::Memory(Box::new(text.decode(reader, n * SIZE)?));
                let extent = text.decoded.clone();
                return Self { extent, ..self.clone() }.elements(&bytes, decode);
            }
            Extent::Invalid(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(out)
    }
}

impl Latin1 {
    /// Returns the bytes, of which there are `expected`.
    fn decode(&self, reader: &ByteReader, expected: usize) -> io::Result<Vec<u8>> {
        let invalid = || {
            io::Error::new(io::ErrorKind::InvalidData, "its elements are not the bytes that its shape has")
        };
        let text = reader.slice(self.start, self.len)?;
        let text = std::str::from_utf8(&text).map_err(|_| invalid())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(expected)?;
        for c in text.chars() {
            if bytes.len() == expected {
                return Err(invalid());
            }
            bytes.push(u8::try_from(u32::from(c)).map_err(|_| invalid())?);
        }
        if bytes.len() == expected { Ok(bytes) } else { Err(invalid()) }
    }
}

/// Name of the scales of a matrix of 8-bit integers.
pub(super) fn scales_name(name: &str) -> String {
    format!("{name}_scale")
}

/// Takes the scales of matrices of 8-bit integers out of the entries, and into those of the matrices. A tensor of 8 bits whose
/// scales are not what they have to be becomes one that cannot be read.
pub(super) fn pair_scales(entries: &mut BTreeMap<String, Entry>) {
    let of_8_bits = entries.iter().filter(|(_, entry)| matches!(entry.dtype, Dtype::I8 | Dtype::U8));
    let names: Vec<String> = of_8_bits.map(|(name, _)| name.clone()).collect();
    for name in names {
        let scales_name = scales_name(&name);
        let (Some(scales), Some(entry)) = (entries.remove(&scales_name), entries.get_mut(&name)) else {
            continue;
        };
        let fits = entry.dtype == Dtype::I8 && entry.shape.len() == 2;
        if fits && scales.dtype == Dtype::F32 && scales.shape == entry.shape[..1] {
            entry.scales = Some(Box::new(scales));
            continue;
        }
        let expected = format!("a matrix of I8 and its scales {scales_name}, F32 [rows]");
        let describe = |entry: &Entry| format!("{} {:?}", entry.dtype, entry.shape);
        let got = format!("{} and {}", describe(entry), describe(&scales));
        entry.extent = Extent::Invalid(Box::new((expected, got)));
    }
}

/// The elements with inverted signs.
fn negative(data: HostData) -> HostData {
    match data {
        HostData::F32(v) => HostData::F32(v.into_iter().map(|x| -x).collect()),
        HostData::F64(v) => HostData::F64(v.into_iter().map(|x| -x).collect()),
        HostData::BF16(v) => HostData::BF16(v.into_iter().map(|x| -x).collect()),
        HostData::I32(v) => HostData::I32(v.into_iter().map(i32::wrapping_neg).collect()),
    }
}

fn check_finite(path: &Path, name: &str, data: &HostData, first: usize) -> Result<()> {
    match find_element(data, |x| !x.is_finite()) {
        Some((i, x)) => {
            Err(tensor_error(path, name, "finite values", format!("{x} at element {}", first + i)))
        }
        None => Ok(()),
    }
}

/// Checks that no element becomes infinite in the type `dtype`. Errors count elements from `first`.
pub(super) fn check_range(
    path: &Path,
    name: &str,
    data: &HostData,
    dtype: Dtype,
    first: usize,
) -> Result<()> {
    let found = match (data, dtype) {
        (HostData::F64(_), Dtype::F32) => find_element(data, |x| !(x as f32).is_finite()),
        (HostData::F64(_) | HostData::F32(_), Dtype::BF16) => {
            find_element(data, |x| !bf16_from_f64(x).is_finite())
        }
        _ => None,
    };
    let Some((i, x)) = found else { return Ok(()) };
    let expected = format!("values within the range of {}", dtype.to_string().to_lowercase());
    Err(tensor_error(path, name, expected, format!("{x:e} at element {}", first + i)))
}

/// Index and value of the first element for which `is_wrong` returns true.
fn find_element(data: &HostData, is_wrong: impl Fn(f64) -> bool) -> Option<(usize, f64)> {
    fn find<T: Copy + Into<f64>>(values: &[T], is_wrong: impl Fn(f64) -> bool) -> Option<(usize, f64)> {
        values.iter().map(|&x| x.into()).enumerate().find(|&(_, x)| is_wrong(x))
    }
    match data {
        HostData::F32(v) => find(v, is_wrong),
        HostData::F64(v) => find(v, is_wrong),
        HostData::BF16(v) => find(v, is_wrong),
        HostData::I32(_) => None,
    }
}
