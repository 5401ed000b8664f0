//! Status codes and error objects.

use std::any::Any;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use transdiff::Error;
use transdiff_core::text::shortened;

/// Status code of a call: `TRANSCDIFF_OK` or one of the other `TRANSCDIFF_…` codes. Codes are never renumbered; later
/// versions may add codes.
pub type transcdiff_status = u32;

/// Success.
pub const TRANSCDIFF_OK: transcdiff_status = 0;
/// An argument is invalid: NULL, an unknown class, or a number out of range.
pub const TRANSCDIFF_INVALID_ARGUMENT: transcdiff_status = 1;
/// Sizes do not match, or a buffer does not have the required size.
pub const TRANSCDIFF_INVALID_SHAPE: transcdiff_status = 2;
/// The device does not support this data type.
pub const TRANSCDIFF_INVALID_DTYPE: transcdiff_status = 3;
/// The model configuration is invalid or incomplete.
pub const TRANSCDIFF_INVALID_CONFIG: transcdiff_status = 4;
/// `struct_size` is not a valid size, or fields that are unknown to this library are not zero.
pub const TRANSCDIFF_INVALID_STRUCT: transcdiff_status = 5;
/// The device cannot be used.
pub const TRANSCDIFF_DEVICE_UNAVAILABLE: transcdiff_status = 6;
/// Out of memory. The model and the session remain usable.
pub const TRANSCDIFF_OUT_OF_MEMORY: transcdiff_status = 7;
/// The device reported an error.
pub const TRANSCDIFF_BACKEND: transcdiff_status = 8;
/// A file could not be read.
pub const TRANSCDIFF_IO: transcdiff_status = 9;
/// A file has an unknown format or is damaged.
pub const TRANSCDIFF_FORMAT: transcdiff_status = 10;
/// A tensor in a file does not match the model.
pub const TRANSCDIFF_TENSOR: transcdiff_status = 11;
/// A value became infinite or NaN; the message names the stage.
pub const TRANSCDIFF_NON_FINITE: transcdiff_status = 12;
/// A callback or a cancellation token stopped the call. The session remains usable.
pub const TRANSCDIFF_CANCELLED: transcdiff_status = 13;
/// The session is in use by another call: one of another thread, or the one that invoked the callback.
pub const TRANSCDIFF_BUSY: transcdiff_status = 14;
/// Internal error: a defect of this library. The model and the session can still be used and freed.
pub const TRANSCDIFF_INTERNAL: transcdiff_status = 15;

const NAMES: [&std::ffi::CStr; 16] = [
    c"ok",
    c"invalid argument",
    c"invalid shape",
    c"invalid dtype",
    c"invalid config",
    c"invalid struct",
    c"device unavailable",
    c"out of memory",
    c"backend",
    c"io",
    c"format",
    c"tensor",
    c"non-finite",
    c"cancelled",
    c"busy",
    c"internal",
];

/// Error of one call. Owned by the caller, who frees it with `transcdiff_error_free`; readable from any thread.
///
/// Every text is a single line of UTF-8: control characters, which names in a file may contain, are escaped, as in `\n`,
/// and a text longer than 8192 characters is truncated.
#[allow(non_camel_case_types)]
pub struct transcdiff_error {
    status: transcdiff_status,
    message: CString,
    subject: CString,
    expected: CString,
    got: CString,
}

