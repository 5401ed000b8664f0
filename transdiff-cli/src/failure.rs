//! What ends the command early, and what is said about it.

use std::fmt;
use std::process::ExitCode;

use crate::text::say;

pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Exit code of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Why the command ends early.
#[derive(Debug)]
pub enum Failure {
    /// A line for the user.
    Message(String),
    /// The user stopped it; a line on what is left.
    Interrupted(String),
    /// Nobody reads the output any more, as in `transdiff inspect FILE | head -1`.
    OutputClosed,
}

impl Failure {
    /// The same, with a line on what is left.
    pub fn leaving(self, left: &str) -> Self {
        match self {
            Self::Message(message) => Self::Message(format!("{message}; {left}")),
            Self::Interrupted(_) => Self::Interrupted(left.to_owned()),
            Self::OutputClosed => Self::OutputClosed,
        }
    }

    /// Says it on stderr, in one line, and gives the exit code.
    pub fn report(&self) -> ExitCode {
        match self {
            Self::Message(message) => {
                say(&format!("error: {message}"));
                ExitCode::FAILURE
            }
            Self::Interrupted(message) => {
                say(&format!("interrupted: {message}"));
                INTERRUPTED.into()
            }
            Self::OutputClosed => ExitCode::SUCCESS,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Message(text) | Self::Interrupted(text) => f.write_str(text),
            Self::OutputClosed => f.write_str("nobody reads the output"),
        }
    }
}

impl From<transdiff::Error> for Failure {
    fn from(error: transdiff::Error) -> Self {
        match error {
            transdiff::Error::Cancelled => Self::Interrupted(error.to_string()),
            _ => Self::Message(error.to_string()),
        }
    }
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Message(message)
    }
}
