//! Status codes and error objects.

use std::any::Any;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use transdiff::Error;
use transdiff_core::text::shortened;

/// What a call returns: `TRANSCDIFF_OK` or one of the other `TRANSCDIFF_…` codes. Codes are never renumbered; later
/// versions may add some.
pub type transcdiff_status = u32;

/// The call did what it was asked to.
pub const TRANSCDIFF_OK: transcdiff_status = 0;
/// An argument is outside of what the function takes: NULL, a class that is none, a number out of range.
pub const TRANSCDIFF_INVALID_ARGUMENT: transcdiff_status = 1;
/// Sizes do not fit together, or a buffer is not of the size that it has to have.
pub const TRANSCDIFF_INVALID_SHAPE: transcdiff_status = 2;
/// The device does not compute in this type.
pub const TRANSCDIFF_INVALID_DTYPE: transcdiff_status = 3;
/// The model's configuration is impossible, or incomplete.
pub const TRANSCDIFF_INVALID_CONFIG: transcdiff_status = 4;
/// A struct is not of a size that this library knows, or sets fields that it does not know.
pub const TRANSCDIFF_INVALID_STRUCT: transcdiff_status = 5;
/// The device cannot be used.
pub const TRANSCDIFF_DEVICE_UNAVAILABLE: transcdiff_status = 6;
/// Memory ran out. The model and the session are as usable as before.
pub const TRANSCDIFF_OUT_OF_MEMORY: transcdiff_status = 7;
/// The device failed.
pub const TRANSCDIFF_BACKEND: transcdiff_status = 8;
/// A file could not be read.
pub const TRANSCDIFF_IO: transcdiff_status = 9;
/// A file is not of a known format, or is damaged.
pub const TRANSCDIFF_FORMAT: transcdiff_status = 10;
/// A tensor in a file is not what the model needs.
pub const TRANSCDIFF_TENSOR: transcdiff_status = 11;
/// A value became infinite or no number; the message names the stage.
pub const TRANSCDIFF_NON_FINITE: transcdiff_status = 12;
/// A callback or another thread asked to stop. The session is as usable as before.
pub const TRANSCDIFF_CANCELLED: transcdiff_status = 13;
/// Another thread, or a callback's caller, is using the session.
pub const TRANSCDIFF_BUSY: transcdiff_status = 14;
/// A defect of this library. The model and the session can still be used or freed.
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

/// What went wrong in one call. It belongs to whoever made the call, who frees it with `transcdiff_error_free`; it can
/// be read from any thread. Its texts are lines of UTF-8: control characters, which a file's names may have, are written
/// out, as `\n`, and a text of more than 8192 characters is cut off.
#[allow(non_camel_case_types)]
pub struct transcdiff_error {
    status: transcdiff_status,
    message: CString,
    subject: CString,
    expected: CString,
    got: CString,
}

