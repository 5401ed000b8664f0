//! `transdiff cache`: stores the latents of pictures once, for every later training run.

mod args;
mod progress;

use std::ops::ControlFlow;

use transdiff::datasets::cache::{
    CacheEntry, CacheSpec, CacheSummary, CacheWriter, FillOptions, FillProgress, ItemKind, Part, fill, merge,
};
use transdiff::datasets::pictures::{ImageFolder, PictureDataset, PictureOptions};
use transdiff::models::{CodecFile, ImageSpec};
use transdiff::{Backend, CancellationToken, DType, DeviceTask};

pub use args::CacheArgs;
use progress::CacheBar;

use crate::failure::{Failure, Result};
use crate::interrupt::cancellation_token;
use crate::output::{print, print_to_stderr};

/// Broken pictures that are named.
const NAMED: usize = 10;

pub fn run(args: &CacheArgs) -> Result<()> {
    match &args.merge {
        Some(cache) => report(cache, &merge(cache)?),
        None => build(args),
    }
}

fn build(args: &CacheArgs) -> Result<()> {
    let token = cancellation_token()?;
    let source = args.source();
    let folder = ImageFolder::open(source.data)?;
    let codec = source.codec.open(args.channels)?;
    let spec = spec(args, &folder, &codec)?;
    let entries = (0..folder.len())
        .map(|index| CacheEntry { path: folder.relative_path(index), label: folder.label(index) as u32 })
        .collect();
    let part = match args.part {
        Some(part) => part,
        None => Part::from_environment(|name| std::env::var(name).ok())?.unwrap_or(Part::WHOLE),
    };
    let writer = CacheWriter::open(source.out, spec, entries, part)?;
    let pictures = PictureDataset::new(folder, args.picture_options(source.size))?;
    let device = args.device.open(args.threads)?;
    print_to_stderr(&format!("device: {}", device.choice()));
    let task = Fill { args, writer: &writer, pictures, codec: &codec, token: &token };
    device.run(task)?.map_err(|failure| failure.with_completed("the same command goes on"))?;
    drop(writer);
    if part == Part::WHOLE {
        return report(source.out, &merge(source.out)?);
    }
    let out = source.out.display();
    print(format!("part {part} is done; when all parts are: transdiff cache --merge {out}\n"))
}

/// Header of the cache: what the codec makes of the pictures.
fn spec(args: &CacheArgs, folder: &ImageFolder, codec: &CodecFile) -> Result<CacheSpec> {
    let info = codec.info()?;
    let size = args.source().size;
    if !size.is_multiple_of(info.downsampling) {
        let factor = info.downsampling;
        return Err(
            format!("--size: expected a multiple of {factor}, which the codec requires, got {size}").into()
        );
    }
    let side = size / info.downsampling;
    let classes = folder.classes().to_vec();
    Ok(CacheSpec {
        images: ImageSpec { codec: codec.record()?, channels: args.channels, size, classes },
        fit: args.fit,
        flip: !args.no_flip,
        items: if info.latent_scale.is_some() { ItemKind::Moments } else { ItemKind::Latents },
        shape: [info.code_channels, side, side],
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
        let mut bar = None;
        let mut observer = |progress: &FillProgress| {
            bar.get_or_insert_with(|| CacheBar::new(progress)).update(progress);
            match self.token.check() {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        };
        let options = FillOptions { threads: self.args.decoding_threads(), batch: self.args.batch };
        let filled = fill(self.writer, self.pictures, &backend, &*codec, options, &mut observer);
        if let Some(bar) = bar {
            bar.finish();
        }
        Ok(filled.map_err(Failure::from))
    }
}

fn report(cache: &std::path::Path, summary: &CacheSummary) -> Result<()> {
    for skipped in summary.skipped.iter().take(NAMED) {
        print_to_stderr(&format!("left out: {}", skipped.reason));
    }
    let broken = match summary.skipped.len() {
        0 => String::new(),
        n => format!(", {n} broken ones left out"),
    };
    let (pictures, shards) = (summary.entries, summary.shards);
    print(format!("{}: {pictures} pictures in {shards} shards{broken}\n", cache.display()))
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
