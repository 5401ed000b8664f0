//! The language of comments and documentation, as far as a program can check it.
//!
//! A summary, the first line of a documentation comment, is a noun phrase or a verb, never a clause that opens with a
//! question word. And rates are written with "per", never with a second article.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use crate::Result;
use crate::process::Process;

/// Words that no summary opens with.
const OPENINGS: [&str; 7] = ["What", "Who", "Whoever", "Whose", "Where", "How", "Whether"];
/// Nouns that a rate is given for.
const RATED: [&str; 10] =
    ["image", "thread", "step", "core", "class", "batch", "group", "channel", "row", "sample"];
/// Extensions of the files that are read.
const EXTENSIONS: [&str; 11] = ["rs", "cu", "cuh", "h", "hpp", "c", "cpp", "inc", "py", "sh", "md"];

/// The way a file marks its comments.
#[derive(Clone, Copy, PartialEq)]
enum Syntax {
    Rust,
    C,
    /// Python and shell.
    Hash,
    Markdown,
}

struct Finding {
    line: usize,
    rule: String,
}

/// Fails after printing every finding in tracked files, and their number per directory.
pub fn check() -> Result {
    let tracked = Process::new("git").args(&["ls-files"]).stdout()?;
    let mut directories = BTreeMap::<&str, usize>::new();
    for name in tracked.lines() {
        // A file that is deleted and not yet committed is still listed.
        let Some(syntax) = syntax_of(name).filter(|_| Path::new(name).exists()) else { continue };
        for finding in findings(&fs::read_to_string(name)?, syntax) {
            println!("{name}:{finding}");
            *directories.entry(name.rsplit_once('/').map_or(".", |(folder, _)| folder)).or_default() += 1;
        }
    }
    if directories.is_empty() {
        return Ok(());
    }
    directories.iter().for_each(|(directory, count)| println!("{count:5} in {directory}"));
    Err(format!("{} findings", directories.values().sum::<usize>()).into())
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.line, self.rule)
    }
}

/// The syntax of a file by its name; none for files that are not read.
fn syntax_of(name: &str) -> Option<Syntax> {
    let extension = Path::new(name).extension()?.to_str().filter(|e| EXTENSIONS.contains(e))?;
    Some(match extension {
        "rs" => Syntax::Rust,
        "py" | "sh" => Syntax::Hash,
        "md" => Syntax::Markdown,
        _ => Syntax::C,
    })
}

fn findings(text: &str, syntax: Syntax) -> Vec<Finding> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = summaries(&lines, syntax);
    found.extend(rates(&lines, syntax));
    found.sort_by_key(|finding| finding.line);
    found
}

/// Findings among the first lines of documentation comments.
fn summaries(lines: &[&str], syntax: Syntax) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut in_docstring = false;
    for (i, line) in lines.iter().enumerate() {
        let summary = match syntax {
            Syntax::Rust => doc_summary(lines, i),
            Syntax::C => doc_summary(lines, i).or_else(|| plain_summary(lines, i)),
            Syntax::Hash => {
                let opens = !in_docstring;
                in_docstring ^= line.matches("\"\"\"").count() % 2 == 1;
                line.trim().strip_prefix("\"\"\"").filter(|_| opens)
            }
            Syntax::Markdown => None,
        };
        let word = summary.and_then(|s| s.trim_start().split(|c: char| !c.is_alphanumeric()).next());
        if let Some(word) = word.filter(|word| OPENINGS.contains(word)) {
            found.push(Finding { line: i + 1, rule: format!("a summary opens with \"{word}\"") });
        }
    }
    found
}

/// The text of line `i` if it is the first of a documentation comment.
fn doc_summary<'a>(lines: &[&'a str], i: usize) -> Option<&'a str> {
    let line = lines[i].trim_start();
    if let Some(text) = line.strip_prefix("/**").or_else(|| line.strip_prefix("/*!")) {
        // The summary may stand in the line after the mark.
        let next = || lines.get(i + 1).map_or("", |next| next.trim_start().trim_start_matches('*'));
        return Some(if text.trim().is_empty() { next() } else { text });
    }
    ["///", "//!"].into_iter().find_map(|mark| {
        let starts = i == 0 || !lines[i - 1].trim_start().starts_with(mark);
        line.strip_prefix(mark).filter(|text| starts && !text.starts_with('/'))
    })
}

/// The text of line `i` if it is the first of a plain comment at the left margin, right above a declaration or at the
/// head of the file.
fn plain_summary<'a>(lines: &[&'a str], i: usize) -> Option<&'a str> {
    let is_comment = |line: &&str| line.starts_with("//");
    if i > 0 && is_comment(&lines[i - 1]) {
        return None;
    }
    let below = lines[i..].iter().find(|line| !is_comment(line));
    let documents = i == 0 || below.is_some_and(|line| !line.trim().is_empty());
    lines[i].strip_prefix("//").or_else(|| lines[i].strip_prefix("/*")).filter(|_| documents)
}

