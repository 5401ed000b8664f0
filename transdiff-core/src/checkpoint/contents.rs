//! Table of contents of a file, which every format's reader produces.

use std::collections::BTreeMap;

use super::entry::Entry;

/// Text that stands for plain data, or a set of tensors, that is too large to be listed.
pub(crate) const SKIPPED: &str = "… (skipped: too large)";

/// Table of contents of a file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Version of the conventions of this library, if the file records it.
    pub format_version: Option<u32>,
    pub metadata: BTreeMap<String, String>,
    pub entries: BTreeMap<String, Entry>,
    pub values: serde_json::Map<String, serde_json::Value>,
}
