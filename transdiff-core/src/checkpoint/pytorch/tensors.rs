//! Tensors in a pickle: the arguments of the functions that build them, and their elements in the file.

use ::safetensors::tensor::Dtype;

use super::super::entry::{Entry, MAX_RANK};
use super::super::errors::Mismatch;
use super::super::strided::Strided;
use super::reducers::{BytesValue, Meaning, TensorCall, meaning, name};
use super::value::{PickleValue, Span, ValueId, ValueTable, mismatch};
use super::zip::Archive;

/// Description of a tensor.
pub(super) struct Tensor<'p> {
    dtype: Dtype,
    shape: Vec<usize>,
    strides: Vec<usize>,
    offset: usize,
    /// `true` if the elements are the negatives of those that are stored.
    negated: bool,
    elements: Elements<'p>,
}

/// Place of a tensor's elements.
enum Elements<'p> {
    /// The archive's entry of this name under `data/`, which has this many bytes.
    Storage { key: &'p str, bytes: Option<usize> },
    /// A part of the pickle, perhaps as text of one character per byte.
    Pickle { span: Span, latin1: bool },
}

/// Reasons why a tensor has no entry of its type and shape.
pub(super) enum Unreadable {
    /// It is of a kind that is not read, with a description.
    Placeholder(String),
    /// It is wrong: reading it fails.
    Invalid(Mismatch),
}

impl From<Mismatch> for Unreadable {
    fn from(mismatch: Mismatch) -> Self {
        Self::Invalid(mismatch)
    }
}

type Result<T, E = Unreadable> = std::result::Result<T, E>;

/// Describes the tensor that a call builds. Whatever changes its values is honoured or makes it unreadable.
pub(super) fn describe<'p>(table: &ValueTable<'p>, tensor: TensorCall) -> Result<Tensor<'p>> {
    check_state(table, tensor.outer_state)?;
    let arguments = table.items(tensor.call.arguments)?;
    let (module, function) = table.global(tensor.call.callee).unwrap_or_default();
    if module.starts_with("numpy") {
        return array(table, function, arguments, tensor.state);
    }
    check_state(table, tensor.state)?;
    match (function, arguments) {
        ("_rebuild_tensor_v3", &[storage, offset, shape, strides, _, _, dtype, ..]) => {
            let (_, key, bytes) = self::storage(table, storage)?;
            let metadata = arguments.get(7).copied();
            let elements = Elements::Storage { key, bytes };
            view(table, torch_dtype(table, dtype)?, elements, [offset, shape, strides], metadata)
        }
        ("_rebuild_tensor" | "_rebuild_tensor_v2", &[storage, offset, shape, strides, ..]) => {
            let (dtype, key, bytes) = self::storage(table, storage)?;
            let elements = Elements::Storage { key, bytes };
            view(table, dtype, elements, [offset, shape, strides], arguments.get(6).copied())
        }
        ("_rebuild_device_tensor_from_numpy", &[array, dtype, ..]) => {
            let Meaning::Tensor(array) = meaning(table, array) else {
                return Err(mismatch("a tensor of a numpy array", table.get(array)).into());
            };
            // An array in an array has no elements, so that this goes no deeper.
            if !table.global(array.call.callee).is_some_and(|(module, _)| module.starts_with("numpy")) {
                return Err(mismatch("a tensor of a numpy array", "one of a tensor").into());
            }
            let tensor = describe(table, array)?;
            let dtype = torch_dtype(table, dtype)?;
            if tensor.dtype != dtype {
                return Err(mismatch(&format!("an array of {dtype}"), tensor.dtype).into());
            }
            Ok(tensor)
        }
        _ => {
            let got = format!("{} arguments", arguments.len());
            Err(mismatch(&format!("the arguments of {function}"), got).into())
        }
    }
}

