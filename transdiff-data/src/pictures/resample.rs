//! Pillow's resampling of 8-bit pictures.
//!
//! Every output sample is a weighted sum of input samples along one axis and then, after rounding to 8 bits, along the other.
//! Crates do the same with other weights or another rounding: `fast_image_resize`, called once per axis, differs from
//! Pillow by up to 25 levels where an odd side is halved, and by 2 where a picture is enlarged. Weights here are those of
//! Pillow's `Resample.c`, in its fixed-point format, so that results are equal.

use super::Picture;

/// Bits after the point of a weight.
const PRECISION: u32 = 22;
/// Half a level, which rounds a sum.
const HALF: i32 = 1 << (PRECISION - 1);

/// Resampling filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Mean of the covered pixels: Pillow's `BOX`.
    Box,
    /// Cubic convolution with a = -0.5: Pillow's `BICUBIC`.
    Bicubic,
}

impl Filter {
    /// Half the width of the filter, in pixels.
    fn support(self) -> f64 {
        match self {
            Self::Box => 0.5,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        match self {
            Self::Box => f64::from(x > -0.5 && x <= 0.5),
            Self::Bicubic => match x.abs() {
                x if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
                x if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
                _ => 0.0,
            },
        }
    }
}

/// Rectangle of pixels of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First column.
    pub x: usize,
    /// First row.
    pub y: usize,
    /// Number of columns.
    pub width: usize,
    /// Number of rows.
    pub height: usize,
}

impl Area {
    /// The whole of `picture`.
    pub fn whole(picture: &Picture) -> Self {
        Self { x: 0, y: 0, width: picture.width(), height: picture.height() }
    }
}

/// Resampling, with the buffers that it reuses.
#[derive(Debug, Default)]
pub struct Resampler {
    weights: Weights,
    /// The picture between the passes.
    middle: Vec<u8>,
    /// A row of pixels, and a byte more.
    padded: Vec<u8>,
    /// Sums of a row.
    sums: Vec<i32>,
}

impl Resampler {
    /// Crops `picture` to `area` and resizes the result to `width`×`height` pixels. Pixels outside the area have no
    /// influence.
    ///
    /// # Panics
    /// If `area` is not within the picture, or a side is 0.
    pub fn resize(
        &mut self,
        picture: &Picture,
        area: Area,
        [width, height]: [usize; 2],
        filter: Filter,
    ) -> Picture {
        let channels = picture.channels();
        assert!(
            area.x + area.width <= picture.width() && area.y + area.height <= picture.height(),
            "{area:?}"
        );
        let row = |y: usize| {
            let start = ((area.y + y) * picture.width() + area.x) * channels;
            &picture.pixels()[start..start + area.width * channels]
        };
        let mut pixels = Vec::with_capacity(width * height * channels);
        let mut middle = std::mem::take(&mut self.middle);
        middle.clear();
        // The order of Pillow 13; earlier versions always resize rows first.
        let reduction = |from: usize, to: usize| from as i64 - to as i64;
        let rows_lost = reduction(area.height, height);
        if rows_lost > 0 && rows_lost > 2 * reduction(area.width, width) {
            self.columns(row, [area.height, height], filter, &mut middle);
            let row = |y: usize| &middle[y * area.width * channels..(y + 1) * area.width * channels];
            self.rows(row, height, [area.width, width], channels, filter, &mut pixels);
        } else {
            self.rows(row, area.height, [area.width, width], channels, filter, &mut middle);
            let row = |y: usize| &middle[y * width * channels..(y + 1) * width * channels];
            self.columns(row, [area.height, height], filter, &mut pixels);
        }
        self.middle = middle;
        Picture::new(width, height, channels, pixels)
    }

    /// Resizes each of `count` rows, and appends them to `out`.
    fn rows<'a>(
        &mut self,
        row: impl Fn(usize) -> &'a [u8],
        count: usize,
        [from, to]: [usize; 2],
        channels: usize,
        filter: Filter,
        out: &mut Vec<u8>,
    ) {
        if from == to {
            return (0..count).for_each(|y| out.extend_from_slice(row(y)));
        }
        self.weights.compute(from, to, filter);
        let start = out.len();
        out.resize(start + count * to * channels, 0);
        for (y, out) in out[start..].chunks_exact_mut(to * channels).enumerate() {
            match channels {
                1 => resize_grey_row(row(y), &self.weights, out),
                _ => {
                    self.padded.clear();
                    self.padded.extend_from_slice(row(y));
                    self.padded.push(0);
                    resize_rgb_row(&self.padded, &self.weights, out);
                }
            }
        }
    }

    /// Resizes columns from `from` to `to` rows, and appends the rows to `out`.
    fn columns<'a>(
        &mut self,
        row: impl Fn(usize) -> &'a [u8],
        [from, to]: [usize; 2],
        filter: Filter,
        out: &mut Vec<u8>,
    ) {
        if from == to {
            return (0..to).for_each(|y| out.extend_from_slice(row(y)));
        }
        self.weights.compute(from, to, filter);
        for (start, weights) in self.weights.iter() {
            let len = row(start).len();
            self.sums.clear();
            self.sums.resize(len, HALF);
            for (y, &weight) in (start..).zip(weights) {
                add_weighted(row(y), weight, &mut self.sums);
            }
            out.resize(out.len() + len, 0);
            let at = out.len() - len;
            round(&self.sums, &mut out[at..]);
        }
    }
}

