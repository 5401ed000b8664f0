//! Files of Fashion-MNIST, in the idx format, plain or compressed by gzip: a header with the sizes, then unsigned bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

/// Names of the classes, by label.
pub const CLASSES: [&str; 10] =
    ["t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot"];

/// Items that a file may have, a multiple of those of any MNIST-like dataset.
const MAX_ITEMS: usize = 10_000_000;
/// Side that an item may have.
const MAX_SIDE: usize = 4096;
/// First bytes of gzip data.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// Code of unsigned bytes, the only type of these files.
const UNSIGNED_BYTES: u8 = 0x08;

/// File `name` in `folder`, plain or compressed.
pub fn find(folder: &Path, name: &str) -> PathBuf {
    let plain = folder.join(name);
    if plain.exists() { plain } else { folder.join(format!("{name}.gz")) }
}

/// Items of an idx file, read one by one: pictures, or labels of one byte.
pub struct IdxItems {
    path: PathBuf,
    reader: Box<dyn Read>,
    count: usize,
    shape: Vec<usize>,
    read: usize,
}

impl IdxItems {
    /// Opens a file whose items have `rank` dimensions: 2 for pictures, 0 for labels. Errors name the file.
    pub fn open(path: &Path, rank: usize) -> Result<Self, String> {
        let name = path.display();
        let mut file = BufReader::new(File::open(path).map_err(|e| format!("{name}: {e}"))?);
        let compressed = file.fill_buf().map_err(|e| format!("{name}: {e}"))?.starts_with(&GZIP);
        let mut reader: Box<dyn Read> = match compressed {
            true => Box::new(BufReader::new(MultiGzDecoder::new(file))),
            false => Box::new(file),
        };
        let mut word = || {
            let mut word = [0; 4];
            reader.read_exact(&mut word).map_err(|e| format!("{name}: the header of an idx file: {e}"))?;
            Ok::<_, String>(word)
        };
        let (magic, expected) = (word()?, [0, 0, UNSIGNED_BYTES, rank as u8 + 1]);
        if magic != expected {
            let [expected, got] = [expected, magic].map(u32::from_be_bytes);
            return Err(format!("{name}: expected an idx file with magic {expected:#010x}, got {got:#010x}"));
        }
        let mut size = |limit| match u32::from_be_bytes(word()?) as usize {
            size if (1..=limit).contains(&size) => Ok(size),
            size => Err(format!("{name}: expected sizes from 1 to {limit}, got {size}")),
        };
        let count = size(MAX_ITEMS)?;
        let shape = (0..rank).map(|_| size(MAX_SIDE)).collect::<Result<_, _>>()?;
        Ok(Self { path: path.to_owned(), reader, count, shape, read: 0 })
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Shape of an item: rows and columns of a picture.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn read_item(&mut self) -> Result<Vec<u8>, String> {
        let mut item = vec![0; self.shape.iter().product()];
        self.reader.read_exact(&mut item).map_err(|error| {
            let (name, read, count) = (self.path.display(), self.read, self.count);
            match error.kind() {
                ErrorKind::UnexpectedEof => format!("{name}: ends after {read} of {count} items"),
                _ => format!("{name}: item {read} of {count}: {error}"),
            }
        })?;
        Ok(item)
    }

    /// Checks that the file ends. Reading to the end also verifies the checksum of gzip.
    fn check_end(&mut self) -> Result<(), String> {
        let (name, count) = (self.path.display(), self.count);
        match self.reader.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(format!("{name}: expected the end after {count} items, got more bytes")),
            Err(error) => Err(format!("{name}: after {count} items: {error}")),
        }
    }
}

impl Iterator for IdxItems {
    type Item = Result<Vec<u8>, String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.read < self.count {
            let item = self.read_item();
            // An error ends the iteration.
            self.read = if item.is_ok() { self.read + 1 } else { usize::MAX };
            return Some(item);
        }
        if self.read == self.count {
            self.read = usize::MAX;
            return self.check_end().err().map(Err);
        }
        None
    }
}
