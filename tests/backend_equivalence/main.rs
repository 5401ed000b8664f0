//! Every operation of a backend, forward and backward, against the f64 oracle, on random shapes and layouts.
//!
//! The inputs are views into buffers that are NaN elsewhere, the outputs lie between sentinels, and both are
//! looked at after every operation: a kernel that reads or writes past its tensors shows. The error of an output
//! is ‖got − want‖ / ‖want‖ where the oracle works on the same values, so that each operation has one bound for
//! all shapes. A new backend joins with one line: `check_all(&backend, dtype, bound)`.

mod attention;
mod elementwise;
mod embedding;
mod errors;
mod harness;
mod linear;
mod norm;
mod optim;
mod rows;
mod storage;

use std::cell::RefCell;

use harness::{Report, Suite};
use transdiff_core::reference::Reference;
use transdiff_core::testing::with_margins;
use transdiff_core::{Backend, DType};
use transdiff_cpu::Cpu;

/// Checks `backend` in `dtype`. `bound` gives the largest error of each operation.
fn check_all<B: Backend>(backend: &B, dtype: DType, bound: impl Fn(&str) -> f64) -> Report {
    let suite = Suite { backend, dtype, bound: &bound, report: RefCell::default() };
    with_margins(|| {
        storage::check_all(&suite);
        elementwise::check_all(&suite);
        linear::check_all(&suite);
        norm::check_all(&suite);
        attention::check_all(&suite);
        embedding::check_all(&suite);
        optim::check_all(&suite);
    });
    errors::check_all(backend, dtype);
    suite.report.into_inner()
}

/// The oracle agrees with itself to the bit whatever the layouts: the harness and core's views are right.
#[test]
fn reference() {
    check_all(&Reference, DType::F64, |_| 0.0);
}

fn check_cpu(dtype: DType, bound: impl Fn(&str) -> f64) {
    let [one, two] = [1, 2].map(|threads| check_all(&Cpu::new(Some(threads)).unwrap(), dtype, &bound));
    for (a, b) in one.digests.iter().zip(&two.digests) {
        assert_eq!(a, b, "the same bits with one thread and with two");
    }
    for (op, error) in one.worst {
        println!("{op:36} {dtype} {error:.1e} of {:.1e}", bound(op));
    }
    let backend = &Cpu::new(Some(2)).unwrap();
    rows::check_all(&Suite { backend, dtype, bound: &bound, report: RefCell::default() });
}

#[test]
fn cpu_f32() {
    check_cpu(DType::F32, |_| 1.0);
}

#[test]
fn cpu_f64() {
    check_cpu(DType::F64, |_| 1.0);
}
