//! Products of 8-bit integers on AVX-512 VNNI: an instruction adds the products of four k to each of 16 sums, at four times
//! the rate of f32.

use std::arch::x86_64::{
    _mm512_add_epi32, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_mask_storeu_epi32,
    _mm512_maskz_loadu_epi32, _mm512_set1_epi32, _mm512_setzero_si512,
};

use super::operand::{Left, Panel, Sums};
use super::packed_tile::{LANES, mask16, packed_tiles};
use crate::int8_panels::{GROUP, PANEL};

// The panels of weights are those of the tiles.
const _: () = assert!(PANEL == super::packed_tile::PANEL);

packed_tiles! {
    "avx512f,avx512vnni", [u8, i8, i32], GROUP, [8, 4, 2] x 3, [LANES, mask16, u16],
    { _mm512_loadu_si512, _mm512_set1_epi32 },
    { _mm512_setzero_si512, _mm512_add_epi32, _mm512_maskz_loadu_epi32, _mm512_mask_storeu_epi32 },
    _mm512_dpbusd_epi32
}
