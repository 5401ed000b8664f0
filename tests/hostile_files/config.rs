//! Hostile configurations: each is the text that a file's metadata has for its model.

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

/// A file without tensors whose metadata has the text.
pub fn file(text: &[u8]) -> Vec<u8> {
    let text = std::str::from_utf8(text).expect("metadata is text");
    let header = json!({"__metadata__": {"transdiff.config": text}}).to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes()].concat()
}

pub fn cases() -> Vec<Case> {
    let groups = |n: u64| with("mode", json!({"multi_reference": {"groups": n}}));
    let wide = with("width", json!(1u64 << 20));
    vec![
        Case::refused("sound_but_without_tensors", with("width", json!(8)), "encoder_blocks.0.norm1.weight"),
        Case::refused("empty", vec![], "metadata entry transdiff.config"),
        Case::refused("not_json", b"{".to_vec(), "metadata entry transdiff.config"),
        Case::refused("nested_deep", "[".repeat(5000).into_bytes(), "metadata entry transdiff.config"),
        Case::refused("field_missing", br#"{"width":8}"#.to_vec(), "missing field"),
        Case::refused("field_twice", br#"{"width":8,"width":8}"#.to_vec(), "duplicate field"),
        Case::refused("width_negative", with("width", json!(-8)), "metadata entry transdiff.config"),
        Case::refused("width_a_float", with("width", json!(8.5)), "metadata entry transdiff.config"),
        Case::refused("width_zero", with("width", json!(0)), "config value width"),
        Case::refused("width_beyond_reason", with("width", json!(u64::MAX)), "config value width"),
        Case::refused("width_squared_beyond_reason", wide, "config value width"),
        Case::refused("heads_zero", with("heads", json!(0)), "config value heads"),
        Case::refused("heads_no_divisor", with("heads", json!(3)), "config value heads"),
        Case::refused(
            "blocks_beyond_reason",
            with("encoder_blocks", json!(1 << 20)),
            "config value encoder_blocks",
        ),
        Case::refused("blocks_at_the_limit", with("decoder_blocks", json!(1 << 12)), "encoder_blocks.0"),
        Case::refused("groups_zero", groups(0), "config value groups"),
        Case::refused("groups_no_divisor", groups(3), "config value groups"),
        Case::refused("groups_not_square", groups(2), "config value groups"),
        Case::refused("mode_unknown", with("mode", json!("two_steps")), "metadata entry transdiff.config"),
    ]
}
