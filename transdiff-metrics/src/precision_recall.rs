//! Precision and recall (Kynkäänniemi et al. 2019).

use std::ops::Range;

use transdiff_core::{Error, Result, Tensor};
use transdiff_cpu::Cpu;

use crate::rows::Rows;

/// Rows and columns of a tile of distances, which bound the memory.
const TILE: [usize; 2] = [1024, 4096];

/// Precision and recall of generated images.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrecisionRecall {
    /// Share of the generated images that are near a real one.
    pub precision: f64,
    /// Share of the real images that are near a generated one.
    pub recall: f64,
}

impl PrecisionRecall {
    /// Harmonic mean of precision and recall.
    pub fn f_score(&self) -> f64 {
        match self.precision + self.recall {
            0.0 => 0.0,
            sum => 2.0 * self.precision * self.recall / sum,
        }
    }
}

/// Precision and recall of the features of images. An image is near another one if it is at most as far away as the `k`-th
/// nearest of the other's own set, the other itself not counted.
///
/// # Errors
/// [`Error::Argument`] if the numbers of features differ, or a set does not have more than `k` images, with `k` at least 1;
/// [`Error::OutOfMemory`].
pub fn precision_recall(cpu: &Cpu, generated: &Rows, real: &Rows, k: usize) -> Result<PrecisionRecall> {
    if generated.columns() != real.columns() {
        let expected = format!("{} features per image", generated.columns());
        return Err(Error::argument("real", expected, real.columns()));
    }
    for (name, set) in [("generated", generated), ("real", real)] {
        if k == 0 || set.len() <= k {
            let expected = format!("more than k = {k} images, with k at least 1");
            return Err(Error::argument(name, expected, set.len()));
        }
    }
    let (generated, real) = (Set::new(cpu, generated)?, Set::new(cpu, real)?);
    Ok(PrecisionRecall {
        precision: generated.share_near(&real, &real.radii(k)?)?,
        recall: real.share_near(&generated, &generated.radii(k)?)?,
    })
}

/// A set of points with their squared norms. Squared distances are ‖a‖² + ‖b‖² − 2·a·b in f64, which is the same number for
/// both orders of two points.
struct Set<'a> {
    cpu: &'a Cpu,
    rows: &'a Rows,
    squares: Vec<f64>,
}

impl<'a> Set<'a> {
    fn new(cpu: &'a Cpu, rows: &'a Rows) -> Result<Self> {
        let square = |row: &[f32]| row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        Ok(Self { cpu, rows, squares: (0..rows.len()).map(|i| square(rows.row(i))).collect() })
    }

    /// Calls `f` with every row of every tile of squared distances to `other`: the number of the point, the numbers of the
    /// others, and the squared distances to them.
    fn distances(&self, other: &Self, mut f: impl FnMut(usize, Range<usize>, &[f64])) -> Result<()> {
        let tiles = |set: &Self, step: usize| {
            let len = set.rows.len();
            (0..len).step_by(step).map(move |start| start..len.min(start + step))
        };
        let tensor =
            |set: &Self, tile: &Range<usize>| set.rows.tensor(self.cpu, tile.start, tile.len(), None);
        for columns in tiles(other, TILE[1]) {
            let right: Tensor<Cpu> = tensor(other, &columns)?.transpose()?;
            for rows in tiles(self, TILE[0]) {
                let mut products = tensor(self, &rows)?.matmul(&right)?.to_f64()?;
                for (row, line) in rows.zip(products.chunks_exact_mut(columns.len())) {
                    for (product, square) in line.iter_mut().zip(&other.squares[columns.clone()]) {
                        *product = ((self.squares[row] + square) - 2.0 * *product).max(0.0);
                    }
                    f(row, columns.clone(), line);
                }
            }
        }
        Ok(())
    }

    /// Squared distance of each point to its `k`-th nearest other one.
    fn radii(&self, k: usize) -> Result<Vec<f64>> {
        // The k smallest so far, in order.
        let mut nearest = vec![Vec::with_capacity(k + 1); self.rows.len()];
        self.distances(self, |row, columns, line| {
            let nearest: &mut Vec<f64> = &mut nearest[row];
            for (_, &distance) in columns.zip(line).filter(|&(column, _)| column != row) {
                if nearest.len() < k || distance < nearest[k - 1] {
                    nearest.insert(nearest.partition_point(|&near| near <= distance), distance);
                    nearest.truncate(k);
                }
            }
        })?;
        Ok(nearest.into_iter().map(|nearest| nearest[k - 1]).collect())
    }

    /// Share of the points that are within the squared `radii` of a point of `other`.
    fn share_near(&self, other: &Self, radii: &[f64]) -> Result<f64> {
        let mut is_near = vec![false; self.rows.len()];
        self.distances(other, |row, columns, line| {
            is_near[row] |= line.iter().zip(&radii[columns]).any(|(distance, radius)| distance <= radius);
        })?;
        Ok(is_near.iter().filter(|&&near| near).count() as f64 / is_near.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(generated: &[f32], real: &[f32], k: usize) -> Result<PrecisionRecall> {
        let rows = |values: &[f32]| Rows::new(1, values.to_vec()).unwrap();
        precision_recall(&Cpu::new(Some(1)).unwrap(), &rows(generated), &rows(real), k)
    }

    #[test]
    fn points_on_a_line_are_counted_by_hand() {
        // Radii of the real points: 1, 1, 2; of the generated ones: 3, 3, 6.
        let found = of(&[0.0, 3.0, 9.0], &[0.0, 1.0, 3.0], 1).unwrap();
        assert_eq!((found.precision, found.recall), (2.0 / 3.0, 1.0));
        // Points on the radius are inside.
        assert_eq!(of(&[5.0, 9.0], &[0.0, 1.0, 3.0], 1).unwrap().precision, 0.5);
        assert_eq!(of(&[0.0, 3.0], &[10.0, 11.0], 1).unwrap().f_score(), 0.0);
    }

    #[test]
    fn sets_are_checked() {
        let message = |generated, real, k| of(generated, real, k).unwrap_err().to_string();
        assert!(message(&[0.0; 3], &[0.0; 4], 3).contains("generated: expected more than k = 3 images"));
        assert!(message(&[0.0; 4], &[0.0; 3], 3).contains("real"));
        assert!(message(&[0.0; 4], &[0.0; 3], 0).contains("k at least 1"));
    }
}
