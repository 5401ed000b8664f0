//! What callers give: texts, arrays, numbers.

use std::ffi::{CStr, c_char};
use std::path::PathBuf;
use std::ptr::{self, NonNull};

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

/// The elements of a caller's array, for writing. They begin as zeros: the caller need not have set them.
///
/// # Safety
/// `from` is NULL or points to memory for `len` numbers that nobody else uses while the slice lives.
pub(crate) unsafe fn array_mut<'a, T: Number>(
    from: *mut T,
    len: usize,
    name: &'static str,
) -> Outcome<&'a mut [T]> {
    if from.is_null() {
        return if len == 0 { Ok(&mut []) } else { Err(Failure::Null(name)) };
    }
    check_extent(from.is_aligned(), len, size_of::<T>(), name)?;
    // SAFETY: the caller promises the memory; pointer and size are such as a slice may have, and zeros are numbers.
    Ok(unsafe {
        ptr::write_bytes(from, 0, len);
        std::slice::from_raw_parts_mut(from, len)
    })
}

/// What arrays for writing hold: all bits zero is a value.
pub(crate) trait Number: Copy {}

impl Number for u8 {}
impl Number for f32 {}

/// Where a caller wants a handle written; it is NULL until then.
///
/// # Safety
/// `to` is NULL or can be written.
pub(crate) unsafe fn slot<T>(to: *mut *mut T, name: &'static str) -> Outcome<NonNull<*mut T>> {
    let to = NonNull::new(to).ok_or(Failure::Null(name))?;
    check_extent(to.is_aligned(), 1, size_of::<*mut T>(), name)?;
    // SAFETY: the caller promises it; the pointer is aligned.
    unsafe { to.write(ptr::null_mut()) };
    Ok(to)
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
    converted(from, op, |x| x)
}

/// [`copied`], with every element converted.
pub(crate) fn converted<T: Copy, U>(
    from: &[T],
    op: &'static str,
    convert: impl Fn(T) -> U,
) -> Outcome<Vec<U>> {
    let mut out = transdiff_core::try_with_capacity(op, from.len())?;
    out.extend(from.iter().map(|&x| convert(x)));
    Ok(out)
}

/// The caller's buffer of floats must be of the size of what is written, and aligned: both are known before anything
/// is computed.
pub(crate) fn check_floats(buffer: &'static str, to: *const f32, expected: usize, got: usize) -> Outcome {
    check_size(buffer, expected, got)?;
    check_extent(to.is_aligned(), 1, size_of::<f32>(), buffer)
}

/// The caller's buffer must be of the size of what is written.
pub(crate) fn check_size(buffer: &'static str, expected: usize, got: usize) -> Outcome {
    if expected == got { Ok(()) } else { Err(Failure::Size { buffer, expected, got }) }
}
