//! Sets of weights in a file: the dictionaries that hold a module's tensors, under any key and behind wrappers.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::set_names::{Role, is_ema, role, unwrapped, wrapped_prefix_len};
use super::{LoadHints, WeightSet};
use crate::checkpoint::{SKIPPED, WeightFile, WeightView};
use crate::{Error, Result};

/// Number of sets that are considered.
const MAX_SETS: usize = 64;
/// Number of keys that an error lists.
const MAX_KEYS: usize = 8;
/// Key of the representation of a value that is not built.
const PLACEHOLDER: &str = "$python";

/// Names by which a module's tensors are recognised.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signature {
    /// Description of the module: `a KL-VAE`.
    pub description: &'static str,
    /// Beginning of the names of some of its weights, which no other module has.
    pub anchor: &'static str,
    /// First components of the names of all its tensors.
    pub modules: &'static [&'static str],
}

/// A set of weights in a file.
#[derive(Debug)]
struct Set {
    /// Beginning of its names, without wrappers: a key and a dot, or nothing.
    prefix: String,
    role: Role,
    /// Number of its tensors.
    tensors: usize,
}

/// Names of a file's tensors: without wrappers, and in the file.
type Names<'a> = Vec<(Cow<'a, str>, &'a str)>;

/// Returns whether the file holds a set of weights of the module, under `key` if it is given.
pub(super) fn holds(file: &WeightFile, signature: &Signature, key: Option<&str>) -> bool {
    !sets(&names(file, key), signature).is_empty()
}

/// Chooses the set of weights of a module: that of the hints, or else the EMA weights where there are any.
///
/// Returns `None` if the file holds no set.
///
/// # Errors
/// [`Error::Format`] if the file has no such set as the hints ask for, several that are equally good, or EMA weights that
/// are not understood; [`Error::Tensor`] if two tensors have one name without the wrappers.
pub(super) fn choose<'a>(
    file: &'a WeightFile,
    signature: &Signature,
    hints: &LoadHints,
) -> Result<Option<(WeightSet, WeightView<'a>)>> {
    let key = hints.key.as_deref();
    let names = names(file, key);
    let sets = sets(&names, signature);
    // An empty key stands for the top level.
    let eligible: Vec<&Set> = sets.iter().filter(|set| key != Some("") || set.prefix.is_empty()).collect();
    if eligible.is_empty() {
        return match key {
            Some(key) => Err(no_set_under(file, signature, key)),
            None => Ok(None),
        };
    }
    let unknown_average = unknown_average(file, &names, &sets);
    let has_average = unknown_average.is_some() || sets.iter().any(|set| set.role == Role::Ema);
    let weight_set = |set: &Set| match set.role {
        Role::Ema => WeightSet::Ema,
        _ if has_average || set.prefix.split('.').any(|part| part == "model") => WeightSet::Raw,
        _ => WeightSet::Single,
    };
    let of_kind =
        |wanted| -> Vec<&Set> { eligible.iter().copied().filter(|set| weight_set(set) == wanted).collect() };
    let found = match hints.weights {
        Some(wanted) => of_kind(wanted),
        None => match of_kind(WeightSet::Ema) {
            ema if !ema.is_empty() => ema,
            _ if unknown_average.is_none() || key.is_some() => eligible.clone(),
            _ => Vec::new(),
        },
    };
    if found.is_empty() {
        let held: BTreeSet<&str> = eligible.iter().map(|set| weight_set(set).describe()).collect();
        return Err(not_held(file, hints.weights, &held, unknown_average.as_deref()));
    }
    let set = best(file, signature, &found)?;
    Ok(Some((weight_set(set), view(file, signature, &names, &sets, set)?)))
}

/// The error for a file that holds no set of weights of any of the modules.
pub(super) fn not_found(file: &WeightFile, signatures: &[Signature]) -> Error {
    let either =
        |part: fn(&Signature) -> String| signatures.iter().map(part).collect::<Vec<_>>().join(" or ");
    let (description, tensors) = (either(|s| s.description.to_owned()), either(|s| format!("{}*", s.anchor)));
    let is_module = |part: &&str| signatures.iter().any(|s| s.modules.contains(part));
    let similar = names(file, None).into_iter().find_map(|(name, full)| {
        let parts: Vec<&str> = name.split('.').collect();
        let at = parts.iter().position(is_module).filter(|_| role(&name) != Role::Optimizer)?;
        Some((parts[..at].join("."), full))
    });
    let found = match (similar, instance(file.values(), "")) {
        (Some((key, name)), _) => {
            let place = if key.is_empty() { "at the top level".to_owned() } else { format!("under {key}") };
            format!("{name} looks like one of its tensors, but the others are not beside it {place}")
        }
        (None, Some((key, class))) => {
            format!(
                "{key} is an instance of {class}, which only Python code can build: save its state_dict()"
            )
        }
        (None, None) => format!("the file has {}", listed(file.top_level_keys())),
    };
    Error::format(file.path(), format!("expected {description}: tensors {tensors}, under any key; {found}"))
}

