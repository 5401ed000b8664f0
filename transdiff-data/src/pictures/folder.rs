//! Class folders, read as torchvision's `ImageFolder` reads them.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use transdiff_core::{Error, Result};

/// Kind of the files in class folders.
pub(crate) struct FileKind {
    /// Name of several of them.
    pub name: &'static str,
    /// Endings in lower case.
    pub endings: &'static [&'static str],
}

impl FileKind {
    /// Returns whether `name` has one of the endings.
    pub(super) fn includes(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        self.endings.iter().any(|ending| name.ends_with(ending))
    }
}

/// Pictures, with the endings of torchvision.
pub(super) const PICTURES: FileKind = FileKind {
    name: "pictures",
    endings: &[".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"],
};

/// Pictures in class folders: `ROOT/CLASS/…/NAME`.
///
/// Classes are sorted by name, and pictures by class, folder and name, as in torchvision, so that numbers of classes and
/// pictures agree with it. An entry takes 8 bytes beside the characters of its path.
#[derive(Clone, Debug)]
pub struct ImageFolder {
    root: PathBuf,
    classes: Vec<String>,
    /// First entry of every class.
    starts: Vec<usize>,
    /// Paths within their class folders, one after another.
    names: String,
    /// End of every entry's path in `names`.
    ends: Vec<u64>,
}

impl ImageFolder {
    /// Finds the pictures of `root`, or of `root/train` if that exists and holds folders, but no pictures of its own. Links
    /// are followed.
    ///
    /// # Errors
    /// [`Error::Format`] if `root` is no folder, has no class folders, or if one of them has no pictures;
    /// [`Error::Io`].
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::open_of(root.as_ref(), &PICTURES)
    }

    /// As [`open`](Self::open), for files of another kind.
    pub(crate) fn open_of(root: &Path, kind: &FileKind) -> Result<Self> {
        let (root, classes) = classes(root, kind)?;
        if classes.is_empty() {
            let message =
                format!("no class folders: expected the {} of each class in a folder of its own", kind.name);
            return Err(Error::format(&root, message));
        }
        let mut folder = Self::empty(root, Vec::new());
        let mut without = Vec::new();
        for class in classes {
            folder.begin_class(class.clone());
            let start = folder.len();
            folder.add_files(&folder.root.join(&class), kind)?;
            if folder.len() == start {
                without.push(class);
            }
        }
        if !without.is_empty() {
            let (name, endings, without) = (kind.name, kind.endings.join(" "), list(&without));
            let message = format!(
                "no {name} ({endings}) in the class folders {without}: add some or remove the folders"
            );
            return Err(Error::format(&folder.root, message));
        }
        folder.shrink();
        Ok(folder)
    }

    fn empty(root: PathBuf, classes: Vec<String>) -> Self {
        Self { root, classes, starts: Vec::new(), names: String::new(), ends: Vec::new() }
    }

    /// Begins a class, to which the entries that are added next belong.
    fn begin_class(&mut self, name: String) {
        self.starts.push(self.len());
        self.classes.push(name);
    }

    fn push(&mut self, name: &str) {
        self.names.push_str(name);
        self.ends.push(self.names.len() as u64);
    }

    fn shrink(&mut self) {
        self.names.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Returns whether the first class folder of `root` holds files of `kind` and no pictures.
    pub(crate) fn holds_instead_of_pictures(root: &Path, kind: &FileKind) -> Result<bool> {
        let (root, classes) = classes(root, kind)?;
        let Some(class) = classes.into_iter().next() else { return Ok(false) };
        let holds = |kind: &FileKind| {
            let mut files = Self::empty(root.clone(), Vec::new());
            files.add_files(&root.join(&class), kind).map(|()| !files.is_empty())
        };
        Ok(holds(kind)? && !holds(&PICTURES)?)
    }

    /// Adds the files below the folder `class`, sorted as torchvision sorts them: by the path of the folder as text, then
    /// by name.
    fn add_files(&mut self, class: &Path, kind: &FileKind) -> Result<()> {
        let mut found = Vec::new();
        let mut pending = vec![(class.to_owned(), String::new())];
        while let Some((path, relative)) = pending.pop() {
            let entries = Entries::read(&path, kind)?;
            for name in entries.folders {
                let child = path.join(&name);
                check_link(&child, &path)?;
                pending.push((child, format!("{relative}/{name}")));
            }
            found.push((relative, entries.files));
        }
        found.sort();
        for (relative, files) in found {
            let prefix = relative.strip_prefix('/').map(|folder| format!("{folder}/")).unwrap_or_default();
            files.iter().for_each(|name| self.push(&format!("{prefix}{name}")));
        }
        Ok(())
    }

    /// The folder that holds the class folders below `path`, as [`open`](Self::open) finds it.
    ///
    /// # Errors
    /// [`Error::Format`] if `path` is no folder; [`Error::Io`].
    pub fn find_root(path: impl AsRef<Path>) -> Result<PathBuf> {
        Ok(classes(path.as_ref(), &PICTURES)?.0)
    }

    /// Folder that holds the class folders.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns `true` if there are no pictures.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Names of the classes, in the order of their labels.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Pictures of class `label`.
    ///
    /// # Panics
    /// If there is no such class.
    pub fn class_range(&self, label: usize) -> Range<usize> {
        self.starts[label]..self.starts.get(label + 1).copied().unwrap_or(self.len())
    }

    /// Label of picture `index`.
    ///
    /// # Panics
    /// If there is no such picture.
    pub fn label(&self, index: usize) -> usize {
        assert!(index < self.len(), "expected a picture below {}, got {index}", self.len());
        self.starts.partition_point(|&start| start <= index) - 1
    }

    /// Path of picture `index` within its class folder, with `/` between folders.
    fn name(&self, index: usize) -> &str {
        let start = index.checked_sub(1).map_or(0, |previous| self.ends[previous] as usize);
        &self.names[start..self.ends[index] as usize]
    }

    /// Path of picture `index` relative to the root, with `/` between folders: `CLASS/NAME`.
    ///
    /// # Panics
    /// If there is no such picture.
    pub fn relative_path(&self, index: usize) -> String {
        format!("{}/{}", self.classes[self.label(index)], self.name(index))
    }

    /// Path of picture `index`.
    ///
    /// # Panics
    /// If there is no such picture.
    pub fn path(&self, index: usize) -> PathBuf {
        self.root.join(&self.classes[self.label(index)]).join(self.name(index))
    }

    /// Memory of the entries in bytes: the characters of their paths, and 8 bytes per entry and per class.
    pub fn memory(&self) -> usize {
        self.names.capacity()
            + self.ends.capacity() * size_of::<u64>()
            + self.starts.capacity() * size_of::<usize>()
    }

    /// The same pictures with the labels of `classes`, for a validation folder: its classes may be some of those of the
    /// training data.
    ///
    /// # Errors
    /// [`Error::Format`] if a class is not one of `classes`.
    pub fn with_classes(self, classes: &[String]) -> Result<Self> {
        let unknown: Vec<String> =
            self.classes.iter().filter(|name| !classes.contains(name)).cloned().collect();
        if !unknown.is_empty() {
            let message =
                format!("the class folders {} are not classes of the training data", list(&unknown));
            return Err(Error::format(&self.root, message));
        }
        let mut out = Self::empty(self.root.clone(), Vec::new());
        for class in classes {
            out.begin_class(class.clone());
            if let Some(label) = self.classes.iter().position(|name| name == class) {
                self.class_range(label).for_each(|index| out.push(self.name(index)));
            }
        }
        out.shrink();
        Ok(out)
    }
}

