//! Properties of the whole backend: gradients against finite differences in f64, f32 against f64, and results that do
//! not depend on the number of threads or on the other rows.

use transdiff_core::backend::{Activation, AdamW, BinaryOp, UnaryOp};
use transdiff_core::rng::{Dropout, Purpose, StreamKey};
use transdiff_core::tensor::{AdamWParam, Attention, Modulation};
use transdiff_core::{DType, Error, HostData, HostTensor, Result, Tensor};

use crate::device::Cpu;
use guarded::Guarded;

#[path = "../../tests/common/guarded.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod guarded;

/// A CPU that panics where an operation writes outside of its outputs.
type Device = Guarded<Cpu>;
type T = Tensor<Device>;

/// A device with `threads` threads whose tensors are aligned, as those of a model are.
fn cpu(threads: usize) -> Device {
    Guarded::new(Cpu::new(Some(threads)).unwrap(), 64)
}

fn noise(cpu: &Device, shape: &[usize], index: u32, dtype: DType) -> T {
    let count = shape.iter().product();
    let values = StreamKey::new(11, Purpose::InitialNoise, index, 0).normals(count);
    T::from_f32(cpu, shape, values, dtype).unwrap()
}

fn mask(samples: usize) -> Dropout {
    Dropout { rate: 0.2, key: StreamKey::new(3, Purpose::Dropout, 1, 2), samples }
}

/// An operation under test: its inputs' shapes, its outputs, and its gradients from the output's gradient.
struct Case {
    name: &'static str,
    inputs: Vec<Vec<usize>>,
    forward: Box<Forward>,
    backward: Box<Backward>,
}

type Forward = dyn Fn(&[T]) -> Result<T>;
type Backward = dyn Fn(&[T], &T) -> Result<Vec<T>>;

fn attention_case(
    name: &'static str,
    [b, nq, nkv, h, e]: [usize; 5],
    segment_ends: Option<Vec<usize>>,
    dropout: Option<Dropout>,
) -> Case {
    let how = Attention { segment_ends, dropout };
    let again = how.clone();
    // Keys and values interleaved, as a joint projection leaves them.
    let parts = |i: &[T]| {
        let part = |at| i[1].narrow(2, at, 1)?.reshape(&[i[1].dim(0), i[1].dim(1), i[1].dim(3), i[1].dim(4)]);
        Ok::<_, Error>((part(0)?, part(1)?))
    };
    Case {
        name,
        inputs: vec![vec![b, nq, h, e], vec![b, nkv, 2, h, e]],
        forward: Box::new(move |i| {
            let (k, v) = parts(i)?;
            Ok(i[0].attention(&k, &v, &how, false)?.0)
        }),
        backward: Box::new(move |i, dy| {
            let (k, v) = parts(i)?;
            let (y, saved) = i[0].attention(&k, &v, &again, true)?;
            let [dq, dk, dv] = i[0].attention_backward(&k, &v, &again, &y, &saved.unwrap(), dy)?;
            let pair = [dk, dv].map(|d| d.reshape(&[b, nkv, 1, h, e]).unwrap());
            Ok(vec![dq, T::cat(&[&pair[0], &pair[1]], 2)?])
        }),
    }
}

fn linear_case(name: &'static str, [m, k, n]: [usize; 3], act: Activation, by_columns: bool) -> Case {
    let weight = move |w: &T| if by_columns { w.transpose() } else { Ok(w.clone()) };
    Case {
        name,
        inputs: vec![vec![m, k], if by_columns { vec![k, n] } else { vec![n, k] }, vec![n]],
        forward: Box::new(move |i| Ok(i[0].linear(&weight(&i[1])?, Some(&i[2]), act, false)?.0)),
        backward: Box::new(move |i, dy| {
            let w = weight(&i[1])?;
            let (_, pre) = i[0].linear(&w, Some(&i[2]), act, true)?;
            let [dx, dw, db] = i[0].linear_backward(&w, act, pre.as_ref(), dy, [true; 3])?;
            Ok(vec![dx.unwrap(), weight(&dw.unwrap())?, db.unwrap()])
        }),
    }
}

