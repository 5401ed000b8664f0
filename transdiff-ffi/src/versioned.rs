//! Structs that begin with their size, so that they can grow without breaking older callers.
//!
//! A caller sets `struct_size` to what its header says. This library reads that much, and takes defaults for fields that
//! an older caller does not know. A newer caller may set fields that this library does not know: that is refused unless
//! they are zero, so that nothing that was asked for is ignored in silence. Structs of results are written as far as the
//! caller's reach.

use std::ptr;

use crate::status::{Failure, Outcome};

/// Fields are at most this large, and aligned so that a size which is a multiple of it cuts none in two.
const GRAIN: usize = 8;
/// No struct of any version is larger: a `struct_size` that was never set is found out.
const LARGEST: usize = 4096;

/// A `repr(C)` struct whose first field is `struct_size: usize`.
///
/// # Safety
/// It is `repr(C)`, every bit pattern is valid for every field, there is no padding, its first field is a `usize`
/// that holds its size, and its size is a multiple of [`GRAIN`].
pub(crate) unsafe trait Versioned: Copy {
    /// The struct's name in C.
    const NAME: &'static str;
}

fn check_size<T: Versioned>(size: usize) -> Outcome {
    if size >= size_of::<usize>() && size <= LARGEST && size.is_multiple_of(GRAIN) {
        return Ok(());
    }
    let expected = format!("struct_size to be sizeof({}), {} in this version", T::NAME, size_of::<T>());
    Err(Failure::Struct { name: T::NAME, expected, got: size.to_string() })
}

/// What the caller's struct says, with `defaults` where it does not reach.
///
/// # Safety
/// `from` is NULL or points to a struct of the size that its first field says.
pub(crate) unsafe fn read<T: Versioned>(from: *const T, argument: &'static str, defaults: T) -> Outcome<T> {
    if from.is_null() {
        return Err(Failure::Null(argument));
    }
    // SAFETY: the caller promises that the first field can be read.
    let size = unsafe { from.cast::<usize>().read_unaligned() };
    check_size::<T>(size)?;
    // SAFETY: the caller promises that the struct has this size.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), size) };
    if let Some(unknown) = bytes.get(size_of::<T>()..).filter(|rest| rest.iter().any(|&b| b != 0)) {
        let expected = "zero in the fields that this version does not know".into();
        let got = format!("values in its last {} bytes", unknown.len());
        return Err(Failure::Struct { name: T::NAME, expected, got });
    }
    let mut value = defaults;
    // SAFETY: both reach this far, and every bit pattern is a value.
    unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut value).cast(), size.min(size_of::<T>())) };
    Ok(value)
}

/// Writes `value` to a caller's struct of `size` bytes, and its size to its first field.
///
/// # Safety
/// `to` is NULL or points to `size` bytes that can be written.
pub(crate) unsafe fn write<T: Versioned>(
    to: *mut T,
    argument: &'static str,
    size: usize,
    value: T,
) -> Outcome {
    if to.is_null() {
        return Err(Failure::Null(argument));
    }
    check_size::<T>(size)?;
    // SAFETY: the caller promises that it can be written.
    unsafe {
        ptr::write_bytes(to.cast::<u8>(), 0, size);
        ptr::copy_nonoverlapping((&raw const value).cast(), to.cast::<u8>(), size.min(size_of::<T>()));
        to.cast::<usize>().write_unaligned(size);
    }
    Ok(())
}

/// Writes `value` to a caller's struct whose first field says how large it is.
///
/// # Safety
/// `to` is NULL or points to a struct of the size that its first field says, which can be written.
pub(crate) unsafe fn fill<T: Versioned>(to: *mut T, argument: &'static str, value: T) -> Outcome {
    if to.is_null() {
        return Err(Failure::Null(argument));
    }
    // SAFETY: the caller promises it.
    unsafe { write(to, argument, to.cast::<usize>().read_unaligned(), value) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(C)]
    struct Sample {
        struct_size: usize,
        a: u32,
        b: u32,
        c: f64,
    }

    // SAFETY: it is as the trait wants it.
    unsafe impl Versioned for Sample {
        const NAME: &'static str = "sample";
    }

    const DEFAULTS: Sample = Sample { struct_size: size_of::<Sample>(), a: 1, b: 2, c: 3.0 };

    fn read_words(words: &[u64]) -> Outcome<Sample> {
        // SAFETY: a size beyond the words is refused before it is used, or is at most theirs.
        unsafe { read(words.as_ptr().cast::<Sample>(), "sample", DEFAULTS) }
    }

    proptest! {
        /// Whatever the caller's size, fields within it are the caller's and fields beyond it are defaults.
        #[test]
        fn fields_within_the_size_are_the_callers(size in 0usize..64, words in any::<[u64; 8]>(), clean: bool) {
            let mut words = words;
            words[0] = size as u64;
            if clean {
                words[3..].fill(0);
            }
            let read = read_words(&words);
            if size < 8 || size % 8 != 0 {
                prop_assert!(matches!(read, Err(Failure::Struct { .. })), "a size that is none");
            } else if size > 24 && words[3..size / 8].iter().any(|&w| w != 0) {
                prop_assert!(matches!(read, Err(Failure::Struct { .. })), "unknown fields");
            } else {
                let read = read.unwrap();
                let ab = if size >= 16 { (words[1] as u32, (words[1] >> 32) as u32) } else { (1, 2) };
                let c = if size >= 24 { words[2] } else { 3f64.to_bits() };
                prop_assert_eq!(((read.a, read.b), read.c.to_bits()), (ab, c));
            }
        }

        /// Nothing is written beyond the caller's size, and what is written is read again.
        #[test]
        fn writing_stays_within_the_size(size in 0usize..64, fill: u64) {
            let mut words = [fill; 8];
            // SAFETY: the words reach further than any size.
            let outcome = unsafe { write(words.as_mut_ptr().cast::<Sample>(), "sample", size, DEFAULTS) };
            let valid = size >= 8 && size % 8 == 0;
            prop_assert_eq!(outcome.is_ok(), valid);
            let touched = if valid { size / 8 } else { 0 };
            prop_assert!(words[touched..].iter().all(|&w| w == fill));
            if valid {
                prop_assert_eq!(words[0], size as u64);
                let read = read_words(&words).unwrap();
                prop_assert_eq!((read.a, read.b, read.c), (1, 2, 3.0));
            }
        }
    }

    #[test]
    fn sizes_that_were_never_set_are_refused() {
        for size in [0, 4, 12, LARGEST as u64 + 8, u64::MAX] {
            assert!(matches!(read_words(&[size, 0, 0]), Err(Failure::Struct { .. })), "{size}");
        }
        // SAFETY: NULL is refused.
        let null = unsafe { read(ptr::null::<Sample>(), "sample", DEFAULTS) };
        assert!(matches!(null, Err(Failure::Null("sample"))));
    }
}
