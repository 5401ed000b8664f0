//! An allocator that keeps freed memory and reuses it.
//!
//! A pass of the model allocates tensors of the same few sizes over and over. Fresh memory has to be mapped and
//! zeroed by the system first, on one thread; memory that a buffer freed does not.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use transdiff_core::{DType, Result};

use crate::memory::Memory;

/// Buffers below this size, in bytes, are left to the system's allocator, which is fast for them.
const SMALL: usize = 4096;

/// Memory is reused for at most so many times fewer elements than it can hold. Of lengths that differ a little, as gradients
/// of several shapes do, each would otherwise push the memory of the others out of the cache in every pass.
const EXCESS: usize = 2;
/// Share of the peak, as its inverse, that all reused memory in use may have beyond what was asked for.
const EXCESS_SHARE: usize = 32;

/// Freed memory by type and capacity. Used and cached memory together never exceed the peak of used memory.
#[derive(Debug, Default)]
pub(crate) struct CachingAllocator(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// By type and capacity, the memory freed last at the end. No list is empty.
    cached: HashMap<DType, BTreeMap<usize, VecDeque<Freed>>>,
    /// Number of times that memory was freed.
    freed: u64,
    stats: Stats,
}

#[derive(Debug)]
struct Freed {
    memory: Memory,
    /// Number of times that memory was freed before.
    time: u64,
}

/// Bytes in use, those of them beyond what was asked for, bytes cached, and the peak of the bytes in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Stats {
    used: usize,
    excess: usize,
    cached: usize,
    peak: usize,
}

fn size(dtype: DType, len: usize) -> usize {
    len.saturating_mul(dtype.size())
}

impl CachingAllocator {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent whenever the lock is free: a panic cannot come between two updates.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns memory for `len` elements: cached memory, or new memory from `make`. If the system has no more, the
    /// cache is freed and `make` called again.
    pub(crate) fn alloc(
        &self,
        dtype: DType,
        len: usize,
        make: impl Fn() -> Result<Memory>,
    ) -> Result<Memory> {
        let bytes = size(dtype, len);
        // More than any address space holds is not counted either.
        if bytes < SMALL || bytes > isize::MAX as usize {
            return make();
        }
        if let Some(cached) = self.lock().begin(dtype, len) {
            return Ok(cached);
        }
        let made = make().or_else(|_| {
            self.lock().drop_cached();
            make()
        });
        let stats = &mut self.lock().stats;
        match &made {
            Ok(_) => stats.peak = stats.peak.max(stats.used),
            Err(_) => stats.used -= bytes,
        }
        made
    }

    /// Takes memory back into the cache.
    pub(crate) fn free(&self, memory: Memory) {
        let (dtype, len, capacity) = (memory.dtype(), memory.len(), memory.capacity());
        let bytes = size(dtype, capacity);
        if bytes < SMALL {
            return;
        }
        let mut state = self.lock();
        state.stats.used -= bytes;
        state.stats.excess -= size(dtype, capacity - len);
        state.stats.cached += bytes;
        let time = state.freed;
        state.freed += 1;
        state.cached.entry(dtype).or_default().entry(capacity).or_default().push_back(Freed { memory, time });
    }

    /// Returns cached memory to the system.
    pub(crate) fn trim(&self) {
        let mut state = self.lock();
        state.drop_cached();
        state.stats.peak = state.stats.used;
    }
}

impl State {
    /// Counts memory for `len` elements as used, and returns cached memory if there is any; else makes room for new
    /// memory. The peak is not raised yet: the system may have no more.
    fn begin(&mut self, dtype: DType, len: usize) -> Option<Memory> {
        let cached = self.take(dtype, len);
        self.stats.used += size(dtype, cached.as_ref().map_or(len, Memory::capacity));
        self.make_room(self.stats.peak.max(self.stats.used));
        cached.map(|memory| memory.resized(len))
    }

    /// Takes the smallest memory that suffices for `len` elements out of the cache, unless it would be too large.
    fn take(&mut self, dtype: DType, len: usize) -> Option<Memory> {
        let suitable = len..=len.saturating_mul(EXCESS);
        let (&capacity, list) = self.cached.get_mut(&dtype)?.range_mut(suitable).next()?;
        let excess = self.stats.excess + size(dtype, capacity - len);
        if capacity > len && excess > self.stats.peak / EXCESS_SHARE {
            return None;
        }
        let freed = list.pop_back()?;
        self.stats.excess = excess;
        self.stats.cached -= size(dtype, capacity);
        self.remove_if_empty(dtype, capacity);
        Some(freed.memory)
    }

