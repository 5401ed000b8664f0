//! Inference of a model's sizes from the shapes of its tensors, checked against `args`, for files that do not state them.

use serde_json::Value;

use super::{Mode, Size, TransDiffConfig};
use crate::checkpoint::WeightView;
use crate::models::stored::check_agreement;
use crate::{Error, Result};

/// Pixels per position of the latent, along each side, with the published VAE.
const PIXELS: usize = 16;

/// Infers the sizes, with the number of heads if the caller knows it.
pub(super) fn config(tensors: &WeightView<'_>, heads: Option<usize>) -> Result<TransDiffConfig> {
    let shapes = Shapes(tensors);
    let [classes, width] = shapes.of("class_emb.weight")?;
    let [_, feature_tokens, _] = shapes.of("diffusion_pos_embed_learned")?;
    let [_, positions, _] = shapes.of("encoder_pos_embed_learned")?;
    let [_, latent_channels] = shapes.of("diffdecoder.net.input_proj.weight")?;
    let [hidden, _] = shapes.of("encoder_blocks.0.mlp.fc1.weight")?;
    let mut config = TransDiffConfig {
        width,
        heads: 1,
        encoder_blocks: blocks(tensors, "encoder_blocks"),
        decoder_blocks: blocks(tensors, "diffdecoder.net.res_blocks"),
        mlp_ratio: hidden / width.max(1),
        classes,
        buffer_size: positions.saturating_sub(feature_tokens),
        feature_tokens,
        latent_channels,
        latent_size: shapes.latent_size()?,
        mode: Mode::OneStep,
        distilled: false,
    };
    config.mode = shapes.mode(&config)?;
    let args = Args::of(tensors);
    args.check(&config)?;
    config.heads = self::heads(tensors, &config, &args, heads)?;
    Ok(config)
}

/// Checks that a file has at least one tensor per block, before anything of the claimed depth is allocated.
pub(crate) fn check_depth(config: &TransDiffConfig, tensors: &WeightView<'_>) -> Result<()> {
    for (prefix, depth) in
        [("encoder_blocks", config.encoder_blocks), ("diffdecoder.net.res_blocks", config.decoder_blocks)]
    {
        let held = blocks(tensors, prefix);
        if depth > held {
            let missing = vec![format!("{prefix}.{held}.norm1.weight")];
            return Err(Error::TensorNames {
                path: tensors.file().path().to_owned(),
                missing,
                extra: vec![],
            });
        }
    }
    Ok(())
}

/// Number of blocks `prefix.0`, `prefix.1`, ….
fn blocks(tensors: &WeightView<'_>, prefix: &str) -> usize {
    (0..).take_while(|i| tensors.get(&format!("{prefix}.{i}.norm1.weight")).is_some()).count()
}

/// Number of attention heads: from the hint or `args`, or that of the published model of the same sizes.
fn heads(
    tensors: &WeightView<'_>,
    config: &TransDiffConfig,
    args: &Args<'_>,
    hint: Option<usize>,
) -> Result<usize> {
    let published = published().find(|(_, p)| is_like(p, config)).map(|(_, p)| p.heads);
    match (hint, args.heads()) {
        (Some(hint), Some(said)) => {
            check_agreement(args.path(), "heads", ("the hint", hint), ("args", said)).map(|()| hint)
        }
        (Some(heads), None) | (None, Some(heads)) => Ok(heads),
        (None, None) => published.ok_or_else(|| {
            let message = format!(
                "the number of attention heads is not in the file: give the hint `heads`, a divisor of the width {}",
                config.width
            );
            Error::format(tensors.file().path(), message)
        }),
    }
}

/// Names and sizes of the published models.
fn published() -> impl Iterator<Item = (&'static str, TransDiffConfig)> {
    [("transdiff_base", Size::Base), ("transdiff_large", Size::Large), ("transdiff_huge", Size::Huge)]
        .into_iter()
        .filter_map(|(name, size)| Some((name, TransDiffConfig::published(size, 256, Mode::OneStep).ok()?)))
}

