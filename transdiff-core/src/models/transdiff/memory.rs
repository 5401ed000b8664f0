//! Memory of a generation.

use super::{Mode, TransDiffConfig};
use crate::diffusion::Preset;
use crate::models::ElementCount;

impl TransDiffConfig {
    /// Elements in memory while a batch is generated under guidance in at most [`Preset::STEPS`] steps.
    pub fn generation_elements(&self) -> ElementCount {
        let (d, ratio) = (self.width as u64, self.mlp_ratio as u64);
        let (features, latent) = (self.feature_tokens as u64, self.decoder_tokens() as u64);
        let sequence = self.buffer_size as u64 + features;
        // In a block: its input, a norm, the output, and the hidden layer before and after its activation or queries,
        // keys, values and the attention's result.
        let token = d * (3 + (2 * ratio).max(4));
        let encoder = sequence * token;
        let decoder = 2 * latent * (token + 6 * self.latent_channels as u64);
        // Keys and values of the cross-attentions: of an image, and once more with the unconditional ones behind them.
        let condition = features * 2 * d * self.decoder_blocks as u64;
        // Multi-reference autoregression: keys and values of the sequence so far, with class and without.
        let prefix = match self.mode {
            Mode::OneStep => 0,
            Mode::MultiReference { .. } => 2 * sequence * 2 * d * self.encoder_blocks as u64,
        };
        // Time embeddings: two layers, and the shifts, scales and gates that all blocks share; and those of each block, with its
        // table.
        let times = ((Preset::STEPS as u64 + 1) * 8 + 2 * 6 * self.decoder_blocks as u64) * d;
        ElementCount { fixed: condition + times, per_image: prefix + encoder.max(3 * condition + decoder) }
    }
}