/// Checks that the state given to a tensor does not replace its values. One of four or five values does; others hold
/// attributes.
fn check_state(table: &ValueTable<'_>, state: Option<ValueId>) -> Result<(), Mismatch> {
    let Some(state) = state else { return Ok(()) };
    match table.get(state) {
        PickleValue::None | PickleValue::Dict(_) | PickleValue::Short(2 | 3, _) => Ok(()),
        other => Err(mismatch(
            "a tensor without a state that replaces its values",
            format!("{other} as its state"),
        )),
    }
}

/// Type, name and length in bytes of the storage described by a tuple: "storage", class, name, device, number of
/// elements.
fn storage<'p>(table: &ValueTable<'p>, id: ValueId) -> Result<(Dtype, &'p str, Option<usize>)> {
    let &PickleValue::Storage(description) = table.get(id) else {
        return Err(mismatch("a storage", table.get(id)).into());
    };
    let &[kind, class, key, _device, elements, ..] = table.items(description)? else {
        let got = format!("{} values", table.items(description)?.len());
        return Err(mismatch("a storage described by 5 values", got).into());
    };
    match table.text(kind)? {
        "storage" => {}
        other => return Err(mismatch("a storage", other).into()),
    }
    let Some(global) = table.global(class) else {
        return Err(mismatch("the class of a storage", table.get(class)).into());
    };
    let Some(dtype) = storage_dtype(global) else {
        return Err(Unreadable::Placeholder(format!("{}.{}", global.0, global.1)));
    };
    let bytes = table.count(elements)?.checked_mul(dtype.bitsize() / 8);
    Ok((dtype, table.text(key)?, bytes))
}

