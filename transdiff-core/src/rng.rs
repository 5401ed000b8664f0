//! Counter-based random numbers: Philox4x32-10.
//!
//! Every random number of the library is a pure function of a [`StreamKey`] and a position. There is no hidden state:
//! image 7 of a batch gets the same noise as alone, and a resumed run draws the same numbers as an uninterrupted one.
//!
//! Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.

use std::convert::Infallible;

use rand_core::TryRng;
use rand_distr::{Distribution, StandardNormal};

use crate::{Error, Result};

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// One block of Philox4x32-10: four random words for a counter and a key.
#[inline]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let product = [
            u64::from(MULTIPLIER[0]) * u64::from(counter[0]),
            u64::from(MULTIPLIER[1]) * u64::from(counter[2]),
        ];
        counter = [
            (product[1] >> 32) as u32 ^ counter[1] ^ key[0],
            product[1] as u32,
            (product[0] >> 32) as u32 ^ counter[3] ^ key[1],
            product[0] as u32,
        ];
    }
    counter
}

/// Purpose of a stream of random numbers. Streams of different purposes never share a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Initial values of parameters.
    Initialisation = 0,
    /// Initial noise: the latent at which sampling begins.
    InitialNoise = 1,
    /// Noise injected during sampling.
    InjectedNoise = 2,
    /// Noise of the training objective.
    TrainingNoise = 3,
    /// Timesteps of the training objective.
    Timestep = 4,
    /// Choice of the labels that are dropped during training.
    LabelDrop = 5,
    /// Dropout masks.
    Dropout = 6,
    /// Order and choice of training samples.
    Data = 7,
    /// Draws from a VAE's posterior.
    Posterior = 8,
    /// Flip, crop and posterior noise of an item of a training sample.
    Item = 9,
}

/// Identifies a stream of random numbers. Different keys never yield the same counter under the same seed: purpose,
/// index and step are words of the Philox counter, and the seed is the Philox key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// Seed chosen by the user.
    pub seed: u64,
    /// Purpose of the numbers.
    pub purpose: Purpose,
    /// Index among streams of the same purpose: image of a batch, parameter, or dropout layer.
    pub index: u32,
    /// Training or sampling step; for dropout masks, the number of the sample.
    pub step: u32,
}

impl StreamKey {
    /// Creates the key (seed, purpose, index, step).
    pub const fn new(seed: u64, purpose: Purpose, index: u32, step: u32) -> Self {
        Self { seed, purpose, index, step }
    }

    /// Words `4·block..4·block + 4` of the stream.
    #[inline]
    pub fn block(&self, block: u32) -> [u32; 4] {
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        philox4x32([block, self.index, self.step, self.purpose as u32], key)
    }

    /// Returns the stream from its beginning, as a generator of the `rand` crates.
    pub fn stream(self) -> Philox {
        Philox { key: self, block: 0, words: [0; 4], used: 4 }
    }

    /// Draws `count` values from N(0, 1), rounded to f32.
    pub fn normals(self, count: usize) -> Vec<f32> {
        let mut stream = self.stream();
        (0..count).map(|_| StandardNormal.sample(&mut stream)).collect()
    }
}

/// Generator at a position in the stream of a [`StreamKey`].
#[derive(Clone, Debug)]
pub struct Philox {
    key: StreamKey,
    block: u32,
    words: [u32; 4],
    used: usize,
}

impl Philox {
    /// Returns the next word.
    #[inline]
    fn word(&mut self) -> u32 {
        if self.used == 4 {
            self.words = self.key.block(self.block);
            self.block = self.block.checked_add(1).expect("a stream holds 2^34 words");
            self.used = 0;
        }
        self.used += 1;
        self.words[self.used - 1]
    }

    /// Draws uniformly from [0, 1), a multiple of 2⁻⁵³.
    pub fn uniform(&mut self) -> f64 {
        let bits = (u64::from(self.word()) << 32) | u64::from(self.word());
        (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Draws uniformly from `0..bound`.
    ///
    /// # Panics
    /// If `bound` is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        assert!(bound > 0, "expected a bound of at least 1, got 0");
        // Lemire's method: rejects the few words that would favour small results.
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u64::from(self.word()) * u64::from(bound);
            if product as u32 >= threshold {
                return (product >> 32) as u32;
            }
        }
    }

    /// Draws from N(0, 1).
    pub fn normal(&mut self) -> f64 {
        StandardNormal.sample(self)
    }
}

