//! Weights of linear layers as 8-bit integers.

use crate::host::try_with_capacity;
use crate::{DType, Error, HostData, HostTensor, Result};

/// Largest magnitude of a quantised value: the range is symmetric, so that −128 does not occur.
const LARGEST: f32 = 127.0;

/// A weight [outputs, inputs] as 8-bit integers with one scale per output: each element is close to its integer times the scale
/// of its output.
///
/// The scale is the largest magnitude of an output's weights over 127, rounded up to 16 significant bits. Products with values
/// are then exact in f32, so that quantising a [dequantised](Self::dequantize) weight gives the same integers and scales.
#[derive(Clone, Debug, PartialEq)]
pub struct Int8Weight {
    shape: [usize; 2],
    values: Vec<i8>,
    scales: Vec<f32>,
}

impl Int8Weight {
    /// A weight of given integers, row-major, and scales.
    ///
    /// # Errors
    /// [`Error::Shape`] if their numbers do not fit the shape; [`Error::Argument`] if a scale is negative, or its
    /// product with 127 not finite, or if a value is −128.
    pub fn new([outputs, inputs]: [usize; 2], values: Vec<i8>, scales: Vec<f32>) -> Result<Self> {
        const OP: &str = "Int8Weight::new";
        if outputs.checked_mul(inputs) != Some(values.len()) {
            return Err(Error::shape(OP, format!("{outputs}×{inputs} values"), &[values.len()]));
        }
        if scales.len() != outputs {
            return Err(Error::shape(OP, format!("{outputs} scales"), &[scales.len()]));
        }
        if let Some(bad) = scales.iter().find(|scale| !(**scale >= 0.0 && (**scale * LARGEST).is_finite())) {
            let expected = "numbers that are not negative, and finite as products with 127";
            return Err(Error::argument("scales", expected, bad));
        }
        if values.contains(&i8::MIN) {
            return Err(Error::argument("values", "integers in -127..=127", i8::MIN));
        }
        Ok(Self { shape: [outputs, inputs], values, scales })
    }

    /// Quantises a weight [outputs, inputs], each element to the nearest multiple of its output's scale.
    ///
    /// # Errors
    /// [`Error::Shape`] if it does not have two axes; [`Error::Argument`] if an element is not finite;
    /// [`Error::OutOfMemory`].
    pub fn quantize(weight: &HostTensor) -> Result<Self> {
        const OP: &str = "Int8Weight::quantize";
        let &[outputs, inputs] = weight.shape() else {
            return Err(Error::shape(OP, "[outputs, inputs]", weight.shape()));
        };
        let weight = weight.to_f32();
        if let Some(bad) = weight.iter().find(|w| !w.is_finite()) {
            return Err(Error::argument("weight", "finite numbers", bad));
        }
        let mut values = try_with_capacity(OP, weight.len())?;
        let mut scales = try_with_capacity(OP, outputs)?;
        for row in weight.chunks_exact(inputs.max(1)) {
            let scale = scale_of(row);
            scales.push(scale);
            let over = if scale > 0.0 { scale } else { 1.0 };
            values.extend(row.iter().map(|w| (w / over).round_ties_even() as i8));
        }
        scales.resize(outputs, 0.0);
        Ok(Self { shape: [outputs, inputs], values, scales })
    }

    /// The weight in f32: scale times value, exactly.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub fn dequantize(&self) -> Result<HostTensor> {
        let rows = self.values.chunks_exact(self.shape[1].max(1)).zip(&self.scales);
        let mut values = try_with_capacity("Int8Weight::dequantize", self.values.len())?;
        values.extend(rows.flat_map(|(row, scale)| row.iter().map(move |&q| f32::from(q) * scale)));
        HostTensor::new(&self.shape, HostData::F32(values))
    }

    /// Outputs and inputs.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The integers, row-major, in −127..=127.
    pub fn values(&self) -> &[i8] {
        &self.values
    }

    /// One scale per output.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Type in which loading provides weights for quantisation.
    pub const SOURCE: DType = DType::F32;
}

/// The scale of a row of weights.
fn scale_of(row: &[f32]) -> f32 {
    let largest = row.iter().fold(0.0f32, |m, w| m.max(w.abs()));
    // Up, so that the largest is no more than 127 scales.
    f32::from_bits(((largest / LARGEST).to_bits() + 0xff) & !0xff)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, StreamKey};

    fn weight(shape: [usize; 2], size: f32) -> HostTensor {
        let mut values = StreamKey::new(5, Purpose::Data, 0, 0).normals(shape[0] * shape[1]);
        values.iter_mut().for_each(|x| *x *= size);
        HostTensor::f32(&shape, values).unwrap()
    }

    #[test]
    fn errors_are_half_a_scale_at_most() {
        for size in [1e-30, 1.0, 1e30] {
            let w = weight([7, 33], size);
            let quantized = Int8Weight::quantize(&w).unwrap();
            let back = quantized.dequantize().unwrap().to_f32();
            for (i, (a, b)) in w.to_f32().iter().zip(back).enumerate() {
                let scale = quantized.scales()[i / 33];
                assert!((a - b).abs() <= 0.5001 * scale, "{a} became {b} with scale {scale}");
            }
            for row in quantized.values().chunks_exact(33) {
                assert_eq!(row.iter().map(|q| q.unsigned_abs()).max(), Some(127));
            }
        }
    }

    #[test]
    fn quantising_again_changes_nothing() {
        for size in [1e-20, 0.03, 1e10] {
            let once = Int8Weight::quantize(&weight([50, 17], size)).unwrap();
            assert_eq!(Int8Weight::quantize(&once.dequantize().unwrap()).unwrap(), once);
        }
    }

    #[test]
    fn weights_that_are_not_finite_are_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            let weight = HostTensor::f32(&[1, 3], vec![1.0, bad, 0.0]).unwrap();
            assert!(matches!(Int8Weight::quantize(&weight), Err(Error::Argument { argument: "weight", .. })));
        }
    }

    #[test]
    fn zeros_and_empty_weights_are_quantised() {
        let zero = Int8Weight::quantize(&HostTensor::f32(&[2, 3], vec![0.0; 6]).unwrap()).unwrap();
        assert_eq!((zero.values(), zero.scales()), (&[0; 6][..], &[0.0; 2][..]));
        for shape in [[0, 3], [3, 0]] {
            let empty = Int8Weight::quantize(&HostTensor::f32(&shape, vec![]).unwrap()).unwrap();
            assert_eq!((empty.shape(), empty.scales().len()), (shape, shape[0]));
            assert_eq!(empty.dequantize().unwrap().shape(), shape);
        }
    }

    #[test]
    fn parts_that_do_not_fit_are_refused() {
        let new = |values: &[i8], scales: &[f32]| Int8Weight::new([2, 2], values.to_vec(), scales.to_vec());
        assert!(new(&[1, 2, 3, 4], &[1.0, 0.5]).is_ok());
        assert!(matches!(new(&[1, 2, 3], &[1.0, 0.5]), Err(Error::Shape { .. })));
        assert!(matches!(new(&[1, 2, 3, 4], &[1.0]), Err(Error::Shape { .. })));
        for scales in [[1.0, -1.0], [f32::NAN, 1.0], [f32::INFINITY, 1.0]] {
            assert!(matches!(new(&[1, 2, 3, 4], &scales), Err(Error::Argument { .. })));
        }
        assert!(matches!(new(&[1, -128, 3, 4], &[1.0, 1.0]), Err(Error::Argument { .. })));
    }
}