/// Reason for which a call fails.
#[derive(Debug)]
pub(crate) enum FfiError {
    Library(Error),
    Null(&'static str),
    Struct { name: &'static str, expected: String, got: String },
    Size { buffer: &'static str, expected: usize, got: usize },
    Busy,
    Panic(String),
}

pub(crate) type FfiResult<T = ()> = Result<T, FfiError>;

impl From<Error> for FfiError {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

impl FfiError {
    pub(crate) fn argument(argument: &'static str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Library(Error::argument(argument, expected, got))
    }

    fn into_error(self) -> transcdiff_error {
        match self {
            Self::Library(error) => from_library(&error),
            Self::Null(name) => {
                let message = format!("argument {name}: expected a pointer, got NULL");
                error(TRANSCDIFF_INVALID_ARGUMENT, message, name, "a pointer", "NULL")
            }
            Self::Struct { name, expected, got } => {
                let message = format!("struct {name}: expected {expected}, got {got}");
                error(TRANSCDIFF_INVALID_STRUCT, message, name, &expected, &got)
            }
            Self::Size { buffer, expected, got } => {
                let message = format!("buffer {buffer}: expected {expected} bytes, got {got}");
                let (expected, got) = (format!("{expected} bytes"), format!("{got} bytes"));
                error(TRANSCDIFF_INVALID_SHAPE, message, buffer, &expected, &got)
            }
            Self::Busy => {
                let (expected, got) = ("an idle session", "a session in use by another call");
                let message = format!("session: expected {expected}, got {got}");
                error(TRANSCDIFF_BUSY, message, "session", expected, got)
            }
            Self::Panic(message) => {
                let message = format!("internal error: {message}");
                error(TRANSCDIFF_INTERNAL, message, "library", "", "")
            }
        }
    }
}

fn error(
    status: transcdiff_status,
    message: String,
    subject: &str,
    expected: &str,
    got: &str,
) -> transcdiff_error {
    transcdiff_error {
        status,
        message: single_line(&message),
        subject: single_line(subject),
        expected: single_line(expected),
        got: single_line(got),
    }
}

/// Maximum number of characters of a returned text: twice the length of the longest path.
const MAX_TEXT_CHARS: usize = 1 << 13;

/// Text as returned to C: a single line of bounded length without zero bytes, which would terminate it early.
pub(crate) fn single_line(text: &str) -> CString {
    CString::new(shortened(text, MAX_TEXT_CHARS)).unwrap_or_default()
}

fn from_library(e: &Error) -> transcdiff_error {
    let with = |status, subject: &str, expected: &str, got: &str| {
        error(status, e.to_string(), subject, expected, got)
    };
    match e {
        Error::Shape { op, expected, got } => {
            with(TRANSCDIFF_INVALID_SHAPE, op, expected, &format!("{got:?}"))
        }
        Error::Argument { argument: "precision", expected, got } => {
            with(TRANSCDIFF_INVALID_DTYPE, "dtype", expected, got)
        }
        Error::DType { op, expected, got } => with(TRANSCDIFF_INVALID_DTYPE, op, expected, &got.to_string()),
        Error::Argument { argument, expected, got } => {
            with(TRANSCDIFF_INVALID_ARGUMENT, argument, expected, got)
        }
        Error::Config { field, expected, got } => with(TRANSCDIFF_INVALID_CONFIG, field, expected, got),
        Error::Unavailable { device, reason } => with(TRANSCDIFF_DEVICE_UNAVAILABLE, device, "", reason),
        Error::OutOfMemory { op, bytes, free } => {
            let text = |bytes: &Option<usize>, suffix| {
                bytes.map_or_else(String::new, |n| format!("{n} bytes{suffix}"))
            };
            with(TRANSCDIFF_OUT_OF_MEMORY, op, &text(bytes, ""), &text(free, " free"))
        }
        Error::Backend { op, message } => with(TRANSCDIFF_BACKEND, op, "", message),
        Error::Io { path, source } => with(TRANSCDIFF_IO, &path.to_string_lossy(), "", &source.to_string()),
        Error::Format { path, message } => with(TRANSCDIFF_FORMAT, &path.to_string_lossy(), "", message),
        Error::Tensor { tensor, expected, got, .. } => with(TRANSCDIFF_TENSOR, tensor, expected, got),
        Error::TensorNames { path, .. } => with(TRANSCDIFF_TENSOR, &path.to_string_lossy(), "", ""),
        Error::NonFinite { stage } => with(TRANSCDIFF_NON_FINITE, stage, "finite values", ""),
        Error::NonFiniteGradient { parameter } => with(TRANSCDIFF_NON_FINITE, parameter, "finite values", ""),
        Error::Cancelled => with(TRANSCDIFF_CANCELLED, "", "", ""),
        _ => with(TRANSCDIFF_INTERNAL, "", "", ""),
    }
}

/// Runs the body of an exported function. An error or a panic becomes a status and, unless `out` is NULL, an error object
/// in `*out`; on success `*out` is set to NULL.
///
/// # Safety
/// `out` is NULL or writable.
pub(crate) unsafe fn guard(
    out: *mut *mut transcdiff_error,
    body: impl FnOnce() -> FfiResult,
) -> transcdiff_status {
    let guarded = || {
        let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(from_panic(payload)));
        result.err().map(|error| Box::new(error.into_error()))
    };
    // Caught twice, because building the error object could panic as well.
    let (status, object) = match catch_unwind(AssertUnwindSafe(guarded)) {
        Ok(None) => (TRANSCDIFF_OK, ptr::null_mut()),
        Ok(Some(error)) if out.is_null() => (error.status, ptr::null_mut()),
        Ok(Some(error)) => (error.status, Box::into_raw(error)),
        Err(_) => (TRANSCDIFF_INTERNAL, ptr::null_mut()),
    };
    if !out.is_null() {
        // SAFETY: the caller promises that `out` is writable. It may be misaligned: no error could report that.
        unsafe { out.write_unaligned(object) };
    }
    status
}

/// Runs the body of an exported function that returns no status; after a panic the result is `fallback`.
pub(crate) fn guard_value<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(fallback)
}

fn from_panic(payload: Box<dyn Any + Send>) -> FfiError {
    let message = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let message = message.or_else(|| payload.downcast_ref::<String>().cloned());
    FfiError::Panic(message.unwrap_or_else(|| "a panic without a message".into()))
}

/// Returns the name of a status code, or "unknown status". The string is static. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn transcdiff_status_name(status: transcdiff_status) -> *const c_char {
    guard_value(ptr::null(), || NAMES.get(status as usize).unwrap_or(&c"unknown status").as_ptr())
}

/// Returns the status code of an error; `TRANSCDIFF_OK` for NULL. Thread-safe.
///
/// # Safety
/// `error` is NULL or an error that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_error_status(error: *const transcdiff_error) -> transcdiff_status {
    // SAFETY: the caller promises it.
    guard_value(TRANSCDIFF_INTERNAL, || unsafe { error.as_ref() }.map_or(TRANSCDIFF_OK, |e| e.status))
}

