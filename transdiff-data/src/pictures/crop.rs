//! Square images from pictures of any size: crops and padding.

use transdiff_core::rng::Philox;

use super::{Area, Filter, Limits, Picture, Resampler};

/// The crop of ADM (Dhariwal, Nichol, "Diffusion Models Beat GANs on Image Synthesis"), to size×size pixels: the picture
/// is halved by a box filter while its short side is at least twice the size, resized bicubically to that short side, and
/// cropped around its centre.
///
/// # Errors
/// A text that says so if the picture is so long and narrow that, resized, it exceeds `limits`.
pub fn adm_crop(
    resampler: &mut Resampler,
    picture: &Picture,
    size: usize,
    limits: &Limits,
) -> Result<Picture, String> {
    let mut halved = None;
    loop {
        let current = halved.as_ref().unwrap_or(picture);
        if current.width().min(current.height()) < 2 * size {
            break;
        }
        let half = [current.width() / 2, current.height() / 2];
        halved = Some(resampler.resize(current, Area::whole(current), half, Filter::Box));
    }
    let picture = halved.as_ref().unwrap_or(picture);
    let scale = size as f64 / picture.width().min(picture.height()) as f64;
    let [width, height] = [picture.width(), picture.height()].map(|side| scaled(side, scale));
    limits.check(width, height, picture.channels() as u64).map_err(|cause| {
        format!("{}×{} pixels are too long and narrow: resized, {cause}", picture.width(), picture.height())
    })?;
    let resized = resampler.resize(picture, Area::whole(picture), [width, height], Filter::Bicubic);
    let area = Area { x: (width - size) / 2, y: (height - size) / 2, width: size, height: size };
    Ok(cut(&resized, area))
}

/// The square of the short side at a place drawn from `stream`, resized bicubically to size×size pixels.
pub fn random_crop(
    resampler: &mut Resampler,
    picture: &Picture,
    size: usize,
    stream: &mut Philox,
) -> Picture {
    let (width, height) = (picture.width(), picture.height());
    let side = width.min(height);
    // One of the two is 0.
    let margin = (width - side) + (height - side);
    let place = stream.below(u32::try_from(margin + 1).unwrap_or(u32::MAX)) as usize;
    let (x, y) = if width > height { (place, 0) } else { (0, place) };
    resampler.resize(picture, Area { x, y, width: side, height: side }, [size, size], Filter::Bicubic)
}

/// The picture in the centre of a black square of size×size pixels; a larger picture is first resized bicubically to fit.
pub fn pad(resampler: &mut Resampler, picture: &Picture, size: usize) -> Picture {
    let long = picture.width().max(picture.height());
    let resized = (long > size).then(|| {
        let scale = size as f64 / long as f64;
        let sides = [picture.width(), picture.height()].map(|side| scaled(side, scale).max(1));
        resampler.resize(picture, Area::whole(picture), sides, Filter::Bicubic)
    });
    let picture = resized.as_ref().unwrap_or(picture);
    let (width, height, channels) = (picture.width(), picture.height(), picture.channels());
    let mut pixels = vec![0; size * size * channels];
    let (x, y) = ((size - width) / 2, (size - height) / 2);
    for (row, source) in picture.pixels().chunks_exact(width * channels).enumerate() {
        let start = ((y + row) * size + x) * channels;
        pixels[start..start + source.len()].copy_from_slice(source);
    }
    Picture::new(size, size, channels, pixels)
}

/// Side after scaling, with Python's rounding.
fn scaled(side: usize, scale: f64) -> usize {
    (side as f64 * scale).round_ties_even() as usize
}

/// The pixels of `area`.
fn cut(picture: &Picture, area: Area) -> Picture {
    let channels = picture.channels();
    let rows = picture.pixels().chunks_exact(picture.width() * channels).skip(area.y).take(area.height);
    let pixels = rows.flat_map(|row| &row[area.x * channels..(area.x + area.width) * channels]);
    Picture::new(area.width, area.height, channels, pixels.copied().collect())
}

#[cfg(test)]
mod tests {
    use transdiff_core::rng::{Purpose, StreamKey};

    use super::*;

    /// Columns have the value of their index.
    fn ramp(width: usize, height: usize) -> Picture {
        Picture::new(width, height, 1, (0..width * height).map(|i| (i % width) as u8).collect())
    }

    #[test]
    fn padding_centres_without_resizing_what_fits() {
        let padded = pad(&mut Resampler::default(), &ramp(28, 27), 32);
        for (i, &value) in padded.pixels().iter().enumerate() {
            let (x, y) = (i % 32, i / 32);
            let inside = (2..30).contains(&x) && (2..29).contains(&y);
            assert_eq!(value, if inside { x as u8 - 2 } else { 0 }, "{x}, {y}");
        }
    }

    #[test]
    fn padding_resizes_what_does_not_fit() {
        let white = Picture::new(64, 16, 1, vec![255; 64 * 16]);
        let padded = pad(&mut Resampler::default(), &white, 32);
        let rows: Vec<u8> = padded.pixels().chunks_exact(32).map(|row| row[31]).collect();
        assert_eq!(rows, [vec![0; 12], vec![255; 8], vec![0; 12]].concat());
        let line = Picture::new(3000, 1, 1, vec![255; 3000]);
        assert_eq!(
            pad(&mut Resampler::default(), &line, 32).pixels().iter().filter(|&&v| v == 255).count(),
            32
        );
    }

    #[test]
    fn random_crops_reach_every_place() {
        let picture = ramp(20, 16);
        let mut places = [0; 5];
        for seed in 0..100 {
            let mut stream = StreamKey::new(seed, Purpose::Data, 0, 0).stream();
            let crop = random_crop(&mut Resampler::default(), &picture, 16, &mut stream);
            // No resizing: the first column names the place.
            places[usize::from(crop.pixels()[0])] += 1;
        }
        assert!(places.iter().all(|&count| count >= 8), "{places:?}");
    }

    #[test]
    fn long_and_narrow_pictures_are_errors() {
        let line = Picture::new(60_000, 1, 1, vec![0; 60_000]);
        let limits = Limits { max_pixels: 1 << 24, ..Limits::default() };
        let error = adm_crop(&mut Resampler::default(), &line, 256, &limits).unwrap_err();
        assert!(error.contains("60000×1 pixels are too long and narrow"), "{error}");
        assert_eq!(adm_crop(&mut Resampler::default(), &ramp(100, 3), 64, &limits).unwrap().height(), 64);
    }
}
