//! Shuffled order of the samples of a training run.

use std::collections::BTreeMap;

use super::Dataset;
use crate::rng::{Purpose, StreamKey};
use crate::{Error, Result};

/// Step word of the streams that permute an epoch.
const PERMUTATION: u32 = 0;
/// Step word, plus the epoch, of the streams that draw same-class references.
const REFERENCES: u32 = 1;

/// Shuffled order: every latent once per epoch, in an order that depends on (seed, epoch) alone. Sample n of a run is a
/// function of n, so a resumed run continues where it stopped.
#[derive(Clone, Debug)]
pub struct ShuffledOrder {
    seed: u64,
    len: usize,
    /// Latents of each class.
    by_class: BTreeMap<usize, Vec<usize>>,
    /// Number of latents per sample, all of one class.
    group: usize,
    /// Latest epoch and its permutation.
    current: Option<(u64, Vec<u32>)>,
}

impl ShuffledOrder {
    /// Order of `set` in samples of `group` different latents of one class.
    ///
    /// # Errors
    /// [`Error::Argument`] if the set is empty or a class has fewer than `group` latents.
    pub fn new(set: &dyn Dataset, group: usize, seed: u64) -> Result<Self> {
        let len = set.len();
        if len == 0 || u32::try_from(len).is_err() {
            return Err(Error::argument("data", "1 to 2^32 latents", len));
        }
        let mut by_class: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for index in 0..len {
            by_class.entry(set.label(index)).or_default().push(index);
        }
        if let Some((class, members)) = by_class.iter().find(|(_, members)| members.len() < group) {
            let expected = format!("at least {group} latents of class {class}");
            return Err(Error::argument("data", expected, members.len()));
        }
        Ok(Self { seed, len, by_class, group, current: None })
    }

    /// Indices of the latents of sample `n` of the run: the first is the next of the epoch, the others are different ones
    /// drawn from its class. `None` if `set` turns out not to be the set that the order was made for.
    pub fn sample(&mut self, n: u64, set: &dyn Dataset) -> Option<Vec<usize>> {
        if set.len() != self.len {
            return None;
        }
        let (epoch, place) = (n / self.len as u64, (n % self.len as u64) as usize);
        let mut chosen = vec![self.permutation(epoch)[place] as usize];
        let class = set.label(chosen[0]);
        let members = self.by_class.get(&class)?;
        let mut stream =
            StreamKey::new(self.seed, Purpose::Data, place as u32, REFERENCES + epoch as u32).stream();
        while chosen.len() < self.group {
            let candidate = members[stream.below(members.len() as u32) as usize];
            if set.label(candidate) != class {
                return None;
            }
            if !chosen.contains(&candidate) {
                chosen.push(candidate);
            }
        }
        Some(chosen)
    }

    fn permutation(&mut self, epoch: u64) -> &[u32] {
        if self.current.as_ref().is_none_or(|(known, _)| *known != epoch) {
            let mut order: Vec<u32> = (0..self.len as u32).collect();
            let mut stream = StreamKey::new(self.seed, Purpose::Data, epoch as u32, PERMUTATION).stream();
            for i in (1..order.len()).rev() {
                order.swap(i, stream.below(i as u32 + 1) as usize);
            }
            self.current = Some((epoch, order));
        }
        &self.current.as_ref().expect("just computed").1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::MemoryDataset;

    fn set() -> MemoryDataset {
        let labels = (0..20).map(|i| i % 3).collect();
        MemoryDataset::new([1, 1, 1], (0..20).map(|i| i as f32).collect(), labels).unwrap()
    }

    #[test]
    fn epoch_contains_every_latent_once() {
        let set = set();
        let mut order = ShuffledOrder::new(&set, 1, 5).unwrap();
        let mut epoch =
            |e: u64| (0..20).map(|i| order.sample(e * 20 + i, &set).unwrap()[0]).collect::<Vec<_>>();
        let (first, second) = (epoch(0), epoch(1));
        assert_ne!(first, second);
        assert_eq!(epoch(0), first);
        for mut seen in [first, second] {
            seen.sort_unstable();
            assert_eq!(seen, (0..20).collect::<Vec<_>>());
        }
    }

    #[test]
    fn sample_has_different_latents_of_one_class() {
        let set = set();
        let mut order = ShuffledOrder::new(&set, 4, 5).unwrap();
        for n in 0..60 {
            let mut sample = order.sample(n, &set).unwrap();
            assert!(sample.iter().all(|&i| set.label(i) == set.label(sample[0])));
            sample.sort_unstable();
            sample.dedup();
            assert_eq!(sample.len(), 4);
        }
        assert!(matches!(ShuffledOrder::new(&set, 7, 5), Err(Error::Argument { argument: "data", .. })));
    }
}
