//! Version of the library and of its ABI.

use std::ffi::{CStr, c_char};

use crate::status::guard_value;

/// Version of the ABI that this header describes. It increases when functions or fields are added; a compiled program keeps
/// working with every library of the same soname.
pub const TRANSCDIFF_ABI_VERSION: u32 = 3;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => panic!("the version contains a zero byte"),
};

/// Returns the version of the ABI that the library implements. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn transcdiff_abi_version() -> u32 {
    guard_value(0, || TRANSCDIFF_ABI_VERSION)
}

/// Returns the version of the library, "MAJOR.MINOR.PATCH". The string is static. Thread-safe.
#[unsafe(no_mangle)]
pub extern "C" fn transcdiff_version() -> *const c_char {
    guard_value(VERSION.as_ptr(), || VERSION.as_ptr())
}
