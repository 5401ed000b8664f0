//! The autoencoder against the published implementation, and its properties. As in `golden.rs`, the configuration
//! comes from the file's metadata.

mod common;

use std::collections::BTreeMap;

use common::golden::{Golden, assert_close};
use common::tiny::bits;
use transdiff_core::checkpoint::{WeightFile, write_atomic};
use transdiff_core::models::Model;
use transdiff_core::models::vae::{Posterior, StoredVae, Vae, VaeConfig};
use transdiff_core::nn::Module;
use transdiff_core::reference::Reference;
use transdiff_core::rng::{Purpose, StreamKey};
use transdiff_core::{Backend, CancellationToken, DType, Error, HostTensor, Tensor};
use transdiff_cpu::Cpu;

/// Tolerance that the golden file is specified with, for f32.
const SINGLE: f64 = 1e-5;
/// Tolerance for f64: the recording, weights included, is rounded to f32.
const DOUBLE: f64 = 3e-7;

/// A token that is never cancelled.
fn token() -> CancellationToken {
    CancellationToken::new()
}

fn config_of(golden: &Golden) -> VaeConfig {
    let list = |key| -> Vec<usize> { serde_json::from_value(golden.json(key)).unwrap() };
    let (resolution, multipliers) = (golden.value::<usize>("resolution"), list("ch_mult"));
    let attention = list("encoder_attn_resolutions");
    VaeConfig {
        image_channels: golden.tensor("in.image").shape()[1],
        latent_channels: golden.value("z_channels"),
        channels: golden.value("ch"),
        res_blocks: golden.value("num_res_blocks"),
        attention: (0..multipliers.len()).filter(|&l| attention.contains(&(resolution >> l))).collect(),
        multipliers,
    }
}

fn load<B: Backend>(backend: &B, golden: &Golden, dtype: DType) -> Vae<B> {
    StoredVae::find(&stored(golden.under("param."))).unwrap().load(backend, dtype).unwrap()
}

/// A file, in memory, of these tensors.
fn stored<'a>(tensors: impl IntoIterator<Item = (&'a str, &'a HostTensor)>) -> WeightFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vae.safetensors");
    write_atomic(&path, tensors, &BTreeMap::new()).unwrap();
    WeightFile::from_bytes("vae", std::fs::read(&path).unwrap()).unwrap()
}

fn check<B: Backend>(backend: &B, golden: &Golden, dtype: DType, limit: f64) {
    let vae = load(backend, golden, dtype);
    assert_eq!(vae.config(), &config_of(golden));
    let stored = |name: &str, dtype| {
        Tensor::from_host(backend, &golden.tensor(name).clone().cast(dtype).unwrap()).unwrap()
    };
    let tensor = |name| stored(name, dtype);
    let close = |name: &str, out: &Tensor<B>| {
        let error = assert_close(name, &out.to_host().unwrap(), golden.tensor(name), limit);
        println!("{} {dtype} {name}: {error:.1e}", backend.name());
    };
    let posterior = vae.encode(&tensor("in.image"), &token()).unwrap();
    close("out.moments", posterior.moments());
    close("out.posterior_sample", &posterior.sample(&stored("in.eps", dtype.accumulator())).unwrap());
    let kl = posterior.kl().iter().map(|&kl| kl as f32).collect::<Vec<_>>();
    assert_close("out.kl", &HostTensor::f32(&[kl.len()], kl).unwrap(), golden.tensor("out.kl"), limit);
    close("out.moments_rect", vae.encode(&tensor("in.image_rect"), &token()).unwrap().moments());
    close("out.decoded", &vae.decode(&tensor("in.latent"), &token()).unwrap());
}

#[test]
fn vae_matches_in_f32() {
    if let Some(golden) = Golden::find("vae") {
        check(&Cpu::new(None).unwrap(), &golden, DType::F32, SINGLE);
    }
}

/// About forty layers round to 2e-3 each.
const HALF: f64 = 3e-2;

#[test]
fn vae_matches_in_bf16() {
    if let Some(golden) = Golden::find("vae") {
        check(&Cpu::new(None).unwrap(), &golden, DType::BF16, HALF);
    }
}

#[test]
fn vae_matches_in_f64() {
    if let Some(golden) = Golden::find("vae") {
        check(&Cpu::new(None).unwrap(), &golden, DType::F64, DOUBLE);
    }
}

/// On the first GPU, if there is one.
#[cfg(feature = "cuda")]
mod cuda {
    use super::*;

    #[test]
    fn vae_matches_on_cuda() {
        let (Some(cuda), Some(golden)) = (common::cuda::device(), Golden::find("vae")) else { return };
        check(&cuda, &golden, DType::F32, SINGLE);
        check(&cuda, &golden, DType::BF16, HALF);
    }
}

/// Two levels, of which the coarser has more channels and attention.
fn tiny() -> VaeConfig {
    VaeConfig {
        image_channels: 3,
        latent_channels: 2,
        channels: 32,
        multipliers: vec![1, 2],
        res_blocks: 1,
        attention: vec![1],
    }
}

