//! Scratch memory of a thread.

/// A type with scratch memory per thread.
pub(crate) trait Scratch: Copy + 'static {
    /// Calls `f` with `len` elements of scratch memory that belongs to the thread, of unspecified contents.
    fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [Self]) -> R) -> R;
}

/// Implements [`Scratch`] for these types.
macro_rules! scratch {
    ($($T:ty),*) => {$(
        impl $crate::scratch::Scratch for $T {
            fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [Self]) -> R) -> R {
                thread_local! {
                    static FREE: std::cell::RefCell<Vec<$crate::memory::Aligned<$T>>> =
                        const { std::cell::RefCell::new(Vec::new()) };
                }
                // Popped from the stack while in use: a nested call gets the next one, the same every time.
                let mut scratch = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
                if scratch.len() < len {
                    // The old memory is freed before there is new memory.
                    drop(scratch);
                    scratch = $crate::memory::Aligned::zeros("scratch", len).expect("scratch memory");
                }
                let result = f(&mut scratch[..len]);
                FREE.with_borrow_mut(|free| free.push(scratch));
                result
            }
        }
    )*};
}

scratch!(f32, f64, half::bf16, i32, i16, i8, u8);
