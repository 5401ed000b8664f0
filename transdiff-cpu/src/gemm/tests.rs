//! Properties of the products: rows are independent, partitions and layouts do not change results, and kernels of other
//! types need no change of the driver.

use std::ops::{Add, Range};

use half::bf16;
use transdiff_core::{HostTensor, Int8Weight};

use super::micro_kernel::MicroKernel;
use super::operand::{Left, Operand, Panel, Sums};
use super::pack::RightOperand;
use super::{Epilogue, Gemm, MatrixMultiply, NoEpilogue, driver, int8_group};
use crate::device::Cpu;
use crate::element::Element;
use crate::instruction_set::InstructionSet;
use crate::int8_panels::Int8Panels;
use crate::scratch::Scratch;

fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn product(cpu: &Cpu, [m, k, n]: [usize; 3], a: &[f32], b: Operand<'_, f32>) -> Vec<f32> {
    let mut c = vec![f32::NAN; m * n];
    f32::gemm(cpu, [m, k, n], Operand::rows(a, k), b, &mut c, &NoEpilogue).unwrap();
    c
}

#[test]
fn rows_are_batch_invariant() {
    let (one, three) = (Cpu::new(Some(1)).unwrap(), Cpu::new(Some(3)).unwrap());
    for [m, k, n] in
        [[70, 24, 40], [67, 300, 37], [130, 1100, 100], [33, 512, 17], [41, 2500, 130], [4000, 40, 60]]
    {
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        for b in [Operand::new(&b, [n, 1]), Operand::new(&b, [1, k])] {
            let all = product(&three, [m, k, n], &a, b);
            assert!(all == product(&one, [m, k, n], &a, b), "threads change {m}x{k}x{n}");
            // Cᵀ = Bᵀ Aᵀ.
            for cpu in [&one, &three] {
                let mut turned = vec![f32::NAN; n * m];
                let at = Operand::rows(&a, k).transposed();
                f32::gemm(cpu, [n, k, m], b.transposed(), at, &mut turned, &NoEpilogue).unwrap();
                let same = (0..m * n).all(|i| all[i] == turned[i % n * m + i / n]);
                assert!(same, "the transposed product of {m}x{k}x{n} differs");
            }
            for rows in [1, 3, 8, 17] {
                for start in [0, 1, 5, m - rows] {
                    let part = product(&three, [rows, k, n], &a[start * k..(start + rows) * k], b);
                    let same = part == all[start * n..(start + rows) * n];
                    assert!(same, "rows {start}..+{rows} of {m}x{k}x{n} differ");
                }
            }
        }
    }
}

/// Batch invariance of all kernels, also of those that are not selected on this processor.
#[test]
fn rows_are_batch_invariant_in_every_kernel() {
    fn check<T: Element, K>(name: &str, kernel: K)
    where
        K: MicroKernel<Left = T, Right = T, Accumulator: Element + PartialEq>,
    {
        for [m, k, n] in [[70, 24, 40], [67, 300, 37], [33, 512, 17], [21, 1100, 90]] {
            let convert = |v: Vec<f32>| v.into_iter().map(|x| T::of(f64::from(x))).collect::<Vec<T>>();
            let (a, b) = (convert(values(m * k, 1)), convert(values(k * n, 2)));
            let product = |first: usize, rows: usize| {
                let mut c = vec![K::Accumulator::of(f64::NAN); rows * n];
                let (a, b) = (Operand::rows(&a[first * k..], k), Operand::rows(&b, n));
                driver::serial(&kernel, [rows, k, n], a, b, &mut c, false);
                c
            };
            let all = product(0, m);
            for (first, rows) in [(0, 1), (5, 3), (m - 17, 17)] {
                let same = product(first, rows) == all[first * n..(first + rows) * n];
                assert!(same, "{name}: rows {first}..+{rows} of {m}x{k}x{n} differ");
            }
        }
    }
    check("matrixmultiply in f64", MatrixMultiply::<f64>::default());
    check("matrixmultiply in f32", MatrixMultiply::<f32>::default());
    #[cfg(target_arch = "x86_64")]
    for set in InstructionSet::ALL.into_iter().filter(|set| set.is_available()) {
        if let Some(kernel) = super::avx512_f32::Avx512F32::of(set) {
            check(&format!("{set} in f32"), kernel);
        }
        if let Some(kernel) = super::avx512_bf16::Avx512Bf16::of(set) {
            check(&format!("{set} in bf16"), kernel);
        }
    }
    #[cfg(target_arch = "aarch64")]
    for set in InstructionSet::ALL.into_iter().filter(|set| set.is_available()) {
        if let Some(kernel) = super::neon_f32::NeonF32::of(set) {
            check(&format!("{set} in f32"), kernel);
        }
        if let Some(kernel) = super::neon_bf16::NeonBf16::of(set) {
            check(&format!("{set} in bf16"), kernel);
        }
    }
}

