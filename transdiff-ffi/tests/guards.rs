//! Source check that the body of every exported function is guarded, so that no panic reaches the caller's frames.

use std::path::Path;

/// Names and bodies of the exported functions in a source file.
fn exported(source: &str) -> Vec<(String, String)> {
    let marked = source.split("#[unsafe(no_mangle)]").skip(1);
    let function = |text: &str| {
        let after = text.split_once(" fn ").expect("a function follows").1;
        let name = after.split_once('(').expect("it has arguments").0;
        // Formatted sources close a function in the first column.
        let body = after.split_once("{\n").expect("it has a body").1;
        (name.to_owned(), body.split_once("\n}").expect("it ends").0.to_owned())
    };
    marked.map(function).collect()
}

/// Returns whether a body only defines closures and runs the last one in a guard.
fn is_guarded(body: &str) -> bool {
    let rest = match body.trim_start().strip_prefix("let body = || {") {
        // A closure's braces close at its own indentation.
        Some(closure) => closure.split_once("\n    };").expect("the closure ends").1,
        None => body,
    };
    let lines = rest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    let mut code = lines.skip_while(|line| line.starts_with("if !") || line.starts_with("let bytes = || "));
    let first = code.next().unwrap_or_default();
    let first = first.strip_prefix("unsafe { ").unwrap_or(first);
    first.starts_with("guard(") || first.starts_with("guard_value(") || first.starts_with("text(")
}

#[test]
fn every_exported_function_is_guarded() {
    let crate_root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(crate_root.join("src")).unwrap() {
        let path = entry.unwrap().path();
        for (name, body) in exported(&std::fs::read_to_string(&path).unwrap()) {
            assert!(is_guarded(&body), "{name} in {} is not guarded:\n{body}", path.display());
            names.push(name);
        }
    }
    names.sort();
    let listed = std::fs::read_to_string(crate_root.join("../include/transcdiff.symbols")).unwrap();
    assert_eq!(names, listed.lines().collect::<Vec<_>>(), "every symbol was checked");
}

/// Accessors of error texts delegate to `text`, whose body is checked here.
#[test]
fn error_text_accessor_is_guarded() {
    let source = include_str!("../src/status.rs");
    let body = source.split_once("unsafe fn text(").unwrap().1.split_once("{\n").unwrap().1;
    assert!(is_guarded(body.split_once("\n}").unwrap().0));
}

#[test]
fn unguarded_bodies_are_detected() {
    for body in
        ["    1", "    let x = f();\n    guard(error, body)", "    let body = || {\n    };\n    body()"]
    {
        assert!(!is_guarded(body), "{body}");
    }
    assert!(is_guarded(
        "    let body = || {\n        f()\n    };\n    // SAFETY: so.\n    unsafe { guard(error, body) }"
    ));
}
