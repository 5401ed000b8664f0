//! The constructors that checkpoints use. They are known by name; none is run, and a call of any other gives an
//! [`Object::Instance`] that remembers the name.

use ::safetensors::tensor::Dtype;

use super::super::entry::MAX_RANK;
use super::object::{Id, Object, Objects, Result, Storage, Tensor};

/// What calling `callee` with the tuple `arguments` gives.
pub(super) fn call(objects: &mut Objects<'_>, callee: Id, arguments: Id) -> Result<Id> {
    let items = match objects.get(arguments) {
        // Not copied: a call may be repeated millions of times.
        Object::Tuple(items) => items.as_slice(),
        other => return Err(format!("a call with {other} for arguments")),
    };
    match (objects.global(callee), items) {
        (Some(("collections", "OrderedDict")), []) => objects.add(Object::Dict(Vec::new())),
        (Some(("collections", "OrderedDict")), &[pairs]) => dictionary(objects, pairs),
        (Some(("collections", "defaultdict")), _) => objects.add(Object::Dict(Vec::new())),
        (Some(("torch", "Size")), &[sizes]) => Ok(sizes),
        (Some(("builtins" | "__builtin__", "set" | "frozenset")), &[items]) => Ok(items),
        (
            Some(("torch._utils", "_rebuild_tensor_v2" | "_rebuild_tensor")),
            &[storage, offset, shape, strides, ..],
        ) => tensor(objects, storage, offset, shape, strides),
        (Some(("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state")), &[tensor, ..]) => {
            Ok(tensor)
        }
        // A subclass of tensor: the function that makes it, the class, and the function's arguments. One in another is
        // not looked for.
        (Some(("torch._tensor", "_rebuild_from_type_v2")), &[function, _, arguments, ..])
            if objects.global(function) != objects.global(callee) =>
        {
            call(objects, function, arguments)
        }
        _ => objects.add(Object::Instance { class: callee, state: None }),
    }
}

/// Whether the class is a plain bag of fields.
pub(super) fn is_namespace(objects: &Objects<'_>, class: Id) -> bool {
    objects.global(class) == Some(("argparse", "Namespace"))
}

/// The storage that the tuple `id` describes: ("storage", class, key, device, number of elements).
pub(super) fn storage(objects: &mut Objects<'_>, id: Id) -> Result<Id> {
    let &[kind, class, key, _device, elements] = objects.items(id)? else {
        return Err(format!("a storage described by {} values", objects.items(id)?.len()));
    };
    if objects.text(kind)? != "storage" {
        return Err(format!("a reference to {}, only storages are known", objects.text(kind)?));
    }
    let unknown = || format!("{} for the class of a storage", objects.get(class));
    let global = objects.global(class).ok_or_else(unknown)?;
    // Somebody else's tensor is no reason to refuse the others.
    let Some(dtype) = dtype(global) else { return objects.add(Object::Instance { class, state: None }) };
    let (key, elements) = (objects.text(key)?, objects.count(elements)?);
    objects.budget.take::<Storage<'_>>(1)?;
    objects.add(Object::Storage(Box::new(Storage { dtype, key, elements })))
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

fn dictionary(objects: &mut Objects<'_>, pairs: Id) -> Result<Id> {
    let pair = |&id: &Id| match objects.items(id)? {
        &[key, value] => Ok((key, value)),
        items => Err(format!("a pair of {} values", items.len())),
    };
    let pairs = objects.items(pairs)?.iter().map(pair).collect::<Result<Vec<_>>>()?;
    objects.take_items(2 * pairs.len())?;
    objects.add(Object::Dict(pairs))
}

fn tensor(objects: &mut Objects<'_>, storage: Id, offset: Id, shape: Id, strides: Id) -> Result<Id> {
    match objects.get(storage) {
        Object::Storage(_) => {}
        // A tensor of a storage that is not read is what the storage is.
        Object::Instance { .. } => return Ok(storage),
        other => return Err(format!("a tensor of {other}, not of a storage")),
    }
    let (shape, strides) = (objects.items(shape)?, objects.items(strides)?);
    if shape.len() != strides.len() {
        return Err(format!("a tensor of {} sizes and {} strides", shape.len(), strides.len()));
    }
    if shape.len() > MAX_RANK {
        return objects.add(Object::Opaque("a tensor of more axes than are read"));
    }
    let sizes = |items: &[Id]| items.iter().map(|&id| objects.count(id)).collect::<Result<Vec<_>>>();
    let (shape, strides) = (sizes(shape)?, sizes(strides)?);
    let offset = objects.count(offset)?;
    objects.budget.take::<Tensor>(1)?;
    objects.budget.take::<usize>(2 * shape.len())?;
    objects.add(Object::Tensor(Box::new(Tensor { storage, offset, shape, strides })))
}
