//! What a file says of a tensor, and the tensor itself.

use std::io;
use std::path::Path;

use ::safetensors::tensor::Dtype;
use half::{bf16, f16};

use super::budget::Budget;
use super::source::Source;
use super::{read_error, tensor_error};
use crate::{DType, HostData, HostTensor, Result};

/// Axes of a tensor.
pub(super) const MAX_RANK: usize = 8;
/// Bytes that an entry and its name take in a table, beside those of the name.
const TABLE_BYTES: usize = 512;
/// Elements that a view may have beyond those of its storage, as an expanded scalar has.
const MAX_REPEATED: usize = 1 << 16;
/// Elements that are further apart, in bytes, are read one by one: what lies between them costs more than a call.
const FAR: usize = 1 << 12;

/// What a file says of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) extent: Extent,
}

/// Where the elements are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// From this byte of the file on, row-major.
    Contiguous(u64),
    /// In a storage, element by element.
    Strided(Box<Strided>),
}

/// A view of a storage, as PyTorch writes it; checked by [`Strided::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Strided {
    /// First byte of the storage in the file.
    pub start: u64,
    /// Elements of the storage.
    pub elements: usize,
    /// The first element.
    pub offset: usize,
    /// Steps between elements, one an axis.
    pub strides: Vec<usize>,
}

/// Takes memory for an entry in a table of contents.
pub(super) fn charge(budget: &mut Budget, name: &str) -> Result<(), String> {
    budget.take_bytes(TABLE_BYTES + 2 * name.len())
}

impl Entry {
    /// The element type in the file.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Size of every axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The element type in memory: that of the file, but f32 for F16 and i32 for I64. `None` for types that are not
    /// read.
    pub fn decoded(&self) -> Option<DType> {
        match self.dtype {
            Dtype::F32 | Dtype::F16 => Some(DType::F32),
            Dtype::F64 => Some(DType::F64),
            Dtype::BF16 => Some(DType::BF16),
            Dtype::I32 | Dtype::I64 => Some(DType::I32),
            _ => None,
        }
    }

    /// A view of a storage, if it stays inside; else what was expected and what came. One that repeats too much is an
    /// entry that cannot be read: whoever does not need it can do without.
    pub(super) fn strided(dtype: Dtype, shape: Vec<usize>, view: Strided) -> Result<Self, (String, String)> {
        let numel = view.check(&shape)?;
        let extent = if numel == 0 || view.is_contiguous(&shape) {
            Extent::Contiguous(view.start + (view.offset * dtype.bitsize() / 8) as u64)
        } else {
            Extent::Strided(Box::new(view))
        };
        Ok(Self { dtype, shape, extent })
    }

    /// Bytes that the tensor takes in memory; none if it cannot be read.
    pub(super) fn decoded_bytes(&self) -> u64 {
        let readable = match &self.extent {
            Extent::Contiguous(_) => true,
            Extent::Strided(view) => view.check_repeats(&self.shape).is_ok(),
        };
        let size = self.decoded().filter(|_| readable).map_or(0, DType::size);
        (self.shape.iter().product::<usize>() as u64).saturating_mul(size as u64)
    }

    /// The tensor, contiguous.
    pub(super) fn read(&self, source: &Source, path: &Path, name: &str) -> Result<HostTensor> {
        if let Extent::Strided(view) = &self.extent {
            let refused = |(expected, got)| tensor_error(path, name, expected, got);
            view.check_repeats(&self.shape).map_err(refused)?;
        }
        let data = match self.dtype {
            Dtype::F32 => self.elements(source, f32::from_le_bytes).map(HostData::F32),
            Dtype::F64 => self.elements(source, f64::from_le_bytes).map(HostData::F64),
            Dtype::BF16 => self.elements(source, bf16::from_le_bytes).map(HostData::BF16),
            Dtype::F16 => self.elements(source, |b| f16::from_le_bytes(b).to_f32()).map(HostData::F32),
            Dtype::I32 => self.elements(source, i32::from_le_bytes).map(HostData::I32),
            Dtype::I64 => {
                let mut outside = None;
                let narrow = |b| {
                    let wide = i64::from_le_bytes(b);
                    i32::try_from(wide).unwrap_or_else(|_| *outside.get_or_insert(wide) as i32)
                };
                let data = self.elements(source, narrow).map(HostData::I32);
                if let Some(wide) = outside {
                    return Err(tensor_error(path, name, "integers that fit 32 bits", wide));
                }
                data
            }
            other => return Err(tensor_error(path, name, "F32, F64, BF16, F16, I32 or I64 elements", other)),
        };
        let data = data.map_err(read_error(path, format!("tensor {name}"), self.decoded_bytes()))?;
        check_finite(path, name, &data)?;
        HostTensor::new(&self.shape, data)
    }

    /// The elements of `SIZE` bytes each, row-major.
    fn elements<const SIZE: usize, T: Copy + Default>(
        &self,
        source: &Source,
        mut decode: impl FnMut([u8; SIZE]) -> T,
    ) -> io::Result<Vec<T>> {
        let n: usize = self.shape.iter().product();
        let mut out = Vec::new();
        // A sparse file may claim more than the machine has: that is an error, not an abort.
        out.try_reserve_exact(n)?;
        match &self.extent {
            Extent::Contiguous(start) => {
                source.pieces(*start..*start + (n * SIZE) as u64, |piece| {
                    let (whole, _) = piece.as_chunks::<SIZE>();
                    out.extend(whole.iter().map(|&element| decode(element)));
                })?;
            }
            Extent::Strided(view) => {
                out.resize(n, T::default());
                view.gather(source, &self.shape, |to, element| out[to] = decode(element))?;
            }
        }
        Ok(out)
    }
}

