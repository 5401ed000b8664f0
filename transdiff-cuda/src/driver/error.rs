//! What the driver says when a call fails.

use std::ffi::{CStr, c_char};
use std::ptr;

use cust::error::CudaError;
use cust::sys::{self, cudaError_enum as Code};
use transdiff_core::{Error, Result};

unsafe extern "C" {
    fn transdiff_driver_code() -> u32;
    fn transdiff_driver_missing() -> *const c_char;
}

/// The error of a call of the driver, in its own words.
pub(super) fn failed(op: &'static str, error: CudaError) -> Error {
    match error {
        CudaError::OutOfMemory => exhausted(op, None),
        error => Error::Backend { op, message: described(error) },
    }
}

/// The error of a device without room for `bytes`, or for what the driver wanted for itself.
pub(crate) fn exhausted(op: &'static str, bytes: Option<usize>) -> Error {
    let (mut free, mut total) = (0, 0);
    // SAFETY: the pointers are valid.
    let code = unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) };
    Error::OutOfMemory { op, bytes, free: (code == Code::CUDA_SUCCESS).then_some(free) }
}

pub(super) fn described(error: CudaError) -> String {
    message(|| error.to_string())
}

/// The code of what failed.
pub(super) fn success(code: Code) -> Result<(), Code> {
    if code == Code::CUDA_SUCCESS { Ok(()) } else { Err(code) }
}

pub(super) fn checked(op: &'static str, code: Code) -> Result<()> {
    success(code).map_err(|code| refused(op, code))
}

/// The error of a code that is not success.
pub(super) fn refused(op: &'static str, code: Code) -> Error {
    match code {
        Code::CUDA_ERROR_OUT_OF_MEMORY => exhausted(op, None),
        code => Error::Backend { op, message: explained(code) },
    }
}

/// A code in the driver's own words.
pub(super) fn explained(code: Code) -> String {
    message(|| {
        let mut words: *const c_char = ptr::null();
        // SAFETY: the pointer is valid.
        let known =
            unsafe { sys::cuGetErrorString(code, &mut words) } == Code::CUDA_SUCCESS && !words.is_null();
        if !known {
            return "unknown error".into();
        }
        // SAFETY: not null, and static.
        unsafe { CStr::from_ptr(words) }.to_string_lossy().into_owned()
    })
}

/// What went wrong in the last call, with the driver's number of it. `words` may call the driver.
fn message(words: impl FnOnce() -> String) -> String {
    // SAFETY: the functions take nothing.
    let (code, missing) = unsafe { (transdiff_driver_code(), transdiff_driver_missing()) };
    if missing.is_null() {
        return format!("CUDA error {code}: {}", words().trim_matches('"'));
    }
    // SAFETY: not null, and static.
    let missing = unsafe { CStr::from_ptr(missing) }.to_string_lossy();
    format!("the CUDA driver has no {missing}: it is older than this library needs")
}
