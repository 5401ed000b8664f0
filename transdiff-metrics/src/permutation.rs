//! NumPy's random order.

use rand_mt::Mt;
use transdiff_core::{Error, Result};

/// `numpy.random.RandomState(seed).permutation(count)`.
///
/// # Errors
/// [`Error::Argument`] for a count beyond 32 bits.
pub fn numpy_permutation(seed: u32, count: usize) -> Result<Vec<usize>> {
    if u32::try_from(count).is_err() {
        return Err(Error::argument("count", "a number of 32 bits", count));
    }
    let mut generator = Mt::new(seed);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        // Draws of as many bits as `last` has, until one is no larger.
        let mask = u32::MAX >> (last as u32).leading_zeros();
        let at = std::iter::repeat_with(|| generator.next_u32() & mask).find(|&at| at as usize <= last);
        order.swap(last, at.expect("draws do not end") as usize);
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of NumPy 2.
    #[test]
    fn orders_equal_numpy() {
        assert_eq!(numpy_permutation(2020, 10).unwrap(), [2, 4, 9, 1, 5, 7, 6, 3, 8, 0]);
        let long = numpy_permutation(2020, 50_000).unwrap();
        assert_eq!(long[..5], [24397, 39273, 6546, 13504, 49765]);
        assert!(numpy_permutation(0, 0).unwrap().is_empty());
    }
}
