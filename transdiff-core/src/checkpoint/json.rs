//! JSON of untrusted files, parsed in memory proportional to its length.
//!
//! The parser of `serde_json` grows a buffer for nested values and for strings with escapes, which may take several times
//! their length. Text is therefore checked for depth first, and long strings are decoded here, in exactly their length.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::allocation_limit::AllocationLimit;
use crate::text::shortened;

/// Depth of nested values. Headers of safetensors files have three levels.
const MAX_DEPTH: usize = 64;
/// Bytes that an entry of a map of strings takes, apart from its strings.
const ENTRY_BYTES: usize = 256;
/// Characters of a value that are quoted in an error.
const QUOTED: usize = 40;

/// Checks that no value is nested deeper than [`MAX_DEPTH`].
pub(super) fn check_depth(text: &[u8]) -> Result<(), String> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(format!("values are nested deeper than {MAX_DEPTH} levels"));
        }
    }
    Ok(())
}

/// Calls `insert` with the JSON text of the key and the value of every item of the object `text`. An error about other JSON
/// says that `expected` was expected.
///
/// # Errors
/// The first of `insert`, or `malformed` of the parser's message.
pub(super) fn for_each_item<E>(
    text: &[u8],
    expected: &'static str,
    insert: impl FnMut(&str, &str) -> Result<(), E>,
    malformed: impl FnOnce(String) -> E,
) -> Result<(), E> {
    let mut items = Items { expected, insert, problem: None };
    let mut parser = serde_json::Deserializer::from_slice(text);
    let parsed = (&mut parser).deserialize_map(&mut items).and_then(|()| parser.end());
    parsed.map_err(|e| items.problem.unwrap_or_else(|| malformed(e.to_string())))
}

struct Items<E, F> {
    expected: &'static str,
    insert: F,
    /// Error of `insert`. One from `serde_json` would add a position in the text.
    problem: Option<E>,
}

impl<'de, E, F: FnMut(&str, &str) -> Result<(), E>> Visitor<'de> for &mut Items<E, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, value)) = map.next_entry::<&RawValue, &RawValue>()? {
            if let Err(problem) = (self.insert)(key.get(), value.get()) {
                self.problem = Some(problem);
                return Err(de::Error::custom("an invalid item"));
            }
        }
        Ok(())
    }
}

/// Parses an object of distinct keys and strings, or `null` for an empty one.
pub(super) fn string_map(
    text: &str,
    limit: &mut AllocationLimit,
) -> Result<BTreeMap<String, String>, String> {
    let mut strings = StringMap { limit, out: BTreeMap::new() };
    if text != "null" {
        let insert = |key: &str, value: &str| strings.insert(key, value);
        for_each_item(text.as_bytes(), "an object of strings", insert, |message| message)?;
    }
    Ok(strings.out)
}

struct StringMap<'a> {
    limit: &'a mut AllocationLimit,
    out: BTreeMap<String, String>,
}

impl StringMap<'_> {
    fn insert(&mut self, key: &str, value: &str) -> Result<(), String> {
        self.limit.reserve_bytes(ENTRY_BYTES + key.len() + value.len())?;
        let key = unescape(key)?;
        if !value.starts_with('"') {
            let (key, got) = (shortened(&key, QUOTED), shortened(value, QUOTED));
            return Err(format!("{key}: expected a string, got {got}"));
        }
        if self.out.contains_key(&key) {
            return Err(format!("duplicate key {}", shortened(&key, QUOTED)));
        }
        self.out.insert(key, unescape(value)?);
        Ok(())
    }
}

/// Decodes a JSON string, which stands between quotes and has been checked by the parser except for the values of its
/// escapes.
fn unescape(text: &str) -> Result<String, String> {
    let mut rest = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let mut out = String::new();
    out.try_reserve_exact(rest.len()).map_err(|e| e.to_string())?;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let (c, len) = escape(&rest[at..]).ok_or("a string with an invalid escape")?;
        out.push(c);
        rest = &rest[at + len..];
    }
    out.push_str(rest);
    Ok(out)
}

/// The character of the escape at the start of `text`, and the length of the escape.
fn escape(text: &str) -> Option<(char, usize)> {
    let c = match text.as_bytes().get(1)? {
        b'n' => '\n',
        b't' => '\t',
        b'r' => '\r',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'u' => {
            let units = [unit(text), text.get(6..).and_then(unit)];
            let c = char::decode_utf16(units.into_iter().map_while(|unit| unit)).next()?.ok()?;
            return Some((c, 6 * c.len_utf16()));
        }
        &c => char::from(c),
    };
    Some((c, 2))
}

/// The UTF-16 code unit of the escape `\uXXXX` at the start of `text`.
fn unit(text: &str) -> Option<u16> {
    u16::from_str_radix(text.strip_prefix("\\u")?.get(..4)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
        check_depth(text.as_bytes())?;
        string_map(text, &mut AllocationLimit::for_file(0))
    }

    proptest! {
        #[test]
        fn strings_are_decoded_like_by_serde_json(text in r#"([a-zß😀"/\\]|\\\\|\\["/bfnrt\\]|\\u[0-9a-fA-F]{4}|\\ud83d\\ude00){0,12}"#) {
            let literal = format!("\"{text}\"");
            if let Ok(raw) = serde_json::from_str::<&RawValue>(&literal) {
                prop_assert_eq!(unescape(raw.get()).ok(), serde_json::from_str::<String>(&literal).ok());
            }
        }

        #[test]
        fn any_string_is_read_back(key: String, value: String) {
            let map = BTreeMap::from([(key, value)]);
            prop_assert_eq!(parse(&json!(map).to_string()).unwrap(), map);
        }
    }

    #[test]
    fn invalid_maps_are_rejected() {
        let deep = format!(r#"{{"a":{}1{}}}"#, "[".repeat(70), "]".repeat(70));
        let cases = [
            (r#"{"a":1}"#, "a: expected a string, got 1"),
            (r#"{"a":"","a":""}"#, "duplicate key a"),
            (r#"{"a":"","\u0061":""}"#, "duplicate key a"),
            (r#"{"a":"\ud800"}"#, "invalid escape"),
            (r#"["a"]"#, "an object of strings"),
            (&deep, "nested deeper"),
        ];
        for (text, part) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(parse(r#"{"a":"[[[[\"{{{{"}"#).is_ok() && parse("null").unwrap().is_empty());
    }
}
