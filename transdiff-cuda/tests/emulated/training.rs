//! Training on several GPUs.

use std::sync::Arc;
use std::time::Duration;

use transdiff_core::DType;
use transdiff_core::data::LoaderOptions;
use transdiff_core::distributed::Communicator;
use transdiff_core::models::transdiff::{FlowObjective, TransDiffConfig};
use transdiff_core::train::{Distribution, TrainConfig, Trainer};
use transdiff_cuda::{Cuda, Nccl};

use crate::ranks::{Files, in_ranks};
use crate::tiny;

const STEPS: usize = 2;

fn trainer(cuda: &Cuda, config: &TransDiffConfig, accumulate: usize) -> Trainer<Cuda> {
    let settings = TrainConfig {
        seed: 11,
        accumulate,
        objective: FlowObjective { batch_mul: 2, label_drop: 0.4, ..FlowObjective::default() },
        max_grad_norm: 0.5,
        ..TrainConfig::new(3, 20)
    };
    Trainer::new(tiny::model(cuda, config, DType::F32), settings).unwrap()
}

/// Loss and gradient norm of each step.
fn train(run: &mut Trainer<Cuda>, config: &TransDiffConfig) -> Vec<[u64; 2]> {
    let mut data = run.loader(tiny::set(config, 7), LoaderOptions::default()).unwrap();
    let mut step = || {
        let report = run.step(&mut data).unwrap();
        [report.loss, report.grad_norm].map(f64::to_bits)
    };
    (0..STEPS).map(|_| step()).collect()
}

/// The weights of two ranks are bitwise those of one that adds the gradients of two passes: a sum of two terms does not depend
/// on their order.
fn check_weights(communicator: &Arc<Files>, configs: &[TransDiffConfig]) {
    let cuda = Cuda::new(communicator.local_rank() as u32).unwrap();
    for config in configs {
        let mut alone = trainer(&cuda, config, 2);
        let reports = train(&mut alone, config);
        for (shard_optimizer, bucket_bytes) in [(false, 200), (true, 2000)] {
            let nccl = Nccl::new(&cuda, Arc::clone(communicator) as _, Duration::from_secs(60)).unwrap();
            let distribution =
                Distribution { shard_optimizer, bucket_bytes, ..Distribution::new(Arc::new(nccl)) };
            let mut run = trainer(&cuda, config, 1).with_distribution(distribution).unwrap();
            let context = format!("sharded: {shard_optimizer}, buckets of {bucket_bytes} bytes");
            assert_eq!(train(&mut run, config), reports, "{context}");
            assert_eq!(tiny::differing(run.model(), alone.model()), [""; 0], "{context}");
            assert_eq!(tiny::differing(&run.whole_ema().unwrap(), alone.ema()), [""; 0], "{context}");
        }
    }
}

#[test]
fn two_gpus_train_the_weights_of_one() {
    if let Some(ranks) = in_ranks("training::two_gpus_train_the_weights_of_one", 2, |_, c| c) {
        check_weights(&ranks, &[tiny::one_step(), tiny::mrar()]);
    }
}

/// Kernels and operations wait before they run, so that missing synchronisation changes the weights.
#[test]
fn two_busy_gpus_train_the_weights_of_one() {
    let test = "training::two_busy_gpus_train_the_weights_of_one";
    if let Some(ranks) = in_ranks(test, 2, |_, c| c.env("EMULATED_CUDA_ASYNC", "20")) {
        check_weights(&ranks, &[tiny::one_step()]);
    }
}