fn normal<B: Backend>(backend: &B, shape: &[usize], dtype: DType) -> Tensor<B> {
    let values = StreamKey::new(3, Purpose::Data, 0, 0).normals(shape.iter().product());
    Tensor::from_f32(backend, shape, values, dtype).unwrap()
}

#[test]
fn cpu_matches_the_reference_implementation() {
    let cpu = Cpu::new(Some(2)).unwrap();
    let (ours, reference) = (
        Vae::new(&cpu, &tiny(), DType::F64, 5).unwrap(),
        Vae::new(&Reference, &tiny(), DType::F64, 5).unwrap(),
    );
    let image = [1, 3, 6, 4];
    let got = ours.encode(&normal(&cpu, &image, DType::F64), &token()).unwrap();
    let want = reference.encode(&normal(&Reference, &image, DType::F64), &token()).unwrap();
    let host = |t: &Tensor<_>| t.to_host().unwrap();
    assert_close("moments", &host(got.moments()), &want.moments().to_host().unwrap(), 1e-12);
    let decoded = reference.decode(want.mean(), &token()).unwrap();
    assert_close(
        "decoded",
        &host(&ours.decode(got.mean(), &token()).unwrap()),
        &decoded.to_host().unwrap(),
        1e-12,
    );
}

#[test]
fn images_are_independent_of_batch_and_threads() {
    let results = [1, 2, 3].map(|threads| {
        let cpu = Cpu::new(Some(threads)).unwrap();
        let vae = Vae::new(&cpu, &tiny(), DType::F32, 0).unwrap();
        let images = normal(&cpu, &[3, 3, 64, 48], DType::F32);
        let posterior = vae.encode(&images, &token()).unwrap();
        let decoded = vae.decode(posterior.mean(), &token()).unwrap();
        for i in 0..3 {
            let alone = vae.encode(&images.narrow(0, i, 1).unwrap(), &token()).unwrap();
            let whole = posterior.moments().narrow(0, i, 1).unwrap();
            assert_eq!(bits(alone.moments()), bits(&whole), "moments of image {i}");
            assert_eq!(alone.kl()[0].to_bits(), posterior.kl()[i].to_bits());
            let alone = vae.decode(alone.mean(), &token()).unwrap();
            assert_eq!(bits(&alone), bits(&decoded.narrow(0, i, 1).unwrap()), "image {i}");
        }
        (bits(posterior.moments()), bits(&decoded))
    });
    assert!(results.iter().all(|r| *r == results[0]), "threads change bits");
}

#[test]
fn image_sides_follow_the_latent() {
    let cpu = Cpu::new(Some(2)).unwrap();
    let vae = Vae::new(&cpu, &tiny(), DType::F32, 0).unwrap();
    assert_eq!(vae.downsampling(), 2);
    for [h, w] in [[1, 1], [3, 5], [8, 2]] {
        let image = vae.decode(&normal(&cpu, &[2, 2, h, w], DType::F32), &token()).unwrap();
        assert_eq!(image.shape(), [2, 3, 2 * h, 2 * w]);
        assert_eq!(vae.encode(&image, &token()).unwrap().mean().shape(), [2, 2, h, w]);
    }
    let none = vae.decode(&normal(&cpu, &[0, 2, 3, 4], DType::F32), &token()).unwrap();
    assert_eq!(none.shape(), [0, 3, 6, 8]);
    assert_eq!(vae.encode(&none, &token()).unwrap().mean().shape(), [0, 2, 3, 4]);
}

#[test]
fn mismatched_shapes_and_types_are_refused() {
    let cpu = Cpu::new(Some(1)).unwrap();
    let vae = Vae::new(&cpu, &tiny(), DType::F32, 0).unwrap();
    for shape in [&[1, 3, 5, 4][..], &[1, 3, 4, 5], &[1, 4, 4, 4], &[3, 4, 4], &[1, 3, 0, 4]] {
        let refused = vae.encode(&normal(&cpu, shape, DType::F32), &token());
        assert!(matches!(refused, Err(Error::Shape { op: "Vae::encode", .. })), "{shape:?}");
    }
    for shape in [&[1, 3, 4, 4][..], &[2, 4, 4], &[1, 2, 4, 0]] {
        let refused = vae.decode(&normal(&cpu, shape, DType::F32), &token());
        assert!(matches!(refused, Err(Error::Shape { op: "Vae::decode", .. })), "{shape:?}");
    }
    let wide = normal(&cpu, &[1, 2, 2, 2], DType::F64);
    assert!(matches!(vae.decode(&wide, &token()), Err(Error::DType { .. })));
    let moments = |shape: &[usize]| Posterior::new(normal(&cpu, shape, DType::F32));
    assert!(matches!(moments(&[1, 3, 2, 2]), Err(Error::Shape { .. })));
    assert!(matches!(moments(&[4, 2, 2]), Err(Error::Shape { .. })));
    let eps = normal(&cpu, &[1, 2, 2, 3], DType::F32);
    assert!(matches!(moments(&[1, 4, 2, 2]).unwrap().sample(&eps), Err(Error::Shape { .. })));
}