fn norm_case(name: &'static str, [g, r, d]: [usize; 3]) -> Case {
    let modulation = |i: &[T]| Modulation { scale: i[3].clone(), shift: i[4].clone() };
    Case {
        name,
        inputs: vec![vec![g, r, d], vec![d], vec![d], vec![g, 1, d], vec![g, 1, d]],
        forward: Box::new(move |i| {
            Ok(i[0].norm_modulate(Some((&i[1], &i[2])), Some(&modulation(i)), 1e-6, false)?.y)
        }),
        backward: Box::new(move |i, dy| {
            let (affine, modulation) = (Some((&i[1], &i[2])), modulation(i));
            let out = i[0].norm_modulate(affine, Some(&modulation), 1e-6, true)?;
            let stats = out.stats.unwrap();
            let grads =
                i[0].norm_modulate_backward(affine, Some(&modulation), 1e-6, &stats, (dy, None), [true; 3])?;
            Ok(grads.into_iter().flatten().collect())
        }),
    }
}

fn residual_case(name: &'static str, [g, r, d]: [usize; 3]) -> Case {
    Case {
        name,
        inputs: vec![vec![g, r, d], vec![g, r, d], vec![g, 1, d]],
        forward: Box::new(move |i| i[0].gated_residual(&i[1], Some(&i[2]), Some(mask(g)))),
        backward: Box::new(move |i, dy| {
            let [du, dgate] = i[1].gated_residual_backward(Some(&i[2]), Some(mask(g)), dy, true)?;
            Ok(vec![dy.clone(), du.unwrap(), dgate.unwrap()])
        }),
    }
}

fn unary_case(name: &'static str, op: UnaryOp) -> Case {
    let positive = move |x: &T| if op == UnaryOp::Rsqrt { x.mul(x)?.affine(1.0, 0.5) } else { Ok(x.clone()) };
    Case {
        name,
        inputs: vec![vec![7, 5, 3]],
        forward: Box::new(move |i| positive(&i[0])?.unary(op)),
        backward: Box::new(move |i, dy| {
            let slope = positive(&i[0])?.unary_backward(op, dy)?;
            let inner = if op == UnaryOp::Rsqrt { i[0].affine(2.0, 0.0)? } else { i[0].affine(0.0, 1.0)? };
            Ok(vec![slope.mul(&inner)?])
        }),
    }
}

fn matmul_case(name: &'static str) -> Case {
    Case {
        name,
        inputs: vec![vec![3, 1, 6, 5], vec![1, 2, 5, 4]],
        forward: Box::new(|i| i[0].matmul(&i[1])),
        backward: Box::new(|i, dy| {
            let da = dy.matmul(&i[1].transpose()?)?.sum_to(i[0].shape())?;
            Ok(vec![da, i[0].transpose()?.matmul(dy)?.sum_to(i[1].shape())?])
        }),
    }
}

fn cases() -> Vec<Case> {
    vec![
        attention_case("attention", [2, 5, 7, 2, 6], None, None),
        attention_case("attention with dropout", [2, 3, 9, 2, 8], None, Some(mask(2))),
        attention_case("attention in blocks", [1, 6, 9, 2, 5], Some(vec![2, 5, 6, 9]), Some(mask(1))),
        linear_case("linear", [5, 7, 9], Activation::None, false),
        linear_case("linear gelu", [6, 5, 8], Activation::Gelu, true),
        norm_case("norm", [3, 4, 10]),
        residual_case("residual", [3, 4, 10]),
        unary_case("silu", UnaryOp::Silu),
        unary_case("square", UnaryOp::Square),
        unary_case("rsqrt", UnaryOp::Rsqrt),
        matmul_case("matmul"),
    ]
}

/// Shapes that cross tiles, chunks and blocks and are worth several threads.
fn large_cases() -> Vec<Case> {
    let ends = vec![50, 51, 200, 260, 300];
    vec![
        attention_case("wide attention", [2, 150, 300, 3, 64], None, None),
        attention_case("wide attention in blocks", [1, 280, 300, 3, 24], Some(ends), Some(mask(1))),
        attention_case("many heads", [24, 17, 20, 4, 24], None, Some(mask(12))),
        linear_case("wide linear", [300, 513, 700], Activation::Gelu, true),
        linear_case("tall linear", [900, 130, 70], Activation::None, false),
        norm_case("wide norm", [5, 77, 200]),
        residual_case("wide residual", [5, 77, 200]),
    ]
}

fn inputs(case: &Case, cpu: &Device, dtype: DType) -> Vec<T> {
    case.inputs.iter().zip(0..).map(|(shape, i)| noise(cpu, shape, i, dtype)).collect()
}

