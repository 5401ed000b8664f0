//! Validation of caller-provided strings, arrays, buffers and sizes.

use std::ffi::{CStr, c_char};
use std::path::PathBuf;
use std::ptr::{self, NonNull};

use crate::status::{FfiError, FfiResult};

/// Elements of a caller's array.
///
/// # Safety
/// `from` is NULL or points to `len` elements that are not written while the slice lives.
pub(crate) unsafe fn array<'a, T>(from: *const T, len: usize, name: &'static str) -> FfiResult<&'a [T]> {
    if from.is_null() {
        return if len == 0 { Ok(&[]) } else { Err(FfiError::Null(name)) };
    }
    check_extent(from.is_aligned(), len, size_of::<T>(), name)?;
    // SAFETY: the caller promises the elements; alignment and size were checked.
    Ok(unsafe { std::slice::from_raw_parts(from, len) })
}

/// Elements of a caller's array for writing, set to zero first: the caller's memory may be uninitialised.
///
/// # Safety
/// `from` is NULL or points to memory for `len` numbers that is not used otherwise while the slice lives.
pub(crate) unsafe fn array_mut<'a, T: Number>(
    from: *mut T,
    len: usize,
    name: &'static str,
) -> FfiResult<&'a mut [T]> {
    if from.is_null() {
        return if len == 0 { Ok(&mut []) } else { Err(FfiError::Null(name)) };
    }
    check_extent(from.is_aligned(), len, size_of::<T>(), name)?;
    // SAFETY: the caller promises the memory; alignment and size were checked, and zero bytes are valid numbers.
    Ok(unsafe {
        ptr::write_bytes(from, 0, len);
        std::slice::from_raw_parts_mut(from, len)
    })
}

/// Element type of an array for writing: all bits zero is a valid value.
pub(crate) trait Number: Copy {}

impl Number for u8 {}
impl Number for f32 {}

/// Pointer through which a handle is returned; the handle is set to NULL first.
///
/// # Safety
/// `to` is NULL or writable.
pub(crate) unsafe fn out_handle<T>(to: *mut *mut T, name: &'static str) -> FfiResult<NonNull<*mut T>> {
    let to = NonNull::new(to).ok_or(FfiError::Null(name))?;
    check_extent(to.is_aligned(), 1, size_of::<*mut T>(), name)?;
    // SAFETY: the caller promises it; the pointer is aligned.
    unsafe { to.write(ptr::null_mut()) };
    Ok(to)
}

/// Pointer through which a number is returned; nothing is written on failure.
///
/// # Safety
/// `to` is NULL or writable.
pub(crate) unsafe fn out_number(to: *mut u32, name: &'static str) -> FfiResult<NonNull<u32>> {
    let to = NonNull::new(to).ok_or(FfiError::Null(name))?;
    check_extent(to.is_aligned(), 1, size_of::<u32>(), name)?;
    Ok(to)
}

fn check_extent(aligned: bool, len: usize, size: usize, name: &'static str) -> FfiResult {
    if !aligned {
        return Err(FfiError::argument(name, "an aligned pointer", "a misaligned pointer"));
    }
    match len.checked_mul(size) {
        Some(bytes) if bytes <= isize::MAX as usize => Ok(()),
        _ => Err(FfiError::argument(name, "a number of elements that fits in memory", len)),
    }
}

/// Caller's UTF-8 string, or `None` for NULL.
///
/// # Safety
/// `from` is NULL or a string that ends with a zero byte.
pub(crate) unsafe fn text<'a>(from: *const c_char, name: &'static str) -> FfiResult<Option<&'a str>> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller promises it.
    let text = unsafe { CStr::from_ptr(from) };
    text.to_str().map(Some).map_err(|_| FfiError::argument(name, "UTF-8", text.to_string_lossy()))
}

/// Caller's path, or `None` for NULL: any bytes on Unix, UTF-8 elsewhere.
///
/// # Safety
/// As [`text`].
pub(crate) unsafe fn path(from: *const c_char, name: &'static str) -> FfiResult<Option<PathBuf>> {
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

/// Product of caller-provided sizes, checked for overflow.
pub(crate) fn product(name: &'static str, sizes: &[usize]) -> FfiResult<usize> {
    let product = sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    let fits = product.filter(|&n| n <= isize::MAX as usize);
    fits.ok_or_else(|| FfiError::argument(name, "sizes whose product fits in memory", format!("{sizes:?}")))
}

/// Copies a slice with a fallible allocation: a caller-provided size may exceed the available memory.
pub(crate) fn try_copy<T: Copy>(from: &[T], op: &'static str) -> FfiResult<Vec<T>> {
    try_map(from, op, |x| x)
}

/// [`try_copy`] with a conversion of every element.
pub(crate) fn try_map<T: Copy, U>(
    from: &[T],
    op: &'static str,
    convert: impl Fn(T) -> U,
) -> FfiResult<Vec<U>> {
    let mut out = transdiff_core::try_with_capacity(op, from.len())?;
    out.extend(from.iter().map(|&x| convert(x)));
    Ok(out)
}

/// Checks size and alignment of a caller's buffer of floats, before anything is computed.
pub(crate) fn check_floats(buffer: &'static str, to: *const f32, expected: usize, got: usize) -> FfiResult {
    check_size(buffer, expected, got)?;
    check_extent(to.is_aligned(), 1, size_of::<f32>(), buffer)
}

/// Checks that the size of a caller's buffer equals the size of the result.
pub(crate) fn check_size(buffer: &'static str, expected: usize, got: usize) -> FfiResult {
    if expected == got { Ok(()) } else { Err(FfiError::Size { buffer, expected, got }) }
}
