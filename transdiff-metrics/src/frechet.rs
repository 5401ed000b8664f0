//! Fréchet distance (Heusel et al. 2017).

use nalgebra::{DMatrix, DVector, SymmetricEigen};
use transdiff_core::{Error, Result, Tensor};
use transdiff_cpu::Cpu;

use crate::rows::Rows;

/// Number of rows that are in f64 at a time.
const BLOCK: usize = 1024;
/// Largest difference of two mirrored covariances, relative to the largest variance, that rounding explains.
const ASYMMETRY: f64 = 1e-6;

/// Mean and covariance of the features of a set of images.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    mean: DVector<f64>,
    covariance: DMatrix<f64>,
    /// A matrix R with fewer rows than columns and RᵀR the covariance, if it is known.
    root: Option<DMatrix<f64>>,
}

impl Statistics {
    /// Mean and covariance, with n − 1 in the denominator.
    ///
    /// # Errors
    /// [`Error::Argument`] for fewer than two rows; [`Error::OutOfMemory`].
    pub fn of(cpu: &Cpu, features: &Rows) -> Result<Self> {
        let (count, columns) = (features.len(), features.columns());
        if count < 2 {
            return Err(Error::argument("features", "those of at least two images", count));
        }
        let mut mean = vec![0.0; columns];
        for row in 0..count {
            mean.iter_mut().zip(features.row(row)).for_each(|(sum, &x)| *sum += f64::from(x));
        }
        mean.iter_mut().for_each(|sum| *sum /= count as f64);
        let mut scatter: Option<Tensor<Cpu>> = None;
        for start in (0..count).step_by(BLOCK) {
            let centred = features.tensor(cpu, start, BLOCK.min(count - start), Some(&mean))?;
            let product = centred.transpose()?.matmul(&centred)?;
            scatter = Some(match scatter {
                Some(sum) => sum.add(&product)?,
                None => product,
            });
        }
        let scatter = scatter.expect("there are rows").to_f64()?;
        let weight = 1.0 / (count as f64 - 1.0);
        let covariance = DMatrix::from_vec(columns, columns, scatter) * weight;
        let root = (count < columns).then(|| {
            let centred = |row: usize, column: usize| f64::from(features.row(row)[column]) - mean[column];
            DMatrix::from_fn(count, columns, centred) * weight.sqrt()
        });
        Ok(Self { mean: DVector::from_vec(mean), covariance, root })
    }

    /// Statistics that were computed elsewhere: mean `[D]` and covariance [D, D].
    ///
    /// # Errors
    /// [`Error::Argument`] unless all numbers are finite, and the covariance is symmetric and of the size of the mean.
    pub fn new(mean: Vec<f64>, covariance: Vec<f64>) -> Result<Self> {
        let dim = mean.len();
        if dim == 0 || covariance.len() != dim * dim {
            let expected = format!("{} numbers for a mean of {dim}", dim * dim);
            return Err(Error::argument("covariance", expected, covariance.len()));
        }
        for (name, values) in [("mean", &mean), ("covariance", &covariance)] {
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                let got = format!("{} at element {at}", values[at]);
                return Err(Error::argument(name, "finite numbers", got));
            }
        }
        if let Some(at) = (0..dim).find(|i| covariance[i * dim + i] < 0.0) {
            let got = format!("{} for feature {at}", covariance[at * dim + at]);
            return Err(Error::argument("covariance", "variances of at least 0", got));
        }
        let largest = (0..dim).map(|i| covariance[i * dim + i].abs()).fold(0.0, f64::max);
        let asymmetric = |i: usize, j: usize| {
            (covariance[i * dim + j] - covariance[j * dim + i]).abs() > ASYMMETRY * largest
        };
        if let Some((i, j)) =
            (0..dim).flat_map(|i| (0..i).map(move |j| (i, j))).find(|&(i, j)| asymmetric(i, j))
        {
            let got =
                format!("{} at ({i}, {j}), mirrored {}", covariance[i * dim + j], covariance[j * dim + i]);
            return Err(Error::argument("covariance", "a symmetric matrix", got));
        }
        let (mean, covariance) = (DVector::from_vec(mean), DMatrix::from_vec(dim, dim, covariance));
        let size = mean.norm_squared() + covariance.norm_squared();
        if !size.is_finite() {
            return Err(Error::argument("statistics", "numbers whose squares have a finite sum", size));
        }
        Ok(Self { mean, covariance, root: None })
    }

    /// Number of features.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// Mean, `[D]`.
    pub fn mean(&self) -> &[f64] {
        self.mean.as_slice()
    }

    /// Covariance, [D, D].
    pub fn covariance(&self) -> &[f64] {
        self.covariance.as_slice()
    }

    /// Fréchet distance ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2·(Σ₁Σ₂)^½) to `other`.
    ///
    /// With Σ₁ = RᵀR, Σ₁Σ₂ has the eigenvalues of the symmetric R·Σ₂·Rᵀ, besides zeros. Their square roots are stable even
    /// where covariances are singular, as those of fewer images than features are; for these, R is the images' own features.
    ///
    /// # Errors
    /// [`Error::Argument`] if the numbers of features differ, or the distance exceeds the range of f64.
    pub fn frechet_distance(&self, other: &Self) -> Result<f64> {
        if self.dim() != other.dim() {
            let expected = format!("statistics of {} features", self.dim());
            return Err(Error::argument("other", expected, other.dim()));
        }
        let (root, covariance) = match (&self.root, &other.root) {
            (Some(root), None) => (root, &other.covariance),
            (None, Some(root)) => (root, &self.covariance),
            (Some(own), Some(others)) if own.nrows() <= others.nrows() => (own, &other.covariance),
            (Some(_), Some(root)) => (root, &self.covariance),
            (None, None) => (&square_root(&self.covariance), &other.covariance),
        };
        let product = root * covariance * root.transpose();
        let cross: f64 = product.symmetric_eigenvalues().iter().map(|x| x.max(0.0).sqrt()).sum();
        let means = (&self.mean - &other.mean).norm_squared();
        let distance = means + self.covariance.trace() + other.covariance.trace() - 2.0 * cross;
        if !distance.is_finite() {
            return Err(Error::argument("other", "a finite distance", distance));
        }
        // Rounding can take equal sets slightly below zero.
        Ok(distance.max(0.0))
    }
}

