//! The place of this process among those of a launcher like torchrun, by the environment variables that it sets.

use std::env;

use transdiff_core::{Error, Result};

/// Address at which the ranks meet, `HOST:PORT`: rank 0 listens, the others connect.
const ADDRESS: &str = "NCCL_COMM_ID";

/// The place of this process among those that torchrun, or a launcher that sets its variables, has started.
///
/// `RANK` of `WORLD_SIZE` in all, and `LOCAL_RANK` of `LOCAL_WORLD_SIZE` on this machine; without these two, the only one on its
/// machine. They meet at `NCCL_COMM_ID`, or else on the machine `MASTER_ADDR` at the port after `MASTER_PORT`, which
/// torchrun uses itself.
#[derive(Clone, Debug)]
pub struct NcclLaunch {
    rank: usize,
    size: usize,
    local_rank: usize,
    local_size: usize,
    address: String,
}

impl NcclLaunch {
    /// This process's place; `None` if it is the only one, or `RANK` or `WORLD_SIZE` is not set.
    ///
    /// # Errors
    /// [`Error::Argument`] for a variable that is missing or does not fit the others.
    pub fn from_environment() -> Result<Option<Self>> {
        Self::from_variables(&|name| env::var(name).ok())
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        if set("RANK").is_none() || set("WORLD_SIZE").is_none() {
            return Ok(None);
        }
        let missing = |name, expected: &str| Error::argument(name, expected, "no such variable");
        let below = |name, end: usize, of: &str| {
            let expected = format!("a number below {of}");
            let value = set(name).ok_or_else(|| missing(name, &expected))?;
            let number = value.trim().parse().ok().filter(|&number: &usize| number < end);
            number.ok_or_else(|| Error::argument(name, expected, value))
        };
        let size = below("WORLD_SIZE", i32::MAX as usize, "2^31")?;
        if size == 1 {
            return Ok(None);
        }
        let rank = below("RANK", size, &format!("{size}, WORLD_SIZE"))?;
        let (local_rank, local_size) = match (set("LOCAL_RANK"), set("LOCAL_WORLD_SIZE")) {
            (None, None) => (0, 1),
            _ => {
                let local_size =
                    below("LOCAL_WORLD_SIZE", size + 1, &format!("{}, WORLD_SIZE + 1", size + 1))?;
                (below("LOCAL_RANK", local_size, &format!("{local_size}, LOCAL_WORLD_SIZE"))?, local_size)
            }
        };
        let meet = || {
            let host = set("MASTER_ADDR")
                .ok_or_else(|| missing("MASTER_ADDR", "the name or address of rank 0's machine"))?;
            let port = below("MASTER_PORT", usize::from(u16::MAX), "65535, the last port")? + 1;
            let host = host.trim();
            // Of IPv6, whose colons are not the port's.
            let bare = host.contains(':') && !host.starts_with('[');
            Ok(if bare { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
        };
        let address = set(ADDRESS).map_or_else(meet, Ok)?;
        Ok(Some(Self { rank, size, local_rank, local_size, address }))
    }

    /// Sets `NCCL_COMM_ID`, by which NCCL learns the address, for [`NcclRanks::new`](super::NcclRanks::new).
    ///
    /// # Safety
    /// No other thread reads or writes environment variables meanwhile. Devices have threads of their own: it is called before
    /// one is opened.
    pub unsafe fn announce(&self) {
        // SAFETY: the caller's obligation.
        unsafe { env::set_var(ADDRESS, &self.address) };
    }

    /// Fails unless [`announce`](Self::announce) was called.
    pub(super) fn check_announced(&self) -> Result<(), String> {
        match env::var(ADDRESS) {
            Ok(address) if address == self.address => Ok(()),
            got => Err(format!("{ADDRESS}: expected {}, got {}", self.address, got.unwrap_or_default())),
        }
    }

    /// Number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of processes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Number of this process among those on the same machine, from 0.
    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Number of processes on the same machine.
    pub fn local_size(&self) -> usize {
        self.local_size
    }

    /// Address at which the ranks meet, `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Variables as torchrun sets them, with some replaced; an empty one counts as missing.
    fn launch(replaced: &[(&str, &str)]) -> Result<Option<NcclLaunch>> {
        let torchrun = [
            ("RANK", "5"),
            ("WORLD_SIZE", "8"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "4"),
            ("MASTER_ADDR", "node1"),
            ("MASTER_PORT", "29500"),
        ];
        let value = |name: &str| {
            let mut all = replaced.iter().chain(&torchrun);
            all.find(|(key, _)| *key == name).map(|(_, value)| value.to_string())
        };
        NcclLaunch::from_variables(&value)
    }

    fn address(replaced: &[(&str, &str)]) -> String {
        launch(replaced).unwrap().unwrap().address
    }

    #[test]
    fn place_is_that_of_the_launcher() {
        let place = launch(&[]).unwrap().unwrap();
        assert_eq!([place.rank, place.size, place.local_rank, place.local_size], [5, 8, 1, 4]);
        let place = launch(&[("LOCAL_RANK", ""), ("LOCAL_WORLD_SIZE", "")]).unwrap().unwrap();
        assert_eq!([place.local_rank, place.local_size], [0, 1]);
    }

    #[test]
    fn ranks_meet_beside_the_launcher_or_where_the_user_says() {
        assert_eq!(address(&[]), "node1:29501");
        assert_eq!(address(&[("MASTER_ADDR", "fd00::1")]), "[fd00::1]:29501");
        assert_eq!(address(&[("MASTER_ADDR", "[fd00::1]")]), "[fd00::1]:29501");
        let given = [("NCCL_COMM_ID", "10.0.0.1:7000"), ("MASTER_ADDR", ""), ("MASTER_PORT", "")];
        assert_eq!(address(&given), "10.0.0.1:7000");
    }

    #[test]
    fn process_that_is_alone_has_no_place() {
        for alone in [("WORLD_SIZE", "1"), ("WORLD_SIZE", ""), ("RANK", "")] {
            assert!(launch(&[alone]).unwrap().is_none(), "{alone:?}");
        }
    }

    #[test]
    fn variables_that_do_not_fit_are_named() {
        let errors = [
            ("RANK", "8", "argument RANK: expected a number below 8, WORLD_SIZE, got 8"),
            ("RANK", "-1", "argument RANK: expected a number below 8, WORLD_SIZE, got -1"),
            ("WORLD_SIZE", "many", "argument WORLD_SIZE: expected a number below 2^31, got many"),
            ("WORLD_SIZE", "0", "argument RANK: expected a number below 0, WORLD_SIZE, got 5"),
            ("LOCAL_RANK", "4", "argument LOCAL_RANK: expected a number below 4, LOCAL_WORLD_SIZE, got 4"),
            (
                "LOCAL_RANK",
                "",
                "argument LOCAL_RANK: expected a number below 4, LOCAL_WORLD_SIZE, got no such variable",
            ),
            (
                "LOCAL_WORLD_SIZE",
                "9",
                "argument LOCAL_WORLD_SIZE: expected a number below 9, WORLD_SIZE + 1, got 9",
            ),
            (
                "MASTER_ADDR",
                "",
                "argument MASTER_ADDR: expected the name or address of rank 0's machine, got no such variable",
            ),
            (
                "MASTER_PORT",
                "",
                "argument MASTER_PORT: expected a number below 65535, the last port, got no such variable",
            ),
            (
                "MASTER_PORT",
                "65535",
                "argument MASTER_PORT: expected a number below 65535, the last port, got 65535",
            ),
        ];
        for (name, value, want) in errors {
            assert_eq!(launch(&[(name, value)]).unwrap_err().to_string(), want);
        }
    }
}
