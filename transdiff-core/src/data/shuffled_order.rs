//! Shuffled order of the samples of a training run.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::Dataset;
use super::permutation::Permutation;
use crate::rng::{Purpose, StreamKey};
use crate::{Error, Result};

/// Index words of the streams of an epoch's permutations: of samples, of shards, and, plus its number, of a window of shards.
const SAMPLES: u32 = 0;
const SHARDS: u32 = 1;
const WINDOWS: u32 = 2;
/// Index word of the streams that draw same-class references.
const REFERENCES: u32 = u32::MAX;

/// Way of shuffling an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shuffle {
    /// All items at random.
    #[default]
    Items,
    /// Shards at random, and then the items of each window of consecutive shards: storage reads from a few shards at a time.
    Shards {
        /// Number of shards per window.
        window: usize,
    },
    /// The order of the dataset.
    None,
}

/// Groups of items of one class that form the samples of multi-reference autoregression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    items: Vec<u32>,
    size: usize,
}

impl Groups {
    /// Groups of `size` items each, one after another in `items`.
    ///
    /// # Errors
    /// [`Error::Argument`] if the items cannot be divided into such groups.
    pub fn new(items: Vec<u32>, size: usize) -> Result<Self> {
        if size == 0 || items.is_empty() || !items.len().is_multiple_of(size) {
            return Err(Error::argument("groups", format!("groups of {size} items"), items.len()));
        }
        Ok(Self { items, size })
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.items.len() / self.size
    }

    /// Returns `true` if there are no groups.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    fn get(&self, index: usize) -> &[u32] {
        &self.items[index * self.size..][..self.size]
    }
}

/// Composition of samples of several items.
#[derive(Debug)]
enum Companions {
    /// The other items of a sample are drawn from the class of the first: items of each class.
    Drawn(BTreeMap<usize, Vec<u32>>),
    /// Samples are these groups.
    Given(Groups),
}

/// Shuffled order: every item, or given group, once per epoch, in an order that depends on (seed, epoch) alone. Sample n of
/// a run is a function of n, so that a resumed run continues where it stopped, and memory does not grow with the run.
#[derive(Debug)]
pub struct ShuffledOrder {
    seed: u64,
    /// Samples per epoch.
    len: u32,
    /// Number of items per sample, all of one class.
    group: usize,
    companions: Companions,
    windows: Option<Windows>,
    shuffle: Shuffle,
}

impl ShuffledOrder {
    /// Order of `set` in samples of `group` different items of one class; the samples are `groups` if they are given.
    ///
    /// # Errors
    /// [`Error::Argument`] if the set is empty or a class has fewer than `group` items, or if a group has another size,
    /// items that are not there or of several classes.
    pub fn new(
        set: &dyn Dataset,
        group: usize,
        groups: Option<Groups>,
        shuffle: Shuffle,
        seed: u64,
    ) -> Result<Self> {
        let items = u32::try_from(set.len()).ok().filter(|&len| len > 0);
        let items = items.ok_or_else(|| Error::argument("data", "1 to 2^32 - 1 items", set.len()))?;
        let (len, companions) = match groups {
            Some(groups) => {
                check_groups(set, group, &groups)?;
                (groups.len() as u32, Companions::Given(groups))
            }
            None => (items, Companions::Drawn(classes(set, group)?)),
        };
        let windows = match shuffle {
            Shuffle::Shards { window } if matches!(companions, Companions::Drawn(_)) => {
                Some(Windows::new(set.shard_ends(), window, seed)?)
            }
            _ => None,
        };
        Ok(Self { seed, len, group, companions, windows, shuffle })
    }

    /// Number of samples per epoch.
    pub fn samples_per_epoch(&self) -> u64 {
        u64::from(self.len)
    }

    /// Indices of the items of sample `number` of the run: the first is the next of the epoch, the others are different
    /// ones drawn from its class, unless groups are given.
    pub fn sample(&self, number: u32, set: &dyn Dataset) -> Vec<usize> {
        let (epoch, place) = (number / self.len, number % self.len);
        let first = match (&self.windows, self.shuffle) {
            (Some(windows), _) => windows.at(epoch, place),
            (None, Shuffle::None) => place,
            (None, _) => {
                Permutation::new(self.len, StreamKey::new(self.seed, Purpose::Data, SAMPLES, epoch)).at(place)
            }
        };
        match &self.companions {
            Companions::Given(groups) => {
                groups.get(first as usize).iter().map(|&item| item as usize).collect()
            }
            Companions::Drawn(classes) => {
                let mut chosen = vec![first as usize];
                if self.group > 1 {
                    let members = &classes[&set.label(chosen[0])];
                    let mut stream = StreamKey::new(self.seed, Purpose::Data, REFERENCES, number).stream();
                    while chosen.len() < self.group {
                        let candidate = members[stream.below(members.len() as u32) as usize] as usize;
                        if !chosen.contains(&candidate) {
                            chosen.push(candidate);
                        }
                    }
                }
                chosen
            }
        }
    }
}

