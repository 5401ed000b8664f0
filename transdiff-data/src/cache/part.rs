//! Share of the work that one of several processes does.

use std::fmt;
use std::str::FromStr;

use transdiff_core::{Error, Result};

/// Variables of rank and number of processes, as launchers set them: torchrun, Slurm, Open MPI.
const LAUNCHERS: [(&str, &str); 3] = [
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
];

/// Part `index` of `count`, counted from 0: every `count`-th shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    index: usize,
    count: usize,
}

impl Part {
    /// The only part.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Part `index` of `count`.
    ///
    /// # Errors
    /// [`Error::Argument`] unless `index` is below `count`.
    pub fn new(index: usize, count: usize) -> Result<Self> {
        if index < count {
            return Ok(Self { index, count });
        }
        Err(Error::argument("part", "I/N with I below N, counted from 0", format!("{index}/{count}")))
    }

    /// The part that the launcher of several processes has given to this one; `None` without a launcher. `lookup` returns
    /// the value of an environment variable.
    ///
    /// # Errors
    /// [`Error::Argument`] if of rank and number of processes only one is set, if they are not numbers or do not fit
    /// together, or if two launchers contradict each other.
    pub fn from_environment(lookup: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let mut found: Option<(&str, Self)> = None;
        for (rank, size) in LAUNCHERS {
            let part = match (lookup(rank), lookup(size)) {
                (None, None) => continue,
                (Some(index), Some(count)) => {
                    let got = || format!("{rank}={index}, {size}={count}");
                    let expected = || format!("numbers {rank} and {size} with {rank} below {size}");
                    let numbers = index.trim().parse().ok().zip(count.trim().parse().ok());
                    let part = numbers.and_then(|(index, count)| Self::new(index, count).ok());
                    part.ok_or_else(|| Error::argument("part", expected(), got()))?
                }
                (index, _) => {
                    let (set, unset) = if index.is_some() { (rank, size) } else { (size, rank) };
                    let expected = format!("both {rank} and {size} in the environment, or --part");
                    return Err(Error::argument("part", expected, format!("{set} without {unset}")));
                }
            };
            match found {
                Some((other, known)) if known != part => {
                    let expected = "one part from the environment; --part decides";
                    let got = format!("{known} by {other}, {part} by {rank}");
                    return Err(Error::argument("part", expected, got));
                }
                _ => found = Some((rank, part)),
            }
        }
        Ok(found.map(|(_, part)| part))
    }

    /// Number of the part, from 0.
    pub fn index(self) -> usize {
        self.index
    }

    /// Number of parts.
    pub fn count(self) -> usize {
        self.count
    }

    /// The shards of the part, of `shards`.
    pub fn shards(self, shards: usize) -> impl Iterator<Item = usize> {
        (self.index..shards).step_by(self.count)
    }
}

impl FromStr for Part {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let numbers =
            text.split_once('/').and_then(|(i, n)| i.trim().parse().ok().zip(n.trim().parse().ok()));
        let (index, count) = numbers.ok_or_else(|| Error::argument("part", "I/N, such as 0/16", text))?;
        Self::new(index, count)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(variables: &[(&str, &str)]) -> Result<Option<Part>, String> {
        let lookup = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Part::from_environment(lookup).map_err(|e| e.to_string())
    }

    #[test]
    fn launchers_give_their_part() {
        assert_eq!(from(&[]), Ok(None));
        for (rank, size) in LAUNCHERS {
            assert_eq!(from(&[(rank, "3"), (size, "16")]), Ok(Some(Part { index: 3, count: 16 })));
        }
        let agreeing = [("RANK", "1"), ("WORLD_SIZE", "2"), ("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2")];
        assert_eq!(from(&agreeing), Ok(Some(Part { index: 1, count: 2 })));
    }

    #[test]
    fn contradictory_variables_are_named() {
        let cases: [(&[_], &str); 5] = [
            (&[("RANK", "1")], "got RANK without WORLD_SIZE"),
            (&[("SLURM_NTASKS", "1")], "got SLURM_NTASKS without SLURM_PROCID"),
            (&[("RANK", "2"), ("WORLD_SIZE", "2")], "got RANK=2, WORLD_SIZE=2"),
            (&[("RANK", "-1"), ("WORLD_SIZE", "x")], "got RANK=-1, WORLD_SIZE=x"),
            (
                &[("RANK", "1"), ("WORLD_SIZE", "4"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "1")],
                "got 1/4 by RANK, 0/1 by SLURM_PROCID",
            ),
        ];
        for (variables, expected) in cases {
            let error = from(variables).unwrap_err();
            assert!(error.ends_with(expected), "{error}");
        }
    }

    #[test]
    fn parts_are_parsed_and_cover_every_shard_once() {
        for text in ["3", "3/3", "-1/3", "1/", "a/b", "0/0"] {
            assert!(text.parse::<Part>().unwrap_err().to_string().ends_with(&format!("got {text}")));
        }
        let parts = ["0/3", "1/3", "2/3"].map(|text| text.parse::<Part>().unwrap());
        let mut shards: Vec<usize> = parts.iter().flat_map(|part| part.shards(7)).collect();
        shards.sort_unstable();
        assert_eq!(shards, [0, 1, 2, 3, 4, 5, 6]);
    }
}