/// Returns the full message of an error, a single line of UTF-8; "" for NULL. The string belongs to the error and is valid
/// until that is freed. Thread-safe.
///
/// # Safety
/// `error` is NULL or an error that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_error_message(error: *const transcdiff_error) -> *const c_char {
    // SAFETY: the caller promises it.
    unsafe { text(error, |e| &e.message) }
}

/// Returns the name of the argument, tensor, operation, stage or file that an error is about; "" if there is none or for
/// NULL. The string belongs to the error and is valid until that is freed. Thread-safe.
///
/// # Safety
/// `error` is NULL or an error that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_error_subject(error: *const transcdiff_error) -> *const c_char {
    // SAFETY: the caller promises it.
    unsafe { text(error, |e| &e.subject) }
}

/// Returns a description of the expected value; "" if there is none or for NULL. The string belongs to the error and is
/// valid until that is freed. Thread-safe.
///
/// # Safety
/// `error` is NULL or an error that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_error_expected(error: *const transcdiff_error) -> *const c_char {
    // SAFETY: the caller promises it.
    unsafe { text(error, |e| &e.expected) }
}

/// Returns a description of the actual value; "" if there is none or for NULL. The string belongs to the error and is
/// valid until that is freed. Thread-safe.
///
/// # Safety
/// `error` is NULL or an error that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_error_got(error: *const transcdiff_error) -> *const c_char {
    // SAFETY: the caller promises it.
    unsafe { text(error, |e| &e.got) }
}

