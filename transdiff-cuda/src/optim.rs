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
    slots: Slots<5>,
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

/// Splits items into batches for one launch of one kernel, as indices; `kernel` returns that of an item. A call may mix types.
fn batches<T>(items: &[T], kernel: impl Fn(&T) -> Result<Kernel>) -> Result<Vec<(Kernel, Vec<usize>)>> {
    let mut kernels: Vec<(Kernel, Vec<usize>)> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let kernel = kernel(item)?;
        match kernels.iter_mut().find(|(known, _)| known.name == kernel.name) {
            Some((_, indices)) => indices.push(index),
            None => kernels.push((kernel, vec![index])),
        }
    }
    let split = |(kernel, indices): (Kernel, Vec<usize>)| {
        indices.chunks(SLOTS).map(|batch| (kernel, batch.to_vec())).collect::<Vec<_>>()
    };
    Ok(kernels.into_iter().flat_map(split).collect())
}

fn launch_config(blocks: u32) -> LaunchConfig {
    LaunchConfig { grid: [blocks, 1, 1], block: THREADS, shared: 0 }
}

/// Kernel for a parameter and its gradient, which may be in bf16 beside an f32 parameter.
fn adamw_kernel(slot: &AdamWArgs<'_, Cuda>) -> Result<Kernel> {
    match (slot.param.dtype, slot.grad.as_ref().map(|grad| grad.dtype)) {
        (DType::F32, Some(DType::BF16)) => Ok(Kernel { module: "optim", name: "adamw_mixed_bf16" }),
        (dtype, _) => kernel!("adamw_step", "optim", "adamw", dtype),
    }
}

pub(crate) fn adamw_step(cuda: &Cuda, hyper: &AdamW, slots: &mut [AdamWArgs<'_, Cuda>]) -> Result<()> {
    const OP: &str = "adamw_step";
    let correction = |beta: f64| 1.0 - beta.powf(hyper.step as f64);
    for (kernel, batch) in batches(slots, adamw_kernel)? {
        let batch: Vec<&AdamWArgs<'_, Cuda>> = batch.into_iter().map(|index| &slots[index]).collect();
        let tensors = batch.iter().map(|s| {
            let [grad, cast] = [address_of(s.grad.as_ref()), address_of(s.cast.as_ref())];
            ([s.param.address(), s.m.address(), s.v.address(), grad, cast], s.param.layout.numel())
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
    for (kernel, batch) in batches(pairs, |p| kernel!(OP, "optim", "ema", p.0.dtype))? {
        let tensors = batch.into_iter().map(|index| {
            let (average, param) = &pairs[index];
            ([average.address(), param.address()], average.layout.numel())
        });
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
    // The partial sums of the blocks, in the order of the launches.
    let layout = Layout::contiguous(&[tensors.iter().map(blocks).sum()]);
    if layout.numel() == 0 {
        return Ok(vec![0.0; tensors.len()]);
    }
    let buffer = cuda.alloc(DType::F64, layout.numel())?;
    let partials = View { buffer: &buffer, layout: &layout, dtype: DType::F64 };
    let mut next = partials.address();
    let batches = batches(tensors, |t| kernel!(OP, "optim", "squared_norm", t.dtype))?;
    for (kernel, batch) in &batches {
        let of_batch = batch.iter().map(|&index| ([tensors[index].address()], tensors[index].layout.numel()));
        let (slots, blocks) = Slots::new(of_batch, SUM_ELEMENTS);
        cuda.launch_kernel(OP, *kernel, launch_config(blocks), &SquaredNormParams { slots, sums: next })?;
        next += u64::from(blocks) * SIZE;
    }
    let partials = cuda.to_host(partials)?.to_f64();
    let (mut rest, mut norms) = (&partials[..], vec![0.0; tensors.len()]);
    for index in batches.into_iter().flat_map(|(_, batch)| batch) {
        norms[index] = rest.split_off(..blocks(&tensors[index])).into_iter().flatten().sum();
    }
    Ok(norms)
}
