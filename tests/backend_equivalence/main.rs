//! Every operation of a backend against the f64 oracle.
mod attention;
mod elementwise;
mod embedding;
mod errors;
mod harness;
mod linear;
mod norm;
mod optim;
mod storage;

use std::cell::RefCell;

use harness::{Report, Suite};
use transdiff_core::reference::Reference;
use transdiff_core::testing::with_margins;
use transdiff_core::{Backend, DType};

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
