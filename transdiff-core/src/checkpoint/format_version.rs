//! Version of the names of tensors and metadata in the files of this library.

use std::collections::BTreeMap;
use std::path::Path;

use crate::text::shortened;
use crate::{Error, Result};

/// Metadata key of the version.
pub const FORMAT_KEY: &str = "transdiff.format";
/// Version that is written. All versions up to it are read. Files of version 1 do not record it; version 2 added
/// the description of images.
pub const FORMAT_VERSION: u32 = 2;
/// Characters of a version that are quoted in an error.
const QUOTED: usize = 40;

/// Takes the version out of the metadata of a file, if it is recorded.
///
/// # Errors
/// [`Error::Format`] for a newer version, or one that is no number.
pub(super) fn take(metadata: &mut BTreeMap<String, String>, path: &Path) -> Result<Option<u32>> {
    let Some(text) = metadata.remove(FORMAT_KEY) else { return Ok(None) };
    match text.parse::<u32>() {
        Ok(version @ 1..=FORMAT_VERSION) => Ok(Some(version)),
        Ok(newer @ 1..) => {
            let message = format!(
                "format version {newer}: this version of the library reads versions 1 to {FORMAT_VERSION}; update it"
            );
            Err(Error::format(path, message))
        }
        _ => {
            let got = shortened(&text, QUOTED);
            Err(Error::format(path, format!("metadata entry {FORMAT_KEY}: expected a version, got '{got}'")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostTensor;
    use crate::checkpoint::{WeightFile, write_atomic};

    #[test]
    fn newer_versions_and_other_text_are_refused() {
        let checked = |version: &str| {
            let mut metadata = BTreeMap::from([(FORMAT_KEY.to_owned(), version.to_owned())]);
            take(&mut metadata, Path::new("file")).map_err(|e| e.to_string())
        };
        assert_eq!(take(&mut BTreeMap::new(), Path::new("file")).unwrap(), None);
        assert_eq!((checked("1"), checked("2")), (Ok(Some(1)), Ok(Some(2))));
        let newer = checked(&(FORMAT_VERSION + 1).to_string()).unwrap_err();
        assert!(newer.starts_with("file: format version 3: ") && newer.contains("1 to 2"), "{newer}");
        for other in ["0", "", "-1", "2.0", "99999999999", "new"] {
            let error = checked(other).unwrap_err();
            assert!(error.contains(&format!("expected a version, got '{other}'")), "{error}");
        }
    }

    #[test]
    fn written_files_have_the_version() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let metadata = BTreeMap::from([(FORMAT_KEY.to_owned(), "1".to_owned())]);
        let tensor = HostTensor::f32(&[1], vec![0.0]).unwrap();
        write_atomic(&path, [("a", &tensor)], &metadata).unwrap();
        let file = WeightFile::open(&path).unwrap();
        assert_eq!((file.format_version(), file.metadata().len()), (Some(FORMAT_VERSION), 0));
    }
}
