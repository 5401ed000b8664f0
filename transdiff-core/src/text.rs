//! Text that files had a part in, made fit for a terminal or a log: a name in a file may be anything.

/// `text` in one line: what could begin another or steer a terminal is written out, as `\n` or `\u{1b}`.
pub fn printable(text: &str) -> String {
    escaped(text).collect()
}

/// [`printable`] text, cut off after `most` characters with `…` for what is missing.
pub fn shortened(text: &str, most: usize) -> String {
    let mut rest = escaped(text);
    let head: String = rest.by_ref().take(most).collect();
    if rest.next().is_some() { head + "…" } else { head }
}

fn escaped(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(|c| {
        let escape = steers(c).then(|| c.escape_default());
        let plain = if escape.is_none() { Some(c) } else { None };
        escape.into_iter().flatten().chain(plain)
    })
}

/// Control characters, and those that separate lines or change the direction of what follows.
fn steers(c: char) -> bool {
    let is_format = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || is_format
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(printable("a\n\0\u{1b}[31mé"), "a\\n\\u{0}\\u{1b}[31mé");
        assert_eq!(printable("\u{9b}\u{2028}\u{202e}x"), "\\u{9b}\\u{2028}\\u{202e}x");
    }

    #[test]
    fn what_is_long_is_cut_off() {
        assert_eq!(shortened("abc\tdef", 5), "abc\\t…");
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöü", 2), "äö…");
    }
}
