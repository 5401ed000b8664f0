//! Bindings of NCCL: functions, structs and values of the header of version 2.14, which later versions accept.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::ptr;

use crate::shared_library;

pub(super) type Handle = *mut c_void;
pub(super) type Status = c_int;

shared_library::functions! {
    "NCCL";
    error_string: "ncclGetErrorString" (Status) -> *const c_char;
    last_error: "ncclGetLastError" (Handle) -> *const c_char;
    get_version: "ncclGetVersion" (*mut c_int) -> Status;
    get_unique_id: "ncclGetUniqueId" (*mut UniqueId) -> Status;
    init: "ncclCommInitRankConfig" (*mut Handle, c_int, UniqueId, c_int, *const Config) -> Status;
    async_error: "ncclCommGetAsyncError" (Handle, *mut Status) -> Status;
    finalize: "ncclCommFinalize" (Handle) -> Status;
    destroy: "ncclCommDestroy" (Handle) -> Status;
    abort: "ncclCommAbort" (Handle) -> Status;
    group_start: "ncclGroupStart" () -> Status;
    group_end: "ncclGroupEnd" () -> Status;
    all_reduce: "ncclAllReduce" (u64, u64, usize, c_int, c_int, Handle, *mut c_void) -> Status;
    reduce_scatter: "ncclReduceScatter" (u64, u64, usize, c_int, c_int, Handle, *mut c_void) -> Status;
    reduce: "ncclReduce" (u64, u64, usize, c_int, c_int, c_int, Handle, *mut c_void) -> Status;
    all_gather: "ncclAllGather" (u64, u64, usize, c_int, Handle, *mut c_void) -> Status;
    send: "ncclSend" (u64, usize, c_int, c_int, Handle, *mut c_void) -> Status;
    receive: "ncclRecv" (u64, usize, c_int, c_int, Handle, *mut c_void) -> Status;
    broadcast: "ncclBroadcast" (u64, u64, usize, c_int, c_int, Handle, *mut c_void) -> Status;
}

/// `ncclUniqueId`: names the ranks' meeting point.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct UniqueId(pub(super) [u8; Self::BYTES]);

impl UniqueId {
    pub(super) const BYTES: usize = 128;
}

/// `ncclConfig_t`.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
}

impl Config {
    /// Calls return while they are in progress, so that they can time out.
    pub(super) fn non_blocking() -> Self {
        Self { size: size_of::<Self>(), magic: 0xcafe_beef, version: 21400, blocking: 0 }
    }
}

pub(super) mod values {
    use std::ffi::c_int;

    pub(crate) const SUCCESS: c_int = 0;
    pub(crate) const IN_PROGRESS: c_int = 7;
    pub(crate) const UINT8: c_int = 1;
    pub(crate) const FLOAT32: c_int = 7;
    pub(crate) const BFLOAT16: c_int = 9;
    pub(crate) const SUM: c_int = 0;
}

/// Version of the library, as it encodes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version(pub(super) i32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0 / 10_000, self.0 / 100 % 100, self.0 % 100)
    }
}

/// The open library.
pub(super) struct Library {
    pub(super) functions: Functions,
    pub(super) version: Version,
}

impl Library {
    /// Opens the library; fails with a message if there is none.
    pub(super) fn load() -> Result<Self, String> {
        let absent = |reason: String| {
            format!(
                "NCCL cannot be loaded: {reason}. Install NCCL 2.14 or later (libnccl2 of NVIDIA's package repository) on \
                 every machine, or set LD_LIBRARY_PATH to the folder of libnccl.so.2"
            )
        };
        let functions = Functions::open("libnccl.so.2").map_err(absent)?;
        let mut library = Self { functions, version: Version(0) };
        // SAFETY: the pointer is valid.
        let status = unsafe { (library.functions.get_version)(&mut library.version.0) };
        library.check("ncclGetVersion", status)?;
        Ok(library)
    }

    /// Name of a new communicator, for one rank to give to the others.
    pub(super) fn unique_id(&self) -> Result<UniqueId, String> {
        let mut id = UniqueId([0; UniqueId::BYTES]);
        // SAFETY: the pointer is valid.
        let status = unsafe { (self.functions.get_unique_id)(&mut id) };
        self.check("ncclGetUniqueId", status).map(|()| id)
    }

    fn check(&self, call: &str, status: Status) -> Result<(), String> {
        if status == values::SUCCESS { Ok(()) } else { Err(self.message(call, status)) }
    }

    /// Error message for a status of `call`.
    pub(super) fn message(&self, call: &str, status: Status) -> String {
        // SAFETY: the function takes any value and returns a static string.
        let meaning = unsafe { text((self.functions.error_string)(status)) };
        format!("{call}: status {status}, {meaning}{}", self.last_message())
    }

    /// The library's last message as an addition to an error message; empty if there is none.
    pub(super) fn last_message(&self) -> String {
        // SAFETY: null stands for all communicators; the string is valid until the next error, and copied here.
        match unsafe { text((self.functions.last_error)(ptr::null_mut())) } {
            message if message.is_empty() => message,
            message => format!("; last message of NCCL: {message}"),
        }
    }
}

/// # Safety
/// The pointer is null or to a string.
unsafe fn text(string: *const c_char) -> String {
    if string.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the caller's obligation.
    unsafe { CStr::from_ptr(string) }.to_string_lossy().trim().to_owned()
}
