//! Embeddings and the loss.

use transdiff_core::Backend;

use crate::harness::{Case, Suite, check};

pub fn check_all<B: Backend>(suite: &Suite<'_, B>) {
    suite.cases("embeddings", 80, embeddings);
    suite.cases("mse", 40, mse);
}

fn embeddings<B: Backend>(case: &mut Case<'_, B>) {
    let [rows, d, n] = [case.pick(&[1, 3, 50]), case.pick(&[0, 1, 5, 64, 136]), case.pick(&[0, 1, 4, 200])];
    let ids: Vec<usize> = (0..n).map(|_| case.below(rows)).collect();
    let (table, dy) = (case.normal(&[rows, d]), case.input(&[n, d], |z| z + 1.0));
    let ids = &ids;
    check!(case, "embedding", [table] => table.embedding(ids));
    check!(case, "embedding_backward", [dy] => dy.embedding_backward(ids, rows));
}

fn mse<B: Backend>(case: &mut Case<'_, B>) {
    let mut shape = case.shape();
    shape.iter_mut().for_each(|n| *n = (*n).max(1));
    let (a, b) = (case.normal(&shape), case.normal(&shape));
    let dloss = case.normal(&[]);
    check!(case, "mse", [a, b] => a.mse(b));
    check!(case, "mse_backward", [a, b, dloss] => a.mse_backward(b, dloss));
}