/// Why a call fails.
#[derive(Debug)]
pub(crate) enum Failure {
    Library(Error),
    Null(&'static str),
    Struct { name: &'static str, expected: String, got: String },
    Size { buffer: &'static str, expected: usize, got: usize },
    Busy,
    Panic(String),
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Library(error)
    }
}

impl Failure {
    pub(crate) fn argument(argument: &'static str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Library(Error::argument(argument, expected, got))
    }

    fn into_error(self) -> transcdiff_error {
        match self {
            Self::Library(error) => of_library(&error),
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
                let message = "the session is in use: it serves one call at a time".into();
                error(TRANSCDIFF_BUSY, message, "session", "a session that is not in use", "one that is")
            }
            Self::Panic(what) => {
                let message = format!("internal error: {what}");
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
    let (message, subject) = (line(&message), line(subject));
    transcdiff_error { status, message, subject, expected: line(expected), got: line(got) }
}

/// Characters of a text that is handed out: twice as many as the longest path has.
const LONGEST: usize = 1 << 13;

/// A text as it is handed out: one line, not too long, and without a zero byte, which would end it for whoever reads it.
pub(crate) fn line(text: &str) -> CString {
    CString::new(shortened(text, LONGEST)).unwrap_or_default()
}

fn of_library(e: &Error) -> transcdiff_error {
    let all = |status, subject: &str, expected: &str, got: &str| {
        error(status, e.to_string(), subject, expected, got)
    };
    match e {
        Error::Shape { op, expected, got } => {
            all(TRANSCDIFF_INVALID_SHAPE, op, expected, &format!("{got:?}"))
        }
        Error::DType { op, expected, got } => all(TRANSCDIFF_INVALID_DTYPE, op, expected, &got.to_string()),
        Error::Argument { argument, expected, got } => {
            all(TRANSCDIFF_INVALID_ARGUMENT, argument, expected, got)
        }
        Error::Config { field, expected, got } => all(TRANSCDIFF_INVALID_CONFIG, field, expected, got),
        Error::Unavailable { device, reason } => all(TRANSCDIFF_DEVICE_UNAVAILABLE, device, "", reason),
        Error::OutOfMemory { op, bytes, free } => {
            let said =
                |bytes: &Option<usize>, what| bytes.map_or_else(String::new, |n| format!("{n} bytes{what}"));
            all(TRANSCDIFF_OUT_OF_MEMORY, op, &said(bytes, ""), &said(free, " free"))
        }
        Error::Backend { op, message } => all(TRANSCDIFF_BACKEND, op, "", message),
        Error::Io { path, source } => all(TRANSCDIFF_IO, &path.to_string_lossy(), "", &source.to_string()),
        Error::Format { path, message } => all(TRANSCDIFF_FORMAT, &path.to_string_lossy(), "", message),
        Error::Tensor { tensor, expected, got, .. } => all(TRANSCDIFF_TENSOR, tensor, expected, got),
        Error::TensorNames { path, .. } => all(TRANSCDIFF_TENSOR, &path.to_string_lossy(), "", ""),
        Error::NonFinite { stage } => all(TRANSCDIFF_NON_FINITE, stage, "finite values", ""),
        Error::Cancelled => all(TRANSCDIFF_CANCELLED, "", "", ""),
        _ => all(TRANSCDIFF_INTERNAL, "", "", ""),
    }
}

/// Runs the body of an exported function: a failure becomes a status and, if `out` is not NULL, an error object in
/// `*out`, which is NULL otherwise. A panic is a failure.
///
/// # Safety
/// `out` is NULL or can be written.
pub(crate) unsafe fn guard(
    out: *mut *mut transcdiff_error,
    body: impl FnOnce() -> Outcome,
) -> transcdiff_status {
    let guarded = || {
        let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(panicked(payload)));
        outcome.err().map(|failure| Box::new(failure.into_error()))
    };
    // Twice, since what describes a failure could fail as well.
    let (status, object) = match catch_unwind(AssertUnwindSafe(guarded)) {
        Ok(None) => (TRANSCDIFF_OK, ptr::null_mut()),
        Ok(Some(error)) if out.is_null() => (error.status, ptr::null_mut()),
        Ok(Some(error)) => (error.status, Box::into_raw(error)),
        Err(_) => (TRANSCDIFF_INTERNAL, ptr::null_mut()),
    };
    if !out.is_null() {
        // SAFETY: the caller promises that it can be written. There is no error left to say that it is not aligned.
        unsafe { out.write_unaligned(object) };
    }
    status
}

/// [`guard`] for functions that return something else than a status: a panic gives `otherwise`.
pub(crate) fn guard_value<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

fn panicked(payload: Box<dyn Any + Send>) -> Failure {
    let what = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let what = what.or_else(|| payload.downcast_ref::<String>().cloned());
    Failure::Panic(what.unwrap_or_else(|| "a panic without a message".into()))
}

/// Name of a status code, or "unknown status". Static memory. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn transcdiff_status_name(status: transcdiff_status) -> *const c_char {
    guard_value(ptr::null(), || NAMES.get(status as usize).unwrap_or(&c"unknown status").as_ptr())
}

/// The status code of an error; `TRANSCDIFF_OK` for NULL. Any thread.
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_error_status(error: *const transcdiff_error) -> transcdiff_status {
    // SAFETY: the caller promises it.
    guard_value(TRANSCDIFF_INTERNAL, || unsafe { error.as_ref() }.map_or(TRANSCDIFF_OK, |e| e.status))
}

/// The whole message of an error, in one line of UTF-8. It lives as long as the error; "" for NULL. Any thread.
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_error_message(error: *const transcdiff_error) -> *const c_char {
    // SAFETY: the caller promises it.
    unsafe { text(error, |e| &e.message) }
}

/// What the error is about: the argument, tensor, operation, stage or file. It lives as long as the error; "" where there
/// is none. Any thread.
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_error_subject(error: *const transcdiff_error) -> *const c_char {
    // SAFETY: the caller promises it.
    unsafe { text(error, |e| &e.subject) }
}

/// What was expected, in words. It lives as long as the error; "" where that cannot be said. Any thread.
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_error_expected(error: *const transcdiff_error) -> *const c_char {
    // SAFETY: the caller promises it.
    unsafe { text(error, |e| &e.expected) }
}

/// What came instead, in words. It lives as long as the error; "" where that cannot be said. Any thread.
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_error_got(error: *const transcdiff_error) -> *const c_char {
    // SAFETY: the caller promises it.
    unsafe { text(error, |e| &e.got) }
}

/// # Safety
/// `error` is NULL or an error that was not freed.
unsafe fn text(error: *const transcdiff_error, field: fn(&transcdiff_error) -> &CString) -> *const c_char {
    // SAFETY: the caller promises it.
    guard_value(c"".as_ptr(), || unsafe { error.as_ref() }.map_or(c"".as_ptr(), |e| field(e).as_ptr()))
}

/// Frees an error. NULL is nothing to free. Any thread.
///
/// # Safety
/// `error` is NULL or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_error_free(error: *mut transcdiff_error) {
    if !error.is_null() {
        // SAFETY: the caller promises it; errors are made by `Box::into_raw`.
        guard_value((), || drop(unsafe { Box::from_raw(error) }));
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    #[test]
    fn a_panic_is_a_status() {
        let mut error = ptr::null_mut();
        // SAFETY: the pointer can be written, and the error is freed once.
        unsafe {
            let status = guard(&mut error, || panic!("task {}", 5));
            assert_eq!(status, TRANSCDIFF_INTERNAL);
            assert_eq!(transcdiff_error_status(error), TRANSCDIFF_INTERNAL);
            assert_eq!(CStr::from_ptr(transcdiff_error_message(error)), c"internal error: task 5");
            transcdiff_error_free(error);
            // Without a place for the error there is the status alone.
            assert_eq!(guard(ptr::null_mut(), || panic!("static")), TRANSCDIFF_INTERNAL);
            assert_eq!(guard(&mut error, || Ok(())), TRANSCDIFF_OK);
            assert!(error.is_null());
        }
    }

    #[test]
    fn failures_name_what_they_are_about() {
        let failures = [
            (Failure::Null("out"), TRANSCDIFF_INVALID_ARGUMENT, "out", "a pointer", "NULL"),
            (Failure::argument("class", "0..3", 7), TRANSCDIFF_INVALID_ARGUMENT, "class", "0..3", "7"),
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
        for (failure, status, subject, expected, got) in failures {
            let error = failure.into_error();
            let texts = [&error.subject, &error.expected, &error.got].map(|t| t.to_str().unwrap());
            assert_eq!((error.status, texts), (status, [subject, expected, got]));
            assert!(error.message.to_str().unwrap().contains(got));
        }
    }

    #[test]
    fn texts_are_lines_of_bounded_length() {
        let error = error(TRANSCDIFF_FORMAT, "a\0b\nc".into(), "\u{1b}[2J", &"é".repeat(1 << 20), "");
        let texts = [&error.message, &error.subject, &error.expected].map(|t| t.to_str().unwrap());
        assert_eq!(texts[..2], ["a\\u{0}b\\nc", "\\u{1b}[2J"]);
        assert_eq!(texts[2].chars().count(), LONGEST + 1);
        assert!(texts[2].starts_with('é') && texts[2].ends_with('…'));
    }

    #[test]
    fn every_code_has_its_name() {
        let name = |status| {
            // SAFETY: names are static.
            unsafe { CStr::from_ptr(transcdiff_status_name(status)) }.to_str().unwrap()
        };
        assert_eq!((name(TRANSCDIFF_OK), name(TRANSCDIFF_INTERNAL)), ("ok", "internal"));
        assert_eq!(
            (name(TRANSCDIFF_BUSY), name(16), name(u32::MAX)),
            ("busy", "unknown status", "unknown status")
        );
    }
}
