//! Meaning of the calls in a pickle: constructors of containers and tensors, recognised by name. No Python code runs; the
//! result of any other constructor is known by the constructor's name alone, and by the items that were added to it.

use super::super::errors::Mismatch;
use super::value::{Call, PickleValue, Result, ValueId, ValueTable};

/// Number of functions around the one that builds a tensor.
const MAX_WRAPPERS: usize = 4;

/// Meaning of a value.
pub(super) enum Meaning<'t> {
    /// None, a number, a string, or another value without items.
    Plain(&'t PickleValue),
    /// A list, a tuple or a set: items from two places.
    List([&'t [ValueId]; 2]),
    /// A dictionary.
    Dict(Dict<'t>),
    /// A tensor.
    Tensor(TensorCall),
    /// A class, a function, or an instance that is not built, by the value of its class.
    Named(ValueId),
}

/// Items of a dictionary, from three places.
#[derive(Clone, Copy, Default)]
pub(super) struct Dict<'t> {
    /// Lists of a key and a value.
    lists: &'t [ValueId],
    initial: &'t [(ValueId, ValueId)],
    added: &'t [(ValueId, ValueId)],
}

/// Call of a function that builds a tensor.
#[derive(Clone, Copy)]
pub(super) struct TensorCall {
    pub call: Call,
    /// State of the function's result.
    pub state: Option<ValueId>,
    /// State that a function around it was given, which may replace the values.
    pub outer_state: Option<ValueId>,
}

impl<'t> Dict<'t> {
    /// Keys and values. A list that is not one of a key and a value is left out.
    pub fn items(self, table: &'t ValueTable<'_>) -> impl Iterator<Item = (ValueId, ValueId)> + 't {
        let lists = self.lists.iter().filter_map(|&id| match table.items(id) {
            Ok(&[key, value]) => Some((key, value)),
            _ => None,
        });
        lists.chain(self.initial.iter().copied()).chain(self.added.iter().copied())
    }
}

/// Returns the meaning of the value `id`.
pub(super) fn meaning<'t>(table: &'t ValueTable<'_>, id: ValueId) -> Meaning<'t> {
    let (call, state, items, added) = match table.get(id) {
        PickleValue::Short(..) | PickleValue::Tuple(_) | PickleValue::List(_) => {
            return Meaning::List([table.items(id).unwrap_or_default(), &[]]);
        }
        PickleValue::Dict(pairs) => return Meaning::Dict(Dict { added: &pairs.0, ..Dict::default() }),
        PickleValue::Global { .. } => return Meaning::Named(id),
        PickleValue::Call(call) => (*call, None, [].as_slice(), [].as_slice()),
        PickleValue::Object(o) => (o.call, o.state, o.items.0.as_slice(), o.pairs.0.as_slice()),
        plain => return Meaning::Plain(plain),
    };
    let pairs = |id: ValueId| match table.get(id) {
        PickleValue::Dict(pairs) => pairs.0.as_slice(),
        _ => &[],
    };
    let list = |id: ValueId| table.items(id).unwrap_or_default();
    let arguments = list(call.arguments);
    match (table.global(call.callee), arguments) {
        (Some(("collections", "OrderedDict" | "Counter")), &[first]) => {
            Meaning::Dict(Dict { lists: list(first), initial: pairs(first), added })
        }
        (Some(("collections", "OrderedDict" | "Counter" | "defaultdict")), _) => {
            Meaning::Dict(Dict { added, ..Dict::default() })
        }
        // Protocol 1: the class, the class from which it inherits items, and the items.
        (Some(("copyreg" | "copy_reg", "_reconstructor")), &[_, _, first]) if !pairs(first).is_empty() => {
            Meaning::Dict(Dict { initial: pairs(first), added, ..Dict::default() })
        }
        (Some(("argparse", "Namespace") | ("types", "SimpleNamespace")), _) => {
            Meaning::Dict(Dict { initial: state.map_or(&[], pairs), added, ..Dict::default() })
        }
        (
            Some(
                ("torch", "Size")
                | ("collections", "deque")
                | ("builtins" | "__builtin__", "set" | "frozenset"),
            ),
            &[first, ..],
        ) => Meaning::List([list(first), items]),
        _ => match tensor_call(table, call, state) {
            Some(tensor) => Meaning::Tensor(tensor),
            // An instance of a subclass of dict or list.
            None if !added.is_empty() => Meaning::Dict(Dict { added, ..Dict::default() }),
            None if !items.is_empty() => Meaning::List([&[], items]),
            None => Meaning::Named(class(table, call)),
        },
    }
}

/// Class of an instance that a call builds, or the function that builds it.
fn class(table: &ValueTable<'_>, call: Call) -> ValueId {
    match (table.global(call.callee), table.items(call.arguments)) {
        (Some(("copyreg" | "copy_reg", "_reconstructor")), Ok(&[class, ..])) => class,
        _ => call.callee,
    }
}

/// Returns the call that builds a tensor, inside of the functions that make a parameter or an instance of a subclass of it.
fn tensor_call(table: &ValueTable<'_>, mut call: Call, mut state: Option<ValueId>) -> Option<TensorCall> {
    let mut outer_state = None;
    for _ in 0..MAX_WRAPPERS {
        let arguments = table.items(call.arguments).ok()?;
        match (table.global(call.callee)?, arguments) {
            (("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state"), &[tensor, ..]) => {
                outer_state = outer_state.or(state);
                (call, state) = match table.get(tensor) {
                    PickleValue::Call(call) => (*call, None),
                    PickleValue::Object(object) => (object.call, object.state),
                    _ => return None,
                };
            }
            // A subclass of torch.Tensor: the function that builds it, the class, and the function's arguments.
            (
                ("torch._tensor" | "torch.tensor", "_rebuild_from_type_v2" | "_rebuild_from_type"),
                &[callee, _, arguments, ..],
            ) => {
                outer_state = outer_state.or(state);
                (call, state) = (Call { callee, arguments }, None);
            }
            (
                (
                    "torch._utils",
                    "_rebuild_tensor"
                    | "_rebuild_tensor_v2"
                    | "_rebuild_tensor_v3"
                    | "_rebuild_device_tensor_from_numpy",
                )
                | ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct")
                | ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer"),
                _,
            ) => return Some(TensorCall { call, state, outer_state }),
            _ => return None,
        }
    }
    None
}

/// Returns the name of the class or function `id`, with its module.
pub(super) fn name(table: &ValueTable<'_>, id: ValueId) -> Option<String> {
    table.global(id).map(|(module, name)| format!("{module}.{name}"))
}

/// Returns the fields of an instance, if its state is a dictionary.
pub(super) fn field_names<'t>(table: &'t ValueTable<'_>, id: ValueId) -> impl Iterator<Item = &'t str> {
    let fields = match table.get(id) {
        PickleValue::Object(object) => object.state.map(|state| meaning(table, state)),
        _ => None,
    };
    let items = match fields {
        Some(Meaning::Dict(dict)) => Some(dict.items(table)),
        _ => None,
    };
    items.into_iter().flatten().filter_map(|(key, _)| table.text(key).ok())
}

/// Returns the bytes that a value stands for: bytes, or the text that stands for them in protocols before 3.
pub(super) enum BytesValue {
    Plain(super::value::Span),
    /// One byte per character, in UTF-8.
    Latin1(super::value::Span),
    Empty,
}

impl BytesValue {
    /// Returns the bytes of the value `id`.
    pub fn of(table: &ValueTable<'_>, id: ValueId) -> Result<Self, Mismatch> {
        let value = table.get(id);
        if let PickleValue::Bytes(span) = value {
            return Ok(Self::Plain(*span));
        }
        let call = table
            .call(id)
            .and_then(|call| Some((table.global(call.callee)?, table.items(call.arguments).ok()?)));
        match call {
            Some((("_codecs", "encode"), &[text, ..])) => match table.get(text) {
                PickleValue::Text(span) => Ok(Self::Latin1(*span)),
                other => Err(super::value::mismatch("a string", other)),
            },
            Some((("builtins" | "__builtin__", "bytes" | "bytearray"), [])) => Ok(Self::Empty),
            Some((("builtins" | "__builtin__", "bytearray"), &[bytes, ..])) if bytes < id => {
                Self::of(table, bytes)
            }
            _ => Err(super::value::mismatch("bytes", value)),
        }
    }
}
