//! `transdiff cache`: stores the latents of pictures once, for every later training run.

mod args;
mod import;
mod progress;
mod report;

use transdiff::datasets::cache::{
    CacheEntry, CacheSpec, CacheWriter, FillOptions, ItemKind, Part, fill, is_npz_folder, merge,
};
use transdiff::datasets::pictures::{ImageFolder, PictureDataset, PictureOptions};
use transdiff::models::{CodecFile, ImageSpec};
use transdiff::{Backend, CancellationToken, DType, DeviceTask};
use transdiff_run::CONFIG_FILE;

pub use args::CacheArgs;
use progress::with_progress;
use report::{interrupted, report, report_part};

use crate::failure::{Failure, Result};
use crate::interrupt::cancellation_token;
use crate::output::print_to_stderr;
use crate::train::{check_apart, keep_codec};

pub fn run(args: &CacheArgs) -> Result<()> {
    match &args.merge {
        Some(cache) => report(cache, &merge(cache)?),
        None => build(args),
    }
}

fn build(args: &CacheArgs) -> Result<()> {
    let token = cancellation_token()?;
    let source = args.source();
    check_apart(source.out, source.data, CONFIG_FILE)?;
    let codec = source.codec.open(args.channels)?;
    let part = match args.part {
        Some(part) => part,
        None => Part::from_environment(|name| std::env::var(name).ok())?.unwrap_or(Part::WHOLE),
    };
    if is_npz_folder(source.data)? {
        return import::import(args, &codec, part, &token);
    }
    let folder = ImageFolder::open(source.data)?;
    let spec = spec(args, &folder, &codec)?;
    let entries = (0..folder.len())
        .map(|index| CacheEntry { path: folder.relative_path(index), label: folder.label(index) as u32 })
        .collect();
    let writer = CacheWriter::open(source.out, spec, entries, part)?;
    keep_codec(&codec, source.out)?;
    let pictures = PictureDataset::new(folder, args.picture_options(source.size))?;
    let device = args.device.open(args.threads)?;
    print_to_stderr(&format!("device: {}", device.choice()));
    let task = Fill { args, writer: &writer, pictures, codec: &codec, token: &token };
    device.run(task)?.map_err(interrupted)?;
    drop(writer);
    match part == Part::WHOLE {
        true => report(source.out, &merge(source.out)?),
        false => report_part(source.out, part),
    }
}

/// Header of the cache: what the codec makes of the pictures.
fn spec(args: &CacheArgs, folder: &ImageFolder, codec: &CodecFile) -> Result<CacheSpec> {
    let info = codec.info()?;
    let (size, classes) = (args.source().size, folder.classes().to_vec());
    Ok(CacheSpec {
        images: ImageSpec { codec: codec.record()?, channels: args.channels, size, classes },
        fit: args.fit,
        flip: !args.no_flip,
        items: if info.latent_scale.is_some() { ItemKind::Moments } else { ItemKind::Latents },
        shape: args.latent_shape(&info)?,
        latent_scale: info.latent_scale.unwrap_or(1.0),
        dtype: args.dtype.into(),
        shard_entries: CacheSpec::SHARD_ENTRIES,
    })
}

/// Encoding on the device.
struct Fill<'a> {
    args: &'a CacheArgs,
    writer: &'a CacheWriter,
    pictures: PictureDataset,
    codec: &'a CodecFile,
    token: &'a CancellationToken,
}

impl DeviceTask for Fill<'_> {
    type Output = Result<()>;

    fn run<B: Backend>(self, backend: B) -> transdiff::Result<Result<()>> {
        let codec = self.codec.load(&backend, DType::F32)?;
        let options = FillOptions { threads: self.args.decoding_threads(), batch: self.args.batch };
        let filled = with_progress(self.token, |observer| {
            fill(self.writer, self.pictures, &backend, &*codec, options, observer)
        });
        Ok(filled.map_err(Failure::from))
    }
}

impl CacheArgs {
    fn picture_options(&self, size: usize) -> PictureOptions {
        PictureOptions {
            channels: self.channels,
            fit: self.fit,
            flip: !self.no_flip,
            on_broken: self.on_broken,
            ..PictureOptions::new(size)
        }
    }
}
