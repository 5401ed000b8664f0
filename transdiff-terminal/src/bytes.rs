//! Sizes in messages.

/// Formats a number of bytes with a binary unit: `1.25 GiB`.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_use_the_largest_fitting_unit() {
        let formatted = [0, 1023, 1024, 10 << 10, (3 << 30) + (1 << 28), u64::MAX].map(bytes);
        assert_eq!(formatted, ["0 B", "1023 B", "1.00 KiB", "10.0 KiB", "3.25 GiB", "16384.0 PiB"]);
    }
}
