//! Floating-point operations of the timed passes.
//!
//! The count covers the products of the model's definition: linear layers, attention (scores and weighted sums over
//! visible keys) and convolutions; a multiply-add is two operations. It omits whatever is linear in the number of
//! activations (norms, activation functions, residuals, the sampler, AdamW). It is not reduced where a backend computes
//! less (convolution of an upsampled image) nor increased where it computes more (activations recomputed in the backward
//! pass).

use transdiff::models::transdiff::{Mode, TransDiffConfig};
use transdiff::models::vae::VaeConfig;

/// Number of sines and cosines in the timestep embedding.
const TIME_FEATURES: usize = 256;

/// Product of x [rows, inputs] and W [inputs, outputs].
fn linear(rows: usize, inputs: usize, outputs: usize) -> usize {
    2 * rows * inputs * outputs
}

/// Scores and weighted sums of `queries` over `keys`; `width` is that of all heads together.
fn attention(queries: usize, keys: usize, width: usize) -> usize {
    4 * queries * keys * width
}

/// Projections, MLP and attention of an encoder block, for `tokens` tokens of one sequence with `pairs` visible
/// query-key pairs.
fn encoder_block(config: &TransDiffConfig, tokens: usize, pairs: usize) -> usize {
    let d = config.width;
    linear(tokens, d, (4 + 2 * config.mlp_ratio) * d) + attention(1, pairs, d)
}

/// The 1-step AR transformer on `sequences` sequences.
pub fn features(config: &TransDiffConfig, sequences: usize) -> usize {
    let tokens = config.buffer_size + config.feature_tokens;
    sequences * config.encoder_blocks * encoder_block(config, tokens, tokens * tokens)
}

/// Conditions of `images` images with `features` features each: keys and values of every cross-attention.
pub fn condition(config: &TransDiffConfig, images: usize, features: usize) -> usize {
    let d = config.width;
    linear(images * features, d, d) * (1 + 2 * config.decoder_blocks)
}

/// Embeddings of `timesteps` timesteps.
fn time(config: &TransDiffConfig, timesteps: usize) -> usize {
    let d = config.width;
    linear(timesteps, TIME_FEATURES, d) + linear(timesteps, d, d) + linear(timesteps, d, 6 * d)
}

/// Velocities of `rows` latents with `features` features each: the decoder without its condition and the time
/// embedding.
pub fn velocity(config: &TransDiffConfig, rows: usize, features: usize) -> usize {
    let (d, s) = (config.width, config.decoder_tokens());
    // Self-attention: queries, keys, values, projection. Cross-attention: queries, projection. MLP.
    let products = linear(s, d, (4 + 2 + 2 * config.mlp_ratio) * d);
    let block = products + attention(s, s, d) + attention(s, features, d);
    rows * (2 * linear(s, config.latent_channels, d) + config.decoder_blocks * block)
}

/// One AR step of `steps` sampling steps with guidance; each embeds one timestep for all images.
fn ar_step(config: &TransDiffConfig, images: usize, features: usize, steps: usize) -> usize {
    steps * velocity(config, 2 * images, features) + time(config, steps)
}

/// Generation of `images` latents with guidance by a session that has generated before: a 1-step session caches the
/// unconditional features, and computes one condition from them for all images.
pub fn generation(config: &TransDiffConfig, images: usize, steps: usize) -> usize {
    let Mode::MultiReference { groups } = config.mode else {
        let s = config.feature_tokens;
        return features(config, images)
            + condition(config, images + 1, s)
            + ar_step(config, images, s, steps);
    };
    let visible = |group: usize| (group + 1) * config.group_tokens();
    let group = |group| {
        2 * images * next_group(config, group)
            + condition(config, 2 * images, visible(group))
            + ar_step(config, images, visible(group), steps)
    };
    (0..groups).map(group).sum()
}

/// The AR transformer on the tokens that a group adds to one sequence, with keys and values of earlier tokens cached.
/// The first group comes with the buffer tokens, which see each other alone; each later group is the previous image in
/// patches.
fn next_group(config: &TransDiffConfig, group: usize) -> usize {
    let (buffer, g, d) = (config.buffer_size, config.group_tokens(), config.width);
    let pairs = g * (buffer + (group + 1) * g);
    let blocks = |tokens, pairs| config.encoder_blocks * encoder_block(config, tokens, pairs);
    match group {
        0 => blocks(buffer + g, buffer * buffer + pairs),
        _ => linear(g, config.reference_features(), d) + blocks(g, pairs),
    }
}

/// A training step of the 1-step model with `mul` noised copies of each of `batch` samples: forward, and twice as much
/// backward.
pub fn training(config: &TransDiffConfig, batch: usize, mul: usize) -> usize {
    let (rows, s) = (mul * batch, config.feature_tokens);
    let forward = features(config, batch)
        + condition(config, batch, s)
        + time(config, rows)
        + velocity(config, rows, s);
    3 * forward
}

/// A convolution with kernels of side `kernel` and `side`×`side` output pixels.
fn conv(side: usize, inputs: usize, outputs: usize, kernel: usize) -> usize {
    linear(side * side, inputs * kernel * kernel, outputs)
}

fn res_block(side: usize, inputs: usize, outputs: usize) -> usize {
    let shortcut = if inputs == outputs { 0 } else { conv(side, inputs, outputs, 1) };
    conv(side, inputs, outputs, 3) + conv(side, outputs, outputs, 3) + shortcut
}

fn attn_block(side: usize, channels: usize) -> usize {
    let pixels = side * side;
    4 * conv(side, channels, channels, 1) + attention(pixels, pixels, channels)
}

fn mid_block(side: usize, channels: usize) -> usize {
    2 * res_block(side, channels, channels) + attn_block(side, channels)
}

fn widths(config: &VaeConfig) -> Vec<usize> {
    config.multipliers.iter().map(|m| m * config.channels).collect()
}

/// Decoding `images` latents to images of side `resolution`.
pub fn decoding(config: &VaeConfig, images: usize, resolution: usize) -> usize {
    let (widths, latent, side) = (widths(config), config.latent_channels, resolution / config.downsampling());
    let (finest, deepest) = (widths[0], widths[widths.len() - 1]);
    let mut count = conv(side, latent, latent, 1) + conv(side, latent, deepest, 3) + mid_block(side, deepest);
    let (mut inputs, mut side) = (deepest, side);
    for (level, &width) in widths.iter().enumerate().rev() {
        count += res_block(side, inputs, width) + config.res_blocks * res_block(side, width, width);
        if level > 0 {
            side *= 2;
            count += conv(side, width, width, 3);
        }
        inputs = width;
    }
    images * (count + conv(side, finest, config.image_channels, 3))
}

/// Encoding `images` images of side `resolution`.
pub fn encoding(config: &VaeConfig, images: usize, resolution: usize) -> usize {
    let (widths, moments) = (widths(config), 2 * config.latent_channels);
    let mut count = conv(resolution, config.image_channels, config.channels, 3);
    let (mut inputs, mut side) = (config.channels, resolution);
    for (level, &width) in widths.iter().enumerate() {
        count += res_block(side, inputs, width) + (config.res_blocks - 1) * res_block(side, width, width);
        if config.attention.contains(&level) {
            count += config.res_blocks * attn_block(side, width);
        }
        if level + 1 < widths.len() {
            side /= 2;
            count += conv(side, width, width, 3);
        }
        inputs = width;
    }
    images
        * (count + mid_block(side, inputs) + conv(side, inputs, moments, 3) + conv(side, moments, moments, 1))
}
