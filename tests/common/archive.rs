//! Zip archives as PyTorch writes them, valid or not.

/// One entry of an archive, with the fields that may be wrong.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub contents: Vec<u8>,
    /// Compression method in the central directory.
    pub method: u16,
    pub flags: u16,
    /// Length in the central directory.
    pub size: u32,
    /// Offset in the central directory, if not the actual one.
    pub at: Option<u32>,
}

impl Entry {
    pub fn new(name: &str, contents: &[u8]) -> Self {
        let (name, contents, size) = (name.to_owned(), contents.to_vec(), contents.len() as u32);
        Self { name, contents, method: 0, flags: 0, size, at: None }
    }

    fn header(&self, magic: &[u8; 4], version: &[u8], comment_and_attributes: &[u8], at: &[u8]) -> Vec<u8> {
        let size = self.size.to_le_bytes();
        let fields: [&[u8]; 12] = [
            magic,
            version,
            &self.flags.to_le_bytes(),
            &self.method.to_le_bytes(),
            &[0; 8], // time, date and checksum
            &size,
            &size,
            &(self.name.len() as u16).to_le_bytes(),
            &[0; 2],
            comment_and_attributes,
            at,
            self.name.as_bytes(),
        ];
        fields.concat()
    }
}

/// Builds an archive of `entries`.
pub fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let at = entry.at.unwrap_or(out.len() as u32).to_le_bytes();
        directory.extend(entry.header(b"PK\x01\x02", &[0; 4], &[0; 10], &at));
        out.extend(entry.header(b"PK\x03\x04", &[0; 2], &[], &[]));
        out.extend(&entry.contents);
    }
    let count = (entries.len() as u16).to_le_bytes();
    let (len, start) = ((directory.len() as u32).to_le_bytes(), (out.len() as u32).to_le_bytes());
    out.extend(directory);
    let end: [&[u8]; 7] = [b"PK\x05\x06", &[0; 4], &count, &count, &len, &start, &[0; 2]];
    out.extend(end.concat());
    out
}

/// Entries of a checkpoint with a pickle and the storages "0", "1", ….
pub fn checkpoint(pickle: &[u8], storages: &[&[u8]]) -> Vec<Entry> {
    let mut entries = vec![Entry::new("a/data.pkl", pickle), Entry::new("a/byteorder", b"little")];
    let storages = storages.iter().enumerate();
    entries.extend(storages.map(|(i, bytes)| Entry::new(&format!("a/data/{i}"), bytes)));
    entries
}