/// Compares the sizes that determine the number of heads of a published model.
fn is_like(published: &TransDiffConfig, config: &TransDiffConfig) -> bool {
    let sizes = |c: &TransDiffConfig| (c.width, c.encoder_blocks, c.decoder_blocks);
    sizes(published) == sizes(config)
}

struct Shapes<'a>(&'a WeightView<'a>);

impl Shapes<'_> {
    /// Shape of the tensor `name`, which has `N` axes.
    fn of<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let path = self.0.file().path().to_owned();
        let Some(entry) = self.0.get(name) else {
            return Err(Error::TensorNames { path, missing: vec![name.to_owned()], extra: Vec::new() });
        };
        entry.shape().try_into().map_err(|_| Error::Tensor {
            path,
            tensor: name.to_owned(),
            expected: format!("{N} axes"),
            got: format!("shape {:?}", entry.shape()),
        })
    }

    /// Side of the square latent, from the number of the decoder's positions.
    fn latent_size(&self) -> Result<usize> {
        let name = "diffdecoder.net.diffusion_pos_embed_learned";
        let [_, positions, _] = self.of(name)?;
        let side = positions.isqrt();
        if side * side == positions {
            return Ok(side);
        }
        Err(Error::Tensor {
            path: self.0.file().path().to_owned(),
            tensor: name.to_owned(),
            expected: "positions of a square latent".to_owned(),
            got: format!("{positions} positions"),
        })
    }

    /// Mode. A 1-step model has one mask token, and the patch of its (unused) reference projection is one position.
    fn mode(&self, config: &TransDiffConfig) -> Result<Mode> {
        let [_, rows, _] = self.of("mask_token")?;
        let [_, patch] = self.of("z_proj.weight")?;
        if rows == 1 && patch == config.latent_channels {
            return Ok(Mode::OneStep);
        }
        Ok(Mode::MultiReference { groups: config.feature_tokens / rows.max(1) })
    }
}

/// Command line of the training that wrote the file, if the file has it.
struct Args<'a> {
    tensors: &'a WeightView<'a>,
    values: Option<&'a serde_json::Map<String, Value>>,
}

impl<'a> Args<'a> {
    fn of(tensors: &'a WeightView<'a>) -> Self {
        Self { tensors, values: tensors.file().values().get("args").and_then(Value::as_object) }
    }

    fn path(&self) -> &std::path::Path {
        self.tensors.file().path()
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.values?.get(name)
    }

    fn number(&self, name: &str) -> Option<usize> {
        usize::try_from(self.get(name)?.as_u64()?).ok()
    }

    /// Published model that the arguments name.
    fn model(&self) -> Option<(&'static str, TransDiffConfig)> {
        let name = self.get("model")?.as_str()?;
        published().find(|(published, _)| *published == name)
    }

    fn heads(&self) -> Option<usize> {
        let flags = ["heads", "num_heads", "encoder_num_heads"];
        flags.iter().find_map(|flag| self.number(flag)).or_else(|| Some(self.model()?.1.heads))
    }

    /// Checks that the arguments agree with the shapes.
    fn check(&self, config: &TransDiffConfig) -> Result<()> {
        let shapes = "the tensors' shapes";
        let side = config.latent_size.saturating_mul(PIXELS);
        let numbers = [
            ("img_size", side),
            ("vae_embed_dim", config.latent_channels),
            ("buffer_size", config.buffer_size),
            ("class_num", config.classes),
            ("patch_size", 1),
        ];
        for (name, read) in numbers {
            if let Some(said) = self.number(name) {
                check_agreement(self.path(), name, ("args", said), (shapes, read))?;
            }
        }
        if let Some(said) = self.get("mrar").and_then(Value::as_bool) {
            let read = config.mode != Mode::OneStep;
            check_agreement(self.path(), "mrar", ("args", said), (shapes, read))?;
        }
        let Some((name, model)) = self.model() else { return Ok(()) };
        let numbers = [
            ("width", model.width, config.width),
            ("encoder blocks", model.encoder_blocks, config.encoder_blocks),
            ("decoder blocks", model.decoder_blocks, config.decoder_blocks),
        ];
        numbers.into_iter().try_for_each(|(what, said, read)| {
            check_agreement(self.path(), what, (&format!("args.model {name}"), said), (shapes, read))
        })
    }
}
