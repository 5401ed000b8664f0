//! The network's own resizing of images.

/// Colours of an image.
pub(super) const CHANNELS: usize = 3;

/// Resizes an image [height, width, 3] of bytes to `side`×`side` pixels in (x − 128)/128, as TensorFlow 1 does: bilinear
/// between the pixels at the coordinates of the result times the ratio of the sides, rounded down and up.
pub(super) fn bilinear(
    pixels: &[u8],
    [height, width]: [usize; 2],
    side: usize,
) -> impl Iterator<Item = f32> + '_ {
    let (rows, columns) = (taps(height, side), taps(width, side));
    rows.into_iter().flat_map(move |(top, bottom, down)| {
        let columns = columns.clone();
        columns.into_iter().flat_map(move |(left, right, along)| {
            std::array::from_fn::<f32, CHANNELS, _>(|channel| {
                let at = |row: usize, column: usize| {
                    f32::from(pixels[(row * width + column) * CHANNELS + channel])
                };
                let above = at(top, left) + (at(top, right) - at(top, left)) * along;
                let below = at(bottom, left) + (at(bottom, right) - at(bottom, left)) * along;
                (above + (below - above) * down - 128.0) / 128.0
            })
        })
    })
}

/// For each of `side` pixels, the pixels before and after it among `from`, and its distance to the first.
fn taps(from: usize, side: usize) -> Vec<(usize, usize, f32)> {
    let ratio = from as f32 / side as f32;
    let tap = |pixel: usize| {
        let at = pixel as f32 * ratio;
        let before = at as usize;
        (before, (before + 1).min(from - 1), at - before as f32)
    };
    (0..side).map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_interpolated_without_offset() {
        let pixels: Vec<u8> = [0, 128, 255, 64].iter().flat_map(|&v| [v; 3]).collect();
        let resized: Vec<f32> = bilinear(&pixels, [2, 2], 4).step_by(3).map(|v| v * 128.0 + 128.0).collect();
        let rows = [0.0, 64.0, 128.0, 128.0, 127.5, 111.75, 96.0, 96.0, 255.0, 159.5, 64.0, 64.0];
        assert_eq!(resized[..12], rows);
        assert_eq!(resized[12..], rows[8..], "beyond the last pixel there is no other");
    }

    #[test]
    fn a_smaller_image_has_some_of_the_pixels() {
        let pixels: Vec<u8> = (0..16).flat_map(|v| [v * 16; 3]).collect();
        let resized: Vec<f32> = bilinear(&pixels, [4, 4], 2).step_by(3).map(|v| v * 128.0 + 128.0).collect();
        assert_eq!(resized, [0.0, 32.0, 128.0, 160.0]);
    }
}
