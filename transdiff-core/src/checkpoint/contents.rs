//! Table of contents of a file, which every format's reader produces.

use std::collections::BTreeMap;

use super::entry::Entry;

/// Table of contents of a file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub metadata: BTreeMap<String, String>,
    pub entries: BTreeMap<String, Entry>,
    pub values: serde_json::Map<String, serde_json::Value>,
}