fn storage_dtype((module, name): (&str, &str)) -> Option<Dtype> {
    if !matches!(module, "torch" | "torch.storage" | "torch.cuda") {
        return None;
    }
    Some(match name {
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" | "UntypedStorage" => Dtype::U8,
        "BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}

/// Element type that a value such as `torch.float32` names.
fn torch_dtype(table: &ValueTable<'_>, id: ValueId) -> Result<Dtype> {
    let Some(("torch", dtype)) = table.global(id) else {
        return Err(mismatch("an element type", table.get(id)).into());
    };
    Ok(match dtype {
        "float32" | "float" => Dtype::F32,
        "float64" | "double" => Dtype::F64,
        "float16" | "half" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "int64" | "long" => Dtype::I64,
        "int32" | "int" => Dtype::I32,
        "int16" | "short" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint8" => Dtype::U8,
        "uint16" => Dtype::U16,
        "uint32" => Dtype::U32,
        "uint64" => Dtype::U64,
        "bool" => Dtype::BOOL,
        other => return Err(Unreadable::Placeholder(format!("torch.{other}"))),
    })
}

/// A view of a storage at an offset, with a shape and strides.
fn view<'p>(
    table: &ValueTable<'p>,
    dtype: Dtype,
    elements: Elements<'p>,
    [offset, shape, strides]: [ValueId; 3],
    metadata: Option<ValueId>,
) -> Result<Tensor<'p>> {
    let (shape, strides) = (sizes(table, shape)?, sizes(table, strides)?);
    if shape.len() != strides.len() {
        let (axes, got) = (shape.len(), strides.len());
        return Err(mismatch(&format!("{axes} strides for {axes} sizes"), got).into());
    }
    let negated = negated(table, metadata)?;
    if negated && matches!(dtype, Dtype::BOOL | Dtype::U8 | Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64)
    {
        return Err(mismatch("negated elements of a floating-point type", dtype).into());
    }
    Ok(Tensor { dtype, shape, strides, offset: table.count(offset)?, negated, elements })
}

fn sizes(table: &ValueTable<'_>, id: ValueId) -> Result<Vec<usize>> {
    let Meaning::List([items, []]) = meaning(table, id) else {
        return Err(mismatch("a tuple or list", table.get(id)).into());
    };
    if items.len() > MAX_RANK {
        return Err(Unreadable::Placeholder(format!("a tensor of more than {MAX_RANK} axes")));
    }
    Ok(items.iter().map(|&id| table.count(id)).collect::<Result<_, _>>()?)
}

/// Returns whether the properties of a tensor negate its values. Other properties that are set are refused.
fn negated(table: &ValueTable<'_>, metadata: Option<ValueId>) -> Result<bool, Mismatch> {
    const EXPECTED: &str = "a tensor without properties that change its values, other than neg";
    let Some(metadata) = metadata else { return Ok(false) };
    let dict = match meaning(table, metadata) {
        Meaning::Plain(PickleValue::None) => return Ok(false),
        Meaning::Dict(dict) => dict,
        _ => return Err(mismatch(EXPECTED, table.get(metadata))),
    };
    let mut negated = false;
    for (key, value) in dict.items(table) {
        match (table.text(key), table.get(value)) {
            (_, PickleValue::None | PickleValue::Bool(false)) => {}
            (Ok("neg"), PickleValue::Bool(true)) => negated = true,
            (Ok(key), value) => return Err(mismatch(EXPECTED, format!("{key}: {value}"))),
            (Err(_), _) => return Err(mismatch(EXPECTED, table.get(key))),
        }
    }
    Ok(negated)
}

/// A numpy array: from its state, or from a buffer.
fn array<'p>(
    table: &ValueTable<'p>,
    function: &str,
    arguments: &[ValueId],
    state: Option<ValueId>,
) -> Result<Tensor<'p>> {
    let (shape, dtype, fortran, data) = match (function, arguments, state) {
        ("_frombuffer", &[data, dtype, shape, order], None) => {
            (shape, dtype, table.text(order)? == "F", data)
        }
        ("_reconstruct", _, Some(state)) => match *table.items(state)? {
            [_, shape, dtype, fortran, data] | [shape, dtype, fortran, data] => {
                let is_true = |id| match table.get(id) {
                    PickleValue::Bool(value) => *value,
                    PickleValue::Int(value) => *value != 0,
                    _ => false,
                };
                (shape, dtype, is_true(fortran), data)
            }
            _ => return Err(mismatch("an array with a state of 5 values", "another state").into()),
        },
        _ => return Err(mismatch("the state of a numpy array", "none").into()),
    };
    let dtype = numpy_dtype(table, dtype)?;
    let shape = sizes(table, shape)?;
    let strides = array_strides(&shape, fortran);
    let elements = match BytesValue::of(table, data)? {
        BytesValue::Plain(span) => Elements::Pickle { span, latin1: false },
        BytesValue::Latin1(span) => Elements::Pickle { span, latin1: true },
        BytesValue::Empty => Elements::Pickle { span: Span { start: 0, len: 0 }, latin1: false },
    };
    Ok(Tensor { dtype, shape, strides, offset: 0, negated: false, elements })
}

/// Strides of an array whose last axis (C) or first axis (Fortran) varies fastest. They do not matter where they overflow:
/// the shape is refused then.
fn array_strides(shape: &[usize], fortran: bool) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    let mut step: usize = 1;
    for i in 0..shape.len() {
        let axis = if fortran { i } else { shape.len() - 1 - i };
        strides[axis] = step;
        step = step.saturating_mul(shape[axis]);
    }
    strides
}