/// At shapes around the tiles, for operands in rows and in columns. Sums in f32 are off by a part of the sum of magnitudes, and
/// bf16 by its rounding, half a unit in the last place.
#[test]
fn products_match_sums_in_f64_in_every_kernel() {
    fn check<T: Gemm + Element>(set: InstructionSet, rounding: f64) {
        let cpu = Cpu::with_instruction_set(Some(2), set).unwrap();
        for [m, k, n] in [
            [1, 1, 1],
            [2, 3, 4],
            [3, 5, 13],
            [7, 9, 11],
            [8, 16, 12],
            [9, 17, 31],
            [31, 33, 50],
            [25, 2050, 16],
            [40, 1050, 99],
            [35, 2053, 18],
        ] {
            let convert = |v: Vec<f32>| v.into_iter().map(|x| T::of(f64::from(x))).collect::<Vec<T>>();
            let (a, b) = (convert(values(m * k, 5)), convert(values(k * n, 6)));
            for [a, b] in [[[k, 1], [n, 1]], [[1, m], [n, 1]], [[k, 1], [1, k]], [[1, m], [1, k]]]
                .map(|[sa, sb]| [Operand::new(&a, sa), Operand::new(&b, sb)])
            {
                let mut c = vec![T::of(f64::NAN); m * n];
                T::gemm(&cpu, [m, k, n], a, b, &mut c, &NoEpilogue).unwrap();
                for (i, got) in c.into_iter().enumerate() {
                    let at = |o: &Operand<'_, T>, row: usize, column: usize| {
                        o.data[row * o.strides[0] + column * o.strides[1]].wide()
                    };
                    let terms = || (0..k).map(|t| at(&a, i / n, t) * at(&b, t, i % n));
                    let (want, magnitude) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                    let limit = rounding * want.abs() + 2f64.powi(-20) * magnitude;
                    let error = (got.wide() - want).abs();
                    assert!(error <= limit, "{set}, {m}x{k}x{n}: {got:?} for {want}");
                }
            }
        }
    }
    for set in InstructionSet::ALL.into_iter().filter(|set| set.is_available()) {
        check::<f32>(set, 0.0);
        check::<bf16>(set, 2f64.powi(-8));
    }
}

#[test]
fn products_over_nothing_are_zero() {
    let c = product(&Cpu::new(Some(1)).unwrap(), [2, 0, 3], &[], Operand::rows(&[], 3));
    assert_eq!(c, [0.0; 6]);
}

#[test]
fn accumulation_adds_to_what_is_there() {
    let (a, b) = (values(6, 1), values(6, 2));
    let (a, b) = (Operand::rows(&a, 2), Operand::rows(&b, 3));
    let (mut c, mut plain) = (vec![1.0f32; 9], vec![f32::NAN; 9]);
    let kernel = MatrixMultiply::<f32>::default();
    driver::serial(&kernel, [3, 2, 3], a, b, &mut c, true);
    driver::serial(&kernel, [3, 2, 3], a, b, &mut plain, false);
    assert!(c.iter().zip(&plain).all(|(c, p)| *c == 1.0 + p));
}

/// A kernel of plain loops whose elements come in groups of `G` values of k, as the instructions for pairs of bf16 and
/// for fours of 8-bit integers take them: panels are [k / G, width, G], padded with zeros, and so is A where its k is
/// not contiguous.
#[derive(Clone, Copy)]
struct Grouped<'a, T, A, const G: usize> {
    multiply_add: fn(T, T, A) -> A,
    to_f32: fn(A) -> f32,
    /// Factors of the columns: scales of a quantised B.
    scales: &'a [f32],
}

/// Columns of a panel of [`Grouped`].
const WIDTH: usize = 8;

/// Elements of [`Grouped`], and its sums.
trait Value: Copy + Default + Scratch + Send + Sync {}

impl<T: Copy + Default + Scratch + Send + Sync> Value for T {}

