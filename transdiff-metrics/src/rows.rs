//! Features or scores of a set of images.

use transdiff_core::{DType, Error, Result, Tensor};
use transdiff_cpu::Cpu;

/// A row of `columns` numbers per image; all are finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    columns: usize,
    values: Vec<f32>,
}

impl Rows {
    /// Rows of `columns` numbers, one after another.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `values` is a multiple of `columns` long, and finite.
    pub fn new(columns: usize, values: Vec<f32>) -> Result<Self> {
        if columns == 0 || !values.len().is_multiple_of(columns) {
            return Err(Error::argument("values", format!("rows of {columns} numbers"), values.len()));
        }
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => {
                let got = format!("{} in row {}", values[at], at / columns);
                Err(Error::argument("values", "finite numbers", got))
            }
            None => Ok(Self { columns, values }),
        }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.values.len() / self.columns
    }

    /// Returns whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Numbers per image.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The numbers of all images, one after another.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The numbers of image `index`.
    ///
    /// # Panics
    /// If there is no such image.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.columns..][..self.columns]
    }

    /// Rows `start..start + len` in f64, less `offset` if there is one, [len, columns].
    pub(crate) fn tensor(
        &self,
        cpu: &Cpu,
        start: usize,
        len: usize,
        offset: Option<&[f64]>,
    ) -> Result<Tensor<Cpu>> {
        let values = self.values[start * self.columns..][..len * self.columns].iter();
        let values = match offset {
            Some(offset) => values.zip(offset.iter().cycle()).map(|(&x, mean)| f64::from(x) - mean).collect(),
            None => values.map(|&x| f64::from(x)).collect(),
        };
        Tensor::from_f64(cpu, &[len, self.columns], values, DType::F64)
    }
}
