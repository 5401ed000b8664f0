//! The digits as a latent cache, for `transdiff train`.

use std::path::Path;

use transdiff::DType;
use transdiff::models::{CodecRecord, ImageSpec};
use transdiff_data::cache::{CacheEntry, CacheSpec, CacheWriter, ItemKind, Part, merge};
use transdiff_data::pictures::Fit;

use crate::digits::{CLASSES, Digits, LATENT_SIDE, SIDE, to_latent};

/// Side of the patches whose pixels are the channels of a latent.
const PATCH: usize = SIDE / LATENT_SIDE;

/// Writes the latents of `digits` to the cache in the directory `path`, unless they are there already. Pictures of 8 bits
/// would round the 17 grey levels.
pub fn write_cache(path: &Path, digits: &Digits) -> transdiff::Result<()> {
    let classes = (0..CLASSES).map(|class| class.to_string()).collect();
    let spec = CacheSpec {
        images: ImageSpec { codec: CodecRecord::Patch(PATCH), channels: 1, size: SIDE, classes },
        fit: Fit::Crop,
        flip: false,
        items: ItemKind::Latents,
        shape: [PATCH * PATCH, LATENT_SIDE, LATENT_SIDE],
        latent_scale: 1.0,
        dtype: DType::F32,
        shard_entries: CacheSpec::SHARD_ENTRIES,
    };
    let entry = |(row, &label): (usize, &usize)| CacheEntry {
        path: format!("{label}/{row:04}.png"),
        label: label as u32,
    };
    let entries = digits.labels.iter().enumerate().map(entry).collect();
    let writer = CacheWriter::open(path, spec, entries, Part::WHOLE)?;
    for shard in writer.unfinished()? {
        let first = shard * CacheSpec::SHARD_ENTRIES;
        let mut rows = writer.begin(shard)?;
        for image in digits.images.iter().skip(first).take(rows.entries().len()) {
            rows.push(&to_latent(image))?;
        }
        rows.finish()?;
    }
    drop(writer);
    merge(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use transdiff::data::Dataset as _;
    use transdiff::models::Codec;
    use transdiff::models::patch::PatchCodec;
    use transdiff::rng::{Purpose, StreamKey};
    use transdiff::{CancellationToken, Cpu, Tensor};
    use transdiff_data::cache::{CachedDataset, Expected};

    use super::*;
    use crate::digits::WHITE;

    #[test]
    fn cache_holds_the_codes_of_the_digits() {
        let folder = tempfile::tempdir().unwrap();
        let (digits, _) = Digits::load().unwrap();
        // The second call finds the files of the first.
        (0..2).for_each(|_| write_cache(folder.path(), &digits).unwrap());
        let cache = CachedDataset::open(folder.path(), &Expected::default()).unwrap();
        assert_eq!(cache.len(), digits.images.len());
        let mut stream = StreamKey::new(0, Purpose::Posterior, 0, 0).stream();
        let (mut codes, mut images) = (Vec::new(), Vec::new());
        for (index, (image, &label)) in digits.images.iter().zip(&digits.labels).enumerate() {
            cache.read(index, &mut stream, &mut codes).unwrap();
            assert_eq!(cache.label(index), label);
            assert_eq!(cache.header().spec.images.classes[label], label.to_string());
            images.extend(image.map(|pixel| pixel / (WHITE / 2.0) - 1.0));
        }
        let shape = [digits.images.len(), 1, SIDE, SIDE];
        let images = Tensor::from_f32(&Cpu::new(Some(1)).unwrap(), &shape, images, DType::F32).unwrap();
        let encoded =
            PatchCodec::new(PATCH, 1).unwrap().encode_images(&images, None, &CancellationToken::new());
        assert!(encoded.unwrap().to_f32().unwrap() == codes);
    }
}