/// Weights of all output samples along an axis.
#[derive(Debug, Default)]
struct Weights {
    /// First input sample, and number of weights, of every output sample.
    spans: Vec<(usize, usize)>,
    /// The weights, one output sample after another.
    values: Vec<i32>,
    /// Weights of an output sample before rounding.
    exact: Vec<f64>,
}

impl Weights {
    /// Computes the weights for resizing `from` samples to `to` samples.
    fn compute(&mut self, from: usize, to: usize, filter: Filter) {
        self.spans.clear();
        self.values.clear();
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let (support, inverse) = (filter.support() * stretch, 1.0 / stretch);
        for out in 0..to {
            let center = (out as f64 + 0.5) * scale;
            // Conversions truncate and saturate at 0.
            let start = (center - support + 0.5) as usize;
            let end = ((center + support + 0.5) as usize).min(from);
            self.exact.clear();
            self.exact.extend((start..end).map(|x| filter.weight((x as f64 - center + 0.5) * inverse)));
            let sum: f64 = self.exact.iter().sum();
            let unit = f64::from(1 << PRECISION);
            self.values.extend(self.exact.iter().map(|&weight| {
                let weight = if sum == 0.0 { weight } else { weight / sum };
                // Rounds half away from 0.
                (weight * unit + 0.5_f64.copysign(weight)) as i32
            }));
            self.spans.push((start, end - start));
        }
    }

    /// First input sample and weights of every output sample.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let mut rest = &self.values[..];
        self.spans.iter().map(move |&(start, count)| {
            let (weights, others) = rest.split_at(count);
            rest = others;
            (start, weights)
        })
    }
}

simd! {
    /// Resizes a row of grey pixels.
    fn resize_grey_row(row: &[u8], weights: &Weights, out: &mut [u8]) {
        for ((start, weights), out) in weights.iter().zip(out) {
            let samples = row[start..].iter().zip(weights);
            *out = rounded(samples.fold(HALF, |sum, (&sample, &weight)| sum + i32::from(sample) * weight));
        }
    }
}

simd! {
    /// Resizes a row of RGB pixels that a byte follows: a pixel and the byte after it are four lanes.
    fn resize_rgb_row(row: &[u8], weights: &Weights, out: &mut [u8]) {
        for ((start, weights), out) in weights.iter().zip(out.as_chunks_mut::<3>().0) {
            let pixels = &row[3 * start..][..3 * weights.len() + 1];
            let mut sums = [HALF; 4];
            let mut add = |tap: usize, weight: i32| {
                for (sum, &sample) in sums.iter_mut().zip(&pixels[3 * tap..][..4]) {
                    *sum += i32::from(sample) * weight;
                }
            };
            // Four taps are those of an enlargement; their loop is unrolled.
            match <[i32; 4]>::try_from(weights) {
                Ok(weights) => (0..4).for_each(|tap| add(tap, weights[tap])),
                Err(_) => weights.iter().enumerate().for_each(|(tap, &weight)| add(tap, weight)),
            }
            *out = [rounded(sums[0]), rounded(sums[1]), rounded(sums[2])];
        }
    }
}

simd! {
    /// Adds `weight` times a row to `sums`.
    fn add_weighted(row: &[u8], weight: i32, sums: &mut [i32]) {
        for (sum, &sample) in sums.iter_mut().zip(row) {
            *sum += i32::from(sample) * weight;
        }
    }
}

simd! {
    /// Rounds a row of sums that began with half a level.
    fn round(sums: &[i32], out: &mut [u8]) {
        for (out, &sum) in out.iter_mut().zip(sums) {
            *out = rounded(sum);
        }
    }
}

/// Sample of a sum that began with half a level.
fn rounded(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_odd_sides_are_pillows() {
        // Image.fromarray(...).resize((2, 1), Image.BOX) of five columns.
        let picture = Picture::new(5, 1, 1, vec![10, 20, 40, 80, 160]);
        let half = Resampler::default().resize(&picture, Area::whole(&picture), [2, 1], Filter::Box);
        assert_eq!(half.pixels(), [23, 120]);
    }

    #[test]
    fn pixels_outside_the_area_have_no_influence() {
        let picture = Picture::new(4, 4, 1, (0..16).map(|i| if i % 4 == 0 { 255 } else { 7 }).collect());
        let area = Area { x: 1, y: 0, width: 3, height: 4 };
        let resized = Resampler::default().resize(&picture, area, [9, 5], Filter::Bicubic);
        assert_eq!(resized.pixels(), [7; 45]);
    }
}
