//! Classes by number, and those of ImageNet by name.

use crate::failure::Result;

/// Number of classes that the names are for.
pub const NAMED: usize = 1000;
/// How many candidates an error lists.
const LISTED: usize = 12;

/// The names of the ImageNet classes, by their numbers.
pub fn names() -> impl Iterator<Item = &'static str> {
    include_str!("imagenet.txt").lines().filter(|line| !line.starts_with('#'))
}

/// `class` with its name, where the model's `classes` are those of ImageNet.
pub fn described(class: usize, classes: usize) -> String {
    match names().nth(class) {
        Some(name) if classes == NAMED => format!("{class} ({name})"),
        _ => class.to_string(),
    }
}

/// The class that `text` means for a model of `classes` classes: a number, or a name of ImageNet, or words of one.
pub fn parse(text: &str, classes: usize) -> Result<usize> {
    if let Ok(number) = text.trim().parse::<usize>() {
        return match number < classes {
            true => Ok(number),
            false => Err(format!("--class {text}: the model has the classes 0 to {}", classes - 1).into()),
        };
    }
    if classes != NAMED {
        let message = format!(
            "--class {text}: names are ImageNet's, and the model has {classes} classes: give a number in 0..{classes}"
        );
        return Err(message.into());
    }
    match candidates(text)[..] {
        [class] => Ok(class),
        [] => Err(format!("--class {text}: no such class{}", near(text)).into()),
        ref several => Err(format!("--class {text}: which one? {}", listed(several)).into()),
    }
}

/// The classes of exactly this name, or else those in whose names these words stand together.
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

/// Letters and digits, in lower case: `golden_retriever` is `Golden Retriever`.
fn words(text: &str) -> Vec<String> {
    let parts = text.split(|c: char| !c.is_alphanumeric());
    parts.filter(|part| !part.is_empty()).map(str::to_lowercase).collect()
}

/// What the user may have meant: names that hold `text` as part of a word.
fn near(text: &str) -> String {
    let wanted = words(text).join(" ");
    let holds = |name: &str| !wanted.is_empty() && words(name).join(" ").contains(&wanted);
    let found: Vec<usize> =
        names().enumerate().filter(|(_, name)| holds(name)).map(|(class, _)| class).collect();
    match found[..] {
        [] => ": give a number in 0..1000, or a name of ImageNet such as 'golden retriever'".to_owned(),
        ref found => format!("; near: {}", listed(found)),
    }
}

fn listed(classes: &[usize]) -> String {
    let some: Vec<String> = classes.iter().take(LISTED).map(|&class| described(class, NAMED)).collect();
    let more = classes.len().saturating_sub(LISTED);
    some.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    fn refused(text: &str, classes: usize) -> String {
        match parse(text, classes) {
            Err(Failure::Message(message)) => message,
            other => panic!("{text}: expected a message, got {other:?}"),
        }
    }

    #[test]
    fn there_is_a_name_for_every_class() {
        assert_eq!(names().count(), NAMED);
        assert!(names().all(|name| !name.trim().is_empty() && !name.contains(',')));
        let known = [(0, "tench"), (207, "golden retriever"), (360, "otter"), (999, "toilet tissue")];
        assert!(known.iter().all(|&(class, name)| names().nth(class) == Some(name)));
    }

    #[test]
    fn every_class_is_found_by_its_name_but_the_two_cardigans() {
        let lost: Vec<&str> =
            names().enumerate().filter(|&(i, n)| parse(n, NAMED).ok() != Some(i)).map(|(_, n)| n).collect();
        assert_eq!(lost, ["Cardigan", "cardigan"]);
        assert_eq!(refused("cardigan", NAMED), "--class cardigan: which one? 264 (Cardigan), 474 (cardigan)");
    }

    #[test]
    fn names_are_read_as_people_write_them() {
        for text in ["Golden Retriever", "golden_retriever", " GOLDEN-RETRIEVER "] {
            assert_eq!(parse(text, NAMED).unwrap(), 207, "{text}");
        }
        assert_eq!(parse("siamese", NAMED).unwrap(), 284);
        assert_eq!(parse("tiger", NAMED).unwrap(), 292, "a whole name goes before parts of others");
        assert_eq!(parse(" 999", NAMED).unwrap(), 999);
        assert_eq!(parse("3", 10).unwrap(), 3);
    }

    #[test]
    fn what_is_no_class_is_refused_with_what_could_be_meant() {
        assert_eq!(refused("1000", NAMED), "--class 1000: the model has the classes 0 to 999");
        assert!(refused("retriever", NAMED).contains("205 (flat-coated retriever), 206"));
        assert!(refused("sunglas", NAMED).contains("near: 836 (sunglass), 837 (sunglasses)"));
        assert!(refused("unicorn", NAMED).contains("give a number"));
        assert!(refused("", NAMED).contains("give a number"));
        assert!(refused("tabby", 10).contains("give a number in 0..10"));
        assert!(refused("-1", 10).contains("give a number in 0..10"));
    }
}
