//! Embeddings: rows of a table.

use super::{In, Out, gather_contiguous, scatter_contiguous};
use crate::DType;

/// Row numbers of `ids`.
fn rows(ids: In<'_>) -> Vec<usize> {
    assert_eq!(ids.dtype, DType::I32);
    gather_contiguous(ids, ids.layout.shape()).into_iter().map(|id| id as usize).collect()
}

pub(super) fn forward(table: In<'_>, ids: In<'_>, out: Out<'_>) {
    let shape = table.layout.shape();
    let (ids, table) = (rows(ids), gather_contiguous(table, shape));
    let d = shape[1];
    scatter_contiguous(out, &[ids.len(), d], ids.iter().flat_map(|id| table[id * d..][..d].to_vec()));
}

pub(super) fn backward(ids: In<'_>, dy: In<'_>, dtable: Out<'_>) {
    let shape = dtable.layout.shape();
    let (ids, d) = (rows(ids), shape[1]);
    let dy = gather_contiguous(dy, &[ids.len(), d]);
    let mut sums = vec![0.0; shape[0] * d];
    for (i, id) in ids.into_iter().enumerate() {
        for c in 0..d {
            sums[id * d + c] += dy[i * d + c];
        }
    }
    scatter_contiguous(dtable, shape, sums);
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, tensor};

    #[test]
    fn rows_and_gradients_match_hand_computed_values() {
        let table = tensor(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let out = table.embedding(&[2, 0, 2]).unwrap();
        assert_close(&out, &[5.0, 6.0, 1.0, 2.0, 5.0, 6.0]);
        assert_close(
            &table.embedding_backward(&[2, 0, 2], 4).unwrap(),
            &[3.0, 4.0, 0.0, 0.0, 6.0, 8.0, 0.0, 0.0],
        );
    }
}
