//! Memory estimates compared with measured allocations.

#[path = "../../tests/common/allocation.rs"]
#[allow(dead_code)]
mod allocation;
mod common;

use std::ptr;

use allocation::Counting;
use common::files::{self, one_step};
use common::{GenerationRequest, Model, call, load_from_memory, no_outputs};
use transcdiff::*;
use transdiff::models::transdiff::{Mode, TransDiffConfig};
use transdiff::models::vae::VaeConfig;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn estimate(options: &transcdiff_load_options, images: usize) -> transcdiff_memory {
    let mut memory = transcdiff_memory {
        struct_size: size_of::<transcdiff_memory>(),
        weights: 0,
        loading: 0,
        generation: 0,
    };
    // SAFETY: the pointers are valid.
    call(|error| unsafe { transcdiff_memory_estimate(options, images, &mut memory, error) }).unwrap();
    memory
}

/// Model configuration, batch size and other settings of a measurement.
struct Case {
    name: &'static str,
    model: TransDiffConfig,
    vae: Option<VaeConfig>,
    images: usize,
    batch: usize,
    steps: u32,
}

/// Measured bytes: held by the model, additional peak during loading, and additional peak during generation.
fn measure(case: &Case, options: &transcdiff_load_options) -> [u64; 3] {
    let before = allocation::held();
    let (model, loading) = allocation::peak_of(|| Model::load(options).unwrap());
    let kept = allocation::held() - before;
    let (session, n) = (model.session(), case.images);
    let request = GenerationRequest::new(n, case.steps);
    let o = transcdiff_generate_options { batch: case.batch, ..request.options(&model) };
    let mut latents = vec![0.0f32; n * session.latent()];
    let mut images = vec![0u8; 3 * n * session.info.image_height * session.info.image_width];
    let out = transcdiff_outputs {
        latents: latents.as_mut_ptr(),
        latents_size: size_of_val(&*latents),
        images: if images.is_empty() { ptr::null_mut() } else { images.as_mut_ptr().cast() },
        images_size: images.len(),
        ..no_outputs()
    };
    let ((), generation) = allocation::peak_of(|| session.run(&o, &out).unwrap());
    [kept, loading - kept, generation].map(|bytes| bytes as u64)
}

fn check(case: &Case) {
    let file = files::model(&case.model);
    let vae = case.vae.as_ref().map(|vae| files::vae_with(vae, |_, _| ()));
    let options = load_from_memory(&file, vae.as_deref());
    let estimate = estimate(&options, case.batch);
    let [kept, loading, generation] = measure(case, &options);
    println!(
        "{}: weights {} for {kept}, loading {} for {loading}, generation {} for {generation}",
        case.name, estimate.weights, estimate.loading, estimate.generation
    );
    let ratio = estimate.weights as f64 / kept as f64;
    assert!((0.95..1.05).contains(&ratio), "{}: weights {ratio:.3}", case.name);
    assert!(estimate.loading >= loading, "{}: loading", case.name);
    let ratio = estimate.generation as f64 / generation as f64;
    assert!((1.0..3.0).contains(&ratio), "{}: generation {ratio:.2}", case.name);
}

/// A single test, so that nothing else allocates; one thread per case, so that no case reuses the scratch memory of another.
#[test]
fn memory_estimate_bounds_measured_allocations() {
    let model = TransDiffConfig {
        width: 128,
        heads: 4,
        encoder_blocks: 4,
        decoder_blocks: 4,
        mlp_ratio: 4,
        buffer_size: 16,
        feature_tokens: 64,
        latent_channels: 16,
        latent_size: 8,
        ..one_step()
    };
    let mrar = TransDiffConfig { mode: Mode::MultiReference { groups: 4 }, ..model.clone() };
    let deep = TransDiffConfig { encoder_blocks: 12, decoder_blocks: 12, ..model.clone() };
    let fine = TransDiffConfig { feature_tokens: 16, latent_size: 16, ..model.clone() };
    let shallow = TransDiffConfig { encoder_blocks: 1, decoder_blocks: 1, latent_size: 4, ..model.clone() };
    let multipliers = vec![1, 1, 2, 2];
    let vae = VaeConfig { latent_channels: 16, multipliers, attention: vec![3], ..files::vae() };
    let case = |name, model: &TransDiffConfig, vae: Option<&VaeConfig>, images, batch, steps| Case {
        name,
        model: model.clone(),
        vae: vae.cloned(),
        images,
        batch,
        steps,
    };
    for case in [
        case("one step, one image", &model, None, 1, 1, 2),
        case("one step, many", &model, None, 6, 6, 2),
        case("one step, in batches", &model, None, 6, 2, 2),
        case("MRAR, one image", &mrar, None, 1, 1, 2),
        case("MRAR, many", &mrar, None, 6, 6, 2),
        case("deep, one image", &deep, None, 1, 1, 2),
        case("deep, many", &deep, None, 6, 6, 2),
        case("large latents", &fine, None, 3, 3, 2),
        case("many steps", &shallow, None, 2, 2, 100),
        case("codec, one image", &shallow, Some(&vae), 1, 1, 2),
        case("codec, many", &shallow, Some(&vae), 4, 4, 2),
    ] {
        std::thread::scope(|scope| scope.spawn(|| check(&case)).join().unwrap());
    }
}
