//! PBM, PGM and PPM (`P1` to `P6`). The format is a header and samples; the rounding of other maxima than 255 is Pillow's.

use super::limits::Limits;
use crate::pictures::Picture;

const TRUNCATED: &str = "the file is truncated";

pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Picture, String> {
    let kind = bytes[1];
    let mut text = Text { bytes, at: 2 };
    let [width, height] = [text.number()?, text.number()?];
    let bitmap = matches!(kind, b'1' | b'4');
    let max = if bitmap { 1 } else { text.number()? };
    if !(1..=65535).contains(&max) {
        return Err(format!("expected a largest sample of 1 to 65535, got {max}"));
    }
    let channels = if matches!(kind, b'3' | b'6') { 3 } else { 1 };
    limits.check(width, height, channels as u64)?;
    let count = width * height * channels;
    let pixels = match kind {
        // A plain sample takes at least a byte.
        b'1'..=b'3' if bytes.len() - text.at < count => return Err(TRUNCATED.to_owned()),
        b'1' => (0..count).map(|_| text.bit()).collect::<Result<Vec<u8>, String>>()?,
        b'2' | b'3' => {
            (0..count).map(|_| Ok(scaled(text.number()?, max, channels))).collect::<Result<_, String>>()?
        }
        _ => {
            // One whitespace character ends the header.
            let samples = bytes.get(text.at + 1..).ok_or(TRUNCATED)?;
            if bitmap { unpack(samples, width, height) } else { binary(samples, count, max, channels) }
                .ok_or(TRUNCATED)?
        }
    };
    Ok(Picture::new(width, height, channels, pixels))
}

/// Bits of a bitmap as grey: 1 is black, and rows begin at bytes.
fn unpack(packed: &[u8], width: usize, height: usize) -> Option<Vec<u8>> {
    let row_bytes = width.div_ceil(8);
    let rows = packed.get(..row_bytes * height)?.chunks_exact(row_bytes);
    Some(rows.flat_map(|row| (0..width).map(|x| grey(row[x / 8] >> (7 - x % 8) & 1))).collect())
}

/// Binary samples of one byte, or of two (big-endian) if the largest sample exceeds 255.
fn binary(samples: &[u8], count: usize, max: usize, channels: usize) -> Option<Vec<u8>> {
    Some(match max {
        255 => samples.get(..count)?.to_vec(),
        0..255 => samples.get(..count)?.iter().map(|&s| scaled(usize::from(s), max, channels)).collect(),
        _ => {
            let pairs = samples.get(..2 * count)?.chunks_exact(2);
            pairs.map(|s| scaled(usize::from(s[0]) << 8 | usize::from(s[1]), max, channels)).collect()
        }
    })
}

/// Sample in 0..=255. Grey of more than 8 bits is scaled to 16 bits and clipped, as in Pillow.
fn scaled(sample: usize, max: usize, channels: usize) -> u8 {
    let range = if max > 255 && channels == 1 { 65535.0 } else { 255.0 };
    (sample as f64 / max as f64 * range).round_ties_even().min(255.0) as u8
}

fn grey(bit: u8) -> u8 {
    if bit == 1 { 0 } else { 255 }
}

/// Text of a header or of plain samples.
struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Text<'_> {
    /// Skips whitespace and comments, and returns the next byte without consuming it.
    fn peek(&mut self) -> Result<u8, String> {
        loop {
            match *self.bytes.get(self.at).ok_or(TRUNCATED)? {
                b'#' => {
                    let rest = &self.bytes[self.at..];
                    self.at += rest.iter().position(|&b| matches!(b, b'\n' | b'\r')).unwrap_or(rest.len());
                }
                byte if byte.is_ascii_whitespace() => self.at += 1,
                byte => return Ok(byte),
            }
        }
    }

    /// The next decimal number.
    fn number(&mut self) -> Result<usize, String> {
        self.peek()?;
        let digits = self.bytes[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        let token = &self.bytes[self.at..self.at + digits];
        let number = std::str::from_utf8(token).ok().filter(|t| t.len() < 10).and_then(|t| t.parse().ok());
        self.at += digits;
        number.ok_or_else(|| "expected a number of up to nine digits, got another text".to_owned())
    }

    /// The next digit 0 or 1, as grey.
    fn bit(&mut self) -> Result<u8, String> {
        let digit = self.peek()?;
        self.at += 1;
        match digit {
            b'0' | b'1' => Ok(grey(digit - b'0')),
            _ => Err("expected a digit 0 or 1, got another character".to_owned()),
        }
    }
}
