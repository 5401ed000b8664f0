//! Dropout masks: Philox blocks, several side by side in vectors.

use transdiff_core::rng::{Dropout, StreamKey};

use crate::element::Real;

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;
/// Number of blocks computed side by side.
const SIDE: usize = 16;
/// Number of factors per iteration.
const STEP: usize = 4 * SIDE;

/// Words of the blocks `first..first + SIDE` of a stream; word w of block i is `[w][i]`.
#[inline(always)]
fn blocks(key: StreamKey, first: u32) -> [[u32; SIDE]; 4] {
    let mut counter = [[0; SIDE], [key.index; SIDE], [key.step; SIDE], [key.purpose as u32; SIDE]];
    for (i, c) in counter[0].iter_mut().enumerate() {
        *c = first.wrapping_add(i as u32);
    }
    let mut round_key = [key.seed as u32, (key.seed >> 32) as u32];
    for _ in 0..ROUNDS {
        let mut next = [[0; SIDE]; 4];
        for i in 0..SIDE {
            let even = u64::from(MULTIPLIER[0]) * u64::from(counter[0][i]);
            let odd = u64::from(MULTIPLIER[1]) * u64::from(counter[2][i]);
            next[0][i] = (odd >> 32) as u32 ^ counter[1][i] ^ round_key[0];
            next[1][i] = odd as u32;
            next[2][i] = (even >> 32) as u32 ^ counter[3][i] ^ round_key[1];
            next[3][i] = even as u32;
        }
        counter = next;
        round_key = [round_key[0].wrapping_add(WEYL[0]), round_key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// Multiplies `x` by the factors of the elements from `first` on of one sample, whose stream is `key`.
#[inline(always)]
fn scale_by_sample_mask<T: Real>(dropout: &Dropout, key: StreamKey, first: usize, x: &mut [T]) {
    let (threshold, scale) = (dropout.threshold(), T::of(f64::from(dropout.scale())));
    let skip = first % 4;
    let mut block = (first / 4) as u32;
    let mut done = 0;
    while done < x.len() {
        let words = blocks(key, block);
        let mut factors = [T::ZERO; STEP];
        for (i, four) in factors.chunks_exact_mut(4).enumerate() {
            for (factor, words) in four.iter_mut().zip(&words) {
                *factor = if words[i] >= threshold { scale } else { T::ZERO };
            }
        }
        let start = if done == 0 { skip } else { 0 };
        let len = (STEP - start).min(x.len() - done);
        for (x, &factor) in x[done..done + len].iter_mut().zip(&factors[start..]) {
            *x *= factor;
        }
        done += len;
        block = block.wrapping_add(SIDE as u32);
    }
}

simd! {
    /// Multiplies `x` by the factors of the elements from `first` on of a tensor of `len` elements.
    pub(crate) fn scale_by_mask<T: Real>(dropout: &Dropout, len: usize, first: usize, mut x: &mut [T]) {
        let per_sample = (len / dropout.samples).max(1);
        let (sample, mut element) = (first / per_sample, first % per_sample);
        let mut step = dropout.key.step.wrapping_add(sample as u32);
        while !x.is_empty() {
            let (part, rest) = x.split_at_mut(x.len().min(per_sample - element));
            scale_by_sample_mask(dropout, StreamKey { step, ..dropout.key }, element, part);
            (x, step, element) = (rest, step.wrapping_add(1), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use transdiff_core::rng::Purpose;

    #[test]
    fn mask_matches_core() {
        let key = StreamKey::new(0x1234_5678_9abc, Purpose::Dropout, 7, u32::MAX - 1);
        const LEN: usize = 1200;
        // One sample, samples of whole blocks and of parts of a block, and one element per sample.
        for samples in [1, 3, 16, 48, LEN] {
            let dropout = Dropout { rate: 0.3, key, samples };
            for first in [0, 1, 6, 63, 74, 75, 1000] {
                for len in [0, 1, 5, 64, 200] {
                    let mut x = vec![1.0f32; len];
                    scale_by_mask(&dropout, LEN, first, &mut x);
                    let want: Vec<f32> = (first..first + len).map(|e| dropout.factor(e, LEN)).collect();
                    assert_eq!(x, want, "{samples} samples, from {first}, {len} elements");
                }
            }
        }
    }
}
