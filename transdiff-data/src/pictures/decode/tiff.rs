//! Check of the directory of a TIFF file, which the decoder leaves out.

/// Checks that the values of the first directory's entries fit in the file: the decoder allocates as many values as an entry
/// claims, whatever its limits, before it reads them. Everything else is left to the decoder.
pub fn check_values(bytes: &[u8]) -> Result<(), String> {
    for (tag, len) in entries(bytes) {
        if len > bytes.len() as u64 {
            let got = bytes.len();
            return Err(format!(
                "the file is truncated: the values of tag {tag} take {len} of its {got} bytes"
            ));
        }
    }
    Ok(())
}

/// Tags of the first directory, with the sizes of their values in bytes; fewer if the file ends early.
fn entries(bytes: &[u8]) -> Vec<(u64, u64)> {
    let big_endian = bytes.starts_with(b"MM");
    let number = |at: u64, size: usize| {
        let start = usize::try_from(at).ok()?;
        let field = bytes.get(start..start.checked_add(size)?)?;
        let add = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        Some(if big_endian { field.iter().fold(0, add) } else { field.iter().rev().fold(0, add) })
    };
    // BigTIFF has wider offsets and counts.
    let wide = number(2, 2) == Some(43);
    let (offset_at, word, count_size, entry_size) = if wide { (8, 8, 8, 20) } else { (4, 4, 2, 12) };
    let Some((directory, count)) = number(offset_at, word).and_then(|at| Some((at, number(at, count_size)?)))
    else {
        return Vec::new();
    };
    let entry = |index: u64| {
        let at = index.checked_mul(entry_size)?.checked_add(directory)?.checked_add(count_size as u64)?;
        let size = match number(at + 2, 2)? {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 | 16..=18 => 8,
            // The decoder refuses other types.
            _ => 0,
        };
        Some((number(at, 2)?, number(at + 4, word)?.saturating_mul(size)))
    };
    (0..count).map_while(entry).collect()
}
