//! A workload that uses every kind of driver call, for failure injection.

use transdiff_core::backend::{Activation, AdamW, Storage};
use transdiff_core::tensor::{AdamWParam, Attention};
use transdiff_core::{DType, Result, Tensor};
use transdiff_cuda::Cuda;

use crate::tiny::bits;

/// Values in (-1, 1) that depend on `seed`.
pub fn input(cuda: &Cuda, shape: &[usize], seed: usize) -> Result<Tensor<Cuda>> {
    let value = |i: usize| ((i * 37 + seed * 11) % 97) as f32 / 48.5 - 0.999;
    Tensor::from_f32(cuda, shape, (0..shape.iter().product()).map(value).collect(), DType::F32)
}

/// The bits of the results of a linear layer, attention, an optimiser step, an empty sum and a graph.
pub fn run(cuda: &Cuda) -> Result<Vec<Vec<u64>>> {
    let mut results = linear(cuda)?;
    results.extend(attention(cuda)?);
    results.push(adamw(cuda)?);
    results.push(Tensor::zeros(cuda, &[0, 4], DType::F32)?.sum(&[0])?);
    results.push(launched_graph(cuda)?);
    cuda.sync()?;
    let mut all: Vec<Vec<u64>> = results.iter().map(read).collect::<Result<_>>()?;
    all.push(vec![Tensor::squared_norm(cuda, &results.iter().collect::<Vec<_>>())?.to_bits()]);
    drop(results);
    cuda.trim()?;
    Ok(all)
}

fn read(tensor: &Tensor<Cuda>) -> Result<Vec<u64>> {
    Ok(tensor.to_f64()?.into_iter().map(f64::to_bits).collect())
}

/// With an unaligned input.
fn linear(cuda: &Cuda) -> Result<Vec<Tensor<Cuda>>> {
    let x = input(cuda, &[49], 1)?.narrow(0, 1, 48)?.reshape(&[6, 8])?;
    let (w, b) = (input(cuda, &[4, 8], 2)?, input(cuda, &[4], 3)?);
    let (y, pre) = x.linear(&w, Some(&b), Activation::Gelu, true)?;
    let grads = x.linear_backward(&w, Activation::Gelu, pre.as_ref(), &y, [true; 3])?;
    Ok([y].into_iter().chain(grads.into_iter().flatten()).collect())
}

/// With more shared memory than the default limit.
fn attention(cuda: &Cuda) -> Result<Vec<Tensor<Cuda>>> {
    let [q, k, v] = [4, 5, 6].map(|seed| input(cuda, &[1, 3, 2, 64], seed));
    let (q, k, v) = (q?, k?, v?);
    let (y, saved) = q.attention(&k, &v, &Attention::default(), true)?;
    let saved = saved.expect("requested");
    let [dq, dk, dv] = q.attention_backward(&k, &v, &Attention::default(), &y, &saved, &q)?;
    Ok(vec![y, dq, dk, dv])
}

fn adamw(cuda: &Cuda) -> Result<Tensor<Cuda>> {
    let (mut param, grad) = (input(cuda, &[20], 7)?, input(cuda, &[20], 8)?);
    let (mut m, mut v) = (param.zeros_like()?, param.zeros_like()?);
    let hyper = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 1, grad_scale: 1.0 };
    let slot = AdamWParam {
        param: &mut param,
        grad: Some(&grad),
        m: &mut m,
        v: &mut v,
        cast: None,
        weight_decay: 0.1,
    };
    Tensor::adamw_step(cuda, &hyper, &mut [slot])?;
    Ok(param)
}

/// 2·x + 1, by a graph that is launched twice.
fn launched_graph(cuda: &Cuda) -> Result<Tensor<Cuda>> {
    let (x, mut y) = (input(cuda, &[64], 9)?, None);
    let graph = cuda.capture(&mut || {
        y = Some(x.add(&x)?.affine(1.0, 1.0)?);
        Ok(())
    })?;
    let graph = graph.expect("CUDA supports graphs");
    cuda.launch(&graph)?;
    cuda.launch(&graph)?;
    y.expect("captured").copy()
}

/// Checks that the device computes.
pub fn assert_usable(cuda: &Cuda) {
    let x = input(cuda, &[9], 10).unwrap();
    let sum = x.add(&x).unwrap();
    let want = x.to_f64().unwrap().into_iter().map(|x| (2.0 * x).to_bits());
    assert_eq!(bits(&sum), want.collect::<Vec<_>>());
}