impl<T: Value, A: Value + Add<Output = A>, const G: usize> MicroKernel for Grouped<'_, T, A, G> {
    type Left = T;
    type Right = T;
    type Accumulator = A;
    type Output = f32;

    const ALIGNMENT: usize = WIDTH;
    /// Small, so that tests have several blocks.
    const DEPTH: usize = 4 * G;

    fn panel_width(&self, remaining: usize) -> usize {
        remaining.min(WIDTH)
    }

    fn packed_len(&self, _: usize, depth: usize, _: [usize; 2]) -> usize {
        depth.next_multiple_of(G) * WIDTH
    }

    unsafe fn pack(&self, b: Panel<T>, packed: &mut [T]) -> Panel<T> {
        packed.fill(T::default());
        for (k, j) in (0..b.depth).flat_map(|k| (0..b.width).map(move |j| (k, j))) {
            // SAFETY: an element of the panel.
            let element = unsafe { *b.start.add(k * b.strides[0] + j * b.strides[1]) };
            packed[(k / G * b.width + j) * G + k % G] = element;
        }
        Panel { start: packed.as_ptr(), strides: [b.width * G, G], ..b }
    }

    fn packed_left_len(&self, [m, k]: [usize; 2], strides: [usize; 2]) -> usize {
        if strides[1] == 1 && k % G == 0 { 0 } else { m * k.next_multiple_of(G) }
    }

    unsafe fn pack_left(&self, a: Left<T>, [m, k]: [usize; 2], packed: &mut [T]) {
        let row = k.next_multiple_of(G);
        packed.fill(T::default());
        for (i, k) in (0..m).flat_map(|i| (0..k).map(move |k| (i, k))) {
            // SAFETY: an element of A.
            packed[i * row + k] = unsafe { *a.start.add(i * a.strides[0] + k * a.strides[1]) };
        }
    }

    unsafe fn multiply(&self, m: usize, a: Left<T>, b: Panel<T>, sums: Sums<A>) {
        for (i, j) in (0..m).flat_map(|i| (0..b.width).map(move |j| (i, j))) {
            let mut sum = A::default();
            for k in 0..b.depth.next_multiple_of(G) {
                let (at, bt) = (i * a.strides[0] + k, k / G * b.strides[0] + j * b.strides[1] + k % G);
                // SAFETY: elements of both operands, which are padded to whole groups.
                let (x, y) = unsafe { (*a.start.add(at), *b.start.add(bt)) };
                sum = (self.multiply_add)(x, y, sum);
            }
            // SAFETY: an element of the sums.
            let place = unsafe { &mut *sums.start.add(i * sums.stride + j) };
            *place = if sums.accumulate { *place + sum } else { sum };
        }
    }

    fn convert(&self, [_, column]: [usize; 2], sums: &[A], out: &mut [f32]) {
        for ((out, &sum), scale) in out.iter_mut().zip(sums).zip(&self.scales[column..]) {
            *out = (self.to_f32)(sum) * scale;
        }
    }
}

struct AddRow;

impl Epilogue<f32> for AddRow {
    fn apply(&self, row: usize, columns: Range<usize>, values: &mut [f32]) {
        assert_eq!(values.len(), columns.len());
        values.iter_mut().for_each(|v| *v += row as f32);
    }
}

/// B packed in advance: all blocks of k of the first panel, then of the next.
#[derive(Clone, Copy)]
struct Prepacked<'a, T> {
    data: &'a [T],
    shape: [usize; 2],
}

impl<'a, T: Value, A: Value + Add<Output = A>, const G: usize> RightOperand<Grouped<'a, T, A, G>>
    for Prepacked<'_, T>
{
    fn reaches(&self, shape: [usize; 2]) -> bool {
        self.shape == shape
    }

    fn scratch_len(&self, _: &Grouped<'a, T, A, G>, _: [usize; 3]) -> usize {
        0
    }

    unsafe fn panel(
        &self,
        _: &Grouped<'a, T, A, G>,
        depth: Range<usize>,
        columns: Range<usize>,
        _: &mut [T],
    ) -> Panel<T> {
        let at = columns.start * self.shape[0].next_multiple_of(G) + depth.start * columns.len();
        let strides = [columns.len() * G, G];
        Panel { start: self.data[at..].as_ptr(), strides, depth: depth.len(), width: columns.len() }
    }
}