    fn drop_cached(&mut self) {
        self.cached.clear();
        self.stats.cached = 0;
    }

    /// Frees cached memory while there are more than `limit` bytes in all, that which was freed longest ago first: a pass
    /// that is repeated will want it last.
    fn make_room(&mut self, limit: usize) {
        while self.stats.used + self.stats.cached > limit {
            let lists = self.cached.iter_mut().flat_map(|(&dtype, lists)| {
                lists.iter_mut().map(move |(&capacity, list)| (dtype, capacity, list))
            });
            let Some((dtype, capacity, list)) = lists.min_by_key(|(.., list)| list[0].time) else { return };
            list.pop_front();
            self.stats.cached -= size(dtype, capacity);
            self.remove_if_empty(dtype, capacity);
        }
    }

    fn remove_if_empty(&mut self, dtype: DType, capacity: usize) {
        let Some(lists) = self.cached.get_mut(&dtype) else { return };
        if lists.get(&capacity).is_some_and(VecDeque::is_empty) {
            lists.remove(&capacity);
        }
    }
}

#[cfg(test)]
mod tests {
    use transdiff_core::Error;

    use super::*;

    fn alloc(allocator: &CachingAllocator, len: usize) -> Memory {
        allocator.alloc(DType::F32, len, || Memory::zeros(DType::F32, len)).unwrap()
    }

    fn stats(allocator: &CachingAllocator) -> Stats {
        allocator.lock().stats
    }

    #[test]
    fn freed_memory_is_reused_within_the_peak() {
        let allocator = CachingAllocator::default();
        let (a, b) = (alloc(&allocator, 10_000), alloc(&allocator, 5_000));
        allocator.free(a);
        assert_eq!(stats(&allocator), Stats { used: 20_000, excess: 0, cached: 40_000, peak: 60_000 });
        let again = alloc(&allocator, 10_000);
        assert_eq!(stats(&allocator), Stats { used: 60_000, excess: 0, cached: 0, peak: 60_000 });
        allocator.free(again);
        allocator.free(b);
        assert_eq!(stats(&allocator), Stats { used: 0, excess: 0, cached: 60_000, peak: 60_000 });
        // Of another size: what was freed first has to go.
        let other = alloc(&allocator, 2_000);
        assert_eq!(stats(&allocator), Stats { used: 8_000, excess: 0, cached: 20_000, peak: 60_000 });
        allocator.free(other);
        // Memory for 5,000 elements is reused for fewer, if they leave at most a 32nd of the peak, 1,875 bytes.
        for (len, used, excess) in [(5_000, 20_000, 0), (4_600, 20_000, 1_600), (4_500, 18_000, 0)] {
            let other = alloc(&allocator, len);
            let stats = stats(&allocator);
            assert_eq!((stats.used, stats.excess, other.len()), (used, excess, len));
            allocator.free(other);
        }
        let small = alloc(&allocator, 100);
        allocator.free(small);
        assert_eq!((stats(&allocator).used, stats(&allocator).excess), (0, 0));
        allocator.trim();
        assert_eq!(stats(&allocator), Stats::default());
    }

    #[test]
    fn failed_allocations_are_not_counted() {
        let allocator = CachingAllocator::default();
        let refuse = || Err(Error::out_of_memory("alloc", 0));
        let [a, b, c] = [4000, 3000, 5000].map(|len| alloc(&allocator, len));
        allocator.free(a);
        allocator.free(c);
        assert_eq!(stats(&allocator), Stats { used: 12_000, excess: 0, cached: 36_000, peak: 48_000 });
        // A refusal empties the cache, and the system is asked again.
        let make = || if stats(&allocator).cached > 0 { refuse() } else { Memory::zeros(DType::F32, 1500) };
        allocator.free(allocator.alloc(DType::F32, 1500, make).unwrap());
        assert_eq!(stats(&allocator), Stats { used: 12_000, excess: 0, cached: 6_000, peak: 48_000 });
        for len in [1 << 40, usize::MAX / 4, usize::MAX] {
            assert!(allocator.alloc(DType::F32, len, refuse).is_err());
            let stats = stats(&allocator);
            assert_eq!((stats.used, stats.peak), (12_000, 48_000), "{len} elements");
        }
        allocator.free(b);
    }
}
