//! Text of `transdiff inspect`: sections of keys and values.

use transdiff::models::{CodecRecord, ImageSpec};
use transdiff_core::text::shortened;

use crate::format::{Align, table};

/// Maximum number of characters shown of a key or a value.
const MAX_VALUE_CHARS: usize = 100;
/// Maximum number of values shown in a section.
const MAX_VALUES: usize = 60;

/// Appends rows under a heading; appends nothing if there are no rows.
pub fn section(out: &mut String, heading: &str, rows: impl Iterator<Item = (String, String)>) {
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return;
    }
    let more = rows.len().saturating_sub(MAX_VALUES);
    out.push_str(&format!("\n{heading}\n{}", pairs(rows.into_iter().take(MAX_VALUES))));
    if more > 0 {
        out.push_str(&format!("  {more} more (--json shows all)\n"));
    }
}

/// Rows of keys and values as a table.
pub fn pairs(rows: impl IntoIterator<Item = (String, String)>) -> String {
    let shown = |(key, value): (String, String)| {
        [shortened(&key, MAX_VALUE_CHARS), shortened(&value, MAX_VALUE_CHARS)]
    };
    table([Align::Left, Align::Left], &rows.into_iter().map(shown).collect::<Vec<_>>())
}

/// Rows of the description of images.
pub fn image_rows(images: &ImageSpec) -> Vec<(String, String)> {
    let classes = match images.classes.len() {
        0 => "without names".to_owned(),
        n => format!("{n}: {}", images.classes.join(", ")),
    };
    let (size, channels) = (format!("{0}×{0}", images.size), images.channels.to_string());
    let codec = codec_text(&images.codec);
    rows([("codec", codec), ("image size", size), ("channels", channels), ("classes", classes)])
}

/// A codec with what identifies it.
pub fn codec_text(codec: &CodecRecord) -> String {
    match codec {
        CodecRecord::Patch(side) => format!("patch:{side}"),
        CodecRecord::File { name, sha256 } => format!("{name}, SHA-256 {sha256}"),
    }
}

/// Rows with keys that are known.
pub fn rows(rows: impl IntoIterator<Item = (&'static str, String)>) -> Vec<(String, String)> {
    rows.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}
