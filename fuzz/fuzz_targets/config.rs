//! Fuzz target of configurations: an input is the text of a model's or a training run's configuration, or of a
//! description of images, as stored in metadata.
#![no_main]

use serde_json::json;
use transdiff_core::models::ImageSpec;
use transdiff_core::models::transdiff::{Mode, Size, TransDiffConfig};
use transdiff_core::train::TrainConfig;
use transdiff_fuzz::{bounded, check_file};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    bounded(text.len(), || {
        if let Ok(config) = serde_json::from_str::<TransDiffConfig>(text)
            && config.validate().is_ok()
        {
            assert!(config.group_tokens() * config.groups() == config.feature_tokens);
            assert!(config.reference_features() >= config.latent_channels);
        }
        if let Ok(config) = serde_json::from_str::<TrainConfig>(text) {
            let _ = config.validate();
        }
        if let Ok(images) = serde_json::from_str::<ImageSpec>(text) {
            let config =
                TransDiffConfig::published(Size::Base, 256, Mode::OneStep).expect("a published model");
            if images.check(&config.generator_info()).is_ok() {
                assert!(images.size.is_multiple_of(config.latent_size));
            }
        }
    });
    let header = json!({"__metadata__": {"transdiff.config": text, "transdiff.train": text}}).to_string();
    check_file(&[&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat());
});
