//! Sums of tensors over the ranks of a job on this machine, against sums in one process.

use std::sync::Arc;

use crate::launch::{assert_ranks, on_ranks};
use transdiff_core::distributed::{Collectives, Communicator, HostCollectives, Pending, Solo, even_counts};
use transdiff_core::reference::Reference;
use transdiff_core::{DType, HostData, HostTensor, Tensor};

type Values = Tensor<Reference>;

/// Values of very different sizes, so that sums depend on their order.
fn values(rank: usize, len: usize, dtype: DType) -> HostTensor {
    let value = |i: usize| {
        let mixed = (i * 4 + rank + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        (mixed as f64 / (1u64 << 44) as f64 - 0.5) * [1.0, 1e3, 1e-3, 1e6][(i + rank) % 4]
    };
    HostTensor::new(&[len], HostData::F64((0..len).map(value).collect()).cast(dtype).unwrap()).unwrap()
}

/// The sum of the values of all `ranks`, in one process: a binary tree, in f64 for f64 and otherwise in f32.
fn expected(ranks: usize, len: usize, dtype: DType) -> Vec<f64> {
    let terms: Vec<Vec<f64>> = (0..ranks).map(|rank| values(rank, len, dtype).into_data().to_f64()).collect();
    let round = |sum: f64| if dtype == DType::F64 { sum } else { f64::from(sum as f32) };
    HostData::F64(tree(&terms, &round)).cast(dtype).unwrap().to_f64()
}

fn tree(terms: &[Vec<f64>], round: &dyn Fn(f64) -> f64) -> Vec<f64> {
    let [term] = terms else {
        let (left, right) = terms.split_at(terms.len().div_ceil(2));
        let (left, right) = (tree(left, round), tree(right, round));
        return left.iter().zip(right).map(|(a, b)| round(a + b)).collect();
    };
    term.clone()
}

fn assert_bitwise_equal(got: &Values, expected: &[f64], case: &str) {
    let got = got.to_host().unwrap().into_data().to_f64();
    let differs = |(a, b): (&f64, &f64)| a.to_bits() != b.to_bits();
    let place = got.iter().zip(expected).position(differs);
    assert!(got.len() == expected.len() && place.is_none(), "{case}: place {place:?} of {}", got.len());
}

/// Numbers of elements per rank: even and uneven, with zeros.
fn cuts(len: usize, ranks: usize) -> [Vec<usize>; 2] {
    let mut uneven = vec![0; ranks];
    uneven[ranks / 2] = len - len / 3;
    uneven[ranks - 1] += len / 3;
    [even_counts(len, ranks), uneven]
}

fn check(collectives: &dyn Collectives<Reference>, len: usize, dtype: DType) {
    let (rank, ranks) = (collectives.communicator().rank(), collectives.communicator().size());
    let case = format!("{len} elements of {dtype}");
    let own = Values::from_host(&Reference, &values(rank, len, dtype)).unwrap();
    let sum = expected(ranks, len, dtype);
    let got = collectives.all_reduce(own.clone()).unwrap().wait().unwrap();
    assert_eq!(got.dtype(), dtype);
    assert_bitwise_equal(&got, &sum, &case);
    for counts in cuts(len, ranks) {
        let start: usize = counts[..rank].iter().sum();
        let part = collectives.reduce_scatter(own.clone(), &counts).unwrap().wait().unwrap();
        assert_bitwise_equal(&part, &sum[start..][..counts[rank]], &case);
        let all = collectives.all_gather(part, &counts).unwrap().wait().unwrap();
        assert_bitwise_equal(&all, &sum, &case);
    }
}

#[test]
fn sums_over_ranks_are_bitwise_those_of_one_process() {
    on_ranks(|mpi| {
        assert_ranks(&mpi);
        let collectives = HostCollectives::new(mpi.clone()).unwrap();
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            for len in [0, 1, 3, 4, 1000, 70_001] {
                check(&collectives, len, dtype);
            }
        }
    });
}

#[test]
fn many_operations_are_enqueued_before_the_first_is_awaited() {
    on_ranks(|mpi| {
        let collectives = HostCollectives::new(mpi.clone()).unwrap();
        let len = |i: usize| 1 + 97 * i;
        let pending: Vec<Pending<Reference>> = (0..50)
            .map(|i| {
                let own = Values::from_host(&Reference, &values(mpi.rank(), len(i), DType::F32)).unwrap();
                collectives.all_reduce(own).unwrap()
            })
            .collect();
        for (i, pending) in pending.into_iter().enumerate() {
            let sum = expected(mpi.size(), len(i), DType::F32);
            assert_bitwise_equal(&pending.wait().unwrap(), &sum, &format!("operation {i}"));
        }
    });
}

#[test]
fn single_process_sums_alone() {
    let collectives = HostCollectives::new(Arc::new(Solo)).unwrap();
    check(&collectives, 1000, DType::F32);
}
