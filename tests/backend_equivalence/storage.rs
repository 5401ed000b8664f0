//! Transfer, copies, casts, fills, and views.

use transdiff_core::backend::{Storage, View, ViewMut};
use transdiff_core::reference::Reference;
use transdiff_core::{Backend, DType, HostData, HostTensor, Layout, Tensor};

use crate::guarded::{Guarded, SENTINEL};
use crate::harness::{Case, Suite, check};

pub fn check_all<B: Backend>(suite: &Suite<'_, B>) {
    suite.cases("copies", 80, copies);
    suite.cases("joins", 40, joins);
    suite.cases("fills", 20, fills);
    suite.cases("casts", 40, casts);
}

fn copies<B: Backend>(case: &mut Case<'_, B>) {
    let shape = case.shape();
    let x = case.normal(&shape);
    assert_eq!(x.ours.to_f64().unwrap(), x.reference.to_f64().unwrap());
    check!(case, "copy", [x] => x.copy());
    check!(case, "copy", [x] => x.contiguous());
    check!(case, "copy", [x] => x.reshape(&[x.numel()]));
    if shape.len() >= 2 {
        check!(case, "copy", [x] => x.transpose().and_then(|t| t.copy()));
    }
    // Types that are supported for storage, but perhaps not for computation.
    for dtype in [DType::BF16, DType::I32] {
        let values: Vec<f64> = (0..60).map(f64::from).collect();
        let host = HostTensor::new(&[3, 20], HostData::from_f64(values, dtype)).unwrap();
        let whole = Tensor::from_host(&case.backend, &host).unwrap();
        assert_eq!(whole.to_host().unwrap(), host);
        let part = whole.narrow(1, 2, 2).unwrap().transpose().unwrap();
        let copy = part.copy().unwrap();
        for tensor in [part, copy] {
            assert_eq!(tensor.to_host().unwrap().dtype(), dtype);
            assert_eq!(tensor.to_f64().unwrap(), [2.0, 22.0, 42.0, 3.0, 23.0, 43.0]);
        }
    }
}

fn joins<B: Backend>(case: &mut Case<'_, B>) {
    let mut shape = case.shape();
    shape.push(3);
    let axis = case.below(shape.len());
    let parts: Vec<_> = (0..1 + case.below(3))
        .map(|_| {
            shape[axis] = case.below(4);
            case.normal(&shape)
        })
        .collect();
    check!(case, "copy", [parts] => Tensor::cat(&parts, axis));
    let (x, start) = (case.normal(&shape), case.below(3));
    shape[axis] += start + case.below(3);
    check!(case, "copy", [x] => x.pad_into(&shape, axis, start));
}

fn fills<B: Backend>(case: &mut Case<'_, B>) {
    let (shape, dtype, backend) = (case.shape(), case.suite.dtype, case.backend.clone());
    let full = Tensor::full(&backend, &shape, -2.5, dtype).unwrap();
    assert_eq!(full.to_f64().unwrap(), vec![-2.5; full.numel()]);
    let x = case.normal(&shape);
    let zeros = x.ours.zeros_like().unwrap();
    assert_eq!((zeros.shape(), zeros.dtype()), (x.ours.shape(), dtype));
    assert_eq!(zeros.to_f64().unwrap(), vec![0.0; zeros.numel()]);
    let order = |l: &Layout| {
        let mut axes: Vec<usize> = (0..l.rank()).filter(|&a| l.shape()[a] > 1).collect();
        axes.sort_by_key(|&a| std::cmp::Reverse(l.strides()[a]));
        axes
    };
    assert_eq!(order(zeros.layout()), order(x.ours.layout()));

    let place = case.place(&shape);
    let (layout, all) = (place.layout(), Layout::contiguous(&[place.buffer_len()]));
    let mut buffer = backend.alloc(dtype, all.numel()).unwrap();
    backend.fill(SENTINEL, ViewMut { buffer: &mut buffer, layout: &all, dtype }).unwrap();
    backend.fill(0.75, ViewMut { buffer: &mut buffer, layout: &layout, dtype }).unwrap();
    let mut want = vec![SENTINEL; all.numel()];
    layout.for_each_position(|p| want[p] = 0.75);
    let view = View::<Guarded<B>> { buffer: &buffer, layout: &all, dtype };
    assert_eq!(backend.to_host(view).unwrap().to_f64(), want);
    backend.sync().unwrap();
}

/// Values of all magnitudes, and those that are hard to round.
fn casts<B: Backend>(case: &mut Case<'_, B>) {
    let types = [DType::F32, DType::BF16, DType::F64];
    let types = if case.backend.supports(DType::F64) { &types[..] } else { &types[..2] };
    let (from, to) = (case.pick(types), case.pick(types));
    // Zeros, subnormals, overflows; ties between neighbours in bf16 and in f32, and values next to a tie.
    #[rustfmt::skip]
    let special = [
        0.0, -0.0, 1.0 / 3.0, 1e-40, -1e-42, 1e-46, 3.4e38, 3.5e38, -1e300, 5e-324, f64::INFINITY, f64::NAN,
        1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 1.0 + 1.0 / 256.0 + 1e-7, 1.0 + 3.0 / 256.0 - 1e-7,
        1.0 + 1.0 / 256.0 + 1e-14, 1.0 + 3.0 / 256.0 - 1e-14, 1.0 + 2f64.powi(-24), 1.0 + 3.0 * 2f64.powi(-24),
    ];
    let (rows, scale) = (1 + case.below(40), case.pick(&[1.0, 1e-30, 1e30]));
    let mut values = case.normal(&[rows, special.len()]).reference.to_f64().unwrap();
    values.iter_mut().for_each(|v| *v *= scale);
    values[..special.len()].copy_from_slice(&special);
    let host = HostTensor::new(&[rows, special.len()], HostData::from_f64(values, from)).unwrap();
    let ours = Tensor::from_host(&case.backend, &host).unwrap().transpose().unwrap();
    let reference = Tensor::from_host(&Reference, &host).unwrap().transpose().unwrap();
    let (got, want) = (ours.cast(to).unwrap(), reference.cast(to).unwrap());
    assert_eq!((got.dtype(), got.shape()), (to, want.shape()));
    let values = host.to_f64();
    let columns = (0..special.len()).flat_map(|c| (0..rows).map(move |r| r * special.len() + c));
    for ((at, got), want) in columns.zip(got.to_f64().unwrap()).zip(want.to_f64().unwrap()) {
        let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
        assert!(same, "{:e} is {want:e}, not {got:e}", values[at]);
    }
}
