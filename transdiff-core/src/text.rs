//! Escaping of untrusted text for terminals and logs: a name in a file may contain any characters.

/// Escapes `text` into one line. Characters that could begin another line or control a terminal become escape
/// sequences, such as `\n` or `\u{1b}`.
pub fn printable(text: &str) -> String {
    escaped(text).collect()
}

/// Escapes `text` like [`printable`], and truncates it to `max` characters; `…` marks the truncation.
pub fn shortened(text: &str, max: usize) -> String {
    let mut rest = escaped(text);
    let head: String = rest.by_ref().take(max).collect();
    if rest.next().is_some() { head + "…" } else { head }
}

fn escaped(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(|c| {
        let escape = needs_escape(c).then(|| c.escape_default());
        let plain = if escape.is_none() { Some(c) } else { None };
        escape.into_iter().flatten().chain(plain)
    })
}

/// Returns whether `c` is a control character, or one that separates lines or changes the direction of text.
fn needs_escape(c: char) -> bool {
    let is_format = matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || is_format
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\n\0\u{1b}[31mé"), "a\\n\\u{0}\\u{1b}[31mé");
        assert_eq!(printable("\u{9b}\u{2028}\u{202e}x"), "\\u{9b}\\u{2028}\\u{202e}x");
    }

    #[test]
    fn long_text_is_truncated() {
        assert_eq!(shortened("abc\tdef", 5), "abc\\t…");
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöü", 2), "äö…");
    }
}
