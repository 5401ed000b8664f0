//! Cancellation within a model: tokens are checked between its blocks, not only between batches.

use transdiff_core::models::vae::{Vae, VaeConfig};
use transdiff_core::reference::Reference;
use transdiff_core::{CancellationToken, DType, Error, Result, Tensor};

use crate::guarded::Guarded;

type Backend = Guarded<Reference>;
type Run = fn(&Vae<Backend>, &Backend, &CancellationToken) -> Result<()>;

/// Bound on the operations of one block: attention has the most.
const MAX_OPERATIONS_PER_BLOCK: usize = 12;

fn encode(vae: &Vae<Backend>, backend: &Backend, token: &CancellationToken) -> Result<()> {
    let images = Tensor::zeros(backend, &[1, 3, 4, 4], DType::F64)?;
    vae.encode(&images, token).map(drop)
}

fn decode(vae: &Vae<Backend>, backend: &Backend, token: &CancellationToken) -> Result<()> {
    let latents = Tensor::zeros(backend, &[1, 2, 2, 2], DType::F64)?;
    vae.decode(&latents, token).map(drop)
}

/// Result of `run` with a token cancelled after `limit` of its operations, and the number of these that it did.
fn run_cancelled_after(config: &VaeConfig, run: Run, limit: usize) -> (Result<()>, usize) {
    let token = CancellationToken::new();
    let backend = Guarded::new(Reference, 0).cancelling(&token, limit);
    let vae = Vae::new(&backend, config, DType::F64, 0).unwrap();
    backend.restart();
    let result = run(&vae, &backend, &token);
    (result, backend.operations())
}

#[test]
fn vae_stops_at_the_next_block() {
    let config = VaeConfig {
        image_channels: 3,
        latent_channels: 2,
        channels: 32,
        multipliers: vec![1, 1],
        res_blocks: 1,
        attention: vec![1],
    };
    for run in [encode as Run, decode] {
        let (result, all) = run_cancelled_after(&config, run, usize::MAX);
        result.unwrap();
        assert!(all > 4 * MAX_OPERATIONS_PER_BLOCK, "{all} operations");
        for limit in 1..all - MAX_OPERATIONS_PER_BLOCK {
            let (result, done) = run_cancelled_after(&config, run, limit);
            assert!(matches!(result, Err(Error::Cancelled)), "{result:?} after {limit} of {all} operations");
            assert!(done <= limit + MAX_OPERATIONS_PER_BLOCK, "{done} operations, cancelled after {limit}");
        }
    }
}
