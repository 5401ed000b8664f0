//! Latents as sequences of tokens.

use crate::{Backend, Error, Result, Tensor};

/// [B, C, h·p, w·p] → [B, h·w, C·p·p]: tokens row-major over the grid, features ordered (channel, row in patch,
/// column in patch).
pub fn patchify<B: Backend>(latent: &Tensor<B>, patch: usize) -> Result<Tensor<B>> {
    match *latent.shape() {
        [b, c, h, w] if patch > 0 && h % patch == 0 && w % patch == 0 => latent
            .reshape(&[b, c, h / patch, patch, w / patch, patch])?
            .permute(&[0, 2, 4, 1, 3, 5])?
            .reshape(&[b, h / patch * (w / patch), c * patch * patch]),
        _ => Err(Error::shape("patchify", format!("[B, C, h·{patch}, w·{patch}]"), latent.shape())),
    }
}

/// The inverse of [`patchify`] for a grid of `h`×`w` tokens: [B, h·w, C·p·p] → [B, C, h·p, w·p].
pub fn unpatchify<B: Backend>(tokens: &Tensor<B>, h: usize, w: usize, patch: usize) -> Result<Tensor<B>> {
    let area = patch * patch;
    match *tokens.shape() {
        [b, n, f] if area > 0 && n == h * w && f % area == 0 => tokens
            .reshape(&[b, h, w, f / area, patch, patch])?
            .permute(&[0, 3, 1, 4, 2, 5])?
            .reshape(&[b, f / area, h * patch, w * patch]),
        _ => Err(Error::shape("unpatchify", format!("[B, {h}·{w}, C·{patch}·{patch}]"), tokens.shape())),
    }
}

/// A latent [B, C, h, w] as the tokens [B, h·w, C] that samplers integrate.
///
/// # Errors
/// [`Error::Shape`] for a tensor of another rank.
pub fn latent_tokens<B: Backend>(latent: &Tensor<B>) -> Result<Tensor<B>> {
    patchify(latent, 1)
}
