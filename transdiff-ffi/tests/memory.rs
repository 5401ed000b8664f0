//! The estimate of memory beside what is allocated.

#[path = "../../tests/common/allocation.rs"]
#[allow(dead_code)]
mod allocation;
mod common;

use std::ptr;

use allocation::Counting;
use common::files::{self, one_step};
use common::{Model, Order, call, in_memory, no_outputs};
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

/// A model's settings, and how many images are generated at a time.
struct Case {
    name: &'static str,
    model: TransDiffConfig,
    vae: Option<VaeConfig>,
    images: usize,
    batch: usize,
    steps: u32,
}

/// Bytes that were taken: kept by the model, on top while it was loaded, and on top while it generated.
fn measure(case: &Case, options: &transcdiff_load_options) -> [u64; 3] {
    let before = allocation::held();
    let (model, loading) = allocation::peak_of(|| Model::load(options).unwrap());
    let kept = allocation::held() - before;
    let (session, n) = (model.session(), case.images);
    let order = Order::of(n, case.steps);
    let o = transcdiff_generate_options { batch: case.batch, ..order.options(&model) };
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
    let options = in_memory(&file, vae.as_deref());
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

/// One test, so that nothing else allocates; each case in a thread of its own, so that none finds another's scratch
/// memory.
#[test]
fn the_estimate_is_near_what_is_allocated() {
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
        case("a VAE, one image", &shallow, Some(&vae), 1, 1, 2),
        case("a VAE, many", &shallow, Some(&vae), 4, 4, 2),
    ] {
        std::thread::scope(|scope| scope.spawn(|| check(&case)).join().unwrap());
    }
}