/// # Safety
/// `error` is NULL or an error that has not been freed.
unsafe fn text(error: *const transcdiff_error, field: fn(&transcdiff_error) -> &CString) -> *const c_char {
    // SAFETY: the caller promises it.
    guard_value(c"".as_ptr(), || unsafe { error.as_ref() }.map_or(c"".as_ptr(), |e| field(e).as_ptr()))
}

/// Frees an error; does nothing for NULL. Callable from any thread, once no other call uses the error.
///
/// # Safety
/// `error` is NULL or an error that has not been freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_error_free(error: *mut transcdiff_error) {
    if !error.is_null() {
        // SAFETY: the caller promises it; errors come from `Box::into_raw`.
        guard_value((), || drop(unsafe { Box::from_raw(error) }));
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn panic_becomes_internal_status() {
        let mut error = ptr::null_mut();
        // SAFETY: the pointer can be written, and the error is freed once.
        unsafe {
            let status = guard(&mut error, || panic!("task {}", 5));
            assert_eq!(status, TRANSCDIFF_INTERNAL);
            assert_eq!(transcdiff_error_status(error), TRANSCDIFF_INTERNAL);
            assert_eq!(CStr::from_ptr(transcdiff_error_message(error)), c"internal error: task 5");
            transcdiff_error_free(error);
            // Without an error pointer only the status is returned.
            assert_eq!(guard(ptr::null_mut(), || panic!("static")), TRANSCDIFF_INTERNAL);
            assert_eq!(guard(&mut error, || Ok(())), TRANSCDIFF_OK);
            assert!(error.is_null());
        }
    }

    #[test]
    fn errors_carry_subject_expected_and_got() {
        let errors = [
            (FfiError::Null("out"), TRANSCDIFF_INVALID_ARGUMENT, "out", "a pointer", "NULL"),
            (FfiError::argument("class", "0..3", 7), TRANSCDIFF_INVALID_ARGUMENT, "class", "0..3", "7"),
            (
                Error::shape("decode", "[n, 4]", &[2, 5]).into(),
                TRANSCDIFF_INVALID_SHAPE,
                "decode",
                "[n, 4]",
                "[2, 5]",
            ),
            (
                Error::NonFinite { stage: "sampler" }.into(),
                TRANSCDIFF_NON_FINITE,
                "sampler",
                "finite values",
                "",
            ),
            (Error::Cancelled.into(), TRANSCDIFF_CANCELLED, "", "", ""),
        ];
        for (error, status, subject, expected, got) in errors {
            let error = error.into_error();
            let texts = [&error.subject, &error.expected, &error.got].map(|t| t.to_str().unwrap());
            assert_eq!((error.status, texts), (status, [subject, expected, got]));
            assert!(error.message.to_str().unwrap().contains(got));
        }
    }

    #[test]
    fn texts_are_single_lines_of_bounded_length() {
        let error = error(TRANSCDIFF_FORMAT, "a\0b\nc".into(), "\u{1b}[2J", &"é".repeat(1 << 20), "");
        let texts = [&error.message, &error.subject, &error.expected].map(|t| t.to_str().unwrap());
        assert_eq!(texts[..2], ["a\\u{0}b\\nc", "\\u{1b}[2J"]);
        assert_eq!(texts[2].chars().count(), MAX_TEXT_CHARS + 1);
        assert!(texts[2].starts_with('é') && texts[2].ends_with('…'));
    }

    #[test]
    fn status_codes_have_names() {
        let name = |status| {
            // SAFETY: names are static strings.
            unsafe { CStr::from_ptr(transcdiff_status_name(status)) }.to_str().unwrap()
        };
        assert_eq!((name(TRANSCDIFF_OK), name(TRANSCDIFF_INTERNAL)), ("ok", "internal"));
        assert_eq!(
            (name(TRANSCDIFF_BUSY), name(16), name(u32::MAX)),
            ("busy", "unknown status", "unknown status")
        );
    }
}
