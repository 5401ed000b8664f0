//! Launch geometry, compared with values computed by hand from the kernels' documentation.

use transdiff_core::backend::{Activation, AdamW, UnaryOp};
use transdiff_core::tensor::{AdamWParam, Attention, Conv};
use transdiff_core::{DType, Tensor};
use transdiff_cuda::Cuda;

use crate::emulator::emulator;

fn zeros(cuda: &Cuda, shape: &[usize], dtype: DType) -> Tensor<Cuda> {
    Tensor::zeros(cuda, shape, dtype).unwrap()
}

fn adamw(cuda: &Cuda, sizes: &[usize]) {
    let hyper = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 1, grad_scale: 1.0 };
    let mut states: Vec<_> = sizes.iter().map(|&n| [(); 3].map(|()| zeros(cuda, &[n], DType::F32))).collect();
    let mut slots: Vec<_> = states
        .iter_mut()
        .map(|[param, m, v]| AdamWParam { param, grad: None, m, v, cast: None, weight_decay: 0.0 })
        .collect();
    Tensor::adamw_step(cuda, &hyper, &mut slots).unwrap();
}

fn attention(cuda: &Cuda, [b, n, h, e]: [usize; 4], dtype: DType) {
    let q = zeros(cuda, &[b, n, h, e], dtype);
    q.attention(&q, &q, &Attention::default(), false).unwrap();
}

fn norm(cuda: &Cuda, rows: usize, width: usize, dtype: DType) {
    zeros(cuda, &[1, rows, width], dtype).norm_modulate(None, None, 1e-6, false).unwrap();
}

fn convolve(cuda: &Cuda, [h, w, c, o]: [usize; 4]) {
    let (x, weight) = (zeros(cuda, &[2, h, w, c], DType::BF16), zeros(cuda, &[o, c, 3, 3], DType::BF16));
    x.conv2d(&weight, &zeros(cuda, &[o], DType::BF16), &Conv::default()).unwrap();
}

type Case = (&'static str, fn(&Cuda));

/// Expected last launch of each operation.
const CASES: [Case; 14] = [
    // 256 threads, with two vectors of 4 elements each.
    ("fill_16 grid 2 1 1 block 256 1 1 shared 0", |cuda| drop(zeros(cuda, &[2052], DType::F32))),
    ("unary_wide_f32 grid 3 1 1 block 256 1 1 shared 0", |cuda| {
        zeros(cuda, &[4100], DType::F32).unary(UnaryOp::Silu).unwrap();
    }),
    // An odd number of rows of odd width: single elements.
    ("unary_bf16 grid 1 1 1 block 256 1 1 shared 0", |cuda| {
        zeros(cuda, &[7, 73], DType::BF16).unary(UnaryOp::Silu).unwrap();
    }),
    // One warp per row, 4 warps per block.
    ("norm_warp_8_wide_f32 grid 5 1 1 block 128 1 1 shared 0", |cuda| norm(cuda, 17, 256, DType::F32)),
    ("norm_warp_32_wide_bf16 grid 5 1 1 block 128 1 1 shared 0", |cuda| norm(cuda, 17, 1024, DType::BF16)),
    ("norm_warp_40_bf16 grid 5 1 1 block 128 1 1 shared 0", |cuda| norm(cuda, 17, 1271, DType::BF16)),
    // One block per row, 8 elements per thread, whole warps: 1288 / 8 = 161.
    ("norm_block_wide_bf16 grid 17 1 1 block 192 1 1 shared 0", |cuda| norm(cuda, 17, 1288, DType::BF16)),
    ("norm_long_f32 grid 2 1 1 block 512 1 1 shared 0", |cuda| norm(cuda, 2, 8193, DType::F32)),
    // 8192 elements per block, and one tensor per block.
    ("adamw_f32 grid 4 1 1 block 256 1 1 shared 0", |cuda| adamw(cuda, &[10, 8192, 8193])),
    // 70 tensors: 64 and 6.
    ("adamw_f32 grid 6 1 1 block 256 1 1 shared 0", |cuda| adamw(cuda, &[5; 70])),
    // 64 queries per block: two blocks for each of 3 heads of 2 images. Queries, keys and values [64, 64 + 4], and
    // scores [64, 64 + 4], in f32.
    ("attention_64_f32 grid 12 1 1 block 256 1 1 shared 69632", |cuda| {
        attention(cuda, [2, 65, 3, 64], DType::F32);
    }),
    // Two stages of keys and values [64, 80 + 8], in bf16.
    ("attention_80_bf16 grid 3 1 1 block 128 1 1 shared 45056", |cuda| {
        attention(cuda, [1, 64, 3, 80], DType::BF16);
    }),
    // Heads of size 50 use the kernel for 64.
    ("attention_64_bf16 grid 4 1 1 block 128 1 1 shared 36864", |cuda| {
        attention(cuda, [1, 65, 2, 50], DType::BF16);
    }),
    // Tiles of 8 × 16 pixels and all outputs: 5 × 2 per image. Two patches of 10 × 18 pixels of 80 bytes, and four
    // slices of 32 channels of the weight with (16 outputs + 8) of 2 bytes.
    ("conv_narrow_bf16 grid 10 2 1 block 128 1 1 shared 34944", |cuda| convolve(cuda, [40, 30, 32, 5])),
];

#[test]
fn launch_geometry_matches_hand_computed_values() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    for (want, work) in CASES {
        emulator.reset();
        work(&cuda);
        let log = emulator.log();
        assert_eq!(log.last().map(String::as_str), Some(want), "{log:#?}");
    }
}

#[test]
fn empty_tensors_launch_nothing() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    let empty = zeros(&cuda, &[0, 8], DType::F32);
    empty.add(&empty).unwrap().norm_modulate(None, None, 1e-6, true).unwrap();
    empty.linear(&zeros(&cuda, &[0, 8], DType::F32), None, Activation::None, true).unwrap();
    assert_eq!(emulator.log(), [""; 0]);
}
