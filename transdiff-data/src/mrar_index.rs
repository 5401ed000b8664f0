//! Index of the samples of MRAR training: four different pictures of one class per line.
//!
//! The published file has JSON lines such as `{"cate": "n01440764", "files": ["n01440764_1.JPEG", …]}`. Names are resolved
//! against the entries of a cache without their endings; a file may be named by its path in the folder of its class, with
//! the class, or with more folders before it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use serde::Deserialize;
use transdiff_core::data::Dataset;
use transdiff_core::text::shortened;
use transdiff_core::{Error, Result};

use crate::cache::CachedDataset;

/// Pictures per group.
pub const GROUP: usize = 4;
/// Bytes that a line may have.
const MAX_LINE_BYTES: u64 = 1 << 16;
/// Names of files that are reported.
const NAMES_KEPT: usize = 8;
const NAME_CHARACTERS: usize = 120;
/// Endings that are ignored where names are compared: first that of a cache's file, then that of a picture.
const CACHE_ENDING: &str = "npz";
const PICTURE_ENDINGS: [&str; 10] = ["jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "gif"];

/// Four different entries of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MrarGroup {
    /// Indices in the cache.
    pub entries: [u32; GROUP],
    /// Class.
    pub label: u32,
}

/// Groups of an index, resolved against a cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MrarIndex {
    groups: Vec<MrarGroup>,
    unresolved: usize,
    unresolved_names: Vec<String>,
    repeating: usize,
    small_classes: Vec<(usize, usize)>,
}

impl MrarIndex {
    /// Reads the file at `path` and resolves it against the entries of `cache`. Lines with a file that is not in the cache,
    /// or with a file twice, give no group and are counted.
    ///
    /// # Errors
    /// [`Error::Format`], with the number of the line, if one is too long or not as described, if the files of one are of
    /// several classes, or of another one than it says; those of the cache's paths; [`Error::Io`].
    pub fn read(path: impl AsRef<Path>, cache: &CachedDataset) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io(path))?;
        Self::from_reader(BufReader::new(file), path, cache)
    }

    /// Reads an index from `reader`. Errors call it `name`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn from_reader(
        mut reader: impl BufRead,
        name: impl AsRef<Path>,
        cache: &CachedDataset,
    ) -> Result<Self> {
        let name = name.as_ref();
        let paths = cache.paths()?;
        let resolver = Resolver::new(cache, paths.iter());
        let mut out = Self { small_classes: small_classes(cache), ..Self::default() };
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = reader.by_ref().take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut line);
            if read.map_err(Error::io(name))? == 0 {
                break;
            }
            let invalid = |problem: String| Error::format(name, format!("line {number}: {problem}"));
            if line.len() as u64 > MAX_LINE_BYTES {
                return Err(invalid(format!("longer than {MAX_LINE_BYTES} bytes")));
            }
            let text = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&line).trim_ascii();
            if text.is_empty() {
                continue;
            }
            let parsed: Line = serde_json::from_slice(text).map_err(|error| {
                invalid(format!("expected {{\"cate\": class, \"files\": [four paths]}}: {error}"))
            })?;
            out.add(&resolver.resolve(&parsed), parsed, &resolver).map_err(invalid)?;
        }
        Ok(out)
    }

    fn add(
        &mut self,
        found: &[Option<u32>; GROUP],
        line: Line,
        resolver: &Resolver<'_>,
    ) -> Result<(), String> {
        let missing = found.iter().zip(&line.files).filter(|(found, _)| found.is_none());
        let mut complete = true;
        for (_, file) in missing {
            complete = false;
            if self.unresolved_names.len() < NAMES_KEPT {
                self.unresolved_names.push(shortened(file, NAME_CHARACTERS));
            }
        }
        if !complete {
            self.unresolved += 1;
            return Ok(());
        }
        let entries = found.map(Option::unwrap_or_default);
        let label = resolver.label_of(&line.cate, entries)?;
        let mut sorted = entries;
        sorted.sort_unstable();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            self.repeating += 1;
        } else {
            self.groups.push(MrarGroup { entries, label });
        }
        Ok(())
    }

    /// The groups, in the order of the file.
    pub fn groups(&self) -> &[MrarGroup] {
        &self.groups
    }

    /// Number of lines that name a file that is not in the cache.
    pub fn unresolved(&self) -> usize {
        self.unresolved
    }

    /// The first few files that are not in the cache.
    pub fn unresolved_names(&self) -> &[String] {
        &self.unresolved_names
    }

    /// Number of lines that name a file twice.
    pub fn repeating(&self) -> usize {
        self.repeating
    }

    /// Classes with fewer than four entries in the cache, each with their number.
    pub fn small_classes(&self) -> &[(usize, usize)] {
        &self.small_classes
    }
}