/// Items of each class, which samples of several items need.
fn classes(set: &dyn Dataset, group: usize) -> Result<BTreeMap<usize, Vec<u32>>> {
    let mut classes: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    if group <= 1 {
        return Ok(classes);
    }
    for index in 0..set.len() {
        classes.entry(set.label(index)).or_default().push(index as u32);
    }
    match classes.iter().find(|(_, members)| members.len() < group) {
        Some((class, members)) => {
            let expected = format!("at least {group} items of class {class}");
            Err(Error::argument("data", expected, members.len()))
        }
        None => Ok(classes),
    }
}

fn check_groups(set: &dyn Dataset, group: usize, groups: &Groups) -> Result<()> {
    if groups.size != group {
        return Err(Error::argument("groups", format!("groups of {group} items"), groups.size));
    }
    for index in 0..groups.len() {
        let items = groups.get(index);
        if let Some(item) = items.iter().find(|&&item| item as usize >= set.len()) {
            return Err(Error::argument("groups", format!("items in 0..{}", set.len()), item));
        }
        let class = set.label(items[0] as usize);
        if let Some(&other) = items.iter().find(|&&item| set.label(item as usize) != class) {
            let expected = format!("items of one class in group {index}");
            let got = format!("classes {class} and {}", set.label(other as usize));
            return Err(Error::argument("groups", expected, got));
        }
    }
    Ok(())
}

/// Order by windows of shards.
#[derive(Debug)]
struct Windows {
    seed: u64,
    /// First item of each shard, and the number of items.
    starts: Vec<u32>,
    window: usize,
    /// Latest epoch.
    epoch: Mutex<Option<Epoch>>,
}

/// Shards of an epoch in their order.
#[derive(Clone, Debug)]
struct Epoch {
    epoch: u32,
    shards: Vec<u32>,
    /// Place of the first item of each of `shards`, and the number of items.
    places: Vec<u32>,
}

impl Windows {
    fn new(ends: Vec<usize>, window: usize, seed: u64) -> Result<Self> {
        if window == 0 {
            return Err(Error::argument("shuffle", "at least one shard per window", window));
        }
        let starts = std::iter::once(0).chain(ends.into_iter().map(|end| end as u32)).collect();
        Ok(Self { seed, starts, window, epoch: Mutex::new(None) })
    }

    fn items(&self, shard: u32) -> u32 {
        self.starts[shard as usize + 1] - self.starts[shard as usize]
    }

    fn epoch(&self, epoch: u32) -> Epoch {
        let count = self.starts.len() as u32 - 1;
        let order = Permutation::new(count, StreamKey::new(self.seed, Purpose::Data, SHARDS, epoch));
        let shards: Vec<u32> = (0..count).map(|place| order.at(place)).collect();
        let mut places = vec![0];
        shards.iter().for_each(|&shard| places.push(places[places.len() - 1] + self.items(shard)));
        Epoch { epoch, shards, places }
    }

