//! Reducers: the constructors that checkpoints use, recognised by name. No Python code runs; a call of any other
//! constructor yields a [`PickleValue::Instance`] that keeps its name.

use ::safetensors::tensor::Dtype;

use super::super::entry::MAX_RANK;
use super::value::{PickleValue, Result, Storage, Tensor, ValueId, ValueTable};

/// Result of calling `callee` with the tuple `arguments`.
pub(super) fn reduce(values: &mut ValueTable<'_>, callee: ValueId, arguments: ValueId) -> Result<ValueId> {
    let items = match values.get(arguments) {
        // Not copied: a pickle may repeat a call millions of times.
        PickleValue::Tuple(items) => items.as_slice(),
        other => return Err(format!("expected a tuple of arguments, got {other}")),
    };
    match (values.global(callee), items) {
        (Some(("collections", "OrderedDict")), []) => values.add(PickleValue::Dict(Vec::new())),
        (Some(("collections", "OrderedDict")), &[pairs]) => dictionary(values, pairs),
        (Some(("collections", "defaultdict")), _) => values.add(PickleValue::Dict(Vec::new())),
        (Some(("torch", "Size")), &[sizes]) => Ok(sizes),
        (Some(("builtins" | "__builtin__", "set" | "frozenset")), &[items]) => Ok(items),
        (
            Some(("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor")),
            &[storage, offset, shape, strides, ..],
        ) => tensor(values, storage, offset, shape, strides),
        (Some(("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")), &[tensor, ..]) => {
            Ok(tensor)
        }
        // A subclass of torch.Tensor: the function that builds it, the class, and the function's arguments. Nested
        // calls are not followed.
        (Some(("torch._tensor", "_rebuild_from_type_v2")), &[function, _, arguments, ..])
            if values.global(function) != values.global(callee) =>
        {
            reduce(values, function, arguments)
        }
        _ => values.add(PickleValue::Instance { class: callee, state: None }),
    }
}

/// Returns whether the class is `argparse.Namespace`, whose state is plain data.
pub(super) fn is_namespace(values: &ValueTable<'_>, class: ValueId) -> bool {
    values.global(class) == Some(("argparse", "Namespace"))
}

/// Storage described by the tuple `id`: ("storage", class, key, device, number of elements).
pub(super) fn storage(values: &mut ValueTable<'_>, id: ValueId) -> Result<ValueId> {
    let &[kind, class, key, _device, elements] = values.items(id)? else {
        return Err(format!("a storage: expected 5 values, got {}", values.items(id)?.len()));
    };
    if values.text(kind)? != "storage" {
        return Err(format!("a persistent id: expected storage, got {}", values.text(kind)?));
    }
    let unknown = || format!("a storage: expected a class, got {}", values.get(class));
    let global = values.global(class).ok_or_else(unknown)?;
    // A tensor of an unknown type does not make the other tensors unreadable.
    let Some(dtype) = dtype(global) else { return values.add(PickleValue::Instance { class, state: None }) };
    let (key, elements) = (values.text(key)?, values.count(elements)?);
    values.limit.reserve::<Storage<'_>>(1)?;
    values.add(PickleValue::Storage(Box::new(Storage { dtype, key, elements })))
}

fn dtype((module, name): (&str, &str)) -> Option<Dtype> {
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

fn dictionary(values: &mut ValueTable<'_>, pairs: ValueId) -> Result<ValueId> {
    let pair = |&id: &ValueId| match values.items(id)? {
        &[key, value] => Ok((key, value)),
        items => Err(format!("a dictionary item: expected a key and a value, got {} values", items.len())),
    };
    let pairs = values.items(pairs)?.iter().map(pair).collect::<Result<Vec<_>>>()?;
    values.reserve_items(2 * pairs.len())?;
    values.add(PickleValue::Dict(pairs))
}

fn tensor(
    values: &mut ValueTable<'_>,
    storage: ValueId,
    offset: ValueId,
    shape: ValueId,
    strides: ValueId,
) -> Result<ValueId> {
    match values.get(storage) {
        PickleValue::Storage(_) => {}
        // A tensor of a storage that is not read is represented by the storage.
        PickleValue::Instance { .. } => return Ok(storage),
        other => return Err(format!("a tensor: expected a storage, got {other}")),
    }
    let (shape, strides) = (values.items(shape)?, values.items(strides)?);
    if shape.len() != strides.len() {
        return Err(format!(
            "a tensor of {} sizes: expected as many strides, got {}",
            shape.len(),
            strides.len()
        ));
    }
    if shape.len() > MAX_RANK {
        // The text names MAX_RANK.
        return values.add(PickleValue::Opaque("a tensor of more than 8 axes"));
    }
    let sizes = |items: &[ValueId]| items.iter().map(|&id| values.count(id)).collect::<Result<Vec<_>>>();
    let (shape, strides) = (sizes(shape)?, sizes(strides)?);
    let offset = values.count(offset)?;
    values.limit.reserve::<Tensor>(1)?;
    values.limit.reserve::<usize>(2 * shape.len())?;
    values.add(PickleValue::Tensor(Box::new(Tensor { storage, offset, shape, strides })))
}
