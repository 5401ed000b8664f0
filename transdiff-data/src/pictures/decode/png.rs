//! PNG, by the crate `png`.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, DecodingError, Transformations};

use super::limits::Limits;
use crate::pictures::Picture;

/// Most bytes that a byte of a deflate stream can encode.
const MAX_DEFLATE_RATIO: u64 = 1032;

pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, String> {
    let memory = usize::try_from(limits.max_bytes).unwrap_or(usize::MAX);
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: memory });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    // Palettes become RGB, and grey has 8 bits or 16. 16 bits are not stripped here: Pillow clips them where they are grey.
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info().map_err(cause)?;
    let (width, height) = (header.width as usize, header.height as usize);
    let clips = (header.color_type, header.bit_depth) == (ColorType::Grayscale, BitDepth::Sixteen);
    // The samples, with alpha where there is some, and the picture.
    limits.check(width, height, 4 * (header.bit_depth as u64).div_ceil(8) + 3)?;
    let stored = header.raw_row_length() as u64 * height as u64;
    if stored > MAX_DEFLATE_RATIO * bytes.len() as u64 {
        return Err(format!(
            "the file is truncated: {width}×{height} pixels take more than {} bytes",
            bytes.len()
        ));
    }
    let mut reader = decoder.read_info().map_err(cause)?;
    let (color, depth) = reader.output_color_type();
    let mut samples = vec![0; reader.output_buffer_size().ok_or("the picture is too large")?];
    let frame = reader.next_frame(&mut samples).map_err(cause)?;
    samples.truncate(frame.buffer_size());
    let channels = if matches!(color, ColorType::Grayscale | ColorType::GrayscaleAlpha) { 1 } else { 3 };
    let sample_bytes = if depth == BitDepth::Sixteen { 2 } else { 1 };
    let stored_channels = color.samples();
    if (stored_channels, sample_bytes) == (channels, 1) {
        return Ok(Picture::new(width, height, channels, samples));
    }
    let sample = |sample: &[u8]| if clips && sample[0] > 0 { 255 } else { sample[if clips { 1 } else { 0 }] };
    let pixels = samples.chunks_exact(stored_channels * sample_bytes);
    let pixels =
        pixels.flat_map(|pixel| pixel.chunks_exact(sample_bytes).take(channels).map(sample)).collect();
    Ok(Picture::new(width, height, channels, pixels))
}

fn cause(error: DecodingError) -> String {
    match error {
        DecodingError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the file is truncated".to_owned()
        }
        DecodingError::LimitsExceeded => "decoding takes more memory than the limit".to_owned(),
        other => other.to_string(),
    }
}