/// Square root of a positive semi-definite matrix; eigenvalues below zero are rounding errors.
fn square_root(matrix: &DMatrix<f64>) -> DMatrix<f64> {
    let SymmetricEigen { eigenvectors, eigenvalues } = matrix.clone().symmetric_eigen();
    let mut scaled = eigenvectors.clone();
    for (mut column, eigenvalue) in scaled.column_iter_mut().zip(eigenvalues.iter()) {
        column *= eigenvalue.max(0.0).sqrt();
    }
    scaled * eigenvectors.transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(values: &[[f32; 2]]) -> Statistics {
        let rows = Rows::new(2, values.concat()).unwrap();
        Statistics::of(&Cpu::new(Some(1)).unwrap(), &rows).unwrap()
    }

    #[test]
    fn statistics_match_hand_computed_values() {
        let statistics = rows(&[[1.0, 2.0], [-1.0, -2.0]]);
        assert_eq!(statistics.mean(), [0.0, 0.0]);
        assert_eq!(statistics.covariance(), [2.0, 4.0, 4.0, 8.0]);
    }

    #[test]
    fn diagonal_covariances_have_a_closed_form() {
        let a = Statistics::new(vec![0.0, 0.0], vec![2.0, 0.0, 0.0, 8.0]).unwrap();
        let b = Statistics::new(vec![1.0, 2.0], vec![8.0, 0.0, 0.0, 2.0]).unwrap();
        // 5 + 2 (√2 − √8)².
        assert!((a.frechet_distance(&b).unwrap() - 9.0).abs() < 1e-12);
    }

    #[test]
    fn few_images_are_compared_as_their_covariances_are() {
        let cpu = Cpu::new(Some(1)).unwrap();
        let set = |count: usize, seed: usize| {
            let values = (0..count * 6).map(|i| ((i * i + seed) % 17) as f32 / 4.0).collect();
            Statistics::of(&cpu, &Rows::new(6, values).unwrap()).unwrap()
        };
        let without_root = |set: &Statistics| Statistics { root: None, ..set.clone() };
        let (few, fewer, many) = (set(5, 1), set(3, 7), set(40, 11));
        assert!(few.root.is_some() && many.root.is_none());
        for (a, b) in [(&few, &many), (&many, &few), (&few, &fewer), (&fewer, &few)] {
            let (with, without) = (a.frechet_distance(b), without_root(a).frechet_distance(&without_root(b)));
            let (with, without) = (with.unwrap(), without.unwrap());
            assert!(with > 0.1 && (with - without).abs() < 1e-6 * with, "{with}, {without}");
        }
    }

    #[test]
    fn a_point_is_at_the_distance_of_its_mean_and_the_other_variance() {
        let (a, b) = (rows(&[[3.0, 0.0]; 3]), rows(&[[0.0, 2.0], [0.0, -2.0]]));
        assert!((a.frechet_distance(&b).unwrap() - 17.0).abs() < 1e-12);
        assert!((b.frechet_distance(&a).unwrap() - 17.0).abs() < 1e-12);
        assert!(b.frechet_distance(&b).unwrap() < 1e-12);
    }

    #[test]
    fn wrong_statistics_are_named() {
        let message = |mean: &[f64], covariance: &[f64]| {
            Statistics::new(mean.to_vec(), covariance.to_vec()).unwrap_err().to_string()
        };
        assert!(message(&[0.0, 0.0], &[1.0]).contains("4 numbers for a mean of 2"));
        assert!(message(&[0.0, f64::NAN], &[1.0; 4]).contains("NaN at element 1"));
        assert!(message(&[0.0, 0.0], &[1.0, 0.5, 0.4, 1.0]).contains("symmetric"));
        assert!(message(&[0.0, 0.0], &[1.0, 0.0, 0.0, -2.0]).contains("-2 for feature 1"));
        let (a, b) = (rows(&[[0.0; 2]; 2]), Statistics::new(vec![0.0], vec![1.0]).unwrap());
        assert!(a.frechet_distance(&b).unwrap_err().to_string().contains("statistics of 2 features"));
        assert!(
            message(&[1e200, 0.0], &[0.0; 4])
                .contains("statistics: expected numbers whose squares have a finite sum")
        );
        let far = |sign: f64| Statistics::new(vec![sign * 1e154, 0.0], vec![0.0; 4]).unwrap();
        let message = far(1.0).frechet_distance(&far(-1.0)).unwrap_err().to_string();
        assert!(message.contains("a finite distance"), "{message}");
    }
}