    /// Item at a place of an epoch.
    fn at(&self, epoch: u32, place: u32) -> u32 {
        let mut known = self.epoch.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let order = match &mut *known {
            Some(order) if order.epoch == epoch => order,
            slot => slot.insert(self.epoch(epoch)),
        };
        // The shard of the place, then its window, and in that the place that its permutation gives.
        let shard = order.places.partition_point(|&first| first <= place) - 1;
        let window = shard / self.window;
        let first = order.places[window * self.window];
        let last = order.places[order.shards.len().min((window + 1) * self.window)];
        let key = StreamKey::new(self.seed, Purpose::Data, WINDOWS + window as u32, epoch);
        let place = first + Permutation::new(last - first, key).at(place - first);
        let shard = order.places.partition_point(|&first| first <= place) - 1;
        self.starts[order.shards[shard] as usize] + place - order.places[shard]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::MemoryDataset;
    use crate::rng::Philox;

    fn set() -> MemoryDataset {
        let labels = (0..20).map(|i| i % 3).collect();
        MemoryDataset::new([1, 1, 1], (0..20).map(|i| i as f32).collect(), labels).unwrap()
    }

    fn order(group: usize, shuffle: Shuffle) -> Result<ShuffledOrder> {
        ShuffledOrder::new(&set(), group, None, shuffle, 5)
    }

    fn epoch(order: &ShuffledOrder, set: &dyn Dataset, epoch: u32) -> Vec<usize> {
        let len = order.len;
        (0..len).map(|place| order.sample(epoch * len + place, set)[0]).collect()
    }

    fn assert_permutation(mut seen: Vec<usize>) {
        seen.sort_unstable();
        assert!(seen.iter().copied().eq(0..seen.len()), "{seen:?}");
    }

    #[test]
    fn epoch_contains_every_item_once() {
        let order = order(1, Shuffle::Items).unwrap();
        let [first, second] = [0, 1].map(|e| epoch(&order, &set(), e));
        assert_ne!(first, second);
        assert_eq!(epoch(&order, &set(), 0), first);
        [first, second].into_iter().for_each(assert_permutation);
        let plain = self::order(1, Shuffle::None).unwrap();
        assert!(epoch(&plain, &set(), 3).into_iter().eq(0..20));
    }

    #[test]
    fn sample_has_different_items_of_one_class() {
        let set = set();
        let order = order(4, Shuffle::Items).unwrap();
        for n in 0..60 {
            let mut sample = order.sample(n, &set);
            assert!(sample.iter().all(|&i| set.label(i) == set.label(sample[0])));
            sample.sort_unstable();
            sample.dedup();
            assert_eq!(sample.len(), 4);
        }
        assert!(matches!(self::order(7, Shuffle::Items), Err(Error::Argument { argument: "data", .. })));
    }

    #[test]
    fn given_groups_are_the_samples_of_an_epoch() {
        let new = |items: &[u32], group| {
            let groups = Groups::new(items.to_vec(), 2)?;
            ShuffledOrder::new(&set(), group, Some(groups), Shuffle::Items, 5)
        };
        let order = new(&[0, 3, 4, 1, 2, 2], 2).unwrap();
        assert_eq!(order.samples_per_epoch(), 3);
        for epoch in 0..4 {
            let mut samples: Vec<_> = (0..3).map(|place| order.sample(3 * epoch + place, &set())).collect();
            samples.sort();
            assert_eq!(samples, [[0, 3], [2, 2], [4, 1]]);
        }
        for (items, group) in [(&[0, 3][..], 4), (&[0, 1], 2), (&[0, 20], 2), (&[0], 2), (&[], 2)] {
            let error = new(items, group).unwrap_err();
            assert!(matches!(error, Error::Argument { argument: "groups", .. }), "{items:?}: {error}");
        }
    }

    /// Items in shards of unequal sizes.
    struct Sharded;

    const ENDS: [usize; 5] = [7, 9, 9, 15, 20];

    impl Dataset for Sharded {
        fn len(&self) -> usize {
            20
        }

        fn item_shape(&self) -> [usize; 3] {
            [1, 1, 1]
        }

        fn label(&self, _: usize) -> usize {
            0
        }

        fn read(&self, index: usize, _: &mut Philox, out: &mut Vec<f32>) -> Result<()> {
            out.push(index as f32);
            Ok(())
        }

        fn shard_ends(&self) -> Vec<usize> {
            ENDS.to_vec()
        }
    }

    #[test]
    fn windows_hold_whole_shards() {
        let shard = |item: usize| ENDS.iter().position(|&end| item < end).unwrap();
        for window in [1, 2, 3, 5, 9] {
            let order = ShuffledOrder::new(&Sharded, 1, None, Shuffle::Shards { window }, 5).unwrap();
            let epochs = [0, 1, 2].map(|e| epoch(&order, &Sharded, e));
            assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
            for items in epochs {
                assert_permutation(items.clone());
                // A shard is open from the place of its first item to that of its last.
                let places = |shard_index: usize| {
                    let of = |item: &usize| shard(*item) == shard_index;
                    Some(items.iter().position(of)?..=items.iter().rposition(of)?)
                };
                let open: Vec<_> = (0..ENDS.len()).filter_map(places).collect();
                let most =
                    (0..20).map(|place| open.iter().filter(|range| range.contains(&place)).count()).max();
                assert!(most <= Some(window), "{items:?}");
            }
        }
        let none = ShuffledOrder::new(&Sharded, 1, None, Shuffle::Shards { window: 0 }, 5);
        assert!(matches!(none, Err(Error::Argument { argument: "shuffle", .. })));
    }
}