/// Products of operands and sums of other types than the output, A transposed or not, B packed in advance or not,
/// against plain loops: of values whose products and sums are exact.
fn check_grouped<T: Value, A: Value + Add<Output = A>, const G: usize>(
    of: fn(i32) -> T,
    multiply_add: fn(T, T, A) -> A,
    to_f32: fn(A) -> f32,
    scale: fn(usize) -> f32,
) {
    let cpu = Cpu::new(Some(3)).unwrap();
    for [m, k, n] in [[1, 1, 1], [5, 7, 9], [40, 33, 130], [130, 64, 20], [3, 0, 4]] {
        let [a, b] = [m * k, k * n].map(|len| (0..len as i32).map(|i| i * i % 15 - 7).collect::<Vec<_>>());
        let scales: Vec<f32> = (0..n).map(scale).collect();
        let element = |row: usize, column: usize| {
            let sum: i32 = (0..k).map(|i| a[row * k + i] * b[i * n + column]).sum();
            sum as f32 * scales[column] + row as f32
        };
        let want: Vec<f32> = (0..m * n).map(|i| element(i / n, i % n)).collect();
        let kernel = Grouped::<T, A, G> { multiply_add, to_f32, scales: &scales };
        let [a, b] = [a, b].map(|v| v.into_iter().map(of).collect::<Vec<T>>());
        let at: Vec<T> = (0..m * k).map(|i| a[i % m * k + i / m]).collect();
        let b = Operand::rows(&b, n);
        let mut packed = Vec::new();
        for column in (0..n).step_by(WIDTH) {
            for first in (0..k).step_by(4 * G) {
                let (depth, columns) = (first..k.min(first + 4 * G), column..n.min(column + WIDTH));
                let groups = depth.len().next_multiple_of(G);
                let (mut scratch, len) = (vec![T::default(); groups * WIDTH], groups * columns.len());
                // SAFETY: this part of B.
                unsafe { RightOperand::panel(&b, &kernel, depth, columns, &mut scratch) };
                packed.extend_from_slice(&scratch[..len]);
            }
        }
        let prepacked = Prepacked { data: &packed, shape: [k, n] };
        for a in [Operand::rows(&a, k), Operand::rows(&at, m).transposed()] {
            let [mut c, mut d] = [vec![f32::NAN; m * n], vec![f32::NAN; m * n]];
            driver::product(&cpu, kernel, [m, k, n], a, b, &mut c, &AddRow);
            assert!(c == want, "{m}x{k}x{n} differs");
            driver::product(&cpu, kernel, [m, k, n], a, prepacked, &mut d, &AddRow);
            assert!(d == want, "{m}x{k}x{n} differs with a packed B");
        }
    }
}

#[test]
fn kernels_of_other_types_need_no_change_of_the_driver() {
    let bf16_pairs = |a: bf16, b: bf16, sum: f32| sum + a.to_f32() * b.to_f32();
    check_grouped::<bf16, f32, 2>(|x| bf16::from_f32(x as f32), bf16_pairs, |sum| sum, |_| 1.0);
    let fours = |a: i8, b: i8, sum: i32| sum + i32::from(a) * i32::from(b);
    check_grouped::<i8, i32, 4>(|x| x as i8, fours, |sum| sum as f32, |j| 0.5 + j as f32);
}

/// Sums are exact, so that all kernels give the same bits.
#[test]
fn products_of_8_bit_integers_are_exact_in_every_kernel() {
    for [m, k, n] in [[1, 1, 1], [3, 7, 5], [17, 64, 48], [40, 2500, 130], [9, 33, 50], [5, 0, 3], [0, 4, 4]]
    {
        let (x, w) = (values(m * k, 3), values(k * n, 4));
        let weight = Int8Weight::quantize(&HostTensor::f32(&[n, k], w).unwrap()).unwrap();
        let mut rows = vec![0u8; k];
        let mut want = Vec::new();
        for x in x.chunks_exact(k.max(1)) {
            let scale = super::int8::quantize_row(x, &mut rows);
            let integers = |n: usize| rows.iter().zip(&weight.values()[n * k..]);
            let sum = |n| integers(n).map(|(&x, &w)| (i64::from(x) - 128) * i64::from(w)).sum::<i64>();
            want.extend((0..n).map(|n| sum(n) as f32 * (scale * weight.scales()[n])));
        }
        want.resize(m * n, 0.0);
        for set in InstructionSet::ALL.into_iter().filter(|set| set.is_available()) {
            let panels = Int8Panels::new(&weight, int8_group(set)).unwrap();
            for threads in [1, 3] {
                let cpu = Cpu::with_instruction_set(Some(threads), set).unwrap();
                let mut c = vec![f32::NAN; m * n];
                f32::gemm_int8(&cpu, m, &x, &panels, &mut c, &NoEpilogue);
                assert!(c == want, "{m}x{k}x{n} differs on {set} with {threads} threads");
            }
        }
    }
}
