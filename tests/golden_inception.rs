//! The network of the Fréchet Inception distance against the published implementation, with weights of a formula.

mod common;

use std::collections::BTreeMap;

use common::golden::{Golden, assert_close};
use common::inception;
use common::tiny::bits;
use transdiff_core::checkpoint::{WeightFile, write_atomic};
use transdiff_core::models::inception::{Inception, InceptionOutputs};
use transdiff_core::{CancellationToken, Error, HostTensor};
use transdiff_cpu::Cpu;

/// Tolerance that the golden file is specified with.
const LIMIT: f64 = 1e-4;

/// Every weight, under `prefix`.
fn weights(golden: &Golden, prefix: &str) -> BTreeMap<String, HostTensor> {
    let named = |(name, tensor)| (format!("{prefix}{name}"), tensor);
    inception::weights(&golden.json("names")).into_iter().map(named).collect()
}

/// A file, in memory, of these tensors.
fn stored(tensors: &BTreeMap<String, HostTensor>) -> WeightFile {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inception.safetensors");
    write_atomic(&path, tensors, &BTreeMap::new()).unwrap();
    WeightFile::from_bytes("inception", std::fs::read(&path).unwrap()).unwrap()
}

/// The images of the golden file, with channels last, and their sides.
fn images(golden: &Golden) -> (Vec<u8>, [usize; 2]) {
    let images = golden.tensor("in.images");
    let &[n, channels, height, width] = images.shape() else { panic!("images are [n, 3, H, W]") };
    let bytes: Vec<u8> = images.to_f64().into_iter().map(|byte| byte as u8).collect();
    let at = |n, y, x, c| bytes[((n * channels + c) * height + y) * width + x];
    let mut pixels = Vec::new();
    for image in 0..n {
        for y in 0..height {
            for x in 0..width {
                pixels.extend((0..channels).map(|c| at(image, y, x, c)));
            }
        }
    }
    (pixels, [height, width])
}

fn forward(network: &Inception<Cpu>, pixels: &[u8], sides: [usize; 2]) -> InceptionOutputs<Cpu> {
    network.forward(pixels, sides, &CancellationToken::new()).unwrap()
}

#[test]
fn inception_matches() {
    let Some(golden) = Golden::find("inception") else { return };
    let network = Inception::find(&Cpu::new(None).unwrap(), &stored(&weights(&golden, ""))).unwrap();
    let (pixels, sides) = images(&golden);
    let out = forward(&network, &pixels, sides);
    for (name, out) in [
        ("out.64", &out.features_64),
        ("out.192", &out.features_192),
        ("out.768", &out.features_768),
        ("out.2048", &out.features_2048),
        ("out.logits_unbiased", &out.logits_unbiased),
        ("out.logits", &out.logits),
    ] {
        let error = assert_close(name, &out.to_host().unwrap(), golden.tensor(name), LIMIT);
        println!("{name}: {error:.1e}");
    }
    // Alone, the last image has the same features.
    let last = &pixels[pixels.len() - sides[0] * sides[1] * 3..];
    assert!(bits(&out.features_2048).ends_with(&bits(&forward(&network, last, sides).features_2048)));
}

#[test]
fn weights_are_found_under_a_key_and_named_if_wrong() {
    let golden = Golden::load("inception");
    let load =
        |tensors: &BTreeMap<String, HostTensor>| Inception::find(&Cpu::new(None).unwrap(), &stored(tensors));
    let mut tensors = weights(&golden, "state_dict.");
    let one = || HostTensor::f32(&[1], vec![1.0]).unwrap();
    tensors.insert("state_dict.Conv2d_1a_3x3.bn.num_batches_tracked".to_owned(), one());
    load(&tensors).unwrap();

    tensors.insert("state_dict.Mixed_5b.more.weight".to_owned(), one());
    let variance = "state_dict.Mixed_6a.branch3x3.bn.running_var";
    let removed = tensors.remove(variance).unwrap();
    let Err(Error::TensorNames { missing, extra, .. }) = load(&tensors) else { panic!("names are wrong") };
    assert_eq!(missing, ["Mixed_6a.branch3x3.bn.running_var"]);
    assert_eq!(extra, ["state_dict.Mixed_5b.more.weight"]);

    tensors.remove("state_dict.Mixed_5b.more.weight");
    let values: Vec<f32> = removed.to_f32().into_iter().map(|v| -v).collect();
    tensors.insert(variance.to_owned(), HostTensor::f32(removed.shape(), values).unwrap());
    let message = load(&tensors).unwrap_err().to_string();
    assert!(message.contains("Mixed_6a.branch3x3.bn.running_var"), "{message}");
    assert!(message.contains("variances of at least 0"), "{message}");

    tensors.insert(variance.to_owned(), one());
    let message = load(&tensors).unwrap_err().to_string();
    assert!(message.contains("expected floats of shape [384], got F32 [1]"), "{message}");

    tensors.retain(|name, _| !name.contains("Conv2d_1a"));
    let message = load(&tensors).unwrap_err().to_string();
    assert!(message.contains("expected the InceptionV3 of the Fréchet Inception distance"), "{message}");
}
