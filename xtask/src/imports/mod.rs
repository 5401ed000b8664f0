//! Imports between the files of a crate: no cycles anywhere, and in `transdiff-core` a fixed order of layers.
//!
//! An import is a `use` or a path in an expression or type, resolved to the file that defines the name: a re-export
//! (`pub use child::Name`) is looked through. Test code is ignored, and so are a parent's own `mod` and `pub use` lines.

mod cycles;
mod layers;
mod modules;

use std::fs;
use std::path::Path;

use crate::Result;
use modules::{Import, Modules};

/// Roots of the crates that are checked.
const ROOTS: [&str; 10] = [
    "transdiff-core/src/lib.rs",
    "transdiff-cpu/src/lib.rs",
    "transdiff-cuda/src/lib.rs",
    "src/lib.rs",
    "transdiff-ffi/src/lib.rs",
    "transdiff-cli/src/main.rs",
    "transdiff-run/src/lib.rs",
    "transdiff-data/src/lib.rs",
    "transdiff-terminal/src/lib.rs",
    "transdiff-mpi/src/lib.rs",
];
/// The root whose modules are ordered by [`layers`].
const LAYERED: &str = ROOTS[0];

/// Fails after printing every import cycle and every import that points up.
pub fn check() -> Result {
    let read = |path: &Path| fs::read_to_string(path).ok();
    let mut findings = Vec::new();
    for root in ROOTS {
        let found = findings_of(root, &read)?;
        println!("{root}: {}", if found.is_empty() { "no finding".into() } else { counted(found.len()) });
        findings.extend(found);
    }
    findings.iter().for_each(|finding| println!("\n{finding}"));
    if findings.is_empty() { Ok(()) } else { Err(counted(findings.len()).into()) }
}

fn counted(findings: usize) -> String {
    format!("{findings} finding{}", if findings == 1 { "" } else { "s" })
}

/// Cycles, and for the layered crate imports that point up, of the crate with the root file `root`.
fn findings_of(root: &str, read: &dyn Fn(&Path) -> Option<String>) -> Result<Vec<String>> {
    let modules = Modules::parse(Path::new(root), read)?;
    let imports = modules.imports();
    let mut findings: Vec<String> =
        cycles::components(modules.files().len(), &imports).iter().map(|c| describe(&modules, c)).collect();
    if root == LAYERED {
        findings.extend(layers::violations(&modules, &imports));
    }
    Ok(findings)
}

fn describe(modules: &Modules, component: &cycles::Component<'_>) -> String {
    let name = |file: usize| modules.files()[file].display();
    let mut text = format!("import cycle among {} files; the shortest path:", component.files.len());
    for import in &component.example {
        text += &format!("\n  {} imports {} from {}", place(modules, import), import.path, name(import.to));
    }
    let others = component.files.iter().filter(|file| component.example.iter().all(|i| i.from != **file));
    let others: Vec<String> = others.map(|&file| name(file).to_string()).collect();
    if !others.is_empty() {
        text += &format!("\n  also in this component: {}", others.join(", "));
    }
    text
}

/// The file and line of an import.
fn place(modules: &Modules, import: &Import) -> String {
    format!("{}:{}", modules.files()[import.from].display(), import.line)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings of a crate given as (path, text) pairs.
    fn findings(root: &str, files: &[(&str, &str)]) -> Vec<String> {
        let read = |path: &Path| {
            let text = files.iter().find(|(name, _)| Path::new(name) == path)?.1;
            Some(text.to_owned())
        };
        findings_of(root, &read).unwrap()
    }

    #[test]
    fn cycle_of_two_files_is_reported() {
        let files = [
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "use crate::b::B;\npub struct A(B);"),
            ("src/b.rs", "\npub struct B;\nfn f() { crate::a::g::<u8>() }"),
        ];
        let found = findings("src/lib.rs", &files);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("src/a.rs:1 imports crate::b::B from src/b.rs"), "{}", found[0]);
        assert!(found[0].contains("src/b.rs:3 imports crate::a::g from src/a.rs"), "{}", found[0]);
    }

    #[test]
    fn cycle_through_a_child_is_reported() {
        let files = [
            ("src/lib.rs", "pub mod parent;"),
            ("src/parent/mod.rs", "mod child; use child::f; pub struct P; fn g() { f() }"),
            ("src/parent/child.rs", "use super::P; pub fn f() -> P { P }"),
        ];
        assert_eq!(findings("src/lib.rs", &files).len(), 1);
    }

    #[test]
    fn re_exports_are_no_imports() {
        let files = [
            ("src/lib.rs", "mod a; mod parent; pub use parent::{Renamed, P};"),
            ("src/a.rs", "use crate::Renamed; fn f(_: Renamed) {}"),
            (
                "src/parent/mod.rs",
                "mod child; mod other; pub use child::C as Renamed; pub use other::*; pub struct P;",
            ),
            ("src/parent/child.rs", "use super::{P, O}; pub struct C(P, O);"),
            ("src/parent/other.rs", "use super::P; pub struct O(P);"),
        ];
        assert_eq!(findings("src/lib.rs", &files), Vec::<String>::new());
    }

    #[test]
    fn re_exports_resolve_to_the_defining_file() {
        let files = [
            ("src/lib.rs", "mod a; mod parent;"),
            ("src/a.rs", "use crate::parent; fn f() { parent::C::new() } pub struct A;"),
            ("src/parent/mod.rs", "mod child; pub use child::C;"),
            ("src/parent/child.rs", "use crate::a::A; pub struct C(A);"),
        ];
        let found = findings("src/lib.rs", &files);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("imports parent::C::new from src/parent/child.rs"), "{}", found[0]);
    }

    #[test]
    fn macro_arguments_are_read() {
        let files = [
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "use crate::b::B; pub fn f(_: B) {}"),
            ("src/b.rs", "pub struct B; fn g() { println!(\"{}\", crate::a::f(B)) }"),
        ];
        assert_eq!(findings("src/lib.rs", &files).len(), 1);
    }

    #[test]
    fn tests_and_local_names_are_ignored() {
        let files = [
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", "use crate::b::B; pub fn f(b: B) { b.a() }"),
            (
                "src/b.rs",
                "pub struct B; fn g() { let a = 1; drop(a) } #[cfg(test)] mod tests { use crate::a::f; }",
            ),
        ];
        assert_eq!(findings("src/lib.rs", &files), Vec::<String>::new());
    }

    #[test]
    fn import_of_a_higher_layer_is_reported() {
        let files = [
            (LAYERED, "pub mod error; pub mod tensor; pub mod nn;"),
            ("transdiff-core/src/error.rs", "pub struct Error;"),
            ("transdiff-core/src/tensor.rs", "use crate::error::Error;\nuse crate::nn::Linear;"),
            ("transdiff-core/src/nn.rs", "pub struct Linear;"),
        ];
        let found = findings(LAYERED, &files);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("transdiff-core/src/tensor.rs:2"), "{}", found[0]);
    }

    #[test]
    fn module_without_a_layer_is_reported() {
        let found =
            findings(LAYERED, &[(LAYERED, "mod unheard_of;"), ("transdiff-core/src/unheard_of.rs", "")]);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("unheard_of"), "{}", found[0]);
    }
}
