//! The guard itself: what it catches.

use std::panic::{AssertUnwindSafe, catch_unwind};

use transdiff_core::backend::{Activation, AdamW, BinaryOp, Pooling, Storage, UnaryOp, ViewMut, Windows};
use transdiff_core::reference::Reference;
use transdiff_core::rng::{Dropout, Purpose, StreamKey};
use transdiff_core::tensor::{AdamWParam, Attention, Conv, Modulation, SavedAttention, ScaleShift};
use transdiff_core::{DType, HostTensor, Int8Weight, Layout, Result};
use transdiff_cpu::Cpu;

use crate::guarded::Guarded;

const MARGIN: usize = 5;

type Backend = Guarded<Reference>;
type Tensor = transdiff_core::Tensor<Backend>;

/// An operation with all its outputs, and the names of these.
type Operation = (&'static str, &'static str, fn(&Backend) -> Result<()>);

const OPERATIONS: &[Operation] = &[
    ("fill", "out", |b| Tensor::zeros(b, &[3], DType::F64).map(drop)),
    ("copy", "out", |b| of(b, &[3]).copy().map(drop)),
    ("cast", "out", |b| of(b, &[3]).cast(DType::F32).map(drop)),
    ("unary", "out", |b| of(b, &[3]).unary(UnaryOp::Silu).map(drop)),
    ("unary_backward", "dx", |b| of(b, &[3]).unary_backward(UnaryOp::Silu, &of(b, &[3])).map(drop)),
    ("binary", "out", |b| of(b, &[3]).binary(BinaryOp::Sub, &of(b, &[3])).map(drop)),
    ("affine", "out", |b| of(b, &[3]).affine(2.0, 1.0).map(drop)),
    ("sum", "out", |b| of(b, &[3, 2]).sum(&[0]).map(drop)),
    ("matmul", "out", |b| of(b, &[3, 2]).matmul(&of(b, &[2, 4])).map(drop)),
    ("linear", "y, pre", |b| {
        let (x, w, bias) = (of(b, &[3, 2]), of(b, &[4, 2]), of(b, &[4]));
        x.linear(&w, Some(&bias), Activation::Gelu, true).map(drop)
    }),
    ("linear_backward", "dx, dw, db", |b| {
        let (x, w, dy) = (of(b, &[3, 2]), of(b, &[4, 2]), of(b, &[3, 4]));
        x.linear_backward(&w, Activation::Gelu, Some(&dy), &dy, [true; 3]).map(drop)
    }),
    ("norm_modulate", "y, stats", |b| of(b, &[3, 4]).norm_modulate(None, None, 1e-6, true).map(drop)),
    ("norm_modulate_backward", "dx, dweight, dbias, dscale, dshift", |b| {
        let (x, w, row, stats) = (of(b, &[2, 3, 4]), of(b, &[4]), of(b, &[2, 1, 4]), of(b, &[2, 3, 2]));
        let modulation = Modulation { scale: row.clone(), shift: row };
        let (affine, modulation) = (Some((&w, &w)), Some(&modulation));
        x.norm_modulate_backward(affine, modulation, 1e-6, &stats, (&x, None), [true; 3]).map(drop)
    }),
    ("gated_residual", "y", |b| of(b, &[2, 3, 4]).gated_residual(&of(b, &[2, 3, 4]), None, None).map(drop)),
    ("gated_residual_backward", "du, dgate", |b| {
        let (u, gate) = (of(b, &[2, 3, 4]), of(b, &[2, 1, 4]));
        u.gated_residual_backward(Some(&gate), None, &u, true).map(drop)
    }),
    ("dropout_mask", "kept", |b| {
        let key = StreamKey::new(0, Purpose::Dropout, 0, 0);
        of(b, &[1, 3, 2, 4]).dropout_mask(Dropout { rate: 0.5, key, samples: 1 }, 5).map(drop)
    }),
    ("attention", "y, lse", |b| {
        let (q, k) = (of(b, &[1, 3, 2, 4]), of(b, &[1, 5, 2, 4]));
        q.attention(&k, &k, &Attention::default(), true).map(drop)
    }),
    ("attention_backward", "dq, dk, dv", |b| {
        let (q, k, lse) = (of(b, &[1, 3, 2, 4]), of(b, &[1, 5, 2, 4]), of(b, &[1, 2, 3]));
        let saved = SavedAttention { lse, kept: None };
        q.attention_backward(&k, &k, &Attention::default(), &q, &saved, &q).map(drop)
    }),
    ("attention_backward", "joint", |b| {
        let (q, lse) = (of(b, &[1, 3, 2, 4]), of(b, &[1, 2, 3]));
        let saved = SavedAttention { lse, kept: None };
        q.self_attention_backward(&q, &q, &Attention::default(), &q, &saved, &q).map(drop)
    }),
    ("embedding", "out", |b| of(b, &[3, 2]).embedding(&[2, 0]).map(drop)),
    ("embedding_backward", "dtable", |b| of(b, &[2, 3]).embedding_backward(&[2, 0], 4).map(drop)),
    ("mse", "loss", |b| of(b, &[3]).mse(&of(b, &[3])).map(drop)),
    ("mse_backward", "da", |b| of(b, &[3]).mse_backward(&of(b, &[3]), &of(b, &[])).map(drop)),
    ("group_norm", "scale_shift", |b| {
        of(b, &[1, 2, 2, 4]).group_norm(&of(b, &[4]), &of(b, &[4]), 2, 1e-6).map(drop)
    }),
    ("conv2d", "y", |b| {
        let scale_shift = ScaleShift { coefficients: of(b, &[1, 2, 4]), silu: true };
        // In the order in memory that backends take: core makes no copy.
        let w = of(b, &[3, 3, 4, 3]).permute(&[3, 2, 0, 1])?;
        let (x, residual) = (of(b, &[1, 2, 2, 4]), of(b, &[1, 2, 2, 3]));
        let padding = [[1; 2]; 2];
        let how =
            Conv { padding, scale_shift: Some(&scale_shift), residual: Some(&residual), ..Conv::default() };
        x.conv2d(&w, &of(b, &[3]), &how).map(drop)
    }),
    ("pool2d", "y", |b| {
        let windows = Windows { kernel: [3; 2], stride: [2; 2], padding: [[1; 2]; 2] };
        of(b, &[1, 2, 2, 4]).pool2d(Pooling::Max, &windows).map(drop)
    }),
    ("adamw_step", "param, m, v", |b| {
        let hyper = AdamW { lr: 0.1, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 1, grad_scale: 1.0 };
        let [mut param, grad, mut m, mut v] = [(); 4].map(|()| of(b, &[3]));
        let adamw = AdamWParam {
            param: &mut param,
            grad: Some(&grad),
            m: &mut m,
            v: &mut v,
            cast: None,
            weight_decay: 0.1,
        };
        Tensor::adamw_step(b, &hyper, &mut [adamw])
    }),
    ("ema_step", "average", |b| Tensor::ema_step(b, 0.9, &mut [(&mut of(b, &[3]), &of(b, &[3]))])),
];

