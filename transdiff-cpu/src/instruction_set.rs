//! Instruction sets of matrix products.

use std::fmt;
use std::str::FromStr;

use transdiff_core::{Error, Result};

/// Environment variable with the most capable instruction set that devices use.
const VARIABLE: &str = "TRANSDIFF_CPU_ISA";

/// The most capable instruction set that the kernels of matrix products use, in ascending order: each has those before it
/// that its architecture has, but that processors with AVX-512 need not have AVX-VNNI.
///
/// Kernels of different sets sum in blocks of different sizes, so that results in f32 and bf16 differ by rounding; products
/// of 8-bit integers are exact and the same in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstructionSet {
    /// Any processor; with AVX2 and FMA, or NEON, where it has them.
    Portable,
    /// AVX2: products of 8-bit integers.
    Avx2,
    /// AVX-VNNI: dot products of four 8-bit integers in registers of AVX2.
    Avx2Vnni,
    /// AVX-512F, BW, DQ and VL.
    Avx512,
    /// AVX-512 VNNI: dot products of four 8-bit integers.
    Avx512Vnni,
    /// AVX-512 BF16: dot products of two bf16.
    Avx512Bf16,
    /// NEON, in kernels of this crate.
    Neon,
    /// NEON with dot products of four 8-bit integers (dotprod).
    NeonDotprod,
    /// NEON with matrix multiplication of 8-bit integers (i8mm).
    NeonI8mm,
    /// NEON with matrix multiplication of bf16 (bf16).
    NeonBf16,
}

impl InstructionSet {
    /// All, in ascending order.
    pub const ALL: [Self; 10] = [
        Self::Portable,
        Self::Avx2,
        Self::Avx2Vnni,
        Self::Avx512,
        Self::Avx512Vnni,
        Self::Avx512Bf16,
        Self::Neon,
        Self::NeonDotprod,
        Self::NeonI8mm,
        Self::NeonBf16,
    ];

    /// Returns true if the processor has this instruction set.
    pub fn is_available(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        let available = {
            let avx2 = is_x86_feature_detected!("avx2");
            let avx512 = || {
                avx2 && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            };
            match self {
                Self::Portable => true,
                Self::Avx2 => avx2,
                Self::Avx2Vnni => avx2 && is_x86_feature_detected!("avxvnni"),
                Self::Avx512 => avx512(),
                Self::Avx512Vnni => avx512() && is_x86_feature_detected!("avx512vnni"),
                Self::Avx512Bf16 => Self::Avx512Vnni.is_available() && is_x86_feature_detected!("avx512bf16"),
                _ => false,
            }
        };
        #[cfg(target_arch = "aarch64")]
        let available = {
            use std::arch::is_aarch64_feature_detected;
            match self {
                Self::Portable | Self::Neon => true,
                Self::NeonDotprod => is_aarch64_feature_detected!("dotprod"),
                Self::NeonI8mm => Self::NeonDotprod.is_available() && is_aarch64_feature_detected!("i8mm"),
                Self::NeonBf16 => Self::NeonI8mm.is_available() && is_aarch64_feature_detected!("bf16"),
                _ => false,
            }
        };
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let available = self == Self::Portable;
        available
    }

    /// The fastest instruction set of the processor. Intel's processors have dot products of bf16 at half the rate of f32, as
    /// their fast products of bf16 are in AMX: there bf16 is widened to f32, unless the environment asks for dot products.
    fn fastest() -> Self {
        let slow_dots = || cpu_vendor().is_some_and(|vendor| &vendor == b"GenuineIntel");
        let worthwhile = |set: &Self| set.is_available() && !(*set == Self::Avx512Bf16 && slow_dots());
        Self::ALL.into_iter().rev().find(worthwhile).unwrap_or(Self::Portable)
    }

    /// The instruction set that the environment variable `TRANSDIFF_CPU_ISA` names, or else the fastest of the processor.
    ///
    /// # Errors
    /// [`Error::Argument`] if the variable names no instruction set, or one that the processor does not have.
    pub fn from_environment() -> Result<Self> {
        let Some(value) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) else {
            return Ok(Self::fastest());
        };
        let value = value.to_string_lossy();
        let set: Self = value.parse()?;
        if set.is_available() {
            return Ok(set);
        }
        Err(Error::argument(VARIABLE, format!("one of those that this processor has: {}", names()), value))
    }
}

/// Names of the available instruction sets, separated by commas.
fn names() -> String {
    let available = InstructionSet::ALL.into_iter().filter(|set| set.is_available());
    available.map(|set| set.to_string()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx2Vnni => "avx2-vnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512-vnni",
            Self::Avx512Bf16 => "avx512-bf16",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon-dotprod",
            Self::NeonI8mm => "neon-i8mm",
            Self::NeonBf16 => "neon-bf16",
        })
    }
}

impl FromStr for InstructionSet {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = || Self::ALL.map(|set| set.to_string()).join(", ");
        let found = Self::ALL.into_iter().find(|set| set.to_string() == name);
        found.ok_or_else(|| Error::argument(VARIABLE, format!("one of {}", known()), name))
    }
}

/// The processor's vendor as it names itself.
#[cfg(target_arch = "x86_64")]
fn cpu_vendor() -> Option<[u8; 12]> {
    let leaf = std::arch::x86_64::__cpuid(0);
    let mut vendor = [0; 12];
    for (bytes, word) in vendor.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    Some(vendor)
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_vendor() -> Option<[u8; 12]> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_others_are_refused() {
        for set in InstructionSet::ALL {
            assert_eq!(set.to_string().parse::<InstructionSet>().unwrap(), set);
        }
        let refused = "avx1024".parse::<InstructionSet>().unwrap_err().to_string();
        assert!(refused.contains("avx1024") && refused.contains("avx512-vnni"), "{refused}");
    }

    #[test]
    fn the_fastest_set_is_available() {
        assert!(InstructionSet::fastest().is_available());
    }

    /// The environment names those of an emulated processor.
    #[test]
    fn available_sets_are_those_of_the_processor() {
        match std::env::var("TRANSDIFF_EXPECTED_ISA") {
            Ok(expected) => assert_eq!(names(), expected),
            Err(_) => println!("SKIPPED: no emulated processor"),
        }
    }
}