fn small_classes(cache: &CachedDataset) -> Vec<(usize, usize)> {
    let mut counts: std::collections::BTreeMap<usize, usize> =
        (0..cache.header().spec.images.classes.len()).map(|class| (class, 0)).collect();
    for index in 0..cache.len() {
        *counts.entry(cache.label(index)).or_default() += 1;
    }
    counts.into_iter().filter(|&(_, count)| count < GROUP).collect()
}

/// Line of an index; other keys are ignored.
#[derive(Deserialize)]
struct Line {
    cate: Class,
    files: [String; GROUP],
}

/// Class by name or number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Class {
    Number(u32),
    Name(String),
}

impl Class {
    /// The name of the folder that a text would be, or of class `number`.
    fn name<'a>(&'a self, classes: &'a [String]) -> Option<&'a str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Number(number) => classes.get(*number as usize).map(String::as_str),
        }
    }
}

/// Entries of a cache by their paths.
struct Resolver<'a> {
    cache: &'a CachedDataset,
    /// Paths without ending, and with it where several differ only in it.
    by_path: HashMap<&'a str, u32>,
}

impl<'a> Resolver<'a> {
    fn new(cache: &'a CachedDataset, paths: impl Iterator<Item = &'a str>) -> Self {
        let mut by_path = HashMap::with_capacity(cache.len());
        for (index, path) in paths.enumerate() {
            let index = index as u32;
            if by_path.contains_key(stem(path)) {
                by_path.insert(path, index);
            } else {
                by_path.insert(stem(path), index);
            }
        }
        Self { cache, by_path }
    }

    fn resolve(&self, line: &Line) -> [Option<u32>; GROUP] {
        let class = line.cate.name(&self.cache.header().spec.images.classes);
        std::array::from_fn(|i| self.find(&line.files[i].replace('\\', "/"), class))
    }

    /// The entry that `file` names: as it stands, with the class before it, or without some of the folders at its beginning.
    fn find(&self, file: &str, class: Option<&str>) -> Option<u32> {
        let known = |path: &str| self.by_path.get(path).or_else(|| self.by_path.get(stem(path))).copied();
        let mut rest = Some(file);
        while let Some(path) = rest {
            let in_class = || class.and_then(|class| known(&format!("{class}/{path}")));
            if let Some(found) = known(path).or_else(in_class) {
                return Some(found);
            }
            rest = path.split_once('/').map(|(_, rest)| rest);
        }
        None
    }

    /// Class of `entries`, which must be that of the line where it is given by its name.
    fn label_of(&self, class: &Class, entries: [u32; GROUP]) -> Result<u32, String> {
        let labels = entries.map(|entry| self.cache.label(entry as usize));
        let name = |label: usize| {
            let known = self.cache.header().spec.images.classes.get(label);
            known.map_or_else(|| label.to_string(), |name| shortened(name, NAME_CHARACTERS))
        };
        if let Some(other) = labels.iter().find(|&&label| label != labels[0]) {
            return Err(format!("files of the classes {} and {}", name(labels[0]), name(*other)));
        }
        let classes = &self.cache.header().spec.images.classes;
        match class {
            Class::Name(text) if classes.iter().any(|class| class == text) && name(labels[0]) != *text => {
                let text = shortened(text, NAME_CHARACTERS);
                Err(format!("class {text}, but files of class {}", name(labels[0])))
            }
            _ => Ok(labels[0] as u32),
        }
    }
}

/// `path` without the endings that are ignored.
fn stem(path: &str) -> &str {
    let without = |path: &str, endings: &[&str]| {
        path.rsplit_once('.')
            .filter(|(name, ending)| {
                !name.is_empty() && endings.iter().any(|known| ending.eq_ignore_ascii_case(known))
            })
            .map(|(name, _)| name.len())
    };
    let path = without(path, &[CACHE_ENDING]).map_or(path, |len| &path[..len]);
    without(path, &PICTURE_ENDINGS).map_or(path, |len| &path[..len])
}
