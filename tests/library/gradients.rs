//! Every differentiable operation against central differences in f64.

use crate::common::difference::{Case, Form, case, normals, tensor};
use transdiff_core::autograd::{Tape, Var};
use transdiff_core::backend::{Activation, UnaryOp};
use transdiff_core::models::cosine_mean;
use transdiff_core::reference::Reference;
use transdiff_core::rng::{Dropout, Purpose, StreamKey};
use transdiff_core::tensor::Attention;
use transdiff_core::{Backend, DType, Error, Result, Tensor};
use transdiff_cpu::Cpu;

#[test]
fn gradients_match_differences_on_the_reference() {
    check_all(&Reference);
}

#[test]
fn gradients_match_differences_on_the_cpu() {
    check_all(&Cpu::new(None).unwrap());
}

fn check_all<B: Backend>(backend: &B) {
    let cases = [
        elementwise(),
        sums_and_products(),
        layouts(),
        linear(),
        norm(),
        residual(),
        attention(),
        self_attention(),
    ];
    let mut worst = 0.0f64;
    for case in cases.into_iter().flatten() {
        for form in Form::ALL {
            worst = worst.max(case.check(backend, form));
        }
    }
    println!("largest error {worst:.1e}");
}

const EPS: f64 = 1e-6;

/// Dropout of `x`, whose leading axis counts samples.
fn dropout<B: Backend>(rate: f32, x: &Var<B>) -> Option<Dropout> {
    Some(Dropout { rate, key: StreamKey::new(3, Purpose::Dropout, 1, 2), samples: x.dim(0).max(1) })
}

/// The shapes of two operands: equal, broadcast either way, of size one, of other ranks, scalar, empty.
const PAIRS: [[&[usize]; 2]; 7] = [
    [&[2, 3, 4], &[2, 3, 4]],
    [&[2, 3, 4], &[3, 1]],
    [&[1, 4], &[2, 3, 1]],
    [&[1], &[1, 1]],
    [&[], &[5]],
    [&[2, 0, 3], &[2, 1, 3]],
    [&[0], &[1]],
];

fn elementwise<B: Backend>() -> Vec<Case<B>> {
    let mut cases = vec![
        case("silu", &[&[3, 4]], |x| x[0].unary(UnaryOp::Silu)),
        case("square", &[&[3, 4]], |x| x[0].unary(UnaryOp::Square)),
        // Away from the pole at 0.
        case("rsqrt", &[&[3, 4]], |x| x[0].affine(0.2, 2.0)?.unary(UnaryOp::Rsqrt)),
        case("silu of nothing", &[&[0, 4]], |x| x[0].unary(UnaryOp::Silu)),
        case("affine", &[&[2, 3]], |x| x[0].affine(-1.7, 0.3)),
        case("cast to the same type", &[&[2, 3]], |x| x[0].cast(DType::F64)),
        case("a variable used three times", &[&[2, 3], &[3]], |x| {
            x[0].mul(&x[0])?.add(&x[0].mul(&x[1])?)?.sub(&x[1])
        }),
    ];
    for pair in PAIRS {
        cases.push(case("add", &pair, |x| x[0].add(&x[1])));
        cases.push(case("sub", &pair, |x| x[0].sub(&x[1])));
        cases.push(case("mul", &pair, |x| x[0].mul(&x[1])));
    }
    cases
}

