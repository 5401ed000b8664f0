//! Writing of npz files.

use std::io::{Cursor, Write as _};

use transdiff_core::{Error, Result};
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::header::{MAGIC, problem};

/// An npz file of arrays of f64, stored without compression: names, shapes and elements.
///
/// # Errors
/// [`Error::Argument`] if the elements of an array are not as many as its shape says, or two have one name.
pub fn npz_bytes(arrays: &[(&str, &[usize], &[f64])]) -> Result<Vec<u8>> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    // No time of writing, so that equal arrays make equal files.
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default());
    for (name, shape, values) in arrays {
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::argument("arrays", format!("elements of shape {shape:?}"), values.len()));
        }
        let duplicate = |error: ZipError| Error::argument("arrays", "distinct names", problem(&error));
        archive.start_file(format!("{name}.npy"), options).map_err(duplicate)?;
        let header = npy_header(shape);
        let elements = values.iter().flat_map(|value| value.to_le_bytes());
        let bytes: Vec<u8> = header.into_iter().chain(elements).collect();
        archive.write_all(&bytes).expect("memory takes everything");
    }
    Ok(archive.finish().expect("memory takes everything").into_inner())
}

/// Header of an npy file of f64, padded to a multiple of 64 bytes.
fn npy_header(shape: &[usize]) -> Vec<u8> {
    const START: usize = 10;
    let sizes: String = shape.iter().map(|size| format!("{size},")).collect();
    let mut text = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': ({sizes}), }}");
    let padded = (START + text.len() + 1).next_multiple_of(64) - START;
    text.extend(std::iter::repeat_n(' ', padded - 1 - text.len()));
    text.push('\n');
    let len = u16::try_from(text.len()).expect("a header is short");
    [&MAGIC[..], &[1, 0], &len.to_le_bytes(), text.as_bytes()].concat()
}
