//! Messages to the caller.

use std::ffi::{c_char, c_void};

use transdiff::pipeline::LogLevel;

use crate::status::line;

/// What was chosen, and why.
pub const TRANSCDIFF_LOG_INFO: u32 = 0;
/// What the caller would probably want otherwise.
pub const TRANSCDIFF_LOG_WARNING: u32 = 1;

/// Called with messages of one call, from the thread that made it. `message` is one line of UTF-8, as those of an error,
/// that lives until the callback returns.
pub type transcdiff_log_callback =
    Option<unsafe extern "C" fn(level: u32, message: *const c_char, user_data: *mut c_void)>;

/// A log callback and what it is called with.
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
        // SAFETY: the caller gave the callback for this, and the message lives until it returns.
        unsafe { callback(level, line(message).as_ptr(), self.user_data) };
    }
}