/// Names of a file's tensors, of those under `key` if it is given.
fn names<'a>(file: &'a WeightFile, key: Option<&str>) -> Names<'a> {
    let under = |name: &str, key: &str| {
        key.is_empty() || name.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'))
    };
    let all = file.entries().keys().map(|full| (unwrapped(full), full.as_str()));
    all.filter(|(name, full)| key.is_none_or(|key| under(full, key) || under(name, key))).collect()
}

/// Sets of weights of the module with the most tensors, without those of an optimiser's state.
fn sets(names: &Names<'_>, signature: &Signature) -> Vec<Set> {
    let mut counts: BTreeMap<&str, usize> =
        names.iter().filter_map(|(name, _)| Some((prefix(name, signature)?, 0))).collect();
    for (name, _) in names {
        let mut at = 0;
        for part in name.split('.') {
            if signature.modules.contains(&part)
                && let Some(count) = counts.get_mut(&name[..at])
            {
                *count += 1;
            }
            at += part.len() + 1;
        }
    }
    let sets = counts.into_iter().map(|(prefix, tensors)| Set {
        role: role(prefix),
        tensors,
        prefix: prefix.to_owned(),
    });
    let mut sets: Vec<Set> = sets.filter(|set| set.role != Role::Optimizer).collect();
    sets.sort_by_key(|set| std::cmp::Reverse(set.tensors));
    sets.truncate(MAX_SETS);
    sets
}

/// Part of `name` before the name of a weight of the module, if it is one.
fn prefix<'n>(name: &'n str, signature: &Signature) -> Option<&'n str> {
    if !(name.ends_with(".weight") || name.ends_with(".bias")) {
        return None;
    }
    let mut starts = name.match_indices(signature.anchor).map(|(at, _)| at);
    starts.find(|&at| at == 0 || name.as_bytes()[at - 1] == b'.').map(|at| &name[..at])
}

/// Key of EMA weights that are in none of the sets: a list, unknown names, or an object that is not read.
fn unknown_average(file: &WeightFile, names: &Names<'_>, sets: &[Set]) -> Option<String> {
    let in_set = |name: &str| sets.iter().any(|set| set.role == Role::Ema && name.starts_with(&set.prefix));
    let of_tensor = names.iter().find_map(|(name, full)| {
        let is_large = file.entries()[*full].shape().iter().product::<usize>() > 1;
        let at = name
            .match_indices('.')
            .map(|(at, _)| at)
            .find(|&at| is_ema(name[..at].rsplit('.').next().unwrap_or_default()))?;
        let is_unknown = is_large && !in_set(name) && role(name) != Role::Optimizer;
        is_unknown.then(|| name[..at].to_owned())
    });
    of_tensor.or_else(|| unread_average(file.values(), ""))
}

/// Key of an average among plain data that contains something that was not read.
fn unread_average(values: &serde_json::Map<String, Value>, path: &str) -> Option<String> {
    values.iter().find_map(|(key, value)| {
        let full = joined(path, key);
        if is_ema(key) && contains_unread(value) {
            return Some(full);
        }
        unread_average(value.as_object()?, &full)
    })
}

fn contains_unread(value: &Value) -> bool {
    match value {
        Value::String(text) => text == SKIPPED,
        Value::Array(items) => items.iter().any(contains_unread),
        Value::Object(items) => match items.get(PLACEHOLDER).and_then(Value::as_str) {
            Some(class) => !is_plain_class(class),
            None => items.values().any(contains_unread),
        },
        _ => false,
    }
}

/// Returns whether values of the class hold no weights: an element type or a device of torch, for example.
fn is_plain_class(class: &str) -> bool {
    let plain = ["torch.", "builtins.", "numpy.", "pathlib.", "collections.", "a ", "an ", "bytes"];
    plain.iter().any(|start| class.starts_with(start)) && !class.starts_with("torch.nn.")
}

