//! Choosing a backend by name.

use std::fmt;
use std::str::FromStr;

use crate::{Backend, Cpu, Error, Result};

/// Where to compute.
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// The best that is there: the first GPU if this build has CUDA and the machine a GPU, otherwise the CPU.
    #[default]
    Auto,
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

/// A device that is there.
#[derive(Clone, Debug)]
pub struct OpenDevice {
    backend: Opened,
    choice: String,
    substitute: bool,
}

#[derive(Clone, Debug)]
enum Opened {
    Cpu(Cpu),
    #[cfg(feature = "cuda")]
    Cuda(crate::Cuda),
}

impl Device {
    /// Opens the device. `threads` are the CPU's, by default one a core.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the reason if a device that was asked for by name is not there,
    /// [`Error::OutOfMemory`] or [`Error::Backend`] if it cannot be used. There is no other in its place;
    /// [`Device::Auto`] alone chooses. [`Error::Argument`] for a number of threads that cannot be.
    pub fn open(self, threads: Option<usize>) -> Result<OpenDevice> {
        let opened = |backend, choice| OpenDevice { backend, choice, substitute: false };
        let cpu = |choice: String| Ok(opened(Opened::Cpu(Cpu::new(threads)?), choice));
        match self {
            Self::Cpu => cpu("cpu".into()),
            #[cfg(feature = "cuda")]
            Self::Cuda(ordinal) => {
                Ok(opened(Opened::Cuda(crate::Cuda::new(ordinal)?), format!("cuda:{ordinal}")))
            }
            #[cfg(not(feature = "cuda"))]
            Self::Auto => cpu("cpu, because CUDA is not built in".into()),
            #[cfg(feature = "cuda")]
            Self::Auto => match crate::Cuda::new(0) {
                Ok(cuda) => Ok(opened(Opened::Cuda(cuda), "cuda:0, the first GPU".into())),
                Err(error) => {
                    let reason = match error {
                        Error::Unavailable { reason, .. } => reason,
                        error => error.to_string(),
                    };
                    let cpu = cpu(format!("cpu, because cuda:0 cannot be used: {reason}"))?;
                    Ok(OpenDevice { substitute: true, ..cpu })
                }
            },
        }
    }

    /// Opens the device and does `task` on it.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) and of the task.
    pub fn run<T: DeviceTask>(self, threads: Option<usize>, task: T) -> Result<T::Output> {
        self.open(threads)?.run(task)
    }
}

impl OpenDevice {
    /// Which device it is, in the name that parses to it, and why if [`Device::Auto`] chose it.
    pub fn choice(&self) -> &str {
        &self.choice
    }

    /// Whether [`Device::Auto`] chose it for want of the better one that this build is for.
    pub fn is_substitute(&self) -> bool {
        self.substitute
    }

    /// What opens this very device again.
    pub fn device(&self) -> Device {
        match &self.backend {
            Opened::Cpu(_) => Device::Cpu,
            #[cfg(feature = "cuda")]
            Opened::Cuda(cuda) => Device::Cuda(cuda.ordinal()),
        }
    }

    /// Does `task` on it.
    ///
    /// # Errors
    /// Those of the task.
    pub fn run<T: DeviceTask>(self, task: T) -> Result<T::Output> {
        match self.backend {
            Opened::Cpu(cpu) => task.run(cpu),
            #[cfg(feature = "cuda")]
            Opened::Cuda(cuda) => task.run(cuda),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `cpu`, `cuda` (which is `cuda:0`), `cuda:N` or `auto`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] for a device that this build is without; [`Error::Argument`] for any other name.
    fn from_str(name: &str) -> Result<Self> {
        match (name, cuda_ordinal(name)) {
            ("cpu", _) => Ok(Self::Cpu),
            ("auto", _) => Ok(Self::Auto),
            #[cfg(feature = "cuda")]
            (_, Some(ordinal)) => Ok(Self::Cuda(ordinal)),
            #[cfg(not(feature = "cuda"))]
            (_, Some(_)) => {
                Err(Error::Unavailable { device: name.to_owned(), reason: "CUDA is not built in".into() })
            }
            _ => Err(Error::argument("device", "cpu, cuda, cuda:N or auto", name)),
        }
    }
}

/// The number in `cuda` or `cuda:N`.
fn cuda_ordinal(name: &str) -> Option<u32> {
    match name.strip_prefix("cuda")? {
        "" => Some(0),
        rest => rest.strip_prefix(':')?.parse().ok(),
    }
}

impl fmt::Display for Device {
    /// The name that parses to it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
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
        for (name, device) in [("cpu", Device::Cpu), ("auto", Device::Auto)] {
            assert_eq!(name.parse::<Device>().unwrap(), device);
            assert_eq!(device.to_string(), name);
        }
        for name in ["", "CPU", "cuda:", "cuda:-1", "cuda:x", "cudaa", "cuda0", "cpu:0"] {
            let error = name.parse::<Device>().unwrap_err();
            assert!(matches!(error, Error::Argument { argument: "device", .. }), "{name}: {error}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn cuda_is_not_built_in() {
        for name in ["cuda", "cuda:0", "cuda:12"] {
            let error = name.parse::<Device>().unwrap_err();
            assert!(matches!(&error, Error::Unavailable { device, .. } if device == name), "{error}");
            assert_eq!(error.to_string(), format!("device {name}: CUDA is not built in"));
        }
        let device = Device::Auto.open(Some(1)).unwrap();
        assert_eq!(device.choice(), "cpu, because CUDA is not built in");
        assert_eq!((device.device(), device.is_substitute()), (Device::Cpu, false));
    }

    /// On a machine with fewer GPUs than a hundred thousand.
    #[cfg(feature = "cuda")]
    #[test]
    fn a_gpu_that_is_not_there_is_not_replaced() {
        for (name, ordinal) in [("cuda", 0), ("cuda:0", 0), ("cuda:12", 12)] {
            assert_eq!(name.parse::<Device>().unwrap(), Device::Cuda(ordinal));
        }
        let device: Device = "cuda:100000".parse().unwrap();
        assert_eq!(device.to_string(), "cuda:100000");
        let error = device.open(None).unwrap_err();
        assert!(matches!(&error, Error::Unavailable { device, .. } if device == "cuda:100000"), "{error}");
    }
}
