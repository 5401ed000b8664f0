//! Caching allocator of device memory. The stream executes everything in order, so a freed block can be allocated again
//! at once, even if the device has not yet finished the work that used it.

use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// A block of device memory.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) address: u64,
    pub(crate) bytes: usize,
}

/// Free blocks by size.
#[derive(Debug, Default)]
struct FreeBlocks(BTreeMap<usize, Vec<u64>>);

impl FreeBlocks {
    fn free(&mut self, block: Block) {
        self.0.entry(block.bytes).or_default().push(block.address);
    }

    /// The smallest block of at least `bytes` bytes that is at most a quarter larger.
    fn alloc(&mut self, bytes: usize) -> Option<Block> {
        let (&size, addresses) = self.0.range_mut(bytes..=bytes.saturating_add(bytes / 4)).next()?;
        let address = addresses.pop().expect("empty lists are removed");
        if addresses.is_empty() {
            self.0.remove(&size);
        }
        Some(Block { address, bytes: size })
    }

    fn drain(&mut self) -> impl Iterator<Item = Block> + use<> {
        let sizes = mem::take(&mut self.0).into_iter();
        sizes
            .flat_map(|(bytes, addresses)| addresses.into_iter().map(move |address| Block { address, bytes }))
    }
}

/// The cached free blocks of a device.
#[derive(Debug, Default)]
pub(crate) struct CachingAllocator {
    cached: Mutex<FreeBlocks>,
}

impl CachingAllocator {
    /// Size of the block for a request of `bytes`: rounded, so that blocks of equal size recur.
    pub(crate) fn block_size(bytes: usize) -> usize {
        const SMALL: usize = 512;
        const LARGE: usize = 2 << 20;
        let unit = if bytes < LARGE { SMALL } else { LARGE };
        bytes.max(1).checked_next_multiple_of(unit).unwrap_or(usize::MAX)
    }

    /// A cached block of at least `bytes` bytes, if there is one.
    pub(crate) fn alloc(&self, bytes: usize) -> Option<Block> {
        self.cached.lock().alloc(bytes)
    }

    pub(crate) fn free(&self, block: Block) {
        self.cached.lock().free(block);
    }

    /// Removes all cached blocks and returns them.
    pub(crate) fn drain(&self) -> Vec<Block> {
        self.cached.lock().drain().collect()
    }
}

/// The private memory of a graph: blocks allocated during its capture are not used by anything else between two
/// launches. They return to the device's cache when the graph and every tensor in them have been dropped.
#[derive(Debug)]
pub(crate) struct Arena {
    cached: Mutex<FreeBlocks>,
    parent: Weak<CachingAllocator>,
}

impl Arena {
    pub(crate) fn new(parent: &Arc<CachingAllocator>) -> Arc<Self> {
        Arc::new(Self { cached: Mutex::default(), parent: Arc::downgrade(parent) })
    }

    pub(crate) fn alloc(&self, bytes: usize) -> Option<Block> {
        self.cached.lock().alloc(bytes)
    }

    pub(crate) fn free(&self, block: Block) {
        self.cached.lock().free(block);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if let Some(parent) = self.parent.upgrade() {
            self.cached.get_mut().drain().for_each(|block| parent.free(block));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_is_reused_for_requests_up_to_a_quarter_smaller() {
        let allocator = CachingAllocator::default();
        let sizes = [512, 4096, 8192].map(|bytes| Block { address: bytes as u64, bytes });
        sizes.into_iter().for_each(|block| allocator.free(block));
        assert_eq!(allocator.alloc(1024), None);
        assert_eq!(allocator.alloc(3584), Some(Block { address: 4096, bytes: 4096 }));
        assert_eq!(allocator.alloc(4096), None);
        assert_eq!(allocator.alloc(usize::MAX), None);
        assert_eq!(allocator.drain().len(), 2);
    }

    #[test]
    fn block_sizes_are_rounded_up() {
        let sizes = [0, 1, 512, 513, (2 << 20) + 1].map(CachingAllocator::block_size);
        assert_eq!(sizes, [512, 512, 512, 1024, 4 << 20]);
        assert_eq!(CachingAllocator::block_size(usize::MAX), usize::MAX);
    }

    #[test]
    fn dropped_arena_returns_its_blocks() {
        let allocator = Arc::new(CachingAllocator::default());
        let arena = Arena::new(&allocator);
        arena.free(Block { address: 7, bytes: 512 });
        assert_eq!(allocator.alloc(512), None);
        drop(arena);
        assert_eq!(allocator.alloc(512), Some(Block { address: 7, bytes: 512 }));
    }
}
