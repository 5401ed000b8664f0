//! The module tree of a crate, the names in it, and the imports that follow.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, UseTree, Visibility};

use crate::Result;

/// Re-exports that are followed for one name; more means that they form a circle.
const RE_EXPORTS: usize = 16;

/// The first import of one file by another.
#[derive(Clone)]
pub struct Import {
    pub from: usize,
    pub to: usize,
    pub line: usize,
    /// The path as it is written.
    pub path: String,
}

/// The modules of a crate; those inside a file belong to it.
pub struct Modules {
    files: Vec<PathBuf>,
    modules: Vec<Module>,
}

#[derive(Default)]
struct Module {
    /// Names from the root of the crate down.
    path: Vec<String>,
    parent: Option<usize>,
    file: usize,
    names: HashMap<String, Vec<Binding>>,
    /// Paths whose names are all imported.
    globs: Vec<Vec<String>>,
    references: Vec<Reference>,
}

enum Binding {
    Module(usize),
    Item,
    Import(Vec<String>),
}

struct Reference {
    path: Vec<String>,
    line: usize,
    re_export: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Target {
    Module(usize),
    /// An item that this module defines.
    ItemOf(usize),
}

impl Modules {
    /// Reads the file `root` and those of the modules that it declares.
    pub fn parse(root: &Path, read: &dyn Fn(&Path) -> Option<String>) -> Result<Self> {
        let mut modules = Self { files: Vec::new(), modules: Vec::new() };
        let folder = root.parent().ok_or("a crate has a folder")?.to_owned();
        let module = Module::default();
        Reader { modules: &mut modules, read, module: 0, folder, error: None }.file(root, module)?;
        Ok(modules)
    }

    /// The files, as [`Import`] counts them.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The modules that the root declares.
    pub fn top_level(&self) -> impl Iterator<Item = &str> {
        self.modules.iter().filter(|m| m.path.len() == 1).map(|m| m.path[0].as_str())
    }

    /// The top-level module that a file belongs to; none for the root.
    pub fn top_level_of(&self, file: usize) -> Option<&str> {
        let module = self.modules.iter().find(|m| m.file == file)?;
        module.path.first().map(String::as_str)
    }

    /// The first import of each file by each other.
    pub fn imports(&self) -> Vec<Import> {
        let mut found = BTreeMap::new();
        for (index, module) in self.modules.iter().enumerate() {
            for reference in &module.references {
                for target in self.resolve(index, &reference.path, 0) {
                    // A module is only the start of a path to what is meant.
                    let Target::ItemOf(definer) = target else { continue };
                    let definer = &self.modules[definer];
                    let own = reference.re_export && definer.path.starts_with(&module.path);
                    if own || definer.file == module.file {
                        continue;
                    }
                    found.entry((module.file, definer.file)).or_insert_with(|| Import {
                        from: module.file,
                        to: definer.file,
                        line: reference.line,
                        path: reference.path.join("::"),
                    });
                }
            }
        }
        found.into_values().collect()
    }

    /// Modules and items that `path` can mean in the module `from`; none for what other crates define.
    fn resolve(&self, from: usize, path: &[String], depth: usize) -> Vec<Target> {
        let Some((first, rest)) = path.split_first() else { return vec![Target::Module(from)] };
        if depth > RE_EXPORTS {
            return Vec::new();
        }
        let mut targets = match first.as_str() {
            "crate" => vec![Target::Module(0)],
            "self" => vec![Target::Module(from)],
            "super" => self.modules[from].parent.map(Target::Module).into_iter().collect(),
            name => self.named(from, name, depth),
        };
        for name in rest {
            let next = |target: &Target| match *target {
                Target::Module(m) if name == "super" => {
                    self.modules[m].parent.map(Target::Module).into_iter().collect()
                }
                Target::Module(m) => {
                    let found = self.named(m, name, depth);
                    // A name that no item carries comes from a macro.
                    if found.is_empty() && self.modules[m].file != self.modules[from].file {
                        vec![Target::ItemOf(m)]
                    } else {
                        found
                    }
                }
                // A variant or an associated item.
                item => vec![item],
            };
            targets = targets.iter().flat_map(next).collect();
        }
        targets
    }