#[test]
fn log_variances_are_clamped() {
    let moments = [2.0, -1.0, 100.0, -100.0];
    let posterior =
        Posterior::new(Tensor::from_f64(&Reference, &[1, 2, 1, 2], moments.to_vec(), DType::F64).unwrap());
    let posterior = posterior.unwrap();
    assert_eq!(posterior.std().to_f64().unwrap(), [10f64.exp(), (-15f64).exp()]);
    let kl = 0.5 * (4.0 + 20f64.exp() - 1.0 - 20.0) + 0.5 * (1.0 + (-30f64).exp() - 1.0 + 30.0);
    assert!((posterior.kl()[0] / kl - 1.0).abs() < 1e-14);
}

#[test]
fn a_cancelled_token_stops_both_directions() {
    let cpu = Cpu::new(Some(1)).unwrap();
    let vae = Vae::new(&cpu, &tiny(), DType::F32, 0).unwrap();
    let token = token();
    token.cancel();
    let encoded = vae.encode(&normal(&cpu, &[2, 3, 4, 4], DType::F32), &token);
    assert!(matches!(encoded, Err(Error::Cancelled)));
    let decoded = vae.decode(&normal(&cpu, &[2, 2, 2, 2], DType::F32), &token);
    assert!(matches!(decoded, Err(Error::Cancelled)));
    token.reset();
    vae.decode(&normal(&cpu, &[2, 2, 2, 2], DType::F32), &token).unwrap();
}

#[test]
fn non_finite_results_name_their_stage() {
    let cpu = Cpu::new(Some(1)).unwrap();
    let vae = Vae::new(&cpu, &tiny(), DType::F32, 0).unwrap();
    let infinite = |shape: &[usize]| Tensor::full(&cpu, shape, f64::INFINITY, DType::F32).unwrap();
    let encoded = vae.encode(&infinite(&[1, 3, 4, 4]), &token());
    assert!(matches!(encoded, Err(Error::NonFinite { stage: "vae encoder" })));
    let decoded = vae.decode(&infinite(&[1, 2, 2, 2]), &token());
    assert!(matches!(decoded, Err(Error::NonFinite { stage: "vae decoder" })));
}

type Named = Vec<(String, HostTensor)>;

#[test]
fn files_round_trip_and_mismatched_tensors_are_named() {
    let (cpu, folder) = (Cpu::new(Some(1)).unwrap(), tempfile::tempdir().unwrap());
    let path = folder.path().join("vae.safetensors");
    let vae = Vae::new(&cpu, &tiny(), DType::F32, 0).unwrap();
    vae.save(&path).unwrap();
    let back = Vae::load(&cpu, &path, DType::F32).unwrap();
    assert_eq!(back.config(), vae.config());
    for ((name, a), (_, b)) in vae.params().into_iter().zip(back.params()) {
        assert_eq!(bits(a.value()), bits(b.value()), "{name}");
    }

    let host: Named =
        vae.params().into_iter().map(|(name, p)| (name, p.value().to_host().unwrap())).collect();
    let with = |change: &dyn Fn(&mut Named)| {
        let mut tensors = host.clone();
        change(&mut tensors);
        let file = stored(tensors.iter().map(|(name, t)| (&**name, t)));
        StoredVae::find(&file)?.load(&cpu, DType::F32).map(|vae| vae.config().clone())
    };
    let scalar = |value| HostTensor::f32(&[1], vec![value]).unwrap();
    // Tensors of the training loss are ignored.
    assert_eq!(with(&|t| t.push(("loss.logvar".to_owned(), scalar(0.0)))).unwrap(), tiny());
    let extra = with(&|t| t.push(("decoder.up.1.attn.0.norm.bias".to_owned(), scalar(0.0))));
    let name = "decoder.up.1.attn.0.norm.bias";
    assert!(matches!(extra, Err(Error::TensorNames { extra, .. }) if extra == [name]));
    let name = "decoder.norm_out.weight";
    let missing = with(&|t| t.retain(|(n, _)| n != name));
    assert!(matches!(missing, Err(Error::TensorNames { missing, .. }) if missing == [name]));
    let put = |tensors: &mut Named, value| {
        tensors.iter_mut().find(|(n, _)| n == name).unwrap().1 = value;
    };
    let narrow = with(&|t| put(t, scalar(1.0)));
    assert!(matches!(narrow, Err(Error::Tensor { tensor, .. }) if tensor == name));
    let broken = with(&|t| put(t, HostTensor::f32(&[32], vec![f32::NAN; 32]).unwrap()));
    assert!(matches!(broken, Err(Error::Tensor { tensor, .. }) if tensor == name));
}

#[test]
fn the_published_config_has_its_number_of_parameters() {
    let vae = Vae::placeholder(&Reference, &VaeConfig::published(), DType::F32).unwrap();
    let millions = vae.param_count() as f64 / 1e6;
    assert!((millions - 66.46).abs() < 0.005, "{millions} M parameters");
}
