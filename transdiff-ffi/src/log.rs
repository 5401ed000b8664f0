//! Log messages to the caller.

use std::ffi::{c_char, c_void};

use transdiff::pipeline::LogLevel;

use crate::status::single_line;

/// Information, such as a setting that was chosen and the reason.
pub const TRANSCDIFF_LOG_INFO: u32 = 0;
/// Warning: the result may not be what the caller intends.
pub const TRANSCDIFF_LOG_WARNING: u32 = 1;

/// Log callback, invoked on the calling thread during the call. `level` is `TRANSCDIFF_LOG_INFO` or
/// `TRANSCDIFF_LOG_WARNING`; `message` is a single line of UTF-8 and valid until the callback returns. The callback must
/// return normally: no exception, longjmp or thread exit may leave it.
pub type transcdiff_log_callback =
    Option<unsafe extern "C" fn(level: u32, message: *const c_char, user_data: *mut c_void)>;

/// Log callback with its user data.
#[derive(Clone, Copy)]
pub(crate) struct Log {
    pub callback: transcdiff_log_callback,
    pub user_data: *mut c_void,
}

impl Log {
    pub(crate) fn message(self, level: LogLevel, message: &str) {
        let Some(callback) = self.callback else { return };
        let level = match level {
            LogLevel::Info => TRANSCDIFF_LOG_INFO,
            LogLevel::Warning => TRANSCDIFF_LOG_WARNING,
        };
        // SAFETY: the caller provided the callback for this, and the message lives until it returns.
        unsafe { callback(level, single_line(message).as_ptr(), self.user_data) };
    }
}
