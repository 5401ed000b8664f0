//! Fuzz target of the settings of a training run: an input is a TOML document, and the argument of `--set`.
#![no_main]

use transdiff_fuzz::bounded;
use transdiff_run::presets;
use transdiff_run::settings::Layers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    bounded(text.len(), || {
        let mut layers = presets::layers("small").expect("a preset");
        let read = [layers.add_document(text, "input"), layers.add_assignment(text)];
        for error in read.into_iter().filter_map(Result::err) {
            assert!(!error.to_string().contains('\n'), "{error}");
        }
        // What was accepted has a meaning, and is read back equal.
        let settings = layers.resolve("input").expect("settings");
        let mut again = Layers::default();
        again.add_document(&settings.to_document(), "document").expect("a document");
        assert_eq!(again.resolve("document").expect("settings"), settings);
    });
});
