//! Text formatting: byte sizes and tables.

pub use transdiff_terminal::bytes;

/// Alignment of a table column.
#[derive(Clone, Copy)]
pub enum Align {
    Left,
    Right,
}

/// Formats rows as aligned columns, indented by two spaces and separated by two spaces.
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
    fn table_columns_are_aligned() {
        let rows = [["a", "10"], ["bcd", "2"]].map(|row| row.map(String::from));
        assert_eq!(table([Align::Left, Align::Right], &rows), "  a    10\n  bcd   2\n");
    }
}
