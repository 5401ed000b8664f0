//! Text for people: where it goes, sizes and tables.

use std::io::{ErrorKind, Write as _};

use transdiff_core::text::printable;

use crate::failure::{Failure, Result};

/// Writes to stdout.
pub fn print(text: impl AsRef<[u8]>) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_ref()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Err(Failure::OutputClosed),
        Err(e) => Err(format!("stdout: {e}").into()),
        Ok(()) => Ok(()),
    }
}

/// Writes a line to stderr. That nobody reads it is no reason to stop.
pub fn say(line: &str) {
    // There is no other place where a failure could be told.
    let _ = writeln!(std::io::stderr(), "{}", printable(line));
}

/// A number of bytes: `1.25 GiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let (mut value, mut unit) = (count as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.*} {}", if value < 10.0 { 2 } else { 1 }, UNITS[unit])
}

/// How a column stands.
#[derive(Clone, Copy)]
pub enum Align {
    Left,
    Right,
}

/// Rows in columns of equal width, two spaces apart and two from the edge.
pub fn table<const N: usize>(align: [Align; N], rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0));
    let mut out = String::new();
    for row in rows {
        let cells: Vec<String> = (0..N)
            .map(|i| match align[i] {
                Align::Left => format!("{:<1$}", row[i], widths[i]),
                Align::Right => format!("{:>1$}", row[i], widths[i]),
            })
            .collect();
        out.push_str("  ");
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_rounded_in_the_right_unit() {
        let said = [0, 1023, 1024, 10 << 10, (3 << 30) + (1 << 28), u64::MAX].map(bytes);
        assert_eq!(said, ["0 B", "1023 B", "1.00 KiB", "10.0 KiB", "3.25 GiB", "16384.0 PiB"]);
    }

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "10"], ["bcd", "2"]].map(|row| row.map(String::from));
        assert_eq!(table([Align::Left, Align::Right], &rows), "  a    10\n  bcd   2\n");
    }
}