/// Element type of a numpy array: a call of `numpy.dtype` with a code, and a state with the byte order.
fn numpy_dtype(table: &ValueTable<'_>, id: ValueId) -> Result<Dtype> {
    const EXPECTED: &str = "a little-endian element type of numpy";
    let call = table.call(id).filter(|call| table.global(call.callee) == Some(("numpy", "dtype")));
    let Some(call) = call else { return Err(mismatch(EXPECTED, table.get(id)).into()) };
    let &[code, ..] = table.items(call.arguments)? else {
        return Err(mismatch(EXPECTED, "numpy.dtype()").into());
    };
    let code = table.text(code)?;
    let order = match table.get(id) {
        PickleValue::Object(object) => {
            object.state.and_then(|state| table.text(*table.items(state).ok()?.get(1)?).ok())
        }
        _ => None,
    };
    if order == Some(">") || code.starts_with('>') {
        return Err(mismatch(EXPECTED, format!("a big-endian {code}")).into());
    }
    Ok(match code.trim_start_matches(['<', '=', '|']) {
        "f4" => Dtype::F32,
        "f8" => Dtype::F64,
        "f2" => Dtype::F16,
        "i8" => Dtype::I64,
        "i4" => Dtype::I32,
        "i2" => Dtype::I16,
        "i1" => Dtype::I8,
        "u1" => Dtype::U8,
        "b1" => Dtype::BOOL,
        other => return Err(Unreadable::Placeholder(format!("numpy.ndarray of {other}"))),
    })
}

/// Places in the file that tensors refer to.
pub(super) struct Places<'a> {
    pub archive: &'a Archive,
    /// Folder of the archive, with its trailing slash.
    pub folder: &'a str,
    /// Position of the pickle in the file.
    pub pickle: u64,
}

impl Places<'_> {
    /// Returns the entry of a tensor. If its elements are not in the file, or not as described, reading them fails.
    pub fn entry(&self, table: &ValueTable<'_>, tensor: TensorCall) -> Result<Entry, String> {
        let tensor = match describe(table, tensor) {
            Ok(tensor) => tensor,
            Err(Unreadable::Placeholder(description)) => return Err(description),
            Err(Unreadable::Invalid(mismatch)) => return Ok(Entry::invalid(Dtype::U8, Vec::new(), mismatch)),
        };
        let (dtype, shape) = (tensor.dtype, tensor.shape.clone());
        Ok(self.locate(tensor).unwrap_or_else(|mismatch| Entry::invalid(dtype, shape, mismatch)))
    }

    fn locate(&self, tensor: Tensor<'_>) -> Result<Entry, Mismatch> {
        let Tensor { dtype, shape, strides, offset, negated, elements } = tensor;
        let size = dtype.bitsize() / 8;
        let strided = |start, elements| Strided { start, elements, offset, strides };
        let entry = match elements {
            Elements::Storage { key, bytes } => {
                let file = format!("{}data/{key}", self.folder);
                let extent = self.archive.contents(&file)?;
                let got = extent.end - extent.start;
                let Some(bytes) = bytes.filter(|&bytes| bytes as u64 == got) else {
                    let expected =
                        bytes.map_or("fewer elements".to_owned(), |bytes| format!("{bytes} bytes"));
                    return Err((format!("{expected} in {file}"), format!("{got} bytes")));
                };
                Entry::strided(dtype, shape, strided(extent.start, bytes / size))?
            }
            Elements::Pickle { span, latin1 } => {
                let start = self.pickle + u64::from(span.start);
                let numel = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
                let bytes = numel.and_then(|n| n.checked_mul(size));
                let len = span.len as usize;
                // As text, a byte takes one or two bytes.
                if !bytes
                    .is_some_and(|n| if latin1 { n <= len && len <= n.saturating_mul(2) } else { n == len })
                {
                    return Err((format!("elements of shape {shape:?}"), format!("{len} bytes")));
                }
                let start_of_view = if latin1 { 0 } else { start };
                let entry = Entry::strided(dtype, shape, strided(start_of_view, numel.unwrap_or(0)))?;
                if latin1 { entry.in_latin1(start, u64::from(span.len)) } else { entry }
            }
        };
        Ok(if negated { entry.negated() } else { entry })
    }
}

/// Description of a value that is not built.
pub(super) fn placeholder(table: &ValueTable<'_>, class: ValueId) -> String {
    name(table, class).unwrap_or_else(|| "an instance of an unknown class".to_owned())
}
