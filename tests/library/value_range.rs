//! Values of a file beyond the range of the type in which it is loaded: an error, not infinity.

use crate::common::tiny::one_step;
use transdiff_core::checkpoint::{WeightFile, write_atomic};
use transdiff_core::models::transdiff::{TransDiff, TransDiffConfig};
use transdiff_core::nn::Module;
use transdiff_core::reference::Reference;
use transdiff_core::{DType, Error, HostData, HostTensor};

#[test]
fn loading_names_a_value_beyond_the_range() {
    let model = TransDiff::new(&Reference, &one_step(), DType::F64, 1).unwrap();
    let metadata =
        [(TransDiffConfig::METADATA_KEY.to_owned(), serde_json::to_string(&one_step()).unwrap())].into();
    let file = tempfile::NamedTempFile::new().unwrap();
    let cases = [(1e300, DType::F32), (-1e39, DType::F32), (3.4e38, DType::BF16)];
    for (value, dtype) in cases {
        let mut tensors: Vec<(String, HostTensor)> =
            model.params().into_iter().map(|(name, p)| (name, p.value().to_host().unwrap())).collect();
        let (_, tensor) = tensors.iter_mut().find(|(name, _)| name == "class_emb.weight").unwrap();
        let mut values = tensor.to_f64();
        values[5] = value;
        *tensor = HostTensor::new(tensor.shape(), HostData::F64(values)).unwrap();
        write_atomic(file.path(), tensors.iter().map(|(name, tensor)| (name, tensor)), &metadata).unwrap();
        let error = TransDiff::load(&Reference, file.path(), dtype).unwrap_err();
        assert!(matches!(&error, Error::Tensor { tensor, .. } if tensor == "class_emb.weight"), "{error}");
        let expected = format!("within the range of {dtype}, got {value:e} at element 5");
        assert!(error.to_string().ends_with(&expected), "{error}");
        let opened = WeightFile::open(file.path()).unwrap();
        TransDiff::from_file(&Reference, &opened, DType::F64, &Default::default()).unwrap();
    }
}
