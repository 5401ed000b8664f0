//! Model traits, the models, and the registry that recognises the model in a file.
//!
//! A [`Model`] is a module with a configuration that files carry. A [`Trainable`] has a loss, a [`Generator`] makes codes
//! from classes and seeds, a [`Codec`] turns codes into pixels and back.

mod class_names;
mod codec;
mod codec_file;
mod features;
mod file_kind;
mod generator;
mod image_spec;
pub mod inception;
mod memory;
mod model;
pub mod patch;
mod registry;
mod set_names;
mod stored;
mod stored_codec;
mod trainable;
pub mod transdiff;
pub mod vae;
mod weight_sets;

pub use class_names::ClassNames;
pub use codec::{Codec, CodecInfo, Encoded};
pub use codec_file::{CodecFile, CodecSource};
pub use features::{Diversity, Features, cosine_mean};
pub use file_kind::FileKind;
pub(crate) use file_kind::TRAIN_KEY;
pub(crate) use generator::check_labels;
pub use generator::{
    Advance, Conditioning, FeatureShape, Generation, GenerationInput, Generator, GeneratorInfo,
};
pub use image_spec::{CodecRecord, ImageSpec};
pub use memory::ElementCount;
pub use model::Model;
pub(crate) use model::{expected, json, load_params, named_params};
pub use registry::StoredModel;
pub(crate) use stored::metadata_value;
pub use stored::{LoadHints, StoredConfig, WeightSet};
pub use stored_codec::StoredCodec;
pub use trainable::{ParamGroup, SampleKey, SampleShape, Samples, Trainable};