impl Strided {
    fn described(&self, shape: &[usize]) -> String {
        format!("shape {shape:?} from element {} with strides {:?}", self.offset, self.strides)
    }

    /// Number of elements, if every one is in the storage; else what was expected and what came.
    fn check(&self, shape: &[usize]) -> Result<usize, (String, String)> {
        let got = || self.described(shape);
        let numel = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        // In bits too, of the widest type.
        let numel = numel.filter(|n| n.checked_mul(u64::BITS as usize).is_some());
        let numel = numel.ok_or_else(|| ("a shape whose size can be counted".to_owned(), got()))?;
        let last = shape.iter().zip(&self.strides).try_fold(self.offset, |at, (&d, &stride)| {
            at.checked_add(d.saturating_sub(1).checked_mul(stride)?)
        });
        // An empty view may begin anywhere, its end included.
        let inside = match numel {
            0 => self.offset <= self.elements,
            _ => last.is_some_and(|at| at < self.elements),
        };
        if !inside {
            return Err((format!("a view inside of its storage of {} elements", self.elements), got()));
        }
        Ok(numel)
    }

    /// The elements are not absurdly more than the storage has; else what was expected and what came.
    fn check_repeats(&self, shape: &[usize]) -> Result<(), (String, String)> {
        let most = self.elements.saturating_add(MAX_REPEATED);
        if shape.iter().product::<usize>() <= most {
            return Ok(());
        }
        Err((format!("a view of at most {most} elements"), self.described(shape)))
    }

    fn is_contiguous(&self, shape: &[usize]) -> bool {
        let mut step = 1;
        shape.iter().zip(&self.strides).rev().filter(|&(&d, _)| d != 1).all(|(&d, &stride)| {
            let as_expected = stride == step;
            step *= d;
            as_expected
        })
    }

    /// Calls `put` with the row-major index and the bytes of every element, in the order of the storage where the
    /// strides allow it: a window over the file then passes it once, whatever the order of the axes.
    fn gather<const SIZE: usize>(
        &self,
        source: &Source,
        shape: &[usize],
        mut put: impl FnMut(usize, [u8; SIZE]),
    ) -> io::Result<()> {
        let mut axes = Vec::with_capacity(shape.len());
        let mut step = 1;
        for (&size, &stride) in shape.iter().zip(&self.strides).rev() {
            axes.push(Axis { size, stride, step, at: 0 });
            step *= size;
        }
        axes.sort_by_key(|axis| std::cmp::Reverse(axis.stride));
        let mut window = source.window(self.start + (self.elements * SIZE) as u64, run(&axes, SIZE));
        for _ in 0..step {
            let (from, to) = axes
                .iter()
                .fold((self.offset, 0), |(from, to), a| (from + a.at * a.stride, to + a.at * a.step));
            put(to, window.get(self.start + (from * SIZE) as u64)?);
            advance(&mut axes);
        }
        Ok(())
    }
}

/// One axis of a view, while it is walked.
struct Axis {
    size: usize,
    stride: usize,
    /// Step in the row-major result.
    step: usize,
    at: usize,
}

/// Bytes that the walk passes before it comes to an element that is far from the one before it; the last axis is the
/// fastest, and has the shortest steps.
fn run(axes: &[Axis], element: usize) -> usize {
    let steps = axes.iter().rev().filter(|axis| axis.size > 1);
    let mut bytes = element;
    for (size, step) in steps.map(|axis| (axis.size, axis.stride.saturating_mul(element))) {
        if step > bytes.saturating_add(FAR) {
            break;
        }
        bytes = bytes.saturating_add((size - 1).saturating_mul(step));
    }
    bytes
}

/// Moves on by one element, the last axis fastest.
fn advance(axes: &mut [Axis]) {
    for axis in axes.iter_mut().rev() {
        axis.at += 1;
        if axis.at < axis.size {
            return;
        }
        axis.at = 0;
    }
}

fn check_finite(path: &Path, name: &str, data: &HostData) -> Result<()> {
    fn first<T: Copy + Into<f64>>(values: &[T]) -> Option<(usize, f64)> {
        values.iter().map(|&x| x.into()).enumerate().find(|(_, x)| !x.is_finite())
    }
    let found = match data {
        HostData::F32(v) => first(v),
        HostData::F64(v) => first(v),
        HostData::BF16(v) => first(v),
        HostData::I32(_) => None,
    };
    match found {
        Some((i, x)) => Err(tensor_error(path, name, "finite values", format!("{x} at element {i}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{Axis, run};

    #[test]
    fn what_lies_between_distant_elements_is_not_read() {
        let axes = |axes: &[(usize, usize)]| -> Vec<Axis> {
            axes.iter().map(|&(size, stride)| Axis { size, stride, step: 0, at: 0 }).collect()
        };
        let cases: [(&[(usize, usize)], usize); 7] = [
            (&[], 4),
            (&[(10, 1)], 40),
            (&[(10, 1 << 20)], 4),
            (&[(10, 1 << 20), (5, 1)], 20),
            (&[(10, 1000), (1, 1 << 20), (5, 2)], 9 * 4000 + 4 * 8 + 4),
            (&[(7, 50), (50, 1)], 7 * 200),
            (&[(usize::MAX, 1)], usize::MAX),
        ];
        for (sizes_and_strides, bytes) in cases {
            assert_eq!(run(&axes(sizes_and_strides), 4), bytes, "{sizes_and_strides:?}");
        }
    }
}
