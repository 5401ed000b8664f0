//! Products of 8-bit integers on the dot products of NEON: an instruction adds the products of four k to each of 4 sums. Both of
//! its operands are signed.

use std::arch::aarch64::{int32x4_t, vdupq_n_s32};

use super::neon_tile::{Arrangement, ByElement, QUAD, neon_tiles, panel_width, store};
use super::operand::{Left, Panel, Sums};

neon_tiles! { "neon,dotprod", [i8, i8, i32], ByElement, "sdot {sums:v}.4s, {right:v}.16b, {left:v}.4b[0]" }

// Weights are packed in the groups of the instruction.
const _: () = assert!(GROUP == crate::int8_panels::GROUP);
