//! Invalid arguments: each is a typed error on every backend.

use transdiff_core::backend::{Activation, AdamW, Pooling, UnaryOp, Windows};
use transdiff_core::rng::{Dropout, Purpose, StreamKey};
use transdiff_core::tensor::{AdamWParam, Attention, Conv, Modulation, SavedAttention, ScaleShift};
use transdiff_core::{Backend, DType, Error, HostData, HostTensor, Result, Tensor};

#[track_caller]
fn shape<T>(result: Result<T>) {
    assert!(matches!(result.err(), Some(Error::Shape { .. })), "a shape error");
}

#[track_caller]
fn dtype<T>(result: Result<T>) {
    assert!(matches!(result.err(), Some(Error::DType { .. })), "a type error");
}

#[track_caller]
fn argument<T>(result: Result<T>) {
    assert!(matches!(result.err(), Some(Error::Argument { .. })), "an argument error");
}

/// The tensor in the type of those saved by forward passes.
fn saved<B: Backend>(tensor: &Tensor<B>) -> Tensor<B> {
    tensor.cast(tensor.dtype().accumulator()).unwrap()
}

pub fn check_all<B: Backend>(backend: &B, of: DType) {
    let new = |shape: &[usize]| Tensor::full(backend, shape, 1.0, of).unwrap();
    let ids =
        Tensor::from_host(backend, &HostTensor::new(&[2, 3], HostData::I32(vec![0; 6])).unwrap()).unwrap();
    views(&new, &ids);
    elementwise(&new, &ids);
    linear(&new, &ids);
    norm(&new, &ids);
    attention(&new, &ids);
    image(&new, &ids);
    others(&new, &ids);
    optimiser(&new, &ids);
    if !backend.supports(DType::BF16) {
        let half = Tensor::full(backend, &[2], 1.0, DType::BF16).unwrap();
        dtype(half.add(&half));
        dtype(half.linear(&half, None, Activation::None, false));
        assert_eq!(half.cast(of).unwrap().to_f64().unwrap(), [1.0; 2]);
    }
}

fn views<B: Backend>(new: &impl Fn(&[usize]) -> Tensor<B>, ids: &Tensor<B>) {
    let x = new(&[2, 3]);
    shape(HostTensor::f32(&[2, 3], vec![0.0; 5]));
    shape(HostTensor::f32(&[usize::MAX, 3], vec![]));
    shape(x.reshape(&[7]));
    // Sizes whose product wraps around must not allocate a small buffer.
    let wrapping = usize::MAX / 3 + 2;
    shape(x.narrow(0, 0, 1).unwrap().narrow(1, 0, 1).unwrap().broadcast_to(&[3, wrapping]));
    shape(x.reshape(&[3, wrapping]));
    shape(x.pad_into(&[2, usize::MAX / 2 + 2], 1, 1000));
    shape(x.permute(&[0, 0]));
    shape(x.permute(&[0]));
    shape(x.narrow(1, 2, 2));
    shape(x.narrow(2, 0, 0));
    shape(x.broadcast_to(&[4, 3]));
    shape(new(&[3]).transpose());
    shape(x.item());
    shape(Tensor::cat(&[&x, &new(&[3, 3])], 1));
    shape(Tensor::cat(&[&x, &new(&[6])], 1));
    shape(Tensor::cat(&[&x], 2));
    argument(Tensor::<B>::cat(&[], 0));
    dtype(Tensor::cat(&[&x, ids], 0));
    shape(x.pad_into(&[3, 4], 0, 1));
    shape(x.pad_into(&[2, 3], 0, 1));
    shape(x.pad_into(&[2, 3], 2, 0));
    dtype(x.cast(DType::I32));
    dtype(ids.cast(x.dtype()));
}

fn elementwise<B: Backend>(new: &impl Fn(&[usize]) -> Tensor<B>, ids: &Tensor<B>) {
    let x = new(&[2, 3]);
    dtype(ids.unary(UnaryOp::Silu));
    dtype(ids.affine(1.0, 1.0));
    dtype(ids.sum(&[0]));
    dtype(ids.mul(ids));
    dtype(x.add(ids));
    dtype(x.unary_backward(UnaryOp::Silu, ids));
    dtype(x.matmul(ids));
    shape(x.unary_backward(UnaryOp::Silu, &new(&[3, 2])));
    shape(x.add(&new(&[2])));
    shape(x.sum(&[2]));
    shape(x.sum_to(&[2]));
    shape(x.sum_to(&[1, 2, 3]));
    shape(x.matmul(&x));
    shape(x.matmul(&new(&[3])));
    shape(new(&[2, 2, 3]).matmul(&new(&[3, 3, 4])));
}

