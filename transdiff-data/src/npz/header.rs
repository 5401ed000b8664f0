//! Headers of npy files, and problems with arrays.

use std::fmt::Display;
use std::io::{self, Read};
use std::path::Path;

use half::f16;
use transdiff_core::text::shortened;
use transdiff_core::{Error, Result, try_with_capacity};
use zip::result::ZipError;

pub(super) const MAGIC: [u8; 6] = *b"\x93NUMPY";
/// Characters of a header that messages show.
pub(super) const TEXT_SHOWN: usize = 60;
/// Bytes of a picture.
const MAX_PICTURE_BYTES: u64 = 64 << 20;
/// Bytes that a header may have.
const MAX_HEADER_BYTES: usize = 1 << 12;

/// Type that the elements of an array are converted to.
pub trait NpzFloat: Copy + Display {
    /// Converts with one rounding.
    fn of(value: f64) -> Self;

    /// Returns `false` for NaN and infinities.
    fn is_finite(self) -> bool;
}

impl NpzFloat for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

impl NpzFloat for f64 {
    fn of(value: f64) -> Self {
        value
    }

    fn is_finite(self) -> bool {
        self.is_finite()
    }
}

/// Descriptions of the expected and of the actual value.
pub(super) type Mismatch = (String, String);

/// Problem with an array, or another one.
pub(super) enum Problem {
    Array(Mismatch),
    Other(Error),
}

impl From<Mismatch> for Problem {
    fn from(mismatch: Mismatch) -> Self {
        Self::Array(mismatch)
    }
}

impl Problem {
    /// The error of the array `key` of the file `path`.
    pub(super) fn of_array(self, path: &Path, key: &str) -> Error {
        match self {
            Self::Array((expected, got)) => {
                Error::Tensor { path: path.to_owned(), tensor: shortened(key, TEXT_SHOWN), expected, got }
            }
            Self::Other(error) => error,
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

pub(super) fn problem(error: &ZipError) -> String {
    shortened(&error.to_string(), 4 * TEXT_SHOWN)
}

/// Element type in a file, little-endian.
#[derive(Clone, Copy)]
pub(super) enum Element {
    Byte,
    Float(Float),
    /// A type that is not read.
    Other,
}

#[derive(Clone, Copy)]
pub(super) enum Float {
    F16,
    F32,
    F64,
}

impl Element {
    pub(super) fn size(self) -> usize {
        match self {
            Self::Byte | Self::Other => 1,
            Self::Float(float) => float.size(),
        }
    }
}

impl Float {
    pub(super) fn size(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    pub(super) fn decode<T: NpzFloat>(self, data: &[u8]) -> Result<Vec<T>> {
        let mut out = try_with_capacity("reading an npz file", data.len() / self.size())?;
        match self {
            Self::F16 => {
                out.extend(data.as_chunks().0.iter().map(|x| T::of(f16::from_le_bytes(*x).to_f64())))
            }
            Self::F32 => out.extend(data.as_chunks().0.iter().map(|x| T::of(f32::from_le_bytes(*x).into()))),
            Self::F64 => out.extend(data.as_chunks().0.iter().map(|x| T::of(f64::from_le_bytes(*x)))),
        }
        Ok(out)
    }
}

/// Header of an npy file, the text of a Python dictionary:
/// `{'descr': '<f4', 'fortran_order': False, 'shape': (32, 16, 16), }`.
pub(super) struct Header {
    /// The text, for messages.
    text: String,
    pub(super) element: Element,
    pub(super) shape: Vec<usize>,
}

impl Header {
    pub(super) fn read(reader: &mut impl Read) -> Result<Self, Mismatch> {
        let truncated = |error: io::Error| ("the header of an npy file".to_owned(), error.to_string());
        let mut start = [0; 8];
        reader.read_exact(&mut start).map_err(truncated)?;
        let [magic @ .., major, _] = start;
        if magic != MAGIC || !(1..=3).contains(&major) {
            return Err(("an npy file of version 1 to 3".to_owned(), "another format".to_owned()));
        }
        // Version 1 has a length of two bytes, later ones of four.
        let mut len = [0; 4];
        reader.read_exact(&mut len[..if major == 1 { 2 } else { 4 }]).map_err(truncated)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_HEADER_BYTES {
            let expected = format!("a header of at most {MAX_HEADER_BYTES} bytes");
            return Err((expected, format!("{len} bytes")));
        }
        let mut text = vec![0; len];
        reader.read_exact(&mut text).map_err(truncated)?;
        Self::parse(&String::from_utf8_lossy(&text))
    }

    fn parse(text: &str) -> Result<Self, Mismatch> {
        let shown = shortened(text.trim_end(), TEXT_SHOWN);
        let invalid = |expected: &str| (expected.to_owned(), shown.clone());
        let value = |key: &str| {
            let quoted = [format!("'{key}':"), format!("\"{key}\":")];
            let found = quoted.iter().find_map(|quoted| text.split_once(quoted.as_str()));
            found.map(|(_, rest)| rest.trim_start()).ok_or_else(|| invalid(&format!("a header with '{key}'")))
        };
        let descr = value("descr")?;
        if !descr.starts_with(['\'', '"']) {
            return Err(invalid("float elements or bytes"));
        }
        let element = match descr.get(1..4) {
            Some("|u1") => Element::Byte,
            Some("<f2") => Element::Float(Float::F16),
            Some("<f4") => Element::Float(Float::F32),
            Some("<f8") => Element::Float(Float::F64),
            _ => Element::Other,
        };
        if !value("fortran_order")?.starts_with("False") {
            return Err(invalid("row-major order; numpy.ascontiguousarray converts"));
        }
        let sizes = value("shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')'));
        let sizes = sizes.map(|(sizes, _)| sizes.split(',').map(str::trim).filter(|size| !size.is_empty()));
        let shape: Option<Vec<usize>> = sizes.and_then(|sizes| sizes.map(|size| size.parse().ok()).collect());
        let shape = shape.ok_or_else(|| invalid("a shape of numbers"))?;
        Ok(Self { text: shown, element, shape })
    }

    /// Number of pictures, height and width of each, and the number of its bytes.
    pub(super) fn pictures(&self) -> Result<(usize, [usize; 2], u64), Problem> {
        let &[count, height, width, 3] = self.shape.as_slice() else {
            let expected = "pictures of shape Nxheightxwidthx3".to_owned();
            return Err((expected, format!("shape {}", self.shape_text())).into());
        };
        if !matches!(self.element, Element::Byte) {
            return Err(self.mismatch("elements of 8 bits ('|u1')"));
        }
        let size = (height as u64).checked_mul(width as u64).and_then(|pixels| pixels.checked_mul(3));
        match size.filter(|size| (1..=MAX_PICTURE_BYTES).contains(size)) {
            Some(size) => Ok((count, [height, width], size)),
            None => {
                let expected = format!("1 to {MAX_PICTURE_BYTES} bytes per picture");
                Err((expected, format!("shape {}", self.shape_text())).into())
            }
        }
    }

    pub(super) fn mismatch(&self, expected: &str) -> Problem {
        (expected.to_owned(), self.text.clone()).into()
    }

    pub(super) fn shape_text(&self) -> String {
        let sizes: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        shortened(&sizes.join("x"), TEXT_SHOWN)
    }
}
