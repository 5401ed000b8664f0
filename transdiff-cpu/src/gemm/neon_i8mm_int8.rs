//! Products of 8-bit integers on the matrix multiplication of NEON (i8mm): an instruction adds the products of eight k to each
//! of 2×2 sums.

use std::arch::aarch64::{int32x4_t, vdupq_n_s32};

use super::neon_tile::{Arrangement, QUAD, TwoByTwo, neon_tiles, panel_width, store};
use super::operand::{Left, Panel, Sums};

neon_tiles! { "neon,i8mm", [u8, i8, i32], TwoByTwo, "usmmla {sums:v}.4s, {left:v}.16b, {right:v}.16b" }

// Weights are packed in the groups of the instruction.
const _: () = assert!(GROUP == crate::int8_panels::WIDE_GROUP);