fn linear<B: Backend>(new: &impl Fn(&[usize]) -> Tensor<B>, ids: &Tensor<B>) {
    const NONE: Activation = Activation::None;
    let (x, w) = (new(&[4, 3]), new(&[2, 3]));
    shape(x.linear(&new(&[3, 2]), None, NONE, false));
    shape(x.linear(&new(&[3]), None, NONE, false));
    shape(new(&[]).linear(&w, None, NONE, false));
    shape(x.linear(&w, Some(&new(&[3])), NONE, false));
    dtype(x.linear(ids, None, NONE, false));
    dtype(x.linear(&w, Some(ids), NONE, false));
    dtype(ids.linear(ids, None, NONE, false));
    let dy = new(&[4, 2]);
    shape(x.linear_backward(&w, NONE, None, &new(&[4, 3]), [true; 3]));
    shape(x.linear_backward(&w, NONE, None, &new(&[5, 2]), [true; 3]));
    shape(x.linear_backward(&w, Activation::Gelu, Some(&x), &dy, [true; 3]));
    argument(x.linear_backward(&w, NONE, Some(&dy), &dy, [true; 3]));
    argument(x.linear_backward(&w, Activation::Gelu, None, &dy, [true; 3]));
    dtype(x.linear_backward(&w, NONE, None, ids, [true; 3]));
}

fn norm<B: Backend>(new: &impl Fn(&[usize]) -> Tensor<B>, ids: &Tensor<B>) {
    let w = new(&[2, 3]);
    let (x, row, per_image) = (new(&[2, 4, 3]), new(&[3]), new(&[2, 1, 3]));
    let modulation = |scale: &Tensor<B>| Modulation { scale: scale.clone(), shift: per_image.clone() };
    shape(x.norm_modulate(Some((&row, &new(&[4]))), None, 1e-6, false));
    shape(x.norm_modulate(None, Some(&modulation(&new(&[3, 1, 3]))), 1e-6, false));
    shape(new(&[2, 3]).norm_modulate(None, Some(&modulation(&per_image)), 1e-6, false));
    shape(new(&[]).norm_modulate(None, None, 1e-6, false));
    dtype(x.norm_modulate(Some((ids, &row)), None, 1e-6, false));
    dtype(x.norm_modulate(None, Some(&modulation(ids)), 1e-6, false));
    dtype(ids.norm_modulate(None, None, 1e-6, false));
    let stats = saved(&new(&[1, 8, 2]));
    shape(x.norm_modulate_backward(None, None, 1e-6, &stats, (&row, None), [true; 3]));
    shape(x.norm_modulate_backward(None, None, 1e-6, &saved(&row), (&x, None), [true; 3]));
    dtype(x.norm_modulate_backward(None, None, 1e-6, &stats, (ids, None), [true; 3]));
    dtype(x.norm_modulate_backward(None, None, 1e-6, ids, (&x, None), [true; 3]));
    shape(x.norm_modulate_backward(None, None, 1e-6, &stats, (&x, Some(&row)), [true; 3]));
    dtype(x.norm_modulate_backward(None, None, 1e-6, &stats, (&x, Some(ids)), [true; 3]));
    if stats.dtype() != x.dtype() {
        dtype(x.norm_modulate_backward(None, None, 1e-6, &new(&[1, 8, 2]), (&x, None), [true; 3]));
    }

    shape(x.gated_residual(&row, None, None));
    shape(x.gated_residual(&x, Some(&new(&[3, 1, 3])), None));
    dtype(x.gated_residual(ids, None, None));
    dtype(x.gated_residual(&x, Some(ids), None));
    shape(x.gated_residual_backward(None, None, &row, false));
    dtype(x.gated_residual_backward(None, None, ids, false));
    for invalid in [dropout(1.0, 1), dropout(-0.1, 1), dropout(f32::NAN, 1), dropout(0.5, 0)] {
        argument(x.linear(&w, None, Activation::GeluDropout(invalid), false));
        argument(x.gated_residual(&x, None, Some(invalid)));
        argument(x.gated_residual_backward(None, Some(invalid), &x, false));
    }
    // Three samples cannot share two images, whatever the number of elements.
    shape(new(&[2, 3]).linear(&w, None, Activation::GeluDropout(dropout(0.5, 3)), false));
    // One row, whatever its number of outputs.
    shape(new(&[3]).linear(&w, None, Activation::GeluDropout(dropout(0.5, 2)), false));
    shape(new(&[2, 3, 3]).gated_residual(&new(&[2, 3, 3]), None, Some(dropout(0.5, 3))));
    shape(new(&[2, 3, 3]).gated_residual_backward(None, Some(dropout(0.5, 3)), &new(&[2, 3, 3]), false));
}

fn dropout(rate: f32, samples: usize) -> Dropout {
    Dropout { rate, key: StreamKey::new(0, Purpose::Dropout, 0, 0), samples }
}

