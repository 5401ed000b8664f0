//! Choosing a backend by name.

use std::fmt;
use std::str::FromStr;

use crate::{Backend, Cpu, Error, Result};

/// A device that this build can compute on.
///
/// ```
/// # use transdiff::{Backend, Device, DeviceTask};
/// struct Name;
///
/// impl DeviceTask for Name {
///     type Output = String;
///
///     fn run<B: Backend>(self, backend: B) -> transdiff::Result<String> {
///         Ok(backend.name())
///     }
/// }
///
/// # fn main() -> transdiff::Result<()> {
/// let device: Device = "cpu".parse()?;
/// println!("{}", device.run(None, Name)?);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The CPU.
    Cpu,
    /// The NVIDIA GPU of this number, counted from 0.
    #[cfg(feature = "cuda")]
    Cuda(u32),
}

/// What is done on a device: code for any backend. (A closure cannot be generic.)
pub trait DeviceTask {
    /// What it gives.
    type Output;

    /// Does it.
    ///
    /// # Errors
    /// Its own.
    fn run<B: Backend>(self, backend: B) -> Result<Self::Output>;
}

impl Device {
    /// The best that this build has: what `auto` means.
    pub fn best() -> Self {
        Self::Cpu
    }

    /// Opens the device and does `task` on it. `threads` are the CPU's, by default one a core.
    ///
    /// # Errors
    /// Those of opening the device and of the task.
    pub fn run<T: DeviceTask>(self, threads: Option<usize>, task: T) -> Result<T::Output> {
        match self {
            Self::Cpu => task.run(Cpu::new(threads)?),
            #[cfg(feature = "cuda")]
            Self::Cuda(ordinal) => task.run(crate::Cuda::new(ordinal)?),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `cpu`, `cuda`, `cuda:N`, or `auto`, which is the best that this build has.
    ///
    /// # Errors
    /// [`Error::Unavailable`] for a device that this build is without; [`Error::Argument`] for any other name.
    fn from_str(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Self::best()),
            _ if is_cuda(name) => {
                Err(Error::Unavailable { device: name.to_owned(), reason: "CUDA is not built in".into() })
            }
            _ => Err(Error::argument("device", "cpu, cuda, cuda:N or auto", name)),
        }
    }
}

fn is_cuda(name: &str) -> bool {
    let rest = name.strip_prefix("cuda");
    rest.is_some_and(|rest| {
        rest.is_empty() || rest.strip_prefix(':').is_some_and(|n| n.parse::<u32>().is_ok())
    })
}

impl fmt::Display for Device {
    /// The name that parses to it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            #[cfg(feature = "cuda")]
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed() {
        for name in ["cpu", "auto"] {
            assert_eq!(name.parse::<Device>().unwrap(), Device::Cpu);
        }
        for name in ["cuda", "cuda:0", "cuda:12"] {
            let error = name.parse::<Device>().unwrap_err();
            assert!(matches!(&error, Error::Unavailable { device, .. } if device == name), "{error}");
            assert_eq!(error.to_string(), format!("device {name}: CUDA is not built in"));
        }
        for name in ["", "CPU", "cuda:", "cuda:-1", "cuda:x", "cudaa", "cuda0", "cpu:0"] {
            let error = name.parse::<Device>().unwrap_err();
            assert!(matches!(error, Error::Argument { argument: "device", .. }), "{name}: {error}");
        }
        assert_eq!(Device::Cpu.to_string().parse::<Device>().unwrap(), Device::Cpu);
    }
}
