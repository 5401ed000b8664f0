//! Parsers of numbers in arguments, with messages that say which numbers are accepted.

use std::ops::RangeInclusive;

/// Maximum number of images or steps that the programs accept. Beyond it a typing error is more likely than intent.
pub const MAX_COUNT: usize = 1_000_000;

/// Parser of whole numbers within `range`.
pub fn whole<T>(
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: TryFrom<u64> + Copy + Ord + std::fmt::Display + Send + Sync + 'static,
{
    move |text| {
        let (min, max) = (*range.start(), *range.end());
        check_not_empty(text)?;
        let digits = text.strip_prefix('+').unwrap_or(text);
        let magnitude = digits.strip_prefix('-').unwrap_or(digits);
        if magnitude.is_empty() || !magnitude.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("expected an integer from {min} to {max}"));
        }
        // A number that does not fit in 64 bits is too large.
        match digits.parse::<u64>().ok().map(T::try_from) {
            _ if digits.starts_with('-') => Err(format!("expected an integer of at least {min}")),
            Some(Ok(value)) if value < min => Err(format!("expected an integer of at least {min}")),
            Some(Ok(value)) if value <= max => Ok(value),
            _ => Err(format!("expected an integer of at most {max}")),
        }
    }
}

/// Parses a number, as `str::parse` does.
///
/// # Errors
/// A message if `text` is not a number.
pub fn number(text: &str) -> Result<f64, String> {
    check_not_empty(text)?;
    text.parse().map_err(|_| "expected a number".to_owned())
}

/// Checks that an item of a comma-separated list is not empty.
fn check_not_empty(item: &str) -> Result<(), String> {
    match item.trim() {
        "" => Err("expected a number, got nothing; remove any extra comma".to_owned()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_outside_the_range_are_rejected_with_the_limit() {
        let small = whole(1..=1000_u32);
        assert_eq!([small("1"), small("+7"), small("1000")], [Ok(1), Ok(7), Ok(1000)]);
        for text in ["0", "-1", "-99999999999999999999"] {
            assert_eq!(small(text).unwrap_err(), "expected an integer of at least 1", "{text}");
        }
        for text in ["1001", "4294967297", "99999999999999999999"] {
            assert_eq!(small(text).unwrap_err(), "expected an integer of at most 1000", "{text}");
        }
        for text in ["x", "1.5", "1e3", "0x1", "-", "--1", "1-", " 1"] {
            assert_eq!(small(text).unwrap_err(), "expected an integer from 1 to 1000", "{text}");
        }
        assert_eq!(whole(0..=u64::MAX)("18446744073709551615"), Ok(u64::MAX));
    }

    #[test]
    fn empty_items_are_rejected_with_the_remedy() {
        for text in ["", " "] {
            assert!(whole(0..=9_usize)(text).unwrap_err().contains("remove any extra comma"));
            assert!(number(text).unwrap_err().contains("remove any extra comma"));
        }
        assert_eq!([number("-0.5"), number("1e-3")], [Ok(-0.5), Ok(1e-3)]);
        assert_eq!(number("1,5").unwrap_err(), "expected a number");
    }
}