    fn named(&self, module: usize, name: &str, depth: usize) -> Vec<Target> {
        let bindings = self.modules[module].names.get(name).into_iter().flatten();
        let mut targets = Vec::new();
        for binding in bindings {
            match binding {
                Binding::Module(child) => targets.push(Target::Module(*child)),
                Binding::Item => targets.push(Target::ItemOf(module)),
                Binding::Import(path) => targets.extend(self.resolve(module, path, depth + 1)),
            }
        }
        if targets.is_empty() && depth < RE_EXPORTS {
            for glob in &self.modules[module].globs {
                for target in self.resolve(module, glob, depth + 1) {
                    if let Target::Module(other) = target {
                        targets.extend(self.named(other, name, depth + 1));
                    }
                }
            }
        }
        targets
    }
}

/// Reads one file after another into the tree.
struct Reader<'a> {
    modules: &'a mut Modules,
    read: &'a dyn Fn(&Path) -> Option<String>,
    module: usize,
    /// The folder of the current module's children.
    folder: PathBuf,
    error: Option<String>,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, module: Module) -> Result {
        let text = (self.read)(path).ok_or_else(|| format!("{}: cannot be read", path.display()))?;
        let parsed = syn::parse_file(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        self.modules.files.push(path.to_owned());
        let file = self.modules.files.len() - 1;
        self.inside(Module { file, ..module }, &parsed.items)
    }

    /// Adds `module` with `items`.
    fn inside(&mut self, module: Module, items: &[Item]) -> Result {
        self.modules.modules.push(module);
        let outer = std::mem::replace(&mut self.module, self.modules.modules.len() - 1);
        for item in items.iter().filter(|item| !is_test(attributes(item))) {
            match item {
                Item::Mod(item) => self.child(item)?,
                item => {
                    if let Some(name) = name_of(item) {
                        self.bind(name, Binding::Item);
                    }
                    self.visit_item(item);
                }
            }
        }
        self.module = outer;
        self.error.take().map_or(Ok(()), |e| Err(e.into()))
    }

    fn child(&mut self, item: &ItemMod) -> Result {
        let name = item.ident.to_string();
        let parent = &self.modules.modules[self.module];
        let mut path = parent.path.clone();
        path.push(name.clone());
        let module = Module { path, parent: Some(self.module), file: parent.file, ..Module::default() };
        let index = self.modules.modules.len();
        self.bind(name.clone(), Binding::Module(index));
        let folder = self.folder.join(&name);
        let outer = std::mem::replace(&mut self.folder, folder);
        match &item.content {
            Some((_, items)) => self.inside(module, items)?,
            None => {
                let beside = outer.join(format!("{name}.rs"));
                let within = self.folder.join("mod.rs");
                let path = if (self.read)(&beside).is_some() { beside } else { within };
                self.file(&path, module)?;
            }
        }
        self.folder = outer;
        Ok(())
    }

    fn bind(&mut self, name: String, binding: Binding) {
        self.current().names.entry(name).or_default().push(binding);
    }

    fn current(&mut self) -> &mut Module {
        &mut self.modules.modules[self.module]
    }

    fn refer(&mut self, path: Vec<String>, line: usize, re_export: bool) {
        self.current().references.push(Reference { path, line, re_export });
    }

    /// Binds the names of a `use` and notes what it refers to.
    fn import(&mut self, tree: &UseTree, mut path: Vec<String>, re_export: bool) {
        let line = tree.span().start().line;
        match tree {
            UseTree::Path(part) => {
                path.push(part.ident.to_string());
                self.import(&part.tree, path, re_export);
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.import(tree, path.clone(), re_export));
            }
            UseTree::Glob(_) => self.current().globs.push(path),
            UseTree::Name(leaf) => self.import_as(path, leaf.ident.to_string(), None, line, re_export),
            UseTree::Rename(leaf) => {
                self.import_as(path, leaf.ident.to_string(), Some(leaf.rename.to_string()), line, re_export);
            }
        }
    }

    fn import_as(
        &mut self,
        mut path: Vec<String>,
        name: String,
        rename: Option<String>,
        line: usize,
        re_export: bool,
    ) {
        if name != "self" {
            path.push(name);
        }
        let bound = rename.or_else(|| path.last().cloned()).unwrap_or_default();
        if path.len() > 1 || path.first() != Some(&bound) {
            self.bind(bound, Binding::Import(path.clone()));
        }
        self.refer(path, line, re_export);
    }

    /// Notes paths among the tokens of a macro's arguments or definition.
    fn tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is = |i: usize, c: char| matches!(tokens.get(i), Some(TokenTree::Punct(p)) if p.as_char() == c);
        let mut i = 0;
        while i < tokens.len() {
            match &tokens[i] {
                TokenTree::Group(group) => self.tokens(group.stream()),
                TokenTree::Ident(first) => {
                    // In the middle of a path that starts with something else, or a method.
                    let follows = i > 0 && (is(i - 1, ':') && i > 1 && is(i - 2, ':') || is(i - 1, '.'));
                    let mut path = vec![first.to_string()];
                    while is(i + 1, ':') && is(i + 2, ':') {
                        let Some(TokenTree::Ident(next)) = tokens.get(i + 3) else { break };
                        path.push(next.to_string());
                        i += 3;
                    }
                    if path.len() > 1 && !follows {
                        self.refer(path, first.span().start().line, false);
                    }
                }
                _ => {}
            }
            i += 1;
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if item.leading_colon.is_none() {
            self.import(&item.tree, Vec::new(), !matches!(item.vis, Visibility::Inherited));
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
            self.refer(names, path.span().start().line, false);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        visit::visit_macro(self, mac);
        self.tokens(mac.tokens.clone());
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        self.error.get_or_insert_with(|| format!("module {} is inside a function", item.ident));
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

/// True for an item that only tests or documentation tests compile.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        let tokens = list.tokens.to_string();
        attribute.path().is_ident("cfg")
            && (tokens == "test" || tokens == "doctest" || tokens.starts_with("all (test"))
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// The name that an item defines in its module.
fn name_of(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}