/// An instance of a class among plain data, by its key and its class.
fn instance(values: &serde_json::Map<String, Value>, path: &str) -> Option<(String, String)> {
    values.iter().find_map(|(key, value)| {
        let (full, items) = (joined(path, key), value.as_object()?);
        match items.get(PLACEHOLDER).and_then(Value::as_str) {
            Some(class) => (!is_plain_class(class)).then(|| (full, class.to_owned())),
            None => instance(items, &full),
        }
    })
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The set with the most tensors.
fn best<'s>(file: &WeightFile, signature: &Signature, sets: &[&'s Set]) -> Result<&'s Set> {
    let most = sets.iter().map(|set| set.tensors).max().unwrap_or_default();
    let mut best = sets.iter().filter(|set| set.tensors == most);
    match (best.next(), best.next()) {
        (Some(set), None) => Ok(set),
        _ => {
            let keys = listed(sets.iter().filter(|set| set.tensors == most).map(|set| set.key()));
            let description = signature.description;
            let message = format!(
                "several sets of weights of {description}, under {keys}: choose one with the hint `key` (--key KEY)"
            );
            Err(Error::format(file.path(), message))
        }
    }
}

impl Set {
    /// Key of the dictionary that holds the set.
    fn key(&self) -> &str {
        match self.prefix.strip_suffix('.') {
            Some(key) => key,
            None => "\"\" (the top level)",
        }
    }
}

fn not_held(
    file: &WeightFile,
    wanted: Option<WeightSet>,
    held: &BTreeSet<&str>,
    unknown: Option<&str>,
) -> Error {
    let held = held.iter().copied().collect::<Vec<_>>().join(" and ");
    let message = match (wanted, unknown) {
        (None | Some(WeightSet::Ema), Some(key)) => format!(
            "{key} seems to hold EMA weights, but not under the names of the model's tensors: take the raw weights with \
             the hint `weights` (--weights raw), or rename its tensors"
        ),
        (Some(wanted), _) => format!("expected {}, the file has {held}", wanted.describe()),
        (None, None) => format!("expected a set of weights, the file has {held}"),
    };
    Error::format(file.path(), message)
}

fn no_set_under(file: &WeightFile, signature: &Signature, key: &str) -> Error {
    let description = signature.description;
    let held = sets(&names(file, None), signature);
    let elsewhere = match held.is_empty() {
        true => format!("the file has {}", listed(file.top_level_keys())),
        false => format!("the file has one under {}", listed(held.iter().map(Set::key))),
    };
    Error::format(file.path(), format!("no set of weights of {description} under the key {key}; {elsewhere}"))
}

/// Tensors of a set, under the names of the module's parameters. Other sets, the state of an optimiser, and what is not
/// behind the same wrappers may be under the same key.
fn view<'a>(
    file: &'a WeightFile,
    signature: &Signature,
    names: &Names<'a>,
    sets: &[Set],
    set: &Set,
) -> Result<WeightView<'a>> {
    let is_inner =
        |inner: &&Set| inner.prefix.len() > set.prefix.len() && inner.prefix.starts_with(&set.prefix);
    let inner: Vec<&Set> = sets.iter().filter(is_inner).collect();
    let of_set =
        || names.iter().filter_map(|(name, full)| Some((name, name.strip_prefix(&set.prefix)?, *full)));
    let first = |rest: &'_ str| -> usize { rest.find('.').unwrap_or(rest.len()) };
    let wrapped_prefix = |full: &'a str| &full[..wrapped_prefix_len(full, &set.prefix)];
    let own = of_set().filter(|(_, rest, _)| signature.modules.contains(&&rest[..first(rest)]));
    let wrapped_prefixes: BTreeSet<&str> = own.map(|(_, _, full)| wrapped_prefix(full)).collect();
    let mut found: BTreeMap<Cow<'a, str>, &'a str> = BTreeMap::new();
    for (name, rest, full) in of_set() {
        let is_other = inner.iter().any(|inner| name.starts_with(&inner.prefix))
            || !wrapped_prefixes.contains(wrapped_prefix(full))
            || (first(rest) < rest.len() && role(&rest[..first(rest)]) != Role::Weights);
        if is_other {
            continue;
        }
        let rest = match name {
            Cow::Borrowed(name) => Cow::Borrowed(&name[set.prefix.len()..]),
            Cow::Owned(_) => Cow::Owned(rest.to_owned()),
        };
        if let Some(other) = found.insert(rest, full) {
            return Err(Error::Tensor {
                path: file.path().to_owned(),
                tensor: full.to_owned(),
                expected: "a name of its own, apart from wrappers".to_owned(),
                got: format!("the name of {other}"),
            });
        }
    }
    Ok(file.view(found))
}

/// The first few of `keys`, separated by commas.
fn listed<'k>(keys: impl IntoIterator<Item = &'k str>) -> String {
    let mut keys = keys.into_iter();
    let shown: Vec<&str> = keys.by_ref().take(MAX_KEYS).collect();
    let more = if keys.next().is_some() { ", …" } else { "" };
    match shown.is_empty() {
        true => "no keys".to_owned(),
        false => format!("{}{more}", shown.join(", ")),
    }
}
