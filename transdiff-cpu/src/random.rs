//! Dropout masks: Philox blocks, several side by side in vectors.

use transdiff_core::backend::ViewMut;
use transdiff_core::rng::{Dropout, StreamKey};

use crate::device::Cpu;
use crate::element::Real;
use crate::view::output;

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;
/// Number of blocks computed side by side.
const SIDE: usize = 16;
/// Number of elements per iteration.
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

/// Reads the bits of a sample's mask in order: whether its elements are kept.
struct Bits {
    threshold: u32,
    key: StreamKey,
    /// The next block of the stream.
    block: u32,
    /// Bits that have been drawn, the next one lowest, and their number.
    drawn: u128,
    len: usize,
}

impl Bits {
    /// The next `len` bits, at most 32.
    #[inline(always)]
    fn take(&mut self, len: usize) -> u32 {
        if self.len < len {
            self.drawn |= u128::from(self.draw()) << self.len;
            self.len += STEP;
        }
        let bits = self.drawn as u32 & (((1u64 << len) - 1) as u32);
        self.drawn >>= len;
        self.len -= len;
        bits
    }

    /// The bits of the next blocks.
    #[inline(always)]
    fn draw(&mut self) -> u64 {
        let words = blocks(self.key, self.block);
        self.block = self.block.wrapping_add(SIDE as u32);
        let mut fours = [0u64; SIDE];
        for (i, four) in fours.iter_mut().enumerate() {
            for (w, words) in words.iter().enumerate() {
                *four |= u64::from(words[i] >= self.threshold) << (4 * i + w);
            }
        }
        fours.iter().fold(0, |bits, four| bits | four)
    }
}

simd! {
    /// Words of the mask of rows of `nkv` elements of a sample, whose stream is `key`, from row `first` on, with which a block of
    /// the stream begins.
    fn mask_of_sample(dropout: &Dropout, key: StreamKey, first: usize, nkv: usize, kept: &mut [i32]) {
        let block = (first * nkv / 4) as u32;
        let mut bits = Bits { threshold: dropout.threshold(), key, block, drawn: 0, len: 0 };
        for row in kept.chunks_exact_mut(nkv.div_ceil(32)) {
            for (word, from) in row.iter_mut().zip((0..nkv).step_by(32)) {
                *word = bits.take(32.min(nkv - from)) as i32;
            }
        }
    }
}

/// See [`NnOps::dropout_mask`](transdiff_core::backend::NnOps::dropout_mask).
pub(crate) fn dropout_mask(cpu: &Cpu, dropout: Dropout, nkv: usize, kept: ViewMut<'_, Cpu>) {
    /// Rows per task: a multiple of the four words of a block.
    const ROWS: usize = 64;
    let kept = output::<i32>(kept);
    if kept.is_empty() {
        return;
    }
    let words = nkv.div_ceil(32);
    let per_sample = kept.len() / words / dropout.samples;
    let (tasks, cost) = (per_sample.div_ceil(ROWS), kept.len() / words * nkv / 2);
    let parts = kept.chunks_mut(per_sample * words).flat_map(|sample| sample.chunks_mut(ROWS * words));
    cpu.for_each(parts.enumerate(), cost, |(i, part)| {
        let step = dropout.key.step.wrapping_add((i / tasks) as u32);
        mask_of_sample(&dropout, StreamKey { step, ..dropout.key }, i % tasks * ROWS, nkv, part);
    });
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