fn sums_and_products<B: Backend>() -> Vec<Case<B>> {
    let mut cases = vec![
        case("sum of nothing", &[&[2, 0, 3]], |x| x[0].sum(&[1])),
        case("mean", &[&[2, 3, 4]], |x| x[0].mean()),
        case("mean of one", &[&[]], |x| x[0].mean()),
        case("mse", &[&[2, 3, 4]], |x| {
            let target = tensor(x[0].value().backend(), &[2, 3, 4], normals(50, 24));
            x[0].mse(&target)
        }),
        case("mse against a view", &[&[3, 2]], |x| {
            let target = tensor(x[0].value().backend(), &[2, 4], normals(51, 8)).narrow(1, 1, 3)?;
            x[0].mse(&target.transpose()?)
        }),
        // A gradient of the loss other than 1.
        case("mse, scaled", &[&[5]], |x| {
            x[0].mse(&tensor(x[0].value().backend(), &[5], normals(52, 5)))?.affine(-2.5, 1.0)
        }),
        case("cosine mean", &[&[2, 3, 4]], |x| cosine_mean(&x[0])),
    ];
    for axes in [&[][..], &[0], &[1], &[0, 2], &[0, 1, 2]] {
        cases.push(case("sum", &[&[2, 3, 4]], move |x| x[0].sum(axes)));
    }
    let products: [[&[usize]; 2]; 6] = [
        [&[3, 4], &[4, 5]],
        [&[2, 3, 4], &[4, 5]],
        [&[2, 1, 3, 4], &[3, 4, 2]],
        [&[1, 1], &[1, 1]],
        [&[2, 0], &[0, 3]],
        [&[0, 3], &[3, 2]],
    ];
    cases.extend(products.iter().map(|pair| case("matmul", pair, |x| x[0].matmul(&x[1]))));
    cases
}

fn layouts<B: Backend>() -> Vec<Case<B>> {
    vec![
        case("reshape", &[&[2, 3, 4]], |x| x[0].reshape(&[4, 6])),
        case("reshape of a view", &[&[2, 3, 4]], |x| x[0].permute(&[1, 2, 0])?.reshape(&[24])),
        case("permute", &[&[2, 3, 4]], |x| x[0].permute(&[2, 0, 1])),
        case("narrow", &[&[3, 5, 2]], |x| x[0].narrow(1, 2, 2)),
        case("narrow to one", &[&[3, 5]], |x| x[0].narrow(0, 2, 1)),
        case("narrow to nothing", &[&[3, 5]], |x| x[0].narrow(1, 3, 0)),
        case("narrow twice", &[&[4, 5]], |x| x[0].narrow(1, 0, 3)?.mul(&x[0].narrow(1, 2, 3)?)),
        case("broadcast", &[&[2, 1, 3]], |x| x[0].broadcast_to(&[4, 2, 5, 3])),
        case("broadcast a number", &[&[]], |x| x[0].broadcast_to(&[2, 3])),
        case("broadcast to nothing", &[&[1, 3]], |x| x[0].broadcast_to(&[0, 3])),
        case("cat", &[&[2, 3], &[2, 1], &[2, 2]], |x| Var::cat(&[&x[0], &x[1], &x[2]], 1)),
        case("cat of views and nothing", &[&[3, 2], &[2, 0], &[1, 3]], |x| {
            Var::cat(&[&x[0].permute(&[1, 0])?, &x[2].broadcast_to(&[2, 3])?, &x[1]], 1)
        }),
        case("cat with itself", &[&[2, 3]], |x| Var::cat(&[&x[0], &x[0]], 0)),
        case("embedding", &[&[4, 3]], |x| x[0].embedding(&[2, 0, 2, 2, 3])),
        case("embedding of nothing", &[&[4, 3]], |x| x[0].embedding(&[])),
    ]
}

fn linear<B: Backend>() -> Vec<Case<B>> {
    let mut cases = Vec::new();
    for act in [Activation::None, Activation::Gelu] {
        for x in [&[2, 3, 4][..], &[4], &[1, 4], &[3, 0, 4]] {
            cases.push(case("linear", &[x, &[5, 4], &[5]], move |x| x[0].linear(&x[1], Some(&x[2]), act)));
        }
        cases.push(case("linear, no bias", &[&[3, 4], &[2, 4]], move |x| x[0].linear(&x[1], None, act)));
        cases.push(case("linear to one", &[&[3, 1], &[1, 1], &[1]], move |x| {
            x[0].linear(&x[1], Some(&x[2]), act)
        }));
        cases.push(case("linear, of a view", &[&[2, 4, 3], &[4, 2], &[3]], move |x| {
            let w = x[1].permute(&[1, 0])?.narrow(0, 0, 2)?;
            x[0].permute(&[0, 2, 1])?.linear(&w, Some(&x[2].narrow(0, 1, 2)?), act)
        }));
    }
    cases.push(case("linear with dropout", &[&[7, 4], &[9, 4], &[9]], |x| {
        let dropout = dropout(0.4, &x[0]).map_or(Activation::Gelu, Activation::GeluDropout);
        x[0].linear(&x[1], Some(&x[2]), dropout)
    }));
    cases
}

