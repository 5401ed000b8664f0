//! Values that a key accepts.

use toml::Value;

/// Largest whole number that is accepted where no other limit is given: beyond it floats skip numbers.
const MAX_WHOLE: u64 = 1 << 53;

/// Values that a key accepts.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// An integer from the first to the second number.
    Whole(u64, u64),
    /// One of these integers.
    OneOf(&'static [u64]),
    /// A finite number for which the function holds; the text describes it.
    Number(fn(f64) -> bool, &'static str),
    /// Two numbers for which the function holds; the text describes them.
    Pair(fn(f64) -> bool, &'static str),
    /// True or false.
    Switch,
    /// Any text that is not empty.
    Text,
    /// A list of texts.
    Texts,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A number of at least 0, or `auto`.
    NumberOrAuto,
    /// A share, at least 0 and below 1, or the path of a folder.
    ShareOrFolder,
}

impl Kind {
    /// An integer of at least 1.
    pub const COUNT: Self = Self::Whole(1, MAX_WHOLE);
    /// An integer of at least 0.
    pub const COUNT_OR_ZERO: Self = Self::Whole(0, MAX_WHOLE);
    /// A number of at least 0.
    pub const NOT_NEGATIVE: Self = Self::Number(|x| x >= 0.0, "a number of at least 0");
    /// A number above 0.
    pub const POSITIVE: Self = Self::Number(|x| x > 0.0, "a number above 0");
    /// A number from 0, to below 1.
    pub const SHARE: Self = Self::Number(is_share, "a number of at least 0 and below 1");
    /// A number from 0 to 1.
    pub const PROBABILITY: Self = Self::Number(|x| (0.0..=1.0).contains(&x), "a number from 0 to 1");

    /// Description of the values, for "expected …".
    pub fn expected(self) -> String {
        match self {
            Self::Whole(min, MAX_WHOLE) => format!("an integer of at least {min}"),
            Self::Whole(min, max) => format!("an integer from {min} to {max}"),
            Self::OneOf(numbers) => numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" or "),
            Self::Number(_, text) | Self::Pair(_, text) => text.to_owned(),
            Self::Switch => "true or false".to_owned(),
            Self::Text => "text".to_owned(),
            Self::Texts => "a list of texts, such as [\"a.\", \"b.\"]".to_owned(),
            Self::Word(words) => match words {
                [first, second] => format!("{first} or {second}"),
                _ => words.join(", "),
            },
            Self::NumberOrAuto => "a number of at least 0, or auto".to_owned(),
            Self::ShareOrFolder => "a number of at least 0 and below 1, or a folder".to_owned(),
        }
    }

    /// Returns the value in the type in which it is stored, or `None` if it is not accepted.
    pub fn accept(self, value: &Value) -> Option<Value> {
        match self {
            Self::Whole(min, max) => {
                let whole = whole(value)?;
                i64::try_from(whole).ok().filter(|_| (min..=max).contains(&whole)).map(Value::Integer)
            }
            Self::OneOf(numbers) => {
                let whole = whole(value).filter(|whole| numbers.contains(whole))?;
                i64::try_from(whole).ok().map(Value::Integer)
            }
            Self::Number(accepts, _) => number(value).filter(|&x| accepts(x)).map(Value::Float),
            Self::Pair(accepts, _) => {
                let items = value.as_array().filter(|items| items.len() == 2)?;
                let number = |item| number(item).filter(|&x| accepts(x)).map(Value::Float);
                items.iter().map(number).collect::<Option<_>>().map(Value::Array)
            }
            Self::Switch => value.as_bool().map(Value::Boolean),
            Self::Text => text(value),
            Self::Texts => value.as_array()?.iter().map(text).collect::<Option<_>>().map(Value::Array),
            Self::Word(words) => value.as_str().filter(|word| words.contains(word)).map(|_| value.clone()),
            Self::NumberOrAuto if value.as_str() == Some("auto") => Some(value.clone()),
            Self::NumberOrAuto => Self::NOT_NEGATIVE.accept(value),
            Self::ShareOrFolder => Self::SHARE.accept(value).or_else(|| text(value)),
        }
    }

    /// Returns whether any text is a value.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Text)
    }
}

fn is_share(x: f64) -> bool {
    (0.0..1.0).contains(&x)
}

/// Integers may be written as floats: `1e4`.
fn whole(value: &Value) -> Option<u64> {
    match *value {
        Value::Integer(whole) => u64::try_from(whole).ok(),
        Value::Float(x) if x.fract() == 0.0 && (0.0..=MAX_WHOLE as f64).contains(&x) => Some(x as u64),
        _ => None,
    }
}

fn number(value: &Value) -> Option<f64> {
    match *value {
        Value::Integer(whole) => Some(whole as f64),
        Value::Float(x) => x.is_finite().then_some(x),
        _ => None,
    }
}

fn text(value: &Value) -> Option<Value> {
    value.as_str().filter(|text| !text.is_empty()).map(|_| value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(kind: Kind, text: &str) -> Option<String> {
        kind.accept(&text.parse().unwrap()).map(|value| value.to_string())
    }

    #[test]
    fn numbers_are_taken_in_either_notation() {
        assert_eq!(accepts(Kind::COUNT, "1e4").as_deref(), Some("10000"));
        assert_eq!(accepts(Kind::COUNT, "1_000").as_deref(), Some("1000"));
        assert_eq!(accepts(Kind::POSITIVE, "2").as_deref(), Some("2.0"));
        assert_eq!(accepts(Kind::NumberOrAuto, "\"auto\"").as_deref(), Some("\"auto\""));
        assert_eq!(accepts(Kind::ShareOrFolder, "0.1").as_deref(), Some("0.1"));
        assert_eq!(accepts(Kind::ShareOrFolder, "\"held-out\"").as_deref(), Some("\"held-out\""));
    }

    #[test]
    fn values_out_of_range_are_rejected() {
        for (kind, values) in [
            (Kind::COUNT, &["0", "-1", "1.5", "nan", "inf", "1e300", "true", "\"3\"", "[]", "{}"][..]),
            (Kind::Whole(0, u32::MAX as u64), &["4294967296"]),
            (Kind::OneOf(&[1, 3]), &["2", "0", "\"1\""]),
            (Kind::SHARE, &["1", "1.0", "-0.1", "nan", "\"0\""]),
            (Kind::POSITIVE, &["0", "inf", "-1"]),
            (Kind::Pair(is_share, ""), &["0.9", "[0.9]", "[0.9, 1]", "[0.9, 0.9, 0.9]", "[0.9, \"x\"]"]),
            (Kind::Switch, &["1", "\"yes\"", "\"true\""]),
            (Kind::Text, &["1", "\"\"", "2024-01-01"]),
            (Kind::Texts, &["\"a\"", "[1]", "[\"\"]"]),
            (Kind::Word(&["crop", "pad"]), &["\"Crop\"", "1", "\"\""]),
            (Kind::NumberOrAuto, &["-1", "\"Auto\"", "nan"]),
            (Kind::ShareOrFolder, &["1.0", "\"\"", "true"]),
        ] {
            for value in values {
                assert_eq!(accepts(kind, value), None, "{kind:?} {value}");
            }
        }
    }
}
