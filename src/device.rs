//! Devices by name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::distributed::{Collectives, Communicator, HostCollectives};
use crate::{Backend, Cpu, Error, Result};

/// Device to compute on.
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
    /// The first GPU if this build has CUDA and the machine a usable GPU, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The NVIDIA GPU with this number, from 0.
    #[cfg(feature = "cuda")]
    Cuda(u32),
}

/// Task for any backend. (A trait, because a closure cannot be generic.)
pub trait DeviceTask {
    /// Result of the task.
    type Output;

    /// Runs the task.
    ///
    /// # Errors
    /// Those of the task.
    fn run<B: Backend>(self, backend: B) -> Result<Self::Output>;
}

/// Task of one of several ranks, for any backend.
pub trait DistributedTask {
    /// Result of the task.
    type Output;

    /// Runs on the backend of this rank; `collectives` sum over all ranks.
    ///
    /// # Errors
    /// Those of the task.
    fn run<B: Backend>(self, backend: B, collectives: Arc<dyn Collectives<B>>) -> Result<Self::Output>;
}

/// A device that was opened.
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
    /// The device of one of several ranks: of those on one machine each has a GPU of its own, if this is
    /// `Cuda(0)`, which `cuda` names, or [`Auto`](Self::Auto) and the machine has GPUs. A launcher may also show
    /// each rank only its own, which is then number 0.
    ///
    /// # Errors
    /// [`Error::Argument`] for another GPU, of which all ranks of the machine would be one; [`Error::Unavailable`] if there are
    /// fewer GPUs than ranks.
    pub fn of_rank(self, communicator: &dyn Communicator) -> Result<Self> {
        self.of_local_rank(communicator.local_rank(), communicator.local_size())
    }

    /// The device of `rank` of the machine's `ranks`; see [`of_rank`](Self::of_rank).
    ///
    /// # Errors
    /// Those of [`of_rank`](Self::of_rank).
    pub fn of_local_rank(self, rank: usize, ranks: usize) -> Result<Self> {
        #[cfg(not(feature = "cuda"))]
        let _ = rank;
        match self {
            Self::Cpu => Ok(self),
            _ if ranks == 1 => Ok(self),
            #[cfg(feature = "cuda")]
            Self::Cuda(0) => Self::gpu_of_rank(rank, ranks),
            #[cfg(feature = "cuda")]
            Self::Cuda(ordinal) => {
                let expected = format!("cuda, of which each of the machine's {ranks} ranks has its own");
                Err(Error::argument("device", expected, format!("cuda:{ordinal}")))
            }
            #[cfg(feature = "cuda")]
            Self::Auto if crate::Cuda::count().is_ok_and(|count| count > 0) => Self::gpu_of_rank(rank, ranks),
            Self::Auto => Ok(self),
        }
    }

    #[cfg(feature = "cuda")]
    fn gpu_of_rank(rank: usize, ranks: usize) -> Result<Self> {
        match crate::Cuda::count()? as usize {
            1 => Ok(Self::Cuda(0)),
            count if rank < count => Ok(Self::Cuda(rank as u32)),
            count => Err(Error::Unavailable {
                device: "cuda".to_owned(),
                reason: format!("expected a GPU for each of the machine's {ranks} ranks, got {count}"),
            }),
        }
    }

    /// Opens the device with `threads` CPU threads, by default one per core.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the reason if a device requested by name is not there, [`Error::OutOfMemory`] or
    /// [`Error::Backend`] if it cannot be used: only [`Device::Auto`] falls back to another device.
    /// [`Error::Argument`] for an invalid number of threads.
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

    /// Opens the device and runs `task` on it.
    ///
    /// # Errors
    /// Those of [`open`](Self::open) and of the task.
    pub fn run<T: DeviceTask>(self, threads: Option<usize>, task: T) -> Result<T::Output> {
        self.open(threads)?.run(task)
    }
}

impl OpenDevice {
    /// Name of the device, as [`Device::from_str`] parses it, and the reason if [`Device::Auto`] chose it.
    pub fn choice(&self) -> &str {
        &self.choice
    }

    /// Returns `true` if [`Device::Auto`] fell back to it because the GPU that this build supports cannot be used.
    pub fn is_substitute(&self) -> bool {
        self.substitute
    }

    /// The device by name, without [`Device::Auto`].
    pub fn device(&self) -> Device {
        match &self.backend {
            Opened::Cpu(_) => Device::Cpu,
            #[cfg(feature = "cuda")]
            Opened::Cuda(cuda) => Device::Cuda(cuda.ordinal()),
        }
    }

    /// Runs `task` on it as one rank of `communicator`. Sums over ranks go by way of host memory on CPUs, and through NCCL on GPUs,
    /// where a rank that does not answer within `timeout` is an error.
    ///
    /// # Errors
    /// Those of the task, and of the collectives.
    pub fn run_distributed<T: DistributedTask>(
        self,
        communicator: Arc<dyn Communicator>,
        timeout: Duration,
        task: T,
    ) -> Result<T::Output> {
        #[cfg(not(feature = "cuda"))]
        let _ = timeout; // the communicator has its own
        match self.backend {
            #[cfg(feature = "cuda")]
            Opened::Cuda(cuda) if communicator.size() > 1 => {
                let collectives = crate::Nccl::new(&cuda, communicator, timeout)?;
                task.run(cuda, Arc::new(collectives))
            }
            #[cfg(feature = "cuda")]
            Opened::Cuda(cuda) => task.run(cuda, Arc::new(HostCollectives::new(communicator)?)),
            Opened::Cpu(cpu) => task.run(cpu, Arc::new(HostCollectives::new(communicator)?)),
        }
    }

    /// Runs `task` on it.
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
    /// [`Error::Unavailable`] for a device that this build does not support; [`Error::Argument`] for any other name.
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

/// Number in `cuda` or `cuda:N`.
fn cuda_ordinal(name: &str) -> Option<u32> {
    match name.strip_prefix("cuda")? {
        "" => Some(0),
        rest => rest.strip_prefix(':')?.parse().ok(),
    }
}

impl fmt::Display for Device {
    /// Writes the name that [`FromStr`] parses.
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
    fn names_round_trip() {
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
    fn cuda_is_unavailable_without_the_feature() {
        for name in ["cuda", "cuda:0", "cuda:12"] {
            let error = name.parse::<Device>().unwrap_err();
            assert!(matches!(&error, Error::Unavailable { device, .. } if device == name), "{error}");
            assert_eq!(error.to_string(), format!("device {name}: CUDA is not built in"));
        }
        let device = Device::Auto.open(Some(1)).unwrap();
        assert_eq!(device.choice(), "cpu, because CUDA is not built in");
        assert_eq!((device.device(), device.is_substitute()), (Device::Cpu, false));
    }

    /// Assumes a machine with fewer than 100,000 GPUs.
    #[cfg(feature = "cuda")]
    #[test]
    fn missing_gpu_is_an_error() {
        for (name, ordinal) in [("cuda", 0), ("cuda:0", 0), ("cuda:12", 12)] {
            assert_eq!(name.parse::<Device>().unwrap(), Device::Cuda(ordinal));
        }
        let device: Device = "cuda:100000".parse().unwrap();
        assert_eq!(device.to_string(), "cuda:100000");
        let error = device.open(None).unwrap_err();
        assert!(matches!(&error, Error::Unavailable { device, .. } if device == "cuda:100000"), "{error}");
    }
}
