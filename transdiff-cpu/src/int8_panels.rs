//! Quantised weights in the form that products read.

use transdiff_core::{Error, Int8Weight, Result};

use crate::memory::{Aligned, zeros};

/// Values of k per group: those of one instruction.
pub(crate) const GROUP: usize = 4;
/// Values of k per group of the instructions that multiply 2×2 sums.
pub(crate) const WIDE_GROUP: usize = 8;
/// Values of k per group of integers that are widened to 16 bits.
pub(crate) const PAIR: usize = 2;
/// Columns of a full panel.
pub(crate) const PANEL: usize = 48;
/// Panels are filled up with zeros to whole vectors of this number of columns.
const LANES: usize = 16;
/// The zero of quantised inputs, which are unsigned: x = scale · (q − 128).
pub(crate) const ZERO: i32 = 128;

/// Largest number of inputs: sums of so many products fit in 32 bits.
const MAX_INPUTS: usize = i32::MAX as usize / (255 * 127);

/// A weight [outputs, inputs] as the right operand of products, inputs × outputs: panels of [`PANEL`] columns, each [groups
/// of k, columns, group] and filled up with zeros.
#[derive(Debug)]
pub(crate) struct Int8Panels {
    shape: [usize; 2],
    group: usize,
    data: Aligned<i8>,
    scales: Vec<f32>,
    /// [`ZERO`] times the sum of each column: what the zero of the inputs adds to a product.
    offsets: Vec<i32>,
}

impl Int8Panels {
    /// Packs a weight in groups of `group` values of k.
    pub(crate) fn new(weight: &Int8Weight, group: usize) -> Result<Self> {
        let shape @ [outputs, inputs] = weight.shape();
        if inputs > MAX_INPUTS {
            return Err(Error::argument("weight", format!("at most {MAX_INPUTS} inputs"), inputs));
        }
        let depth = inputs.next_multiple_of(group);
        let mut data = Aligned::zeros("quantized_weight", outputs.next_multiple_of(LANES) * depth)?;
        let mut offsets = zeros("quantized_weight", outputs)?;
        for (n, row) in weight.values().chunks_exact(inputs.max(1)).enumerate() {
            let (start, stride) = place(outputs, depth, group, n);
            for (k, &q) in row.iter().enumerate() {
                data[start + k / group * stride + k % group] = q;
            }
            offsets[n] = ZERO * row.iter().map(|&q| i32::from(q)).sum::<i32>();
        }
        Ok(Self { shape, group, data, scales: weight.scales().to_vec(), offsets })
    }

    /// Outputs and inputs.
    pub(crate) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Number of values of k per group.
    pub(crate) fn group(&self) -> usize {
        self.group
    }

    /// Number of k, filled up to whole groups.
    pub(crate) fn depth(&self) -> usize {
        self.shape[1].next_multiple_of(self.group)
    }

    /// The dequantised element of index `i` in row-major order.
    pub(crate) fn element(&self, i: usize) -> f64 {
        let (n, k) = (i / self.shape[1], i % self.shape[1]);
        let (start, stride) = place(self.shape[0], self.depth(), self.group, n);
        f64::from(self.data[start + k / self.group * stride + k % self.group]) * f64::from(self.scales[n])
    }

    /// The panel from column `column` on, from k `first` on, and the stride of its groups.
    pub(crate) fn panel(&self, first: usize, column: usize) -> (&[i8], usize) {
        let (start, stride) = place(self.shape[0], self.depth(), self.group, column);
        (&self.data[start + first / self.group * stride..], stride)
    }

    /// One scale per column.
    pub(crate) fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Products of the zero of the inputs with each column.
    pub(crate) fn offsets(&self) -> &[i32] {
        &self.offsets
    }
}

/// Position of the first element of a column, and the stride of its groups.
fn place(columns: usize, depth: usize, group: usize, column: usize) -> (usize, usize) {
    let first = column / PANEL * PANEL;
    let width = PANEL.min((columns - first).next_multiple_of(LANES));
    (first * depth + (column - first) * group, width * group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_that_could_overflow_are_refused() {
        let weight = |inputs| Int8Weight::new([1, inputs], vec![127; inputs], vec![1.0]).unwrap();
        assert!(Int8Panels::new(&weight(MAX_INPUTS), GROUP).is_ok());
        assert!(Int8Panels::new(&weight(MAX_INPUTS + 1), GROUP).is_err());
    }

    #[test]
    fn elements_are_those_of_the_weight() {
        for shape @ [outputs, inputs] in [[1, 1], [5, 7], [48, 4], [50, 9], [130, 33], [0, 3], [3, 0]] {
            let values: Vec<i8> =
                (0..outputs * inputs).map(|i| (i * 37 % 255) as i8).map(|q| q.max(-127)).collect();
            let scales = (0..outputs).map(|n| 0.5 + n as f32).collect();
            let weight = Int8Weight::new(shape, values, scales).unwrap();
            let plain = weight.dequantize().unwrap().to_f64();
            for group in [GROUP, WIDE_GROUP] {
                let panels = Int8Panels::new(&weight, group).unwrap();
                assert!((0..plain.len()).all(|i| panels.element(i) == plain[i]), "{shape:?} by {group}");
            }
        }
    }
}
