//! Pickles outside of an archive, which are not read: what they are, and what to do.

/// Integer with which files begin that `torch.save` wrote before PyTorch 1.6, as its pickle.
const LEGACY_MAGIC: [u8; 14] =
    [0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// First opcode of a pickle of protocol 2 and later; the protocol follows.
const PROTO: u8 = 0x80;

/// Returns the message about a file that begins with `first`, if it is a bare pickle.
pub(in super::super) fn describe(first: &[u8]) -> Option<String> {
    if first.starts_with(&LEGACY_MAGIC) {
        let message = "expected a zip archive, got a bare pickle, as torch.save wrote before PyTorch 1.6 or with \
                       _use_new_zipfile_serialization=False: load it in PyTorch and save it again with torch.save, \
                       which writes a zip archive";
        return Some(message.to_owned());
    }
    let protocol = match first {
        // The length of a safetensors header may look like a pickle, but the header follows.
        [_, _, _, _, _, _, _, _, b'{', ..] => return None,
        [PROTO, protocol @ 2..=5, ..] => *protocol,
        _ => text_protocol(first)?,
    };
    let contents = if holds(first, "numpy") { "a bare pickle of numpy arrays" } else { "a bare pickle" };
    Some(format!(
        "expected a zip archive as torch.save writes it, got {contents} (protocol {protocol}), as pickle.dump writes it: \
         load it in Python and save a dictionary of tensors with torch.save"
    ))
}

/// Returns the protocol, 0 or 1, of a pickle that begins with `first`. Those have no magic number: a class by name, a
/// mark and a container, or an empty container with its memo entry.
fn text_protocol(first: &[u8]) -> Option<u8> {
    match first {
        [b'(', b'd' | b'l', b'p', b'0'..=b'9', ..] => Some(0),
        [b'c', rest @ ..] if is_name(rest) => Some(u8::from(!holds(first, "\np"))),
        [b'}' | b']', b'q', 0, ..] => Some(1),
        _ => None,
    }
}

/// Returns whether the bytes begin with the name of a module and a line end.
fn is_name(bytes: &[u8]) -> bool {
    let end = bytes.iter().position(|&b| b == b'\n');
    end.is_some_and(|n| n > 0 && bytes[..n].iter().all(|&b| b.is_ascii_alphanumeric() || b"_.".contains(&b)))
}

fn holds(first: &[u8], part: &str) -> bool {
    first.windows(part.len()).any(|bytes| bytes == part.as_bytes())
}
