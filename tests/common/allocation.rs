//! How much memory something takes at its highest. Whoever uses it makes [`Counting`] the global allocator, and
//! measures in one thread.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, counted. A reallocation counts as the new block beside the old, and what the system
/// refuses counts while it is asked for.
pub struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// What is larger, in bytes, is refused.
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

// SAFETY: every call goes to the system's allocator, whose contract is the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        let refused = layout.size() > MOST.load(Ordering::Relaxed);
        // SAFETY: as promised to this function.
        let block = if refused { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } };
        if block.is_null() {
            NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as promised to this function.
        unsafe { System.dealloc(block, layout) }
    }
}

/// What `f` returns, and the most bytes that were allocated at one time meanwhile, beyond those before.
pub fn peak_of<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let out = f();
    (out, PEAK.load(Ordering::Relaxed) - before)
}

/// What `f` returns, if no block of more than `most` bytes is to be had meanwhile.
#[allow(dead_code)] // not every test that counts asks for it
pub fn refusing<T>(most: usize, f: impl FnOnce() -> T) -> T {
    MOST.store(most, Ordering::Relaxed);
    let out = f();
    MOST.store(usize::MAX, Ordering::Relaxed);
    out
}

/// How many bytes are allocated.
#[allow(dead_code)] // not every test that counts asks for it
pub fn held() -> usize {
    NOW.load(Ordering::Relaxed)
}
