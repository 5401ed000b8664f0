//! `transdiff cache` of the published npz files, which hold the moments already.

use transdiff::CancellationToken;
use transdiff::datasets::cache::{NpzImport, Part, import_npz};
use transdiff::models::CodecFile;

use super::args::CacheArgs;
use super::progress::with_progress;
use super::report::{interrupted, report, report_part};
use crate::failure::Result;
use crate::train::keep_codec;

/// Imports the moments of the folder's npz files. The codec is only recorded.
pub fn import(args: &CacheArgs, codec: &CodecFile, part: Part, token: &CancellationToken) -> Result<()> {
    let source = args.source();
    let info = codec.info()?;
    let Some(latent_scale) = info.latent_scale else {
        let (data, given) = (source.data.display(), source.codec);
        let message = format!(
            "--codec: expected the file of the KL-VAE that made the npz files in {data}, got {given}"
        );
        return Err(message.into());
    };
    if args.no_flip {
        let message =
            "--no-flip: npz files hold the moments of mirror images; data.flip=false trains without";
        return Err(message.to_owned().into());
    }
    let import = NpzImport {
        codec: codec.record()?,
        channels: args.channels,
        size: source.size,
        fit: args.fit,
        shape: args.latent_shape(&info)?,
        latent_scale,
        dtype: args.dtype.into(),
        on_broken: args.on_broken,
    };
    let imported =
        with_progress(token, |observer| import_npz(source.data, source.out, &import, part, observer));
    let summary = imported.map_err(|error| interrupted(error.into()))?;
    keep_codec(codec, source.out)?;
    summary.map_or_else(|| report_part(source.out, part), |summary| report(source.out, &summary))
}