/// Folders in a folder, and files of a kind, sorted by name.
struct Entries {
    folders: Vec<String>,
    files: Vec<String>,
}

impl Entries {
    fn read(folder: &Path, kind: &FileKind) -> Result<Self> {
        let mut out = Self { folders: Vec::new(), files: Vec::new() };
        for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
            let entry = entry.map_err(Error::io(folder))?;
            let entry_type = entry.file_type().map_err(Error::io(entry.path()))?;
            let is_folder = entry_type.is_dir() || (entry_type.is_symlink() && entry.path().is_dir());
            let name = match entry.file_name().into_string() {
                Ok(name) => name,
                Err(name) if is_folder || kind.includes(&name.to_string_lossy()) => {
                    return Err(Error::format(folder.join(name), "the name is not UTF-8: rename the file"));
                }
                Err(_) => continue,
            };
            if is_folder {
                out.folders.push(name);
            } else if kind.includes(&name) {
                out.files.push(name);
            }
        }
        // UTF-8 sorts by code points, as Python does.
        out.folders.sort();
        out.files.sort();
        Ok(out)
    }
}

/// The folder that holds the class folders, `root` or its folder `train`, and the names of the classes.
fn classes(root: &Path, kind: &FileKind) -> Result<(PathBuf, Vec<String>)> {
    if !fs::metadata(root).map_err(Error::io(root))?.is_dir() {
        let message = format!("expected a folder with a folder of {} per class, got a file", kind.name);
        return Err(Error::format(root, message));
    }
    let train = root.join("train");
    if train.is_dir() {
        let entries = Entries::read(&train, kind)?;
        if !entries.folders.is_empty() && entries.files.is_empty() {
            return Ok((train, entries.folders));
        }
    }
    Ok((root.to_owned(), Entries::read(root, kind)?.folders))
}

/// Refuses a link to a folder that contains the link.
fn check_link(child: &Path, parent: &Path) -> Result<()> {
    if !child.is_symlink() {
        return Ok(());
    }
    let target = child.canonicalize().map_err(Error::io(child))?;
    let parent = parent.canonicalize().map_err(Error::io(parent))?;
    if parent.starts_with(&target) {
        return Err(Error::format(child, "the link leads to a folder that contains it: remove it"));
    }
    Ok(())
}

/// Names for a message; of many, the first ones.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN { format!("{shown} and {} others", names.len() - SHOWN) } else { shown }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
