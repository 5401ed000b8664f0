//! Weights of the network of the Fréchet Inception distance, by the formula in the metadata of its golden file.

use std::collections::BTreeMap;

use transdiff_core::HostTensor;

/// Every weight of the names and shapes `names`, a list of pairs.
pub fn weights(names: &serde_json::Value) -> BTreeMap<String, HostTensor> {
    let names: Vec<(String, Vec<usize>)> = serde_json::from_value(names.clone()).unwrap();
    names.into_iter().enumerate().map(|(k, (name, shape))| (name.clone(), weight(k, &name, &shape))).collect()
}

/// Weight `tensor`, counted in the order of names.
fn weight(tensor: usize, name: &str, shape: &[usize]) -> HostTensor {
    let value = |element: usize| {
        let mut x = (element as u64 + tensor as u64 * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        x ^= x >> 31;
        x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x ^= x >> 29;
        (x >> 40) as f64 / f64::from(1 << 23) - 1.0
    };
    let inputs = shape[1..].iter().product::<usize>() as f64;
    let (mul, add) = match name {
        _ if name.ends_with(".conv.weight") => ((6.0 / inputs).sqrt(), 0.0),
        "fc.weight" => ((3.0 / inputs).sqrt(), 0.0),
        _ if name.ends_with(".bn.weight") => (0.1, 1.0),
        _ if name.ends_with(".running_var") => (0.5, 1.0),
        _ => (0.1, 0.0),
    };
    let values = (0..shape.iter().product()).map(|element| (add + mul * value(element)) as f32).collect();
    HostTensor::f32(shape, values).unwrap()
}
