//! Filling of a cache from pictures.

use std::ops::ControlFlow;
use std::sync::Arc;

use transdiff_core::data::{DataLoader, Dataset, LoaderOptions, Shuffle};
use transdiff_core::models::{Codec, Encoded};
use transdiff_core::rng::Philox;
use transdiff_core::{Backend, CancellationToken, DType, Error, Result, Tensor};

use super::shard::places;
use super::{CacheWriter, ItemKind};
use crate::pictures::{OnBroken, PictureDataset};

/// Options of [`fill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillOptions {
    /// Threads that decode pictures.
    pub threads: usize,
    /// Number of pictures that are encoded at a time.
    pub batch: usize,
}

/// Progress of [`fill`], after a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillProgress {
    /// Pictures of this part that are in finished shards or done.
    pub done: usize,
    /// Pictures of this part.
    pub total: usize,
    /// Broken pictures that were left out in this run.
    pub broken: usize,
}

/// Encodes the pictures of the writer's unfinished shards and stores them. `observer` is called after every batch and may
/// cancel; finished shards are kept.
///
/// Pictures are cut as for evaluation: the crop of ADM, or padding. Broken ones are left out if the pictures' options say so.
///
/// # Errors
/// [`Error::Argument`] if the pictures are not the writer's entries or the codec makes other items than the cache stores;
/// [`Error::Cancelled`]; those of reading pictures, of the codec and of the writer.
pub fn fill<B: Backend>(
    writer: &CacheWriter,
    pictures: PictureDataset,
    backend: &B,
    codec: &dyn Codec<B>,
    options: FillOptions,
    observer: &mut dyn FnMut(&FillProgress) -> ControlFlow<()>,
) -> Result<()> {
    let spec = &writer.header().spec;
    if pictures.len() != writer.entries().len() {
        return Err(Error::argument("pictures", writer.entries().len().to_string(), pictures.len()));
    }
    let skips = pictures.options().on_broken == OnBroken::Skip;
    let variants = spec.variants();
    let [channels, height, width] = pictures.item_shape();
    let loading = LoaderOptions {
        threads: options.threads,
        ahead: 2 * options.batch,
        shuffle: Shuffle::None,
        ..LoaderOptions::default()
    };
    let set = Arc::new(Variants { pictures, variants });
    let mut loader = DataLoader::new(set, 1, 0, |_| (), loading)?;
    let unfinished = writer.unfinished()?;
    let left: usize = unfinished.iter().map(|&shard| places(writer.header(), shard).len()).sum();
    let total = writer.part_entries();
    let mut progress = FillProgress { done: total - left, total, broken: 0 };
    for shard in unfinished {
        let mut rows = writer.begin(shard)?;
        let entries = places(writer.header(), shard);
        for start in entries.clone().step_by(options.batch.max(1)) {
            let size = options.batch.max(1).min(entries.end - start);
            let read: Vec<Result<Vec<f32>, String>> = (start..start + size)
                .map(|index| match loader.samples(index as u64, 1) {
                    Ok(mut samples) => Ok(Ok(samples.remove(0).items.remove(0))),
                    Err(error @ Error::Format { .. }) if skips => Ok(Err(error.to_string())),
                    Err(error) => Err(error),
                })
                .collect::<Result<_>>()?;
            let images: Vec<f32> = read.iter().flatten().flatten().copied().collect();
            let count = read.iter().flatten().count();
            let shape = [count * variants, channels, height, width];
            let encoded = match count {
                0 => Vec::new(),
                _ => encode(backend, codec, spec.items, &shape, images)?,
            };
            let mut encoded = encoded.chunks_exact((variants * spec.variant_elements()).max(1));
            for picture in read {
                match picture {
                    Ok(_) => rows.push(encoded.next().expect("as many as images"))?,
                    Err(reason) => {
                        progress.broken += 1;
                        rows.skip(&reason)?;
                    }
                }
            }
            progress.done += size;
            if observer(&progress).is_break() {
                return Err(Error::Cancelled);
            }
        }
        rows.finish()?;
    }
    Ok(())
}

/// Moments or codes of images of `shape` [n, c, H, W].
fn encode<B: Backend>(
    backend: &B,
    codec: &dyn Codec<B>,
    items: ItemKind,
    shape: &[usize],
    images: Vec<f32>,
) -> Result<Vec<f32>> {
    let images = Tensor::from_f32(backend, shape, images, DType::F32)?;
    match (codec.encode_moments(&images, &CancellationToken::new())?, items) {
        (Encoded::Moments(values), ItemKind::Moments) | (Encoded::Codes(values), ItemKind::Latents) => {
            values.to_f32()
        }
        (_, items) => Err(Error::argument("codec", format!("one that makes {}", items.name()), "another")),
    }
}

/// Pictures with their mirror images, cut without anything random.
struct Variants {
    pictures: PictureDataset,
    variants: usize,
}

impl Dataset for Variants {
    fn len(&self) -> usize {
        self.pictures.len()
    }

    fn item_shape(&self) -> [usize; 3] {
        let [channels, height, width] = self.pictures.item_shape();
        [self.variants * channels, height, width]
    }

    fn label(&self, index: usize) -> usize {
        self.pictures.label(index)
    }

    fn read(&self, index: usize, _: &mut Philox, out: &mut Vec<f32>) -> Result<()> {
        let [channels, height, width] = self.item_shape();
        let start = out.len();
        self.pictures.read_with_mirror(index, out)?;
        out.truncate(start + channels * height * width);
        Ok(())
    }
}
