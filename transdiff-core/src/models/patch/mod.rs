//! Patches as codes: the codec without parameters, for models that work on pixels.

mod codec;

pub use codec::PatchCodec;
