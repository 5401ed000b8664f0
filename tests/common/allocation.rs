//! Peak memory of a call. Tests that use it make [`Counting`] the global allocator. What other threads allocate during the
//! call counts too, so that tests beside it allocate little.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// The system allocator with counters. A reallocation counts as the new block beside the old one, and an allocation
/// that fails counts until it has failed.
pub struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
/// Size in bytes of the largest block that is allocated; larger requests fail.
static MAX_BLOCK: AtomicUsize = AtomicUsize::new(usize::MAX);

// SAFETY: every call goes to the system allocator, whose contract is the same.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        let too_large = layout.size() > MAX_BLOCK.load(Ordering::Relaxed);
        // SAFETY: the caller's contract is the same.
        let block = if too_large { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } };
        if block.is_null() {
            NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's contract is the same.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Returns the result of `f`, and the peak of the bytes allocated during the call, beyond those allocated before. Calls
/// wait for each other: the peak is one number, which a second call would set back during the first.
pub fn peak_of<T>(f: impl FnOnce() -> T) -> (T, usize) {
    static MEASURING: Mutex<()> = Mutex::new(());
    let _guard = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let out = f();
    (out, PEAK.load(Ordering::Relaxed) - before)
}

/// Returns the result of `f`, during which allocations of more than `max` bytes fail.
#[allow(dead_code)] // not used by every test that counts
pub fn with_max_block<T>(max: usize, f: impl FnOnce() -> T) -> T {
    MAX_BLOCK.store(max, Ordering::Relaxed);
    let out = f();
    MAX_BLOCK.store(usize::MAX, Ordering::Relaxed);
    out
}

/// Number of bytes that are allocated now.
#[allow(dead_code)] // not used by every test that counts
pub fn held() -> usize {
    NOW.load(Ordering::Relaxed)
}