fn dot(a: &T, b: &T) -> f64 {
    a.to_f64().unwrap().iter().zip(b.to_f64().unwrap()).map(|(a, b)| a * b).sum()
}

#[test]
fn gradients_match_finite_differences() {
    let cpu = cpu(2);
    for case in cases() {
        let at = inputs(&case, &cpu, DType::F64);
        let y = (case.forward)(&at).unwrap();
        let dy = noise(&cpu, y.shape(), 50, DType::F64);
        let grads = (case.backward)(&at, &dy).unwrap();
        assert_eq!(grads.len(), at.len());
        for (i, grad) in grads.iter().enumerate() {
            assert_eq!(grad.shape(), at[i].shape(), "{}: input {i}", case.name);
            let direction = noise(&cpu, at[i].shape(), 60 + i as u32, DType::F64);
            let along = |step: f64| {
                let mut moved = at.clone();
                moved[i] = at[i].add(&direction.affine(step, 0.0).unwrap()).unwrap();
                dot(&(case.forward)(&moved).unwrap(), &dy)
            };
            let want = (along(1e-5) - along(-1e-5)) / 2e-5;
            let got = dot(grad, &direction);
            assert!(
                (got - want).abs() < 1e-7 * want.abs().max(1.0),
                "{}: input {i}: {got}, {want}",
                case.name
            );
        }
    }
}