/// A word with what is attached to it: punctuation ends a phrase.
struct Word<'a> {
    text: &'a str,
    line: usize,
}

impl Word<'_> {
    fn is_article(&self) -> bool {
        matches!(self.opening(), "a" | "an")
    }

    /// The word without punctuation before it.
    fn opening(&self) -> &str {
        self.text.trim_start_matches(|c: char| !c.is_alphanumeric())
    }

    /// The letters that it starts with.
    fn stem(&self) -> &str {
        self.text.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default()
    }

    fn is_plain(&self) -> bool {
        self.text.chars().all(|c| c.is_alphanumeric() || c == '_')
    }
}

/// Findings of rates without "per"; a comment's sentences go on over its lines.
fn rates(lines: &[&str], syntax: Syntax) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut words = Vec::new();
    let mut in_comment = false;
    for (i, line) in lines.iter().enumerate() {
        let text = line.trim();
        let stripped = text.trim_start_matches(['/', '*', '!', '#', '>', '"', ' ']);
        let comment = syntax == Syntax::Markdown || stripped.len() != text.len();
        if stripped.is_empty() || comment != in_comment {
            found.extend(rates_among(&words));
            words.clear();
        }
        in_comment = comment;
        words.extend(stripped.split_whitespace().map(|text| Word { text, line: i + 1 }));
    }
    found.extend(rates_among(&words));
    found
}

fn rates_among(words: &[Word<'_>]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (i, word) in words.iter().enumerate() {
        let after = &words[i + 1..];
        let one = word.opening().eq_ignore_ascii_case("one")
            && matches!(after, [article, noun, ..] if article.text == article.opening() && article.is_article() && !noun.stem().is_empty());
        let rate = word.is_article()
            && matches!(after, [what, article, noun, ..] if what.is_plain() && article.text == article.opening() && article.is_article() && RATED.contains(&noun.stem()));
        if one || rate {
            let length = if one { 3 } else { 4 };
            let phrase: Vec<&str> = words[i..i + length].iter().map(|word| word.text).collect();
            found.push(Finding { line: word.line, rule: format!("\"{}\": write \"per\"", phrase.join(" ")) });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    fn lines_of(text: &str, syntax: Syntax) -> Vec<usize> {
        findings(text, syntax).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn question_words_open_no_summary() {
        for word in OPENINGS {
            let text = format!("/// {word} it is\nfn f() {{}}");
            assert_eq!(lines_of(&text, Syntax::Rust), [1], "{word}");
            assert_eq!(lines_of(&text, Syntax::C), [1], "{word}");
        }
        assert_eq!(lines_of("fn f();\n//! How\n", Syntax::Rust), [2]);
        assert_eq!(lines_of("/**\n * Whether it is\n */\nint f(void);", Syntax::C), [1]);
        assert_eq!(lines_of("/** Whose it is */\nint f(void);", Syntax::C), [1]);
        assert_eq!(lines_of("int g();\n\n// Where it is\n// found\nint f();", Syntax::C), [3]);
        assert_eq!(lines_of("def f():\n    \"\"\"What it is\n    How\n    \"\"\"\n", Syntax::Hash), [2]);
    }

    #[test]
    fn other_lines_may_open_with_them() {
        let text = "/// Whatever it is\n/// What it is\n// How it works\nfn f() {}";
        assert_eq!(lines_of(text, Syntax::Rust), NONE);
        assert_eq!(lines_of("    // What follows\n    f();\n// How\n\nint x;", Syntax::C), NONE);
        assert_eq!(lines_of("def f():\n    \"\"\"It is\n\n    \"\"\"\n    What", Syntax::Hash), NONE);
        assert_eq!(lines_of("What it is\n", Syntax::Markdown), NONE);
    }

    #[test]
    fn rates_are_written_with_per() {
        // Joined here, or this file would have findings.
        let rate = |parts: [&str; 2]| parts.join(" ");
        for bad in [
            ["one", "a core"],
            ["One", "an image"],
            ["(one", "a token)"],
            ["an image a", "step"],
            ["a thread", "a core."],
        ] {
            let bad = rate(bad);
            assert_eq!(lines_of(&format!("x\n/// Threads, {bad}"), Syntax::Rust), [2], "{bad}");
            assert_eq!(lines_of(&bad, Syntax::Markdown), [1], "{bad}");
        }
        assert_eq!(lines_of("// Seeds, one\n// an image\n", Syntax::Rust), [1]);
        for good in [
            "one per core",
            "one, a core",
            "no one\n\na core",
            "a step. A step",
            "a row, a group",
            "a model and a step",
        ] {
            assert_eq!(lines_of(good, Syntax::Markdown), NONE, "{good}");
        }
    }

    #[test]
    fn names_tell_the_syntax() {
        assert!(syntax_of("a/b.rs") == Some(Syntax::Rust) && syntax_of("kernels/a.cuh") == Some(Syntax::C));
        assert!(syntax_of("LICENSE-MIT").is_none() && syntax_of("a.safetensors").is_none());
    }
}
