//! Reasons for the command to end early, and their exit codes.

use std::fmt;
use std::process::ExitCode;

use transdiff_terminal::{INTERRUPTED, StopReason};

pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Arguments of the library, and the flags that set them.
const FLAGS: [(&str, &str); 13] = [
    ("class", "--class"),
    ("codec", "--codec"),
    ("guidance", "--guidance"),
    ("guidance_low", "--guidance-interval LOW"),
    ("guidance_high", "--guidance-interval HIGH"),
    ("drift_scale", "--drift-scale"),
    ("noise_scale", "--noise-scale"),
    ("steps", "--steps"),
    ("order", "--order"),
    ("times", "--times"),
    ("warp", "--warp"),
    ("extrapolation", "--extrapolation"),
    ("threads", "--threads"),
];

/// Reason for the command to end early.
#[derive(Debug)]
pub enum Failure {
    /// An error, as one line for the user.
    Message(String),
    /// An error of a rank that all ranks know of, as one line for the user.
    Agreed(String),
    /// Interrupted by the user; a line on what was written until then.
    Interrupted(String),
    /// Ended by a signal, with its state saved; a line on what was done until then.
    Stopped(StopReason, String),
    /// A failure that was reported before, with its exit code.
    Reported(ExitCode),
    /// The reader of stdout is gone, as in `transdiff inspect FILE | head -1`. Not an error.
    OutputClosed,
}

impl Failure {
    /// Adds what was written before the failure.
    pub fn with_completed(self, completed: &str) -> Self {
        match self {
            Self::Message(message) => Self::Message(format!("{message}; {completed}")),
            Self::Agreed(message) => Self::Agreed(format!("{message}; {completed}")),
            Self::Interrupted(_) => Self::Interrupted(completed.to_owned()),
            Self::Stopped(reason, message) => Self::Stopped(reason, format!("{message}; {completed}")),
            other @ (Self::Reported(_) | Self::OutputClosed) => other,
        }
    }

    /// The line to print to stderr, if any.
    pub fn stderr_line(&self) -> Option<String> {
        match self {
            Self::Message(message) | Self::Agreed(message) => Some(format!("error: {message}")),
            Self::Interrupted(message) => Some(format!("interrupted: {message}")),
            Self::Stopped(_, message) => Some(format!("stopped: {message}")),
            Self::Reported(_) | Self::OutputClosed => None,
        }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Message(_) | Self::Agreed(_) => ExitCode::FAILURE,
            Self::Interrupted(_) => INTERRUPTED.into(),
            Self::Stopped(reason, _) => reason.exit_code().into(),
            Self::Reported(code) => *code,
            Self::OutputClosed => ExitCode::SUCCESS,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(text) | Self::Agreed(text) | Self::Interrupted(text) | Self::Stopped(_, text) => {
                f.write_str(text)
            }
            Self::Reported(_) => f.write_str("an error that was reported"),
            Self::OutputClosed => f.write_str("stdout is closed"),
        }
    }
}

impl From<transdiff::Error> for Failure {
    fn from(error: transdiff::Error) -> Self {
        match &error {
            transdiff::Error::Cancelled => Self::Interrupted(error.to_string()),
            transdiff::Error::Rank { .. } => Self::Agreed(error.to_string()),
            transdiff::Error::Argument { argument, expected, got } => {
                match FLAGS.iter().find(|(name, _)| name == argument) {
                    Some((_, flag)) => Self::Message(format!("{flag}: expected {expected}, got {got}")),
                    None => Self::Message(error.to_string()),
                }
            }
            transdiff::Error::Backend { op: "Cpu::new", message } => {
                Self::Message(format!("--threads: {message}"))
            }
            _ => Self::Message(error.to_string()),
        }
    }
}

impl From<transdiff_run::settings::SettingError> for Failure {
    fn from(error: transdiff_run::settings::SettingError) -> Self {
        Self::Message(error.to_string())
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Message(message)
    }
}