fn attention<B: Backend>(new: &impl Fn(&[usize]) -> Tensor<B>, ids: &Tensor<B>) {
    let (q, k) = (new(&[2, 3, 2, 4]), new(&[2, 5, 2, 4]));
    let plain = Attention::default();
    shape(new(&[2, 3]).attention(&k, &k, &plain, false));
    shape(q.attention(&new(&[3, 5, 2, 4]), &k, &plain, false));
    shape(q.attention(&k, &new(&[2, 6, 2, 4]), &plain, false));
    shape(q.attention(&k, &new(&[2]), &plain, false));
    let other = ids.reshape(&[1, 1, 6, 1]).unwrap();
    dtype(new(&[1, 1, 6, 1]).attention(&other, &other, &plain, false));
    for ends in [&[][..], &[4], &[3, 3, 5], &[0, 5], &[5, 4], &[6]] {
        let how = Attention { segment_ends: Some(ends.to_vec()), dropout: None };
        argument(q.attention(&k, &k, &how, false));
    }
    argument(q.attention(&k, &k, &Attention { segment_ends: None, dropout: Some(dropout(1.0, 2)) }, false));
    shape(q.attention(&k, &k, &Attention { segment_ends: None, dropout: Some(dropout(0.5, 3)) }, false));
    let masked = Attention { segment_ends: Some(vec![3]), dropout: None };
    argument(k.attention(&q, &q, &masked, false));
    let of = |lse: &Tensor<B>| SavedAttention { lse: lse.clone(), kept: None };
    let good = of(&saved(&new(&[2, 2, 3])));
    shape(q.attention_backward(&k, &k, &plain, &k, &good, &q));
    shape(q.attention_backward(&k, &k, &plain, &q, &of(&saved(&q)), &q));
    shape(q.attention_backward(&k, &k, &plain, &q, &good, &k));
    // Thirds of one tensor have one shape.
    shape(q.self_attention_backward(&k, &k, &plain, &q, &good, &q));
    dtype(q.attention_backward(&k, &k, &plain, &q, &good, ids));
    if good.lse.dtype() != q.dtype() {
        dtype(q.attention_backward(&k, &k, &plain, &q, &of(&new(&[2, 2, 3])), &q));
    }
    // A dropout's mask is that of the forward pass.
    let dropped = Attention { segment_ends: None, dropout: Some(dropout(0.5, 2)) };
    let with = |kept: &Tensor<B>| SavedAttention { kept: Some(kept.clone()), ..good.clone() };
    let kept = q.dropout_mask(dropout(0.5, 2), 5).unwrap();
    argument(q.attention_backward(&k, &k, &dropped, &q, &good, &q));
    argument(q.attention_backward(&k, &k, &plain, &q, &with(&kept), &q));
    shape(q.attention_backward(&k, &k, &dropped, &q, &with(&kept.narrow(2, 0, 2).unwrap()), &q));
    dtype(q.attention_backward(&k, &k, &dropped, &q, &with(&new(&[2, 2, 3, 1])), &q));
    shape(new(&[2, 3]).dropout_mask(dropout(0.5, 2), 5));
    shape(q.dropout_mask(dropout(0.5, 3), 5));
}