impl TryRng for Philox {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.word())
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(u64::from(self.word()) | (u64::from(self.word()) << 32))
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Infallible> {
        for chunk in dst.chunks_mut(4) {
            chunk.copy_from_slice(&self.word().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// Dropout of a tensor that holds the same number of elements for each of `samples` samples, in order. Element `e` of a
/// sample, counted within it, is kept if word `e` of the sample's stream is at least `rate · 2³²`, and kept elements are
/// divided by `1 − rate`.
///
/// The mask is a function of the key: it is the same on every backend, and the backward pass draws it again instead of storing
/// it, except that of an attention, which three passes over the scores need
/// ([`NnOps::dropout_mask`](crate::backend::NnOps::dropout_mask)). A sample's mask depends on its number, not on its place in
/// the batch: samples can be divided into batches in any way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Probability that an element is dropped, in [0, 1).
    pub rate: f32,
    /// Stream of the first sample's mask. Its purpose is [`Purpose::Dropout`], and its step is the number of the sample;
    /// the next samples have the next numbers, wrapping at 2³².
    pub key: StreamKey,
    /// Number of samples, at least 1.
    pub samples: usize,
}

impl Dropout {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Argument`] if the rate is not in [0, 1) or there is no sample.
    pub fn validate(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.rate) {
            return Err(Error::argument("dropout", "a rate in [0, 1)", self.rate));
        }
        if self.samples == 0 {
            return Err(Error::argument("dropout", "at least one sample", "none"));
        }
        Ok(())
    }

    /// Threshold: words below it drop their element.
    pub fn threshold(&self) -> u32 {
        (f64::from(self.rate) * 4_294_967_296.0) as u32
    }

    /// Factor of kept elements.
    pub fn scale(&self) -> f32 {
        1.0 / (1.0 - self.rate)
    }

    /// Factor of element `element` of a tensor of `len` elements: 0 or [`scale`](Self::scale).
    pub fn factor(&self, element: usize, len: usize) -> f32 {
        let per_sample = len / self.samples;
        let (sample, element) = (element / per_sample, element % per_sample);
        let step = self.key.step.wrapping_add(sample as u32);
        let word = StreamKey { step, ..self.key }.block((element / 4) as u32)[element % 4];
        if word >= self.threshold() { self.scale() } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known-answer vectors published by Random123 for philox4x32-10.
    #[test]
    fn philox_matches_known_answers() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn stream_concatenates_blocks() {
        let key = StreamKey::new(7, Purpose::Data, 3, 9);
        let mut stream = key.stream();
        let words: Vec<u32> = (0..9).map(|_| stream.word()).collect();
        assert_eq!(words[4..8], key.block(1));
        assert_eq!(words[8], key.block(2)[0]);
    }

    #[test]
    fn bounded_draws_are_uniform() {
        let mut stream = StreamKey::new(1, Purpose::Data, 0, 0).stream();
        let mut counts = [0u32; 7];
        for _ in 0..70_000 {
            counts[stream.below(7) as usize] += 1;
        }
        // Five standard deviations of a binomial with n = 70,000 and p = 1/7.
        assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 463), "{counts:?}");
    }

    #[test]
    fn dropout_keeps_the_expected_fraction() {
        let dropout = Dropout { rate: 0.25, key: StreamKey::new(5, Purpose::Dropout, 0, 0), samples: 1 };
        let kept = (0..40_000).filter(|&e| dropout.factor(e, 40_000) > 0.0).count();
        assert!(kept.abs_diff(30_000) < 434, "{kept} of 40,000 kept at rate 0.25");
        assert_eq!(dropout.scale(), 4.0 / 3.0);
    }

    /// The numbers of the samples wrap within the batch, and their sizes are no multiples of a block.
    #[test]
    fn dropout_of_a_sample_is_the_same_alone_and_in_a_batch() {
        const LEN: usize = 37;
        let key = |step| StreamKey::new(5, Purpose::Dropout, 2, step);
        let mask =
            |d: Dropout| -> Vec<f32> { (0..d.samples * LEN).map(|e| d.factor(e, d.samples * LEN)).collect() };
        let batch = mask(Dropout { rate: 0.5, key: key(u32::MAX - 1), samples: 4 });
        let masks: Vec<&[f32]> = batch.chunks(LEN).collect();
        for (step, &in_batch) in [u32::MAX - 1, u32::MAX, 0, 1].into_iter().zip(&masks) {
            let alone = Dropout { rate: 0.5, key: key(step), samples: 1 };
            assert_eq!(mask(alone), in_batch, "sample {step}");
            let word = |e: usize| key(step).block((e / 4) as u32)[e % 4];
            assert!((0..LEN).all(|e| (in_batch[e] > 0.0) == (word(e) >= 1 << 31)), "sample {step}");
        }
        assert!(masks.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
