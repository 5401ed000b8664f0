//! Description of the images that a model makes, as files record it.

use serde::{Deserialize, Serialize};

/// Codec of a model's codes, as files record it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodecRecord {
    /// Space-to-depth of patches of this side, in pixels.
    Patch(usize),
    /// A codec's file.
    File {
        /// Name of the file, which lies beside the file that records it.
        name: String,
        /// SHA-256 of its contents, in hexadecimal.
        sha256: String,
    },
}

/// Images that a model was trained on and makes. Together with the codec's file, if it has one, a model's file thus holds
/// all that generation needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageSpec {
    /// The codec between images and codes.
    pub codec: CodecRecord,
    /// Number of colour channels, 1 or 3.
    pub channels: usize,
    /// Width and height in pixels.
    pub size: usize,
    /// Names of the classes by number; empty if they have none.
    #[serde(default)]
    pub classes: Vec<String>,
}

impl ImageSpec {
    /// Metadata key under which files carry the description, as JSON.
    pub const METADATA_KEY: &'static str = "transdiff.images";
}