/// x + norm(x).
fn residual_norm<B: Backend>(x: &Var<B>) -> Result<Var<B>> {
    x.gated_residual(&x.norm_modulate(None, None, EPS)?, None, None)
}

fn norm<B: Backend>() -> Vec<Case<B>> {
    let mut cases = vec![
        case("norm", &[&[3, 5]], |x| x[0].norm_modulate(None, None, EPS)),
        // The backward pass of the norm adds the gradient of the residual connection, a view in some of the cases.
        case("norm in a residual branch", &[&[3, 5]], |x| residual_norm(&x[0])),
        case("norm of a reshaped stream", &[&[15]], |x| {
            residual_norm(&x[0].reshape(&[3, 5])?)?.reshape(&[5, 3])
        }),
        case("norm of a part of a stream", &[&[6, 5]], |x| {
            let part = residual_norm(&x[0].narrow(0, 1, 3)?)?;
            Var::cat(&[&part, &x[0].narrow(0, 0, 2)?], 0)
        }),
        case("norm of a repeated stream", &[&[1, 5]], |x| {
            residual_norm(&x[0].broadcast_to(&[3, 5])?)?.permute(&[1, 0])
        }),
        case("two norms of a stream", &[&[3, 5]], |x| {
            residual_norm(&x[0])?.add(&x[0].norm_modulate(None, None, EPS)?)
        }),
        case("norm of one row", &[&[5]], |x| x[0].norm_modulate(None, None, EPS)),
        case("norm of no rows", &[&[0, 5], &[5], &[5]], |x| {
            x[0].norm_modulate(Some((&x[1], &x[2])), None, EPS)
        }),
        case("norm, affine", &[&[2, 3, 5], &[5], &[5]], |x| {
            x[0].norm_modulate(Some((&x[1], &x[2])), None, EPS)
        }),
        // A width of one: the normalised value is 0 whatever the input.
        case("norm of width 1", &[&[3, 1], &[1], &[1]], |x| {
            x[0].norm_modulate(Some((&x[1], &x[2])), None, EPS)
        }),
        case("norm, modulated by rows of a table", &[&[2, 3, 5], &[2, 6, 5]], |x| {
            let modulation = (&x[1].narrow(1, 4, 1)?, &x[1].narrow(1, 1, 1)?);
            x[0].norm_modulate(None, Some(modulation), EPS)
        }),
    ];
    // One modulation per image, one shared by all images, one image, no rows.
    let shapes: [[&[usize]; 2]; 5] = [
        [&[2, 3, 5], &[2, 1, 5]],
        [&[2, 3, 5], &[1, 1, 5]],
        [&[1, 3, 5], &[1, 1, 5]],
        [&[2, 1, 5], &[2, 1, 5]],
        [&[2, 0, 5], &[2, 1, 5]],
    ];
    for [x, m] in shapes {
        cases.push(case("norm, modulated", &[x, m, m], |x| {
            x[0].norm_modulate(None, Some((&x[1], &x[2])), EPS)
        }));
        cases.push(case("norm, affine and modulated", &[x, &[5], &[5], m, m], |x| {
            x[0].norm_modulate(Some((&x[1], &x[2])), Some((&x[3], &x[4])), EPS)
        }));
    }
    cases.push(case("norm, one of two shared", &[&[2, 3, 5], &[1, 1, 5], &[2, 1, 5]], |x| {
        x[0].norm_modulate(None, Some((&x[1], &x[2])), EPS)
    }));
    cases
}

