//! Parts of a dataset.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Dataset;
use crate::rng::Philox;
use crate::{Error, Result};

/// Some items of another dataset, in its order.
#[derive(Clone)]
pub struct Subset {
    set: Arc<dyn Dataset>,
    items: Vec<u32>,
}

impl Subset {
    /// The items `items` of `set`, in ascending order.
    ///
    /// # Errors
    /// [`Error::Argument`] if an item is not there or the order is another one.
    pub fn new(set: Arc<dyn Dataset>, items: Vec<u32>) -> Result<Self> {
        if !items.is_sorted_by(|a, b| a < b) {
            return Err(Error::argument("items", "ascending items", "others"));
        }
        match items.last() {
            Some(&last) if last as usize >= set.len() => {
                Err(Error::argument("items", format!("items in 0..{}", set.len()), last))
            }
            _ => Ok(Self { set, items }),
        }
    }

    /// Divides `set` into two parts, the second of which holds `share` of the items of every class, spread evenly and rounded
    /// to the nearest number. A class keeps at least one item in the first part.
    ///
    /// # Errors
    /// [`Error::Argument`] if the share is not in (0, 1), or too small or too large for any item to be in one of the parts.
    pub fn hold_out(set: &Arc<dyn Dataset>, share: f64) -> Result<(Self, Self)> {
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::argument("share", "a number above 0 and below 1", share));
        }
        // Items of each class, and those of them that were divided.
        let mut classes: BTreeMap<usize, [u64; 2]> = BTreeMap::new();
        (0..set.len()).for_each(|item| classes.entry(set.label(item)).or_default()[0] += 1);
        let (mut kept, mut held_out) = (Vec::new(), Vec::new());
        for item in 0..set.len() {
            let [count, place] = classes.get_mut(&set.label(item)).expect("every label was counted");
            let held = ((*count as f64 * share).round() as u64).min(*count - 1);
            let is_held_out = *place * held / *count != (*place + 1) * held / *count;
            let part = if is_held_out { &mut held_out } else { &mut kept };
            part.push(item as u32);
            *place += 1;
        }
        if kept.is_empty() || held_out.is_empty() {
            let expected = format!("a share that divides {} items in {} classes", set.len(), classes.len());
            return Err(Error::argument("share", expected, share));
        }
        let part = |items| Self { set: Arc::clone(set), items };
        Ok((part(kept), part(held_out)))
    }

    /// Place in this part of item `item` of the whole set, if it is in this part.
    pub fn place_of(&self, item: u32) -> Option<u32> {
        self.items.binary_search(&item).ok().map(|place| place as u32)
    }
}

impl Dataset for Subset {
    fn len(&self) -> usize {
        self.items.len()
    }

    fn item_shape(&self) -> [usize; 3] {
        self.set.item_shape()
    }

    fn label(&self, index: usize) -> usize {
        self.set.label(self.items[index] as usize)
    }

    fn read(&self, index: usize, stream: &mut Philox, out: &mut Vec<f32>) -> Result<()> {
        self.set.read(self.items[index] as usize, stream, out)
    }

    fn shard_ends(&self) -> Vec<usize> {
        let ends = self.set.shard_ends().into_iter();
        ends.map(|end| self.items.partition_point(|&item| (item as usize) < end)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::MemoryDataset;
    use crate::rng::{Purpose, StreamKey};

    fn set() -> Arc<dyn Dataset> {
        let labels = (0..30).map(|i| i % 3).collect();
        Arc::new(MemoryDataset::new([1, 1, 1], (0..30).map(|i| i as f32).collect(), labels).unwrap())
    }

    #[test]
    fn held_out_items_are_spread_over_every_class() {
        let (kept, held_out) = Subset::hold_out(&set(), 0.2).unwrap();
        assert_eq!((kept.len(), held_out.len()), (24, 6));
        let labels: Vec<usize> = (0..6).map(|i| held_out.label(i)).collect();
        assert_eq!(labels, [0, 1, 2, 0, 1, 2]);
        let mut values = Vec::new();
        let mut stream = StreamKey::new(0, Purpose::Item, 0, 0).stream();
        for part in [&kept, &held_out] {
            (0..part.len()).for_each(|i| part.read(i, &mut stream, &mut values).unwrap());
        }
        values.sort_by(f32::total_cmp);
        assert!(values.into_iter().eq((0..30).map(|i| i as f32)));
        assert_eq!((kept.place_of(29), held_out.place_of(29)), (None, Some(5)));
        assert_eq!(kept.shard_ends(), [24]);
    }

    #[test]
    fn invalid_parts_are_refused() {
        for share in [0.0, 1.0, -0.1, f64::NAN, 0.04] {
            let error = Subset::hold_out(&set(), share).map(drop).unwrap_err();
            assert!(matches!(error, Error::Argument { argument: "share", .. }), "{share}");
        }
        for items in [vec![1, 0], vec![2, 2], vec![30]] {
            assert!(matches!(Subset::new(set(), items), Err(Error::Argument { argument: "items", .. })));
        }
    }
}
