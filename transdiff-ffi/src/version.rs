//! What library this is.

use std::ffi::{CStr, c_char};

use crate::status::guard_value;

/// The version of the ABI that this header describes. It grows when functions or fields are added; what a program was compiled
/// against goes on working as long as the library's soname is the same.
pub const TRANSCDIFF_ABI_VERSION: u32 = 1;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("a version has no zero byte"),
};

/// The version of the ABI that the library implements. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn transcdiff_abi_version() -> u32 {
    guard_value(0, || TRANSCDIFF_ABI_VERSION)
}

/// The library's version, "MAJOR.MINOR.PATCH". Static memory. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn transcdiff_version() -> *const c_char {
    guard_value(VERSION.as_ptr(), || VERSION.as_ptr())
}
