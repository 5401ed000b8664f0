//! Structs that begin with their size, so that they can grow without breaking older callers.
//!
//! A caller sets `struct_size` to the size in its header. The library reads that many bytes and takes the defaults for
//! fields that an older caller does not know. Fields of a newer caller that this library does not know must be zero, so
//! that no setting is silently ignored. Result structs are written up to the caller's size.

use std::ptr;

use crate::status::{FfiError, FfiResult};

/// Maximum size and alignment of a field: a struct size that is a multiple of it splits no field.
const FIELD_ALIGNMENT: usize = 8;
/// Upper limit of the struct size in any version, which exposes an uninitialised `struct_size`.
const MAX_STRUCT_SIZE: usize = 4096;

/// `repr(C)` struct whose first field is `struct_size: usize`.
///
/// # Safety
/// The struct is `repr(C)`, every bit pattern is valid for every field, there is no padding, the first field is a `usize`
/// that holds the size, and the size is a multiple of [`FIELD_ALIGNMENT`].
pub(crate) unsafe trait Versioned: Copy {
    /// Name of the struct in C.
    const NAME: &'static str;
}

fn check_size<T: Versioned>(size: usize) -> FfiResult {
    if size >= size_of::<usize>() && size <= MAX_STRUCT_SIZE && size.is_multiple_of(FIELD_ALIGNMENT) {
        return Ok(());
    }
    let expected = format!("struct_size = sizeof({}), {} in this version", T::NAME, size_of::<T>());
    Err(FfiError::Struct { name: T::NAME, expected, got: size.to_string() })
}

/// Reads the caller's struct, with `defaults` for the fields beyond its size.
///
/// # Safety
/// `from` is NULL or points to a struct of the size given by its first field.
pub(crate) unsafe fn read<T: Versioned>(from: *const T, argument: &'static str, defaults: T) -> FfiResult<T> {
    if from.is_null() {
        return Err(FfiError::Null(argument));
    }
    // SAFETY: the caller promises that the first field is readable.
    let size = unsafe { from.cast::<usize>().read_unaligned() };
    check_size::<T>(size)?;
    // SAFETY: the caller promises that the struct has this size.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), size) };
    if let Some(unknown) = bytes.get(size_of::<T>()..).filter(|rest| rest.iter().any(|&b| b != 0)) {
        let expected = "zero in the fields that are unknown to this version".into();
        let got = format!("nonzero values in the last {} bytes", unknown.len());
        return Err(FfiError::Struct { name: T::NAME, expected, got });
    }
    let mut value = defaults;
    // SAFETY: both structs have at least this many bytes, and every bit pattern is a valid value.
    unsafe { ptr::copy_nonoverlapping(from.cast::<u8>(), (&raw mut value).cast(), size.min(size_of::<T>())) };
    Ok(value)
}

/// Writes `value` to a caller's struct of `size` bytes, and `size` to its first field.
///
/// # Safety
/// `to` is NULL or points to `size` writable bytes.
pub(crate) unsafe fn write<T: Versioned>(
    to: *mut T,
    argument: &'static str,
    size: usize,
    value: T,
) -> FfiResult {
    if to.is_null() {
        return Err(FfiError::Null(argument));
    }
    check_size::<T>(size)?;
    // SAFETY: the caller promises `size` writable bytes.
    unsafe {
        ptr::write_bytes(to.cast::<u8>(), 0, size);
        ptr::copy_nonoverlapping((&raw const value).cast(), to.cast::<u8>(), size.min(size_of::<T>()));
        to.cast::<usize>().write_unaligned(size);
    }
    Ok(())
}

/// Writes `value` to a caller's struct whose first field holds its size.
///
/// # Safety
/// `to` is NULL or points to a writable struct of the size given by its first field.
pub(crate) unsafe fn fill<T: Versioned>(to: *mut T, argument: &'static str, value: T) -> FfiResult {
    if to.is_null() {
        return Err(FfiError::Null(argument));
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

    // SAFETY: the struct meets the contract of the trait.
    unsafe impl Versioned for Sample {
        const NAME: &'static str = "sample";
    }

    const DEFAULTS: Sample = Sample { struct_size: size_of::<Sample>(), a: 1, b: 2, c: 3.0 };

    fn read_words(words: &[u64]) -> FfiResult<Sample> {
        // SAFETY: a valid size is at most that of the words; any other is rejected before it is used.
        unsafe { read(words.as_ptr().cast::<Sample>(), "sample", DEFAULTS) }
    }

    proptest! {
        /// Fields within the caller's size have the caller's values, fields beyond it the defaults.
        #[test]
        fn read_takes_defaults_beyond_the_callers_size(size in 0usize..64, words in any::<[u64; 8]>(), clean: bool) {
            let mut words = words;
            words[0] = size as u64;
            if clean {
                words[3..].fill(0);
            }
            let read = read_words(&words);
            if size < 8 || size % 8 != 0 {
                prop_assert!(matches!(read, Err(FfiError::Struct { .. })), "invalid size");
            } else if size > 24 && words[3..size / 8].iter().any(|&w| w != 0) {
                prop_assert!(matches!(read, Err(FfiError::Struct { .. })), "unknown fields");
            } else {
                let read = read.unwrap();
                let ab = if size >= 16 { (words[1] as u32, (words[1] >> 32) as u32) } else { (1, 2) };
                let c = if size >= 24 { words[2] } else { 3f64.to_bits() };
                prop_assert_eq!(((read.a, read.b), read.c.to_bits()), (ab, c));
            }
        }

        /// Nothing is written beyond the caller's size, and the written values can be read back.
        #[test]
        fn write_stays_within_the_callers_size(size in 0usize..64, fill: u64) {
            let mut words = [fill; 8];
            // SAFETY: there are more words than any valid size covers.
            let result = unsafe { write(words.as_mut_ptr().cast::<Sample>(), "sample", size, DEFAULTS) };
            let valid = size >= 8 && size % 8 == 0;
            prop_assert_eq!(result.is_ok(), valid);
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
    fn invalid_sizes_and_null_are_rejected() {
        for size in [0, 4, 12, MAX_STRUCT_SIZE as u64 + 8, u64::MAX] {
            assert!(matches!(read_words(&[size, 0, 0]), Err(FfiError::Struct { .. })), "{size}");
        }
        // SAFETY: NULL is rejected.
        let null = unsafe { read(ptr::null::<Sample>(), "sample", DEFAULTS) };
        assert!(matches!(null, Err(FfiError::Null("sample"))));
    }
}
