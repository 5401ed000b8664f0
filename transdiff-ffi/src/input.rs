//! What callers give: texts, arrays, numbers.

use std::ffi::{CStr, c_char};
use std::path::PathBuf;

use crate::status::{Failure, Outcome};

/// The elements of a caller's array.
///
/// # Safety
/// `from` is NULL or points to `len` elements that nobody writes while the slice lives.
pub(crate) unsafe fn array<'a, T>(from: *const T, len: usize, name: &'static str) -> Outcome<&'a [T]> {
    if from.is_null() {
        return if len == 0 { Ok(&[]) } else { Err(Failure::Null(name)) };
    }
    check_extent(from.is_aligned(), len, size_of::<T>(), name)?;
    // SAFETY: the caller promises the elements; pointer and size are such as a slice may have.
    Ok(unsafe { std::slice::from_raw_parts(from, len) })
}

/// The elements of a caller's array, for writing.
///
/// # Safety
/// `from` is NULL or points to `len` elements that nobody else uses while the slice lives.
pub(crate) unsafe fn array_mut<'a, T>(from: *mut T, len: usize, name: &'static str) -> Outcome<&'a mut [T]> {
    if from.is_null() {
        return if len == 0 { Ok(&mut []) } else { Err(Failure::Null(name)) };
    }
    check_extent(from.is_aligned(), len, size_of::<T>(), name)?;
    // SAFETY: the caller promises the elements; pointer and size are such as a slice may have.
    Ok(unsafe { std::slice::from_raw_parts_mut(from, len) })
}

/// Where a caller wants a result written.
///
/// # Safety
/// `to` is NULL or can be written, and nobody else uses it while the reference lives.
pub(crate) unsafe fn slot<'a, T>(to: *mut T, name: &'static str) -> Outcome<&'a mut T> {
    check_extent(to.is_aligned(), 1, size_of::<T>(), name)?;
    // SAFETY: the caller promises it; the pointer is aligned.
    unsafe { to.as_mut() }.ok_or(Failure::Null(name))
}

fn check_extent(aligned: bool, len: usize, size: usize, name: &'static str) -> Outcome {
    if !aligned {
        return Err(Failure::argument(name, "an aligned pointer", "one that is not"));
    }
    match len.checked_mul(size) {
        Some(bytes) if bytes <= isize::MAX as usize => Ok(()),
        _ => Err(Failure::argument(name, "a number of elements that memory can hold", len)),
    }
}

/// A caller's text, if there is one.
///
/// # Safety
/// `from` is NULL or a text that ends with a zero byte.
pub(crate) unsafe fn text<'a>(from: *const c_char, name: &'static str) -> Outcome<Option<&'a str>> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller promises it.
    let text = unsafe { CStr::from_ptr(from) };
    text.to_str().map(Some).map_err(|_| Failure::argument(name, "UTF-8", text.to_string_lossy()))
}

/// A caller's path, if there is one. On Unix any bytes are a path, elsewhere UTF-8.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn path(from: *const c_char, name: &'static str) -> Outcome<Option<PathBuf>> {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let _ = name;
        if from.is_null() {
            return Ok(None);
        }
        // SAFETY: the caller promises it.
        let bytes = unsafe { CStr::from_ptr(from) }.to_bytes();
        Ok(Some(std::ffi::OsStr::from_bytes(bytes).into()))
    }
    #[cfg(not(unix))]
    // SAFETY: the caller promises it.
    Ok(unsafe { text(from, name) }?.map(PathBuf::from))
}

/// The product of sizes, which come from the caller.
pub(crate) fn product(name: &'static str, sizes: &[usize]) -> Outcome<usize> {
    let product = sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let fits = product.filter(|&n| n <= isize::MAX as usize);
    fits.ok_or_else(|| Failure::argument(name, "sizes whose product memory can hold", format!("{sizes:?}")))
}

/// A copy in memory that is asked for politely: a size of the caller's may be more than there is.
pub(crate) fn copied<T: Copy>(from: &[T], op: &'static str) -> Outcome<Vec<T>> {
    let mut out = Vec::new();
    let bytes = size_of_val(from);
    out.try_reserve_exact(from.len()).map_err(|_| transdiff::Error::OutOfMemory { op, bytes })?;
    out.extend_from_slice(from);
    Ok(out)
}

/// The caller's buffer must be of the size of what is written.
pub(crate) fn check_size(buffer: &'static str, expected: usize, got: usize) -> Outcome {
    if expected == got { Ok(()) } else { Err(Failure::Size { buffer, expected, got }) }
}
