//! The library as programs use it, on the CPU. One crate for many subjects, since each crate of tests compiles what it uses of
//! the library again.

#[path = "../common/mod.rs"]
mod common;
#[path = "../../benches/workloads/flops.rs"]
mod flops;
#[path = "../common/thread_ranks.rs"]
mod thread_ranks;

mod bf16;
mod checkpoints;
mod distillation;
mod distributed;
mod earlier_versions;
mod generation;
mod gradients;
mod graph_capture;
mod model_gradients;
mod operation_counts;
mod pipeline;
mod pytorch_variants;
mod sampler_accuracy;
mod sampler_properties;
mod shards;
mod toy_models;
mod training;
mod value_range;
