//! Products of 8-bit integers on AVX2, with the dot products of AVX-VNNI where the processor has them.

use std::arch::x86_64::{__m256i, _mm256_cmpgt_epi32, _mm256_maskload_epi32, _mm256_maskstore_epi32};
use std::arch::x86_64::{_mm256_set1_epi32, _mm256_setr_epi32};

/// Number of sums per vector.
const LANES: usize = 8;

/// Mask of the first `lanes` of a vector.
#[inline]
#[target_feature(enable = "avx2")]
fn mask_of(lanes: usize) -> __m256i {
    _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// The sums in the lanes of the mask; others are 0.
///
/// # Safety
/// The lanes of the mask can be read.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(mask: __m256i, place: *const i32) -> __m256i {
    // SAFETY: as the caller promises.
    unsafe { _mm256_maskload_epi32(place, mask) }
}

/// Writes the sums in the lanes of the mask.
///
/// # Safety
/// The lanes of the mask can be written.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(place: *mut i32, mask: __m256i, sums: __m256i) {
    // SAFETY: as the caller promises.
    unsafe { _mm256_maskstore_epi32(place, mask, sums) }
}

/// An instruction adds the products of four k to each of eight sums, at four times the rate of f32.
pub(super) mod vnni {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_dpbusd_avx_epi32, _mm256_loadu_si256, _mm256_set1_epi32,
        _mm256_setzero_si256,
    };

    use super::super::operand::{Left, Panel, Sums};
    use super::super::packed_tile::packed_tiles;
    use super::{LANES, load, mask_of, store};
    use crate::int8_panels::GROUP;

    packed_tiles! {
        "avx2,avxvnni", [u8, i8, i32], GROUP, [6, 4, 2] x 2, [LANES, mask_of, __m256i],
        { _mm256_loadu_si256, _mm256_set1_epi32 },
        { _mm256_setzero_si256, _mm256_add_epi32, load, store },
        _mm256_dpbusd_avx_epi32
    }
}

/// Products of inputs and weights in 16 bits, which an instruction adds in pairs. (Those of 8-bit integers, `vpmaddubsw`, limit
/// the sum of two products to 16 bits, which is not exact.)
pub(super) mod pairs {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi32, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi32,
        _mm256_setzero_si256,
    };

    use super::super::operand::{Left, Panel, Sums};
    use super::super::packed_tile::packed_tiles;
    use super::{LANES, load, mask_of, store};
    use crate::int8_panels::PAIR;

    /// Sums + a·b, pair by pair.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn dot(sums: __m256i, a: __m256i, b: __m256i) -> __m256i {
        _mm256_add_epi32(sums, _mm256_madd_epi16(a, b))
    }

    packed_tiles! {
        "avx2", [i16, i16, i32], PAIR, [6, 4, 2] x 2, [LANES, mask_of, __m256i],
        { _mm256_loadu_si256, _mm256_set1_epi32 },
        { _mm256_setzero_si256, _mm256_add_epi32, load, store },
        dot
    }
}
