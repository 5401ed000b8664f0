//! Parsing of classes: by number, or by ImageNet name.

use crate::failure::Result;

/// Number of ImageNet classes. Only models with as many classes take names.
pub const IMAGENET_CLASSES: usize = 1000;
/// Maximum number of candidates listed in an error.
const MAX_LISTED: usize = 12;

/// Names of the ImageNet classes, ordered by class number.
pub fn names() -> impl Iterator<Item = &'static str> {
    include_str!("imagenet.txt").lines().filter(|line| !line.starts_with('#'))
}

/// Returns `class` as text, with its name if the model has the ImageNet classes.
pub fn label(class: usize, classes: usize) -> String {
    match names().nth(class) {
        Some(name) if classes == IMAGENET_CLASSES => format!("{class} ({name})"),
        _ => class.to_string(),
    }
}

/// Parses a class of a model with `classes` classes: a number, an ImageNet name, or consecutive words of one.
pub fn parse(text: &str, classes: usize) -> Result<usize> {
    let last = classes.saturating_sub(1);
    if let Ok(number) = text.trim().parse::<usize>() {
        return match number < classes {
            true => Ok(number),
            false => Err(format!("--class: expected a class from 0 to {last}, got {number}").into()),
        };
    }
    if classes != IMAGENET_CLASSES {
        let message = format!(
            "--class: expected a number from 0 to {last}, got '{text}' (names are supported for models with the \
             {IMAGENET_CLASSES} ImageNet classes only)"
        );
        return Err(message.into());
    }
    match candidates(text)[..] {
        [class] => Ok(class),
        [] => Err(format!("--class: unknown class '{text}'; {}", suggestions(text)).into()),
        ref several => Err(format!("--class: '{text}' is ambiguous; it matches {}", listed(several)).into()),
    }
}

/// Returns the classes with exactly this name; if there are none, those whose names contain these words in sequence.
fn candidates(text: &str) -> Vec<usize> {
    let wanted = words(text);
    let matching = |accept: &dyn Fn(&[String]) -> bool| {
        names().enumerate().filter(|(_, name)| accept(&words(name))).map(|(class, _)| class).collect()
    };
    let exact: Vec<usize> = matching(&|name| name == wanted);
    if !exact.is_empty() || wanted.is_empty() {
        return exact;
    }
    matching(&|name| name.windows(wanted.len()).any(|part| part == wanted))
}

/// Splits `text` into lower-case words of letters and digits, so that `golden_retriever` equals `Golden Retriever`.
fn words(text: &str) -> Vec<String> {
    let parts = text.split(|c: char| !c.is_alphanumeric());
    parts.filter(|part| !part.is_empty()).map(str::to_lowercase).collect()
}

/// Suggests the classes whose names contain `text` as part of a word.
fn suggestions(text: &str) -> String {
    let wanted = words(text).join(" ");
    let contains = |name: &str| !wanted.is_empty() && words(name).join(" ").contains(&wanted);
    let similar: Vec<usize> =
        names().enumerate().filter(|(_, name)| contains(name)).map(|(class, _)| class).collect();
    match similar[..] {
        [] => format!(
            "expected a number from 0 to {} or an ImageNet name such as 'golden retriever'",
            IMAGENET_CLASSES - 1
        ),
        ref similar => format!("similar names: {}", listed(similar)),
    }
}

fn listed(classes: &[usize]) -> String {
    let shown: Vec<String> =
        classes.iter().take(MAX_LISTED).map(|&class| label(class, IMAGENET_CLASSES)).collect();
    let more = classes.len().saturating_sub(MAX_LISTED);
    shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    fn error(text: &str, classes: usize) -> String {
        match parse(text, classes) {
            Err(Failure::Message(message)) => message,
            other => panic!("{text}: expected a message, got {other:?}"),
        }
    }

    #[test]
    fn every_class_has_a_name() {
        assert_eq!(names().count(), IMAGENET_CLASSES);
        assert!(names().all(|name| !name.trim().is_empty() && !name.contains(',')));
        let known = [(0, "tench"), (207, "golden retriever"), (360, "otter"), (999, "toilet tissue")];
        assert!(known.iter().all(|&(class, name)| names().nth(class) == Some(name)));
    }

    #[test]
    fn all_names_but_cardigan_are_unambiguous() {
        let ambiguous: Vec<&str> = names()
            .enumerate()
            .filter(|&(i, name)| parse(name, IMAGENET_CLASSES).ok() != Some(i))
            .map(|(_, name)| name)
            .collect();
        assert_eq!(ambiguous, ["Cardigan", "cardigan"]);
        assert_eq!(
            error("cardigan", IMAGENET_CLASSES),
            "--class: 'cardigan' is ambiguous; it matches 264 (Cardigan), 474 (cardigan)"
        );
    }

    #[test]
    fn names_match_regardless_of_case_and_separators() {
        for text in ["Golden Retriever", "golden_retriever", " GOLDEN-RETRIEVER "] {
            assert_eq!(parse(text, IMAGENET_CLASSES).unwrap(), 207, "{text}");
        }
        assert_eq!(parse("siamese", IMAGENET_CLASSES).unwrap(), 284);
        assert_eq!(parse("tiger", IMAGENET_CLASSES).unwrap(), 292, "an exact name takes precedence");
        assert_eq!(parse(" 999", IMAGENET_CLASSES).unwrap(), 999);
        assert_eq!(parse("3", 10).unwrap(), 3);
    }

    #[test]
    fn errors_name_the_range_or_the_candidates() {
        assert_eq!(error("1000", IMAGENET_CLASSES), "--class: expected a class from 0 to 999, got 1000");
        assert!(error("retriever", IMAGENET_CLASSES).contains("205 (flat-coated retriever), 206"));
        assert!(
            error("sunglas", IMAGENET_CLASSES).contains("similar names: 836 (sunglass), 837 (sunglasses)")
        );
        assert!(
            error("unicorn", IMAGENET_CLASSES).contains("expected a number from 0 to 999 or an ImageNet")
        );
        assert!(error("", IMAGENET_CLASSES).contains("expected a number from 0 to 999 or an ImageNet"));
        assert!(error("tabby", 10).contains("expected a number from 0 to 9, got 'tabby'"));
        assert!(error("-1", 10).contains("expected a number from 0 to 9, got '-1'"));
    }
}
