//! Names of classes.

use crate::text::shortened;
use crate::{Error, Result};

/// Number of ImageNet classes. Models with as many classes have their names unless the file says otherwise.
const IMAGENET_CLASSES: usize = 1000;
/// Maximum number of candidates that an error lists.
const MAX_LISTED: usize = 12;
/// Characters of a name that are quoted in an error.
const QUOTED: usize = 60;

/// Names of a model's classes, by which classes are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassNames {
    classes: usize,
    names: Vec<String>,
}

impl ClassNames {
    /// Names of `classes` classes: those that a file records, one per class; if there are none, the ImageNet names where
    /// there are 1000 classes.
    ///
    /// # Errors
    /// [`Error::Config`] for another number of names.
    pub fn new(classes: usize, recorded: &[String]) -> Result<Self> {
        let names = match recorded.len() {
            0 if classes == IMAGENET_CLASSES => imagenet().map(str::to_owned).collect(),
            0 => Vec::new(),
            n if n == classes => recorded.to_vec(),
            n => return Err(Error::config("classes", format!("{classes} names, or none"), n)),
        };
        Ok(Self { classes, names })
    }

    /// Names by number; empty if there are none.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Name of a class, if it has one.
    pub fn get(&self, class: usize) -> Option<&str> {
        self.names.get(class).map(String::as_str)
    }

    /// A class for display: its number, and its name if it has one.
    pub fn label(&self, class: usize) -> String {
        self.get(class)
            .map_or_else(|| class.to_string(), |name| format!("{class} ({})", shortened(name, QUOTED)))
    }

    /// Finds a class by `text`: its exact name, its number, its name in another case or with other separators, or some
    /// consecutive words of its name. The first of these that any class has decides.
    ///
    /// # Errors
    /// [`Error::Argument`] naming the argument `class` for an unknown class, and for text that several names contain.
    pub fn find(&self, text: &str) -> Result<usize> {
        if let [class] = self.matching(|name| name == text)[..] {
            return Ok(class);
        }
        if let Ok(number) = text.trim().parse::<usize>() {
            return match number < self.classes {
                true => Ok(number),
                false => Err(Error::argument("class", format!("a class from {}", self.range()), number)),
            };
        }
        let quoted = format!("'{}'", shortened(text, QUOTED));
        match self.candidates(text)[..] {
            [class] => Ok(class),
            [] => Err(Error::argument("class", self.expected(text), quoted)),
            ref several => {
                let got = format!("{quoted}, which matches {}", self.listed(several));
                Err(Error::argument("class", "the name of one class", got))
            }
        }
    }

    fn matching(&self, accept: impl Fn(&str) -> bool) -> Vec<usize> {
        (0..self.names.len()).filter(|&class| accept(&self.names[class])).collect()
    }

    /// Classes with the same words in their names, or else those whose names contain the words in sequence.
    fn candidates(&self, text: &str) -> Vec<usize> {
        let wanted = words(text);
        let exact = self.matching(|name| !wanted.is_empty() && words(name) == wanted);
        if !exact.is_empty() || wanted.is_empty() {
            return exact;
        }
        self.matching(|name| words(name).windows(wanted.len()).any(|part| part == wanted))
    }

    /// Description of what is accepted in place of `text`.
    fn expected(&self, text: &str) -> String {
        let range = self.range();
        let Some(example) = self.names.first() else {
            return format!("a number from {range} (the classes of this model have no names)");
        };
        let wanted = words(text).join(" ");
        let similar = self.matching(|name| !wanted.is_empty() && words(name).join(" ").contains(&wanted));
        match similar[..] {
            [] => format!("a number from {range} or a name such as '{}'", shortened(example, QUOTED)),
            ref similar => format!("a class (similar names: {})", self.listed(similar)),
        }
    }

    fn range(&self) -> String {
        format!("0 to {}", self.classes.saturating_sub(1))
    }

    fn listed(&self, classes: &[usize]) -> String {
        let shown: Vec<String> = classes.iter().take(MAX_LISTED).map(|&class| self.label(class)).collect();
        let more = classes.len().saturating_sub(MAX_LISTED);
        shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
    }
}

