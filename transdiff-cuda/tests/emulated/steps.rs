//! Driver calls of a sampling step once its graph is captured.

use std::ops::ControlFlow;

use transdiff_core::DType;
use transdiff_core::diffusion::Sampling;
use transdiff_core::diffusion::{EulerMaruyama, Guidance, Interpolant, KeyedNoise, Progress, Timesteps};
use transdiff_core::models::transdiff::Session;
use transdiff_cuda::Cuda;

use crate::emulator::emulator;
use crate::tiny;

const STEPS: usize = 8;

/// Expected calls per step.
const CALLS: [(&str, usize); 12] = [
    ("cuGraphLaunch", 1),
    // The noise.
    ("cuMemcpyHtoDAsync_v2", 1),
    ("cuMemcpyDtoHAsync_v2", 0),
    ("cuMemAlloc_v2", 0),
    ("cuMemFree_v2", 0),
    ("cuMemAllocHost_v2", 0),
    ("cuStreamSynchronize", 0),
    // Neither waits for this step: one waits for the step before the last, so that cancellation takes effect soon, the
    // other for the pinned memory of an earlier transfer.
    ("cuEventSynchronize", 2),
    ("cuStreamBeginCapture_v2", 0),
    ("cuGraphInstantiateWithFlags", 0),
    ("cuModuleGetFunction", 0),
    // Part of the graph.
    ("cublasLtMatmul", 0),
];

/// The first step is executed eagerly, the second captured; the last injects no noise.
#[test]
fn step_is_one_graph_launch_and_one_noise_upload() {
    let Some(emulator) = emulator() else { return };
    let cuda = Cuda::new(0).unwrap();
    for (config, dtype) in [(tiny::one_step(), DType::F32), (tiny::mrar(), DType::BF16)] {
        let model = tiny::model(&cuda, &config, dtype);
        let solver =
            EulerMaruyama::new(Timesteps::uniform(STEPS).unwrap(), Interpolant::Linear, 0.9, 0.95).unwrap();
        let sampling = Sampling::new(solver, Guidance::new(1.4).unwrap());
        let mut seen = Vec::new();
        let mut count = |progress: &Progress<'_, Cuda>| {
            let counts = CALLS.map(|(function, _)| emulator.count(function));
            seen.push((progress.step.ar_step.index, progress.step.done, counts));
            ControlFlow::Continue(())
        };
        let mut noise = KeyedNoise::new(&cuda, DType::F32, &[3, 4]);
        Session::new(&model).generate(&[0, 2], &[], &sampling, &mut noise, &mut count).unwrap();
        assert_eq!(seen.len(), STEPS * config.groups());
        for pair in seen.windows(2) {
            let [(_, _, before), (ar_step, step, after)] = pair else { unreachable!("pairs") };
            if (4..STEPS).contains(step) {
                for (i, (function, want)) in CALLS.into_iter().enumerate() {
                    let got = after[i] - before[i];
                    assert_eq!(got, want, "{function} in step {step} of AR step {ar_step}");
                }
            }
        }
    }
}