fn residual<B: Backend>() -> Vec<Case<B>> {
    let mut cases = Vec::new();
    for with_dropout in [false, true] {
        let drop = move |x: &[Var<B>]| if with_dropout { dropout(0.3, &x[0]) } else { None };
        cases.push(case("residual", &[&[2, 4, 5], &[2, 4, 5]], move |x| {
            x[0].gated_residual(&x[1], None, drop(x))
        }));
        cases
            .push(case("residual to itself", &[&[4, 5]], move |x| x[0].gated_residual(&x[0], None, drop(x))));
        let shapes: [[&[usize]; 2]; 4] = [
            [&[2, 4, 5], &[2, 1, 5]],
            [&[2, 4, 5], &[1, 1, 5]],
            [&[1, 1, 1], &[1, 1, 1]],
            [&[2, 0, 5], &[2, 1, 5]],
        ];
        for [x, gate] in shapes {
            cases.push(case("gated residual", &[x, x, gate], move |x| {
                x[0].gated_residual(&x[1], Some(&x[2]), drop(x))
            }));
        }
        cases.push(case("gated by a row of a table", &[&[2, 4, 5], &[2, 4, 5], &[2, 6, 5]], move |x| {
            x[0].gated_residual(&x[1], Some(&x[2].narrow(1, 2, 1)?), drop(x))
        }));
    }
    cases
}

/// Attentions with and without a block-causal mask, whose last segment ends at the number of keys, and dropout.
fn masks<B: Backend>(segment_ends: &'static [usize]) -> impl Iterator<Item = impl Fn(&Var<B>) -> Attention> {
    let of = |ends: Option<&'static [usize]>, with_dropout: bool| {
        move |q: &Var<B>| Attention {
            segment_ends: ends.map(<[_]>::to_vec),
            dropout: if with_dropout { dropout(0.3, q) } else { None },
        }
    };
    [of(None, false), of(None, true), of(Some(segment_ends), false), of(Some(segment_ends), true)].into_iter()
}