/// Names of the ImageNet classes, ordered by class number.
fn imagenet() -> impl Iterator<Item = &'static str> {
    include_str!("imagenet.txt").lines().filter(|line| !line.starts_with('#'))
}

/// Splits `text` into lower-case words of letters and digits, so that `golden_retriever` equals `Golden Retriever`.
fn words(text: &str) -> Vec<String> {
    let parts = text.split(|c: char| !c.is_alphanumeric());
    parts.filter(|part| !part.is_empty()).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_imagenet() -> ClassNames {
        ClassNames::new(IMAGENET_CLASSES, &[]).unwrap()
    }

    fn recorded(names: &[&str]) -> ClassNames {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        ClassNames::new(names.len(), &names).unwrap()
    }

    fn error(names: &ClassNames, text: &str) -> String {
        names.find(text).expect_err(text).to_string()
    }

    #[test]
    fn every_imagenet_class_has_a_name() {
        assert_eq!(imagenet().count(), IMAGENET_CLASSES);
        assert!(imagenet().all(|name| !name.trim().is_empty() && !name.contains(',')));
        let known = [(0, "tench"), (207, "golden retriever"), (360, "otter"), (999, "toilet tissue")];
        assert!(known.iter().all(|&(class, name)| of_imagenet().get(class) == Some(name)));
        assert_eq!(of_imagenet().label(207), "207 (golden retriever)");
    }

    #[test]
    fn names_of_imagenet_are_unambiguous_in_their_own_case() {
        let names = of_imagenet();
        assert!((0..IMAGENET_CLASSES).all(|class| names.find(&names.names()[class]).ok() == Some(class)));
        assert_eq!(
            error(&names, "CARDIGAN"),
            "argument class: expected the name of one class, got 'CARDIGAN', which matches 264 (Cardigan), 474 (cardigan)"
        );
    }

    #[test]
    fn names_match_regardless_of_case_and_separators() {
        let names = of_imagenet();
        for text in ["Golden Retriever", "golden_retriever", " GOLDEN-RETRIEVER "] {
            assert_eq!(names.find(text).unwrap(), 207, "{text}");
        }
        assert_eq!(names.find("siamese").unwrap(), 284);
        assert_eq!(names.find("tiger").unwrap(), 292, "the name takes precedence over words of others");
        assert_eq!(names.find(" 999").unwrap(), 999);
        let fashion = recorded(&["T-shirt/top", "trouser", "Ankle boot"]);
        assert_eq!(
            ["trouser", "t_shirt top", "boot", "2"].map(|text| fashion.find(text).unwrap()),
            [1, 0, 2, 2]
        );
    }

    #[test]
    fn names_take_precedence_over_numbers() {
        let folders = recorded(&["1", "10", "2", "+-"]);
        assert_eq!(
            ["1", "10", "2", "3", "0", "+-"].map(|text| folders.find(text).unwrap()),
            [0, 1, 2, 3, 0, 3]
        );
        let twice = recorded(&["crane", "crane"]);
        assert_eq!(twice.find("1").unwrap(), 1);
        assert!(error(&twice, "crane").contains("which matches 0 (crane), 1 (crane)"));
    }

    #[test]
    fn errors_name_the_range_or_the_candidates() {
        let names = of_imagenet();
        assert_eq!(error(&names, "1000"), "argument class: expected a class from 0 to 999, got 1000");
        assert!(error(&names, "retriever").contains("205 (flat-coated retriever), 206"));
        assert!(error(&names, "sunglas").contains("similar names: 836 (sunglass), 837 (sunglasses)"));
        assert!(
            error(&names, "unicorn").contains("expected a number from 0 to 999 or a name such as 'tench'")
        );
        assert!(error(&names, "").contains("expected a number from 0 to 999 or a name"));
        let unnamed = ClassNames::new(10, &[]).unwrap();
        assert_eq!((unnamed.find("3").unwrap(), unnamed.label(3)), (3, "3".to_owned()));
        assert!(
            error(&unnamed, "tabby").contains("expected a number from 0 to 9 (the classes of this model")
        );
        assert!(error(&unnamed, "-1").ends_with("got '-1'"));
        assert!(ClassNames::new(3, &["a".to_owned()]).is_err());
    }
}
