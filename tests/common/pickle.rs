//! Pickles as PyTorch writes them, valid or not, assembled from pieces.

/// The complete pickle whose result is built by `body`.
pub fn pickle(body: &[u8]) -> Vec<u8> {
    [b"\x80\x02", body, b"."].concat()
}

pub fn text(text: &str) -> Vec<u8> {
    [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

pub fn int(value: i64) -> Vec<u8> {
    [b"\x8a\x08".as_slice(), &value.to_le_bytes()].concat()
}

pub fn boolean(value: bool) -> Vec<u8> {
    vec![if value { 0x88 } else { 0x89 }]
}

pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", items.concat().as_slice(), b"t"].concat()
}

pub fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [b"](", items.concat().as_slice(), b"e"].concat()
}

pub fn dict(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [b"}(", items.as_slice(), b"u"].concat()
}

pub fn call(function: &[u8], arguments: &[Vec<u8>]) -> Vec<u8> {
    [function, &tuple(arguments), b"R"].concat()
}

/// An `argparse.Namespace`.
pub fn namespace(fields: &[(&str, Vec<u8>)]) -> Vec<u8> {
    [global("argparse", "Namespace").as_slice(), b")\x81", &dict(fields), b"b"].concat()
}

/// A storage of `elements` elements in the entry `data/KEY`.
pub fn storage(class: &str, key: &str, elements: i64) -> Vec<u8> {
    let parts = [text("storage"), global("torch", class), text(key), text("cpu"), int(elements)];
    [tuple(&parts).as_slice(), b"Q"].concat()
}

/// A tensor that is a view of `storage`.
pub fn view(storage: Vec<u8>, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let sizes = |sizes: &[i64]| tuple(&sizes.iter().map(|&n| int(n)).collect::<Vec<_>>());
    let hooks = call(&global("collections", "OrderedDict"), &[]);
    let parts = [storage, int(offset), sizes(shape), sizes(strides), boolean(false), hooks];
    call(&global("torch._utils", "_rebuild_tensor_v2"), &parts)
}

/// A row-major tensor of f32 that fills the storage `key`.
pub fn tensor(key: &str, shape: &[i64]) -> Vec<u8> {
    let strides: Vec<i64> = (1..=shape.len()).map(|axis| shape[axis..].iter().product()).collect();
    view(storage("FloatStorage", key, shape.iter().product()), 0, shape, &strides)
}