#[test]
fn f32_matches_f64() {
    let cpu = cpu(2);
    for case in cases().into_iter().chain(large_cases()) {
        let [single, double] = [DType::F32, DType::F64].map(|dtype| {
            let at = inputs(&case, &cpu, dtype);
            let y = (case.forward)(&at).unwrap();
            let dy = noise(&cpu, y.shape(), 50, dtype);
            let mut out = (case.backward)(&at, &dy).unwrap();
            out.push(y);
            out
        });
        for (i, (single, double)) in single.iter().zip(&double).enumerate() {
            let difference = single.cast(DType::F64).unwrap().sub(double).unwrap();
            let error = (dot(&difference, &difference) / dot(double, double)).sqrt();
            assert!(error < 1e-6, "{}: result {i} is off by {error:e}", case.name);
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    // An odd margin: no vector of a tensor is aligned.
    let counts = [1, 2, 3].map(|n| Guarded::new(Cpu::new(Some(n)).unwrap(), 37));
    for case in cases().into_iter().chain(large_cases()) {
        let results = counts.each_ref().map(|cpu| {
            let at = inputs(&case, cpu, DType::F32);
            let y = (case.forward)(&at).unwrap();
            let mut out = (case.backward)(&at, &noise(cpu, y.shape(), 50, DType::F32)).unwrap();
            out.push(y);
            out.iter().map(|t| t.to_f32().unwrap()).collect::<Vec<_>>()
        });
        assert!(results[0] == results[1] && results[0] == results[2], "{}", case.name);
    }
}

#[test]
fn images_and_rows_are_batch_invariant() {
    let cpu = cpu(2);
    let (q, kv) = (noise(&cpu, &[5, 40, 3, 24], 0, DType::F32), noise(&cpu, &[5, 140, 3, 24], 1, DType::F32));
    let how = Attention { segment_ends: Some(vec![110, 120, 140]), dropout: None };
    let all = q.attention(&kv, &kv, &how, false).unwrap().0;
    let one = |t: &T| t.narrow(0, 3, 1).unwrap();
    let alone = one(&q).attention(&one(&kv), &one(&kv), &how, false).unwrap().0;
    assert_eq!(one(&all).to_f32().unwrap(), alone.to_f32().unwrap());
    let shared = q.attention(&one(&kv), &one(&kv), &how, false).unwrap().0;
    assert_eq!(one(&shared).to_f32().unwrap(), alone.to_f32().unwrap());
    let dropped = |t: &T, first: u32| {
        let key = StreamKey { step: first, ..mask(1).key };
        let how = Attention { dropout: Some(Dropout { key, ..mask(t.dim(0)) }), ..how.clone() };
        t.attention(&one(&kv), &one(&kv), &how, false).unwrap().0
    };
    assert_eq!(one(&dropped(&q, 7)).to_f32().unwrap(), dropped(&one(&q), 10).to_f32().unwrap());

    let x = noise(&cpu, &[333, 96], 2, DType::F32);
    let (w, b) = (noise(&cpu, &[200, 96], 3, DType::F32), noise(&cpu, &[200], 4, DType::F32));
    let all = x.linear(&w, Some(&b), Activation::Gelu, false).unwrap().0;
    for (start, len) in [(0, 1), (17, 30), (300, 33)] {
        let part = x.narrow(0, start, len).unwrap().linear(&w, Some(&b), Activation::Gelu, false).unwrap().0;
        assert_eq!(all.narrow(0, start, len).unwrap().to_f32().unwrap(), part.to_f32().unwrap());
    }
}

#[test]
fn attention_matches_its_formula() {
    let cpu = cpu(2);
    let [nq, nkv, e] = [30, 137, 12];
    let (q, k) = (noise(&cpu, &[2, nq, 1, e], 0, DType::F64), noise(&cpu, &[2, nkv, 1, e], 1, DType::F64));
    let v = noise(&cpu, &[2, nkv, 1, e], 2, DType::F64);
    let how = Attention { segment_ends: Some(vec![3, 110, 130, 137]), dropout: Some(mask(2)) };
    let (y, saved) = q.attention(&k, &v, &how, true).unwrap();
    let lse = saved.unwrap().lse;
    for (image, step) in [(0, 2), (1, 3)] {
        // The second image is the next sample.
        let dropout = Dropout { key: StreamKey { step, ..mask(1).key }, ..mask(1) };
        let [q, k, v, y, lse] =
            [&q, &k, &v, &y, &lse].map(|t| t.narrow(0, image, 1).unwrap().to_f64().unwrap());
        expect_formula([&q, &k, &v, &y, &lse], [nq, nkv, e], dropout);
    }
}

/// Checks one head against the formula, with segments that end at 3, 110, 130 and 137.
fn expect_formula([q, k, v, y, lse]: [&[f64]; 5], [nq, nkv, e]: [usize; 3], dropout: Dropout) {
    for i in 0..nq {
        let seen = [3, 110, 130, 137].into_iter().find(|&end| end > i + nkv - nq).unwrap();
        let score = |j: usize| (0..e).map(|c| q[i * e + c] * k[j * e + c]).sum::<f64>() / (e as f64).sqrt();
        let sum: f64 = (0..seen).map(|j| score(j).exp()).sum();
        assert!((lse[i] - sum.ln()).abs() < 1e-12);
        for c in 0..e {
            let weight = |j: usize| score(j).exp() / sum * f64::from(dropout.factor(i * nkv + j, nq * nkv));
            let want: f64 = (0..seen).map(|j| weight(j) * v[j * e + c]).sum();
            assert!((y[i * e + c] - want).abs() < 1e-12, "query {i}");
        }
    }
}

#[test]
fn attention_over_no_keys_is_zero() {
    let cpu = cpu(1);
    let (q, kv) = (noise(&cpu, &[2, 3, 2, 8], 0, DType::F32), noise(&cpu, &[2, 0, 2, 8], 1, DType::F32));
    let (y, saved) = q.attention(&kv, &kv, &Attention::default(), true).unwrap();
    assert_eq!(y.to_f32().unwrap(), [0.0; 96]);
    let grads = q.attention_backward(&kv, &kv, &Attention::default(), &y, &saved.unwrap(), &y).unwrap();
    assert_eq!(grads[0].to_f32().unwrap(), [0.0; 96]);
    let none = noise(&cpu, &[2, 0, 2, 8], 0, DType::F32);
    assert_eq!(none.attention(&q, &q, &Attention::default(), false).unwrap().0.numel(), 0);
}

#[test]
fn views_of_any_strides_are_read_and_written() {
    let cpu = cpu(2);
    let x = noise(&cpu, &[6, 50, 40], 0, DType::F64);
    let turned = x.permute(&[2, 0, 1]).unwrap().narrow(1, 2, 3).unwrap();
    let (from, at) = (x.to_f64().unwrap(), turned.to_f64().unwrap());
    let sums = [turned.sum(&[0]), turned.sum(&[1, 2]), turned.sum(&[2]), turned.sum(&[0, 1, 2])];
    let [first, last, inner, all] = sums.map(|s| s.unwrap().to_f64().unwrap());
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-10, "{a} {b}");
    for (i, &value) in at.iter().enumerate() {
        let (c, g, r) = (i / 150, i / 50 % 3, i % 50);
        assert_eq!(value, from[((g + 2) * 50 + r) * 40 + c]);
    }
    close(first[7], (0..40).map(|c| at[c * 150 + 7]).sum());
    close(last[3], at[450..600].iter().sum());
    close(inner[4], at[200..250].iter().sum());
    close(all[0], at.iter().sum());
    let row = noise(&cpu, &[1, 3, 1], 1, DType::F64);
    let (sum, row) = (turned.binary(BinaryOp::Sub, &row).unwrap().to_f64().unwrap(), row.to_f64().unwrap());
    assert!(sum.iter().enumerate().all(|(i, &s)| s == at[i] - row[i / 50 % 3]));
}

#[test]
fn optimiser_steps_match_their_formulas() {
    let cpu = cpu(2);
    let hyper = AdamW { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, step: 3, grad_scale: 0.5 };
    let t = |i: u32| noise(&cpu, &[300, 150], i, DType::F64);
    let (mut p, g, mut m, mut v) = (t(0), t(1), t(2), t(3).mul(&t(3)).unwrap());
    let [p0, g0, m0, v0] = [&p, &g, &m, &v].map(|x| x.to_f64().unwrap());
    let slot =
        AdamWParam { param: &mut p, grad: Some(&g), m: &mut m, v: &mut v, cast: None, weight_decay: 0.1 };
    T::adamw_step(&cpu, &hyper, &mut [slot]).unwrap();
    for (i, got) in p.to_f64().unwrap().into_iter().enumerate() {
        let g = 0.5 * g0[i];
        let (m, v) = (0.9 * m0[i] + 0.1 * g, 0.95 * v0[i] + 0.05 * g * g);
        let (m, v) = (m / (1.0 - 0.9f64.powi(3)), v / (1.0 - 0.95f64.powi(3)));
        let want = p0[i] * (1.0 - 0.01 * 0.1) - 0.01 * m / (v.sqrt() + 1e-8);
        assert!((got - want).abs() < 1e-13);
    }
    let norm = T::squared_norm(&cpu, &[&g, &g.transpose().unwrap()]).unwrap();
    assert!((norm - 2.0 * g0.iter().map(|x| x * x).sum::<f64>()).abs() < 1e-8);
    T::ema_step(&cpu, 0.75, &mut [(&mut m, &g)]).unwrap();
    let want = 0.75 * (0.9 * m0[7] + 0.05 * g0[7]) + 0.25 * g0[7];
    assert!((m.to_f64().unwrap()[7] - want).abs() < 1e-14);
}

#[test]
fn integers_are_not_computed_in() {
    let cpu = cpu(2);
    let ids = T::from_host(&cpu, &HostTensor::new(&[2], HostData::I32(vec![1, 2])).unwrap()).unwrap();
    assert!(matches!(ids.add(&ids), Err(Error::DType { got: DType::I32, .. })));
    let x = noise(&cpu, &[3, 4], 0, DType::BF16);
    assert_eq!(x.cast(DType::F32).unwrap().to_f32().unwrap(), x.to_f32().unwrap());
    assert_eq!(x.transpose().unwrap().contiguous().unwrap().to_f32().unwrap()[1], x.to_f32().unwrap()[4]);
    let huge = T::zeros(&cpu, &[1 << 40, 1 << 18], DType::F32);
    assert!(matches!(huge, Err(Error::OutOfMemory { .. })));
    assert!(Cpu::new(Some(0)).is_err());
}

#[test]
fn embedding_and_mse_match_their_formulas() {
    let cpu = cpu(2);
    let table = noise(&cpu, &[5, 3], 0, DType::F32);
    let rows = table.embedding(&[4, 0, 4]).unwrap();
    assert_eq!(rows.to_f32().unwrap()[6..], table.to_f32().unwrap()[12..]);
    let grad = rows.embedding_backward(&[4, 0, 4], 5).unwrap().to_f32().unwrap();
    assert_eq!(grad[12], 2.0 * table.to_f32().unwrap()[12]);
    assert_eq!(grad[3..12], [0.0; 9]);

    let (a, b) = (noise(&cpu, &[70, 300], 1, DType::F64), noise(&cpu, &[70, 300], 2, DType::F64));
    let difference = a.sub(&b).unwrap();
    let loss = a.mse(&b).unwrap();
    assert!((loss.item().unwrap() - dot(&difference, &difference) / 21_000.0).abs() < 1e-12);
    let grad = a.mse_backward(&b, &loss).unwrap().to_f64().unwrap();
    let want = 2.0 * difference.to_f64().unwrap()[5] * loss.item().unwrap() / 21_000.0;
    assert!((grad[5] - want).abs() < 1e-15);
}