fn of(backend: &Backend, shape: &[usize]) -> Tensor {
    let values = (1..=shape.iter().product()).map(|i: usize| i as f64 / 8.0).collect();
    Tensor::from_f64(backend, shape, values, DType::F64).unwrap()
}

/// The message of the panic that `f` ends in.
fn panic_message(f: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(f)).expect_err("a panic");
    *payload.downcast::<String>().expect("a formatted message")
}

#[test]
fn writes_within_outputs_pass() {
    for (op, _, run) in OPERATIONS {
        run(&Guarded::new(Reference, MARGIN)).unwrap_or_else(|error| panic!("{op}: {error}"));
    }
}

/// Outputs that begin one element too early or too late: each operation writes one element before or past each output.
#[test]
fn writes_off_by_one_are_caught_at_every_output() {
    for start in [MARGIN - 1, MARGIN + 1] {
        let backend = Guarded::misplaced(Reference, MARGIN, start);
        for (op, outputs, run) in OPERATIONS {
            let message = panic_message(|| run(&backend).unwrap());
            assert_eq!(message, format!("{op} wrote outside of {outputs}"));
        }
    }
}

/// The reference implementation does not multiply 8-bit integers.
#[test]
fn writes_of_products_with_quantised_weights_are_caught() {
    let linear = |backend: &Guarded<Cpu>| {
        let weight = Int8Weight::quantize(&HostTensor::f32(&[4, 2], vec![0.5; 8])?)?;
        let weight = transdiff_core::Tensor::quantized_weight(backend, &weight, DType::F32)?;
        let x = transdiff_core::Tensor::from_f32(backend, &[3, 2], vec![1.0; 6], DType::F32)?;
        x.linear(&weight, None, Activation::None, false).map(drop)
    };
    let cpu = Cpu::new(Some(1)).unwrap();
    linear(&Guarded::new(cpu.clone(), MARGIN)).unwrap();
    for start in [MARGIN - 1, MARGIN + 1] {
        let backend = Guarded::misplaced(cpu.clone(), MARGIN, start);
        assert_eq!(panic_message(|| linear(&backend).unwrap()), "linear wrote outside of y");
    }
}

/// As a kernel that takes its output for one element longer than it is.
#[test]
fn writes_of_one_element_too_many_are_caught() {
    let backend = Guarded::new(Reference, MARGIN);
    let mut buffer = backend.alloc(DType::F64, 3).unwrap();
    let mut fill = |len: usize| {
        let layout = Layout::contiguous(&[len]);
        backend.fill(0.0, ViewMut { buffer: &mut buffer, layout: &layout, dtype: DType::F64 }).unwrap();
    };
    fill(3);
    assert_eq!(panic_message(|| fill(4)), "fill wrote outside of out");
}

#[test]
fn squared_norms_are_those_of_the_guarded_backend() {
    let x = of(&Guarded::new(Reference, MARGIN), &[2]);
    assert_eq!(Tensor::squared_norm(x.backend(), &[&x]).unwrap(), (1.0 + 4.0) / 64.0);
}
