//! Invalid configurations: each is the configuration text in a file's metadata.

use serde_json::{Value, json};

use super::Case;

fn with(field: &str, value: Value) -> Vec<u8> {
    let mut config = json!({
        "width": 8, "heads": 2, "encoder_blocks": 2, "decoder_blocks": 2, "mlp_ratio": 2, "classes": 3, "buffer_size": 2,
        "feature_tokens": 4, "latent_channels": 2, "latent_size": 2, "mode": "one_step"
    });
    config[field] = value;
    config.to_string().into_bytes()
}

/// A file without tensors whose metadata contains `text`.
pub fn file(text: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(text).expect("metadata is UTF-8");
    let header = json!({"__metadata__": {"transdiff.config": text}}).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}

pub fn cases() -> Vec<Case> {
    let groups = |n: u64| with("mode", json!({"multi_reference": {"groups": n}}));
    let wide = with("width", json!(1u64 << 20));
    vec![
        Case::rejected("valid_without_tensors", with("width", json!(8)), "encoder_blocks.0.norm1.weight"),
        Case::rejected("empty", vec![], "metadata entry transdiff.config"),
        Case::rejected("not_json", b"{".to_vec(), "metadata entry transdiff.config"),
        Case::rejected("nested_deep", "[".repeat(5000).into_bytes(), "metadata entry transdiff.config"),
        Case::rejected("field_missing", br#"{"width":8}"#.to_vec(), "missing field"),
        Case::rejected("field_twice", br#"{"width":8,"width":8}"#.to_vec(), "duplicate field"),
        Case::rejected("width_negative", with("width", json!(-8)), "metadata entry transdiff.config"),
        Case::rejected("width_fractional", with("width", json!(8.5)), "metadata entry transdiff.config"),
        Case::rejected("width_zero", with("width", json!(0)), "config value width"),
        Case::rejected("width_max", with("width", json!(u64::MAX)), "config value width"),
        Case::rejected("width_squared_too_large", wide, "config value width"),
        Case::rejected("heads_zero", with("heads", json!(0)), "config value heads"),
        Case::rejected("heads_not_dividing_width", with("heads", json!(3)), "config value heads"),
        Case::rejected(
            "too_many_blocks",
            with("encoder_blocks", json!(1 << 20)),
            "config value encoder_blocks",
        ),
        Case::rejected("blocks_at_the_limit", with("decoder_blocks", json!(1 << 12)), "encoder_blocks.0"),
        Case::rejected("groups_zero", groups(0), "config value groups"),
        Case::rejected("groups_not_dividing_tokens", groups(3), "config value groups"),
        Case::rejected("groups_not_square", groups(2), "config value groups"),
        Case::rejected("mode_unknown", with("mode", json!("two_steps")), "metadata entry transdiff.config"),
    ]
}
