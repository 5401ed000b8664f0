//! The fuzzer's corpus of settings, `fuzz/corpus/settings`: documents and arguments are taken or rejected as their names say.

use std::path::Path;

use transdiff_run::presets;
use transdiff_run::settings::Layers;

/// Files that are accepted as documents, and as arguments of `--set`.
const DOCUMENTS: [&str; 5] = ["dotted_keys", "empty", "inline_tables", "text_with_escapes", "valid"];
const ASSIGNMENTS: [&str; 4] =
    ["assignment", "assignment_of_a_date", "assignment_of_a_list", "assignment_of_text"];

#[test]
fn corpus_is_accepted_or_rejected_as_named() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/settings");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let mut layers = presets::layers("small").unwrap();
        let [document, assignment] = [layers.add_document(&text, "input"), layers.add_assignment(&text)];
        for error in [&document, &assignment].into_iter().filter_map(|read| read.as_ref().err()) {
            assert!(!error.to_string().contains('\n'), "{name}: {error}");
        }
        // `dotted_keys` and the like are no arguments of `--set`, and an argument may be a document.
        assert!(document.is_ok() || !DOCUMENTS.contains(&&*name), "{name}: {document:?}");
        assert_eq!(assignment.is_ok(), ASSIGNMENTS.contains(&&*name), "{name}: {assignment:?}");
        let known = DOCUMENTS.iter().chain(&ASSIGNMENTS).any(|known| *known == name);
        assert!(known || document.is_err(), "{name}");
        let settings = layers.resolve("input").unwrap();
        let mut again = Layers::default();
        again.add_document(&settings.to_document(), "document").unwrap();
        assert_eq!(again.resolve("document").unwrap(), settings, "{name}");
        files += 1;
    }
    assert!(files > DOCUMENTS.len() + ASSIGNMENTS.len());
}
