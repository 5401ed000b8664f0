//! Launches of `kernels/optim.cu`: optimiser steps over many tensors per launch.

use transdiff_core::backend::{AdamW, AdamWArgs, Storage, View};
use transdiff_core::{DType, Layout, Result};

use crate::device::{Address, Cuda, In, Out, address_of};
use crate::driver::{Kernel, LaunchConfig, Params};

/// Slots per launch: `OPTIM_SLOTS` of optim.cu.
const SLOTS: usize = 64;
/// Threads per block.
const THREADS: u32 = 256;
/// Elements per block of an update, and of a sum.
const UPDATE_ELEMENTS: usize = 1 << 13;
const SUM_ELEMENTS: usize = 1 << 16;

/// Types that the kernels are compiled for.
const TYPES: [DType; 2] = [DType::F32, DType::BF16];

/// `Slots` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Slots<const N: usize> {
    address: [[u64; N]; SLOTS],
    count: [u64; SLOTS],
    first: [u32; SLOTS],
    slots: u32,
    per_block: u32,
}

impl<const N: usize> Slots<N> {
    /// Slots for at most `SLOTS` tuples of N tensors of equal length, and the number of blocks that they take.
    fn new(tensors: impl Iterator<Item = ([u64; N], usize)>, per_block: usize) -> (Self, u32) {
        let (zeros, per_block) = ([0; SLOTS], per_block as u32);
        let mut slots =
            Self { address: [[0; N]; SLOTS], count: zeros, first: [0; SLOTS], slots: 0, per_block };
        let mut blocks = 0;
        for (i, (address, count)) in tensors.enumerate() {
            (slots.address[i], slots.count[i], slots.first[i]) = (address, count as u64, blocks);
            slots.slots += 1;
            blocks += count.div_ceil(per_block as usize) as u32;
        }
        (slots, blocks)
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct AdamWParams {
    slots: Slots<4>,
    /// 1 − lr · weight decay, per slot.
    weight_factor: [f32; SLOTS],
    grad_scale: f32,
    betas: [f32; 2],
    /// 1 − β₁ and 1 − β₂.
    one_minus_betas: [f32; 2],
    /// lr / (1 − β₁ᵗ).
    step_size: f32,
    /// 1 / √(1 − β₂ᵗ).
    root_correction: f32,
    eps: f32,
}

// SAFETY: same layout as `AdamWParams` in optim.cu.
unsafe impl Params for AdamWParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct EmaParams {
    slots: Slots<2>,
    decay: f32,
    one_minus_decay: f32,
}

// SAFETY: same layout as `EmaParams` in optim.cu.
unsafe impl Params for EmaParams {}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct SquaredNormParams {
    slots: Slots<1>,
    sums: u64,
}

// SAFETY: same layout as `SquaredNormParams` in optim.cu.
unsafe impl Params for SquaredNormParams {}

/// Splits items into batches of one type, each with its kernel; a call may mix types.
fn batches<T>(
    items: &[T],
    dtype: impl Fn(&T) -> DType,
    kernel: impl Fn(DType) -> Result<Kernel>,
) -> Result<Vec<(Kernel, Vec<&T>)>> {
    items.iter().try_for_each(|item| kernel(dtype(item)).map(drop))?;
    let mut out = Vec::new();
    for wanted in TYPES {
        let of_type: Vec<&T> = items.iter().filter(|item| dtype(item) == wanted).collect();
        for batch in of_type.chunks(SLOTS) {
            out.push((kernel(wanted)?, batch.to_vec()));
        }
    }
    Ok(out)
}

fn launch_config(blocks: u32) -> LaunchConfig {
    LaunchConfig { grid: [blocks, 1, 1], block: THREADS, shared: 0 }
}

pub(crate) fn adamw_step(cuda: &Cuda, hyper: &AdamW, slots: &mut [AdamWArgs<'_, Cuda>]) -> Result<()> {
    const OP: &str = "adamw_step";
    let correction = |beta: f64| 1.0 - beta.powf(hyper.step as f64);
    for (kernel, batch) in batches(slots, |s| s.param.dtype, |t| kernel!(OP, "optim", "adamw", t))? {
        let tensors = batch.iter().map(|s| {
            let address = [s.param.address(), s.m.address(), s.v.address(), address_of(s.grad.as_ref())];
            (address, s.param.layout.numel())
        });
        let (slots, blocks) = Slots::new(tensors, UPDATE_ELEMENTS);
        let mut weight_factor = [1.0; SLOTS];
        for (factor, slot) in weight_factor.iter_mut().zip(&batch) {
            *factor = (1.0 - hyper.lr * slot.weight_decay) as f32;
        }
        let params = AdamWParams {
            slots,
            weight_factor,
            grad_scale: hyper.grad_scale as f32,
            betas: [hyper.beta1 as f32, hyper.beta2 as f32],
            one_minus_betas: [(1.0 - hyper.beta1) as f32, (1.0 - hyper.beta2) as f32],
            step_size: (hyper.lr / correction(hyper.beta1)) as f32,
            root_correction: (1.0 / correction(hyper.beta2).sqrt()) as f32,
            eps: hyper.eps as f32,
        };
        cuda.launch_kernel(OP, kernel, launch_config(blocks), &params)?;
    }
    Ok(())
}

pub(crate) fn ema_step(cuda: &Cuda, decay: f64, pairs: &mut [(Out<'_>, In<'_>)]) -> Result<()> {
    const OP: &str = "ema_step";
    for (kernel, batch) in batches(pairs, |p| p.0.dtype, |t| kernel!(OP, "optim", "ema", t))? {
        let tensors = batch.iter().map(|p| ([p.0.address(), p.1.address()], p.0.layout.numel()));
        let (slots, blocks) = Slots::new(tensors, UPDATE_ELEMENTS);
        let params = EmaParams { slots, decay: decay as f32, one_minus_decay: (1.0 - decay) as f32 };
        cuda.launch_kernel(OP, kernel, launch_config(blocks), &params)?;
    }
    Ok(())
}

pub(crate) fn squared_norms(cuda: &Cuda, tensors: &[In<'_>]) -> Result<Vec<f64>> {
    const OP: &str = "squared_norms";
    const SIZE: u64 = size_of::<f64>() as u64;
    let blocks = |t: &In<'_>| t.layout.numel().div_ceil(SUM_ELEMENTS);
    // The partial sums of the blocks, in the order of the launches: tensors of one type after those of the other.
    let layout = Layout::contiguous(&[tensors.iter().map(blocks).sum()]);
    if layout.numel() == 0 {
        return Ok(vec![0.0; tensors.len()]);
    }
    let buffer = cuda.alloc(DType::F64, layout.numel())?;
    let partials = View { buffer: &buffer, layout: &layout, dtype: DType::F64 };
    let mut next = partials.address();
    for (kernel, batch) in batches(tensors, |t| t.dtype, |t| kernel!(OP, "optim", "squared_norm", t))? {
        let (slots, blocks) =
            Slots::new(batch.iter().map(|t| ([t.address()], t.layout.numel())), SUM_ELEMENTS);
        cuda.launch_kernel(OP, kernel, launch_config(blocks), &SquaredNormParams { slots, sums: next })?;
        next += u64::from(blocks) * SIZE;
    }
    let partials = cuda.to_host(partials)?.to_f64();
    let (mut rest, mut norms) = (&partials[..], vec![0.0; tensors.len()]);
    for wanted in TYPES {
        for (norm, tensor) in norms.iter_mut().zip(tensors).filter(|(_, tensor)| tensor.dtype == wanted) {
            *norm = rest.split_off(..blocks(tensor)).into_iter().flatten().sum();
        }
    }
    Ok(norms)
}
