//! Errors of driver calls.

use std::ffi::{CStr, c_char};
use std::ptr;

use cust::error::CudaError;
use cust::sys::{self, cudaError_enum as Code};
use transdiff_core::{Error, Result};

unsafe extern "C" {
    fn transdiff_driver_code() -> u32;
    fn transdiff_driver_missing() -> *const c_char;
}

/// The error of a failed `cust` call, with the driver's message.
pub(super) fn from_cuda_error(op: &'static str, error: CudaError) -> Error {
    match error {
        CudaError::OutOfMemory => out_of_memory(op, None),
        error => Error::Backend { op, message: describe(error) },
    }
}

/// The error of an allocation of `bytes` that failed; `None` for memory that the driver needs itself.
pub(crate) fn out_of_memory(op: &'static str, bytes: Option<usize>) -> Error {
    let (mut free, mut total) = (0, 0);
    // SAFETY: the pointers are valid.
    let code = unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) };
    Error::OutOfMemory { op, bytes, free: (code == Code::CUDA_SUCCESS).then_some(free) }
}

pub(super) fn describe(error: CudaError) -> String {
    message(|| error.to_string())
}

/// `Err` with the code unless it is success.
pub(super) fn to_result(code: Code) -> Result<(), Code> {
    if code == Code::CUDA_SUCCESS { Ok(()) } else { Err(code) }
}

/// Converts a code to the operation's result.
pub(super) fn check(op: &'static str, code: Code) -> Result<()> {
    to_result(code).map_err(|code| from_code(op, code))
}

/// The error of a code that is not success.
pub(super) fn from_code(op: &'static str, code: Code) -> Error {
    match code {
        Code::CUDA_ERROR_OUT_OF_MEMORY => out_of_memory(op, None),
        code => Error::Backend { op, message: describe_code(code) },
    }
}

/// The driver's message for a code.
pub(super) fn describe_code(code: Code) -> String {
    message(|| {
        let mut text: *const c_char = ptr::null();
        // SAFETY: the pointer is valid.
        let known =
            unsafe { sys::cuGetErrorString(code, &mut text) } == Code::CUDA_SUCCESS && !text.is_null();
        if !known {
            return "unknown error".into();
        }
        // SAFETY: not null, and static.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    })
}

/// Message for the last call of this thread, with the driver's own number. `text` may call the driver.
fn message(text: impl FnOnce() -> String) -> String {
    // SAFETY: the functions have no arguments.
    let (code, missing) = unsafe { (transdiff_driver_code(), transdiff_driver_missing()) };
    if missing.is_null() {
        return format!("CUDA error {code}: {}", text().trim_matches('"'));
    }
    // SAFETY: not null, and static.
    let missing = unsafe { CStr::from_ptr(missing) }.to_string_lossy();
    format!("the CUDA driver has no {missing}: it is older than this library needs")
}
