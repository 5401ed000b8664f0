//! Pseudo-random permutations.

use crate::rng::StreamKey;

/// Rounds of the network. Four are indistinguishable from random in theory (Luby and Rackoff 1988); small domains want more.
const ROUNDS: u32 = 8;

/// Pseudo-random permutation of 0..len: a Feistel network whose round function is Philox, with cycle walking for lengths
/// that are no power of four. It takes no memory, and any place can be asked for.
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    len: u32,
    /// Bits of each half of a number.
    half: u32,
    key: StreamKey,
}

impl Permutation {
    /// Permutation of 0..`len`, a function of `key`.
    pub fn new(len: u32, key: StreamKey) -> Self {
        let bits = u32::BITS - len.saturating_sub(1).leading_zeros();
        Self { len, half: bits.div_ceil(2).max(1), key }
    }

    /// Number at place `place`.
    ///
    /// # Panics
    /// If `place` is not below the length.
    pub fn at(&self, place: u32) -> u32 {
        assert!(place < self.len, "expected a place below {}, got {place}", self.len);
        let mut number = self.encrypt(place);
        while number >= self.len {
            number = self.encrypt(number);
        }
        number
    }

    fn encrypt(&self, number: u32) -> u32 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (number >> self.half, number & mask);
        for round in 0..ROUNDS {
            let word = self.key.block(round << 16 | right)[0];
            (left, right) = (right, left ^ (word & mask));
        }
        left << self.half | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    fn permutation(len: u32, epoch: u32) -> Vec<u32> {
        let permutation = Permutation::new(len, StreamKey::new(7, Purpose::Data, 0, epoch));
        (0..len).map(|place| permutation.at(place)).collect()
    }

    #[test]
    fn every_number_occurs_once() {
        for len in [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 70_000] {
            let mut numbers = permutation(len, 0);
            numbers.sort_unstable();
            assert!(numbers.into_iter().eq(0..len), "{len}");
        }
        // The largest length: halves of 16 bits.
        let largest = Permutation::new(u32::MAX, StreamKey::new(7, Purpose::Data, 0, 0));
        assert_ne!(largest.at(0), largest.at(u32::MAX - 1));
    }

    /// Each number is at each place about equally often, also together with its neighbour.
    #[test]
    fn places_are_uniform() {
        const LEN: usize = 5;
        const EPOCHS: u32 = 20_000;
        let (mut single, mut pairs) = ([[0u32; LEN]; LEN], [0u32; LEN * LEN]);
        for epoch in 0..EPOCHS {
            let numbers = permutation(LEN as u32, epoch);
            numbers.iter().enumerate().for_each(|(place, &n)| single[place][n as usize] += 1);
            pairs[numbers[0] as usize * LEN + numbers[1] as usize] += 1;
        }
        // Five standard deviations: √(20,000 · 1/5 · 4/5) = 57, √(20,000 · 1/20 · 19/20) = 31.
        assert!(single.as_flattened().iter().all(|&count| count.abs_diff(4000) < 285), "{single:?}");
        assert!(
            pairs.iter().enumerate().all(|(i, &count)| {
                if i % (LEN + 1) == 0 { count == 0 } else { count.abs_diff(1000) < 155 }
            })
        );
    }
}