fn image<B: Backend>(new: &impl Fn(&[usize]) -> Tensor<B>, ids: &Tensor<B>) {
    let (x, four, one) = (new(&[2, 6, 5, 4]), new(&[4]), new(&[1]));
    shape(new(&[6, 5, 4]).group_norm(&four, &four, 2, 1e-6));
    shape(new(&[2, 0, 5, 4]).group_norm(&four, &four, 2, 1e-6));
    shape(x.group_norm(&four, &new(&[5]), 2, 1e-6));
    argument(x.group_norm(&four, &four, 3, 1e-6));
    argument(x.group_norm(&four, &four, 0, 1e-6));
    dtype(x.group_norm(ids, &four, 2, 1e-6));
    dtype(ids.group_norm(&four, &four, 2, 1e-6));

    let (w, plain) = (new(&[1, 4, 3, 3]), Conv::default());
    shape(new(&[6, 5, 4]).conv2d(&w, &one, &plain));
    // The last is larger than the image.
    for weight in [&[1, 5, 3, 3][..], &[1, 4], &[1, 4, 3, 6]] {
        shape(x.conv2d(&new(weight), &one, &plain));
    }
    shape(x.conv2d(&w, &four, &plain));
    shape(x.conv2d(&w, &one, &Conv { residual: Some(&x), ..plain.clone() }));
    argument(x.conv2d(&w, &one, &Conv { stride: [1, 0], ..plain.clone() }));
    let windows = Windows { kernel: [2, 2], stride: [1, 1], padding: [[0, 0], [1, 1]] };
    let pool = |windows: Windows| x.pool2d(Pooling::Max, &windows);
    shape(pool(Windows { kernel: [9, 2], ..windows }));
    argument(pool(Windows { kernel: [0, 2], ..windows }));
    argument(pool(Windows { stride: [0, 1], ..windows }));
    argument(pool(Windows { padding: [[2, 0], [0, 0]], ..windows }));
    shape(new(&[6, 5, 4]).pool2d(Pooling::Average, &windows));
    let around = Windows { padding: [[1; 2]; 2], ..windows };
    shape(new(&[1, 0, 5, 4]).pool2d(Pooling::Average, &around));
    dtype(ids.pool2d(Pooling::Average, &windows));
    let with = |coefficients: &Tensor<B>| {
        let scale_shift = ScaleShift { coefficients: coefficients.clone(), silu: true };
        x.conv2d(&w, &one, &Conv { scale_shift: Some(&scale_shift), ..Conv::default() })
    };
    shape(with(&saved(&new(&[1, 2, 4]))));
    dtype(with(ids));
    let narrow = new(&[2, 2, 4]);
    if narrow.dtype().accumulator() != narrow.dtype() {
        dtype(with(&narrow));
    }
    dtype(x.conv2d(ids, &one, &plain));
    dtype(x.conv2d(&w, ids, &plain));
    dtype(ids.conv2d(&w, &one, &plain));
    dtype(x.conv2d(&w, &one, &Conv { residual: Some(ids), ..plain.clone() }));
}

fn others<B: Backend>(new: &impl Fn(&[usize]) -> Tensor<B>, ids: &Tensor<B>) {
    let table = new(&[5, 3]);
    argument(table.embedding(&[0, 5]));
    shape(new(&[5]).embedding(&[0]));
    dtype(ids.embedding(&[0]));
    argument(new(&[2, 3]).embedding_backward(&[0, 5], 5));
    shape(new(&[2, 3]).embedding_backward(&[0], 5));
    dtype(ids.embedding_backward(&[0, 1], 5));
    shape(table.mse(&new(&[3, 5])));
    shape(new(&[0]).mse(&new(&[0])));
    dtype(new(&[2, 3]).mse(ids));
    shape(table.mse_backward(&table, &table));
    shape(table.mse_backward(&new(&[3, 5]), &new(&[])));
    dtype(new(&[2, 3]).mse_backward(ids, &new(&[])));
}

fn optimiser<B: Backend>(new: &impl Fn(&[usize]) -> Tensor<B>, ids: &Tensor<B>) {
    let copied = |cast: &Tensor<B>| {
        let ([mut p, mut m, mut v], mut cast) = ([(); 3].map(|()| new(&[2, 3])), cast.clone());
        let hyper = AdamW { lr: 1.0, beta1: 0.9, beta2: 0.99, eps: 1e-8, step: 1, grad_scale: 1.0 };
        let (backend, cast) = (p.backend().clone(), Some(&mut cast));
        let param = AdamWParam { param: &mut p, grad: None, m: &mut m, v: &mut v, cast, weight_decay: 0.0 };
        Tensor::adamw_step(&backend, &hyper, &mut [param])
    };
    // A copy is of a narrower type.
    dtype(copied(&new(&[2, 3])));
    shape(copied(&new(&[3, 2])));
    let step = |param: &[usize], grad: &Tensor<B>, m: &[usize]| {
        let (mut p, mut m, mut v) = (new(param), new(m), new(param));
        let hyper = AdamW { lr: 1.0, beta1: 0.9, beta2: 0.99, eps: 1e-8, step: 1, grad_scale: 1.0 };
        let param = AdamWParam {
            param: &mut p,
            grad: Some(grad),
            m: &mut m,
            v: &mut v,
            cast: None,
            weight_decay: 0.0,
        };
        Tensor::adamw_step(grad.backend(), &hyper, &mut [param])
    };
    shape(step(&[2, 3], &new(&[3, 2]), &[2, 3]));
    shape(step(&[2, 3], &new(&[2, 3]), &[6]));
    dtype(step(&[2, 3], ids, &[2, 3]));
    let param = new(&[2, 3]);
    shape(Tensor::ema_step(param.backend(), 0.5, &mut [(&mut new(&[3, 2]), &param)]));
    dtype(Tensor::ema_step(param.backend(), 0.5, &mut [(&mut param.clone(), ids)]));
    argument(Tensor::ema_step(param.backend(), 1.5, &mut [(&mut param.clone(), &param)]));
    argument(Tensor::ema_step(param.backend(), f64::NAN, &mut [(&mut param.clone(), &param)]));
    dtype(Tensor::squared_norm(param.backend(), &[ids]));
}