fn attention<B: Backend>() -> Vec<Case<B>> {
    let mut cases = Vec::new();
    // [B, N, H, E] of queries, of keys and of values: as many, fewer queries, one image of keys and values, size 1.
    let shapes: [([&[usize]; 3], &'static [usize]); 6] = [
        ([&[2, 4, 2, 3], &[2, 4, 2, 3], &[2, 4, 2, 3]], &[1, 3, 4]),
        ([&[2, 2, 2, 3], &[2, 5, 2, 3], &[2, 5, 2, 3]], &[2, 4, 5]),
        ([&[3, 2, 1, 2], &[1, 3, 1, 2], &[1, 3, 1, 2]], &[1, 3]),
        ([&[2, 2, 1, 2], &[1, 3, 1, 2], &[2, 3, 1, 2]], &[2, 3]),
        ([&[1, 1, 1, 1], &[1, 1, 1, 1], &[1, 1, 1, 1]], &[1]),
        ([&[2, 0, 2, 3], &[2, 3, 2, 3], &[2, 3, 2, 3]], &[1, 3]),
    ];
    for (qkv, segment_ends) in shapes {
        for how in masks(segment_ends) {
            cases.push(case("attention", &qkv, move |x| x[0].attention(&x[1], &x[2], how(&x[0]))));
        }
    }
    cases.push(case("attention, more queries", &[&[1, 5, 2, 3], &[1, 2, 2, 3], &[1, 2, 2, 3]], |x| {
        x[0].attention(&x[1], &x[2], Attention { segment_ends: None, dropout: dropout(0.2, &x[0]) })
    }));
    cases.push(case("attention to itself", &[&[2, 3, 2, 3]], |x| {
        x[0].attention(&x[0], &x[0], Attention::default())
    }));
    cases
}

fn self_attention<B: Backend>() -> Vec<Case<B>> {
    let mut cases = Vec::new();
    for (shape, heads, segment_ends) in [
        (&[2, 4, 12], 2, &[1, 4][..]),
        (&[1, 3, 9], 1, &[2, 3]),
        (&[1, 1, 3], 1, &[1]),
        (&[0, 2, 6], 2, &[2]),
    ] {
        for how in masks(segment_ends) {
            cases.push(case("self-attention", &[shape], move |x| x[0].self_attention(heads, how(&x[0]))));
        }
    }
    cases
}

/// The backward pass goes through the same types, here f32; powers of two are exact.
#[test]
fn casts_return_gradients_in_the_input_type() {
    let tape = Tape::new();
    let x = tensor(&Reference, &[3], vec![1.0, -2.0, 0.5]);
    let (x, key) = tape.input(x);
    let y = x.cast(DType::F32).unwrap();
    assert_eq!(y.value().dtype(), DType::F32);
    let weights = Tensor::from_f32(&Reference, &[3], vec![0.5, 2.0, -4.0], DType::F32).unwrap();
    let loss = y.mul(&weights.into()).unwrap().sum(&[0]).unwrap();
    let grads = tape.backward(&loss).unwrap();
    let grad = grads.get(key).unwrap();
    assert_eq!((grad.dtype(), grad.to_f64().unwrap()), (DType::F64, vec![0.5, 2.0, -4.0]));
}

/// Leaves that the loss does not depend on have no gradient; a leaf that is the loss has gradient 1.
#[test]
fn only_dependencies_of_the_loss_have_gradients() {
    let tape = Tape::new();
    let (x, x_key) = tape.input(tensor(&Reference, &[], vec![3.0]));
    let (y, y_key) = tape.input(tensor(&Reference, &[], vec![4.0]));
    let unused = y.mul(&x.detach()).unwrap();
    assert!(unused.is_recorded() && !x.detach().is_recorded());
    let grads = tape.backward(&x).unwrap();
    assert_eq!(grads.get(x_key).unwrap().item().unwrap(), 1.0);
    assert!(grads.get(y_key).is_none());
    let constant = Var::from(tensor(&Reference, &[1], vec![1.0]));
    assert!(tape.backward(&constant).unwrap().get(x_key).is_none());
}

/// Two leaves of the same key are the same parameter.
#[test]
fn gradients_of_equal_keys_add_up() {
    let tape = Tape::new();
    let (x, key) = tape.input(tensor(&Reference, &[], vec![3.0]));
    let again = tape.leaf(key, x.value().clone());
    let loss = x.mul(&again).unwrap().add(&x).unwrap();
    let mut grads = tape.backward(&loss).unwrap();
    assert_eq!(grads.get(key).unwrap().item().unwrap(), 7.0);
    let (y, other) = (tensor(&Reference, &[], vec![1.0]), Tape::new());
    let y = other.leaf(key, y);
    grads.merge(other.backward(&y).unwrap()).unwrap();
    assert_eq!(grads.remove(key).unwrap().item().unwrap(), 8.0);
    assert!(grads.get(key).is_none());
}

#[test]
fn invalid_uses_of_tapes_are_refused() {
    let (one, other) = (Tape::new(), Tape::new());
    let values = || tensor(&Reference, &[2], vec![1.0, 2.0]);
    let ((a, _), (b, _)) = (one.input(values()), other.input(values()));
    let foreign =
        |result: Result<(), Error>| matches!(result, Err(Error::Argument { argument: "variable", .. }));
    assert!(foreign(a.add(&b).map(drop)), "tapes must not mix");
    assert!(foreign(Var::cat(&[&a, &b], 0).map(drop)), "tapes must not mix");
    assert!(foreign(other.backward(&a.sum(&[0]).unwrap()).map(drop)), "a loss of another tape");
    let error = one.backward(&a).unwrap_err();
    assert!(matches!(&error, Error::Shape { op: "backward", got, .. } if got == &[2]), "{error}");
    let loss = a.sum(&[0]).unwrap();
    one.backward(&loss).unwrap();
    assert!(foreign(one.backward(&loss).map(drop)), "a recording is differentiated once");
    assert!(foreign(a.add(&a).map(drop)), "variables of a consumed recording are not recorded again");
}
