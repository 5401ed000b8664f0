//! Malformed and malicious PyTorch checkpoints: archives, and the pickles in them.

use super::Case;
use super::archive::{Entry, checkpoint, zip};
use super::pickle::*;

/// Two storages of 16 elements of f32.
const STORAGES: [&[u8]; 2] = [&[0; 64], &[0; 64]];

/// A checkpoint whose pickle builds `body`.
pub fn built(body: &[u8]) -> Vec<u8> {
    zip(&checkpoint(&pickle(body), &STORAGES))
}

/// A checkpoint with the pickle `code`.
pub fn coded(code: &[u8]) -> Vec<u8> {
    zip(&checkpoint(code, &STORAGES))
}

pub fn model(value: Vec<u8>) -> Vec<u8> {
    built(&dict(&[("w", value)]))
}

pub fn floats(key: &str, elements: i64) -> Vec<u8> {
    storage("FloatStorage", key, elements)
}

fn valid_pickle() -> Vec<u8> {
    let tensors = dict(&[("w", tensor("0", &[4, 4])), ("b", view(floats("0", 16), 1, &[4, 3], &[1, 4]))]);
    let args = namespace(&[("model", text("transdiff_base")), ("mrar", boolean(false))]);
    pickle(&dict(&[("model", tensors), ("args", args), ("epoch", int(3)), ("lrs", list(&[int(1), int(2)]))]))
}

fn valid() -> Vec<Entry> {
    checkpoint(&valid_pickle(), &STORAGES)
}

/// The valid checkpoint, with its entry `index` changed by `change`.
fn changed(index: usize, change: impl Fn(&mut Entry)) -> Vec<u8> {
    let mut entries = valid();
    change(&mut entries[index]);
    zip(&entries)
}

pub fn cases() -> Vec<Case> {
    let mut out = archives();
    out.extend(entries());
    out.extend(programs());
    out.extend(floods());
    out.extend(structures());
    out.extend(views());
    out.extend(super::pth_contents::cases());
    out
}

fn archives() -> Vec<Case> {
    let valid = zip(&valid());
    let find =
        |magic: &[u8]| valid.windows(4).position(|w| w == magic).expect("a valid archive has every record");
    let (pickle, directory, end) = (41, find(b"PK\x01\x02"), find(b"PK\x05\x06"));
    let cut = |name: &'static str, len: usize| Case::rejected(name, valid[..len].to_vec(), "truncated");
    let patched = |places: &[usize], byte: u8| {
        let mut bytes = valid.clone();
        places.iter().for_each(|&at| bytes[at] = byte);
        bytes
    };
    vec![
        Case::accepted("valid", valid.clone()),
        cut("truncated_in_the_first_header", 20),
        cut("truncated_in_the_pickle", pickle + 10),
        cut("truncated_before_the_directory", directory),
        cut("truncated_in_the_directory", directory + 50),
        cut("truncated_before_the_end_record", end),
        cut("truncated_in_the_end_record", valid.len() - 1),
        Case::accepted("bytes_after_the_end", [valid.as_slice(), b"x"].concat()),
        Case::rejected("bytes_far_after_the_end", [valid.as_slice(), &[0; 70_000]].concat(), "no end record"),
        Case::rejected(
            "bytes_before_the_start",
            [b"PK\x03\x04", valid.as_slice()].concat(),
            "does not end where",
        ),
        Case::rejected("entry_count_too_small", patched(&[end + 8, end + 10], 3), "after the last"),
        Case::rejected("entry_count_too_large", patched(&[end + 8, end + 10], 9), "ends too early"),
        Case::rejected("several_parts", patched(&[end + 4], 1), "several parts"),
        Case::rejected("empty_archive", zip(&[]), "without data.pkl"),
        Case::rejected("bare_pickle", valid_pickle(), "torch.save"),
        Case::rejected("zip64_end_missing", zip64_end(&valid, end, 0), "64-bit end record"),
        Case::rejected("zip64_end_offset_max", zip64_end(&valid, end, u64::MAX), "64-bit end record"),
    ]
}

/// The archive `valid`, with a locator that places its 64-bit end record at `at`.
fn zip64_end(valid: &[u8], end: usize, at: u64) -> Vec<u8> {
    let locator = [b"PK\x06\x07", [0; 4].as_slice(), &at.to_le_bytes(), &1u32.to_le_bytes()].concat();
    [&valid[..end], &locator, &valid[end..]].concat()
}

fn entries() -> Vec<Case> {
    let more = |entry: Entry| zip(&[valid(), vec![entry]].concat());
    let same = |entry: &mut Entry| entry.at = Some(0);
    vec![
        Case::rejected("compressed", changed(0, |e| e.method = 8), "compressed"),
        Case::rejected(
            "compressed_bomb",
            changed(2, |e| (e.method, e.size) = (8, u32::MAX - 1)),
            "past the end of the file",
        ),
        Case::rejected("encrypted", changed(0, |e| e.flags = 1), "encrypted"),
        Case::rejected("entries_at_same_offset", changed(2, same), "disagrees with the central directory"),
        Case::rejected("entries_overlapping", changed(2, |e| e.size += 8), "overlaps"),
        Case::rejected("entry_twice", more(Entry::new("a/data/0", &[0; 64])), "two entries named a/data/0"),
        Case::rejected(
            "entry_past_the_end",
            changed(1, |e| e.at = Some(u32::MAX - 1)),
            "past the end of the file",
        ),
        Case::rejected(
            "entry_longer_than_the_file",
            changed(3, |e| e.size = 1 << 30),
            "past the end of the file",
        ),
        Case::rejected("entry_without_its_64_bit_size", changed(3, |e| e.size = u32::MAX), "no 64-bit sizes"),
        Case::rejected("entry_without_a_header", changed(1, |e| e.at = Some(3)), "no local header"),
        Case::rejected("storage_missing", zip(&valid()[..2]), "a/data/0"),
        Case::rejected(
            "storage_too_short",
            changed(2, |e| (e.contents, e.size) = (vec![0; 60], 60)),
            "60 bytes",
        ),
        Case::rejected("two_pickles", more(Entry::new("b/data.pkl", b"x")), "two data.pkl"),
        Case::rejected("torchscript", more(Entry::new("a/constants.pkl", b"x")), "TorchScript"),
        Case::rejected(
            "big_endian",
            changed(1, |e| (e.contents, e.size) = (b"big".to_vec(), 3)),
            "byte order big",
        ),
    ]
}

fn programs() -> Vec<Case> {
    let system = call(&global("posix", "system"), &[text("exit 1")]);
    let long = [b"X".as_slice(), &u32::MAX.to_le_bytes()].concat();
    let longest = [b"\x8d".as_slice(), &u64::MAX.to_le_bytes()].concat();
    vec![
        Case::accepted("call_of_system", model(system.clone())),
        Case::accepted("call_of_a_call_result", model(call(&system, std::slice::from_ref(&system)))),
        Case::accepted(
            "state_of_a_function",
            model([system.as_slice(), &dict(&[("x", int(1))]), b"b"].concat()),
        ),
        Case::accepted(
            "class_by_name",
            model(b"X\x05\x00\x00\x00posixX\x06\x00\x00\x00system\x93)R".to_vec()),
        ),
        Case::rejected("pickle_empty", coded(b""), "truncated"),
        Case::rejected("pickle_without_an_end", coded(b"\x80\x02}"), "truncated"),
        Case::rejected(
            "pickle_with_trailing_code",
            coded(b"\x80\x02}.}"),
            "bytes after the end of the pickle",
        ),
        Case::rejected(
            "pickle_with_two_results",
            coded(b"\x80\x02}}."),
            "expected one value on the stack at the end, got 2",
        ),
        Case::rejected("pickle_inside_a_mark", coded(b"\x80\x02(}."), "at the end"),
        Case::rejected("protocol_9", coded(b"\x80\x09}."), "protocol 9"),
        Case::rejected("opcode_inst", coded(b"\x80\x02(iposix\nsystem\n."), "opcode 0x69"),
        Case::rejected("opcode_of_an_extension", coded(b"\x80\x02\x82\x01."), "opcode 0x82"),
        Case::rejected("stack_empty", coded(b"\x80\x020."), "stack underflow"),
        Case::rejected("stack_below_a_mark", coded(b"\x80\x02}(0."), "stack underflow"),
        Case::rejected("tuple_below_a_mark", coded(b"\x80\x02}(\x85."), "too few values"),
        Case::rejected("mark_missing", coded(b"\x80\x02t."), "no mark"),
        Case::rejected("memo_missing", coded(b"\x80\x02h\x05."), "no memo entry 5"),
        Case::rejected("key_without_a_value", coded(b"\x80\x02}(Nu."), "a key without a value"),
        Case::rejected("items_of_a_number", coded(b"\x80\x02K\x01Na."), "expected a list, got an integer"),
        Case::rejected(
            "state_of_a_number",
            coded(b"\x80\x02K\x01}b."),
            "expected an instance, got an integer",
        ),
        Case::rejected(
            "arguments_not_a_tuple",
            coded(b"\x80\x02cm\nf\nK\x01R."),
            "expected a tuple of arguments, got an integer",
        ),
        Case::rejected("string_of_4_gigabytes", coded(&[b"\x80\x02", long.as_slice()].concat()), "truncated"),
        Case::rejected("string_length_max", coded(&[b"\x80\x04", longest.as_slice()].concat()), "truncated"),
        Case::rejected("integer_of_4_gigabytes", coded(b"\x80\x02}\x8b\xff\xff\xff\xff."), "truncated"),
        Case::accepted(
            "integer_of_200_bytes",
            model([b"\x8b\xc8\x00\x00\x00".as_slice(), &[1; 200]].concat()),
        ),
        Case::accepted("string_not_utf8", model(b"X\x01\x00\x00\x00\xff".to_vec())),
        Case::rejected("name_without_an_end", coded(b"\x80\x02cposix"), "truncated"),
        Case::rejected(
            "marks_nested_deep",
            coded(&[b"\x80\x02".as_slice(), &b"(".repeat(5000)].concat()),
            "more than 256 nested marks",
        ),
    ]
}

/// Many repetitions of each construct that takes more memory than its text.
fn floods() -> Vec<Case> {
    let flood = |start: &[u8], one: &[u8], n: usize, end: &[u8]| {
        let case = coded(&[b"\x80\x04", start, &one.repeat(n), end].concat());
        move |name| Case::rejected(name, case, "exceed the allocation limit")
    };
    // A tensor's function and arguments as memo entries 0 and 1, and the tensor itself as entry 2.
    let tensor_code = tensor("0", &[16, 1, 1, 1, 1, 1, 1, 1]);
    let arguments = tensor_code.iter().position(|&b| b == b'(').expect("a call has arguments");
    let (function, arguments) = (&tensor_code[..arguments], &tensor_code[arguments..tensor_code.len() - 1]);
    let parts = [function, b"q\x00", arguments, b"q\x01"].concat();
    let keys: Vec<u8> =
        (0..40_000).flat_map(|i| [text(&i.to_string()).as_slice(), b"h\x02"].concat()).collect();
    let tensors = [tensor_code.as_slice(), b"q\x020}("].concat();
    let shared = b"eh\0\x86h\0\x86h\0\x86h\0\x86".to_vec();
    let in_a_list = [b"}".as_slice(), &text("l"), b"]("].concat();
    vec![
        flood(b"", b"N\x94", 4_000_000, b"")("memo_flood"),
        flood(b"", b"]", 400_000, b"")("list_flood"),
        flood(b"N", b"2", 4_000_000, b"")("stack_flood"),
        flood(&parts, b"h\x00h\x01R0", 600_000, b"")("tensor_flood"),
        Case::accepted("entry_flood", coded(&[b"\x80\x04", tensors.as_slice(), &keys, b"u."].concat())),
        flood(&in_a_list, b"}NNs", 400_000, b"es.")("dictionary_flood"),
        flood(&in_a_list, b"cm\nf\n", 400_000, b"es.")("class_flood"),
        Case::accepted(
            "values_flood",
            model([b"]q\0(".as_slice(), &b"K\x01".repeat(100_000), &shared].concat()),
        ),
    ]
}

fn structures() -> Vec<Case> {
    let nested = |n: usize| model([b"]".repeat(n), b"a".repeat(n - 1)].concat());
    // Each is the state of the previous one.
    let namespace = b"cargparse\nNamespace\n)\x81";
    let namespaces = dict(&[("args", [namespace.repeat(2_000), b"N".to_vec(), b"b".repeat(2_000)].concat())]);
    let deep = (0..20).fold(tensor("0", &[1, 16]), |inner, _| dict(&[(&"k".repeat(1000), inner)]));
    // Twenty dictionaries, each with all of them as its items, and a tensor.
    let all: Vec<u8> = (0..20).flat_map(|i| [text(&i.to_string()), vec![b'h', i]].concat()).collect();
    let of_all =
        |i: u8| [vec![b'h', i, b'('], all.clone(), text("w"), tensor("0", &[16]), b"u".to_vec()].concat();
    let in_each_other = [
        b"(".to_vec(),
        (0..20).flat_map(|i| [b'}', b'q', i]).collect(),
        (0..20).flat_map(of_all).collect(),
        b"t".to_vec(),
    ]
    .concat();
    // Items of one dictionary, each a list of the previous one.
    let list = |i: u32| {
        [
            text(&i.to_string()),
            b"](j".to_vec(),
            i.to_le_bytes().to_vec(),
            b"er".to_vec(),
            (i + 1).to_le_bytes().to_vec(),
        ]
        .concat()
    };
    let growing = [
        b"}(".to_vec(),
        text("first"),
        b"]r\0\0\0\0".to_vec(),
        (0..5_000).flat_map(list).collect(),
        b"u".to_vec(),
    ]
    .concat();
    let keys = [b"}(N".as_slice(), &int(1), b")", &int(2), b"\x88", &int(3), b"]", &int(4), b"u"].concat();
    let same = dict(&[("a.b", tensor("0", &[16])), ("a", dict(&[("b", tensor("0", &[16]))]))]);
    let twice = dict(&[("x", int(1)), ("x", int(2))]);
    let equal_text =
        [b"}(".as_slice(), &int(1), &tensor("0", &[16]), &text("1"), &tensor("1", &[16]), b"u"].concat();
    vec![
        Case::accepted("keys_of_other_types", model(keys)),
        Case::accepted("keys_with_equal_text", model(equal_text)),
        Case::accepted("list_in_itself", model(b"]q\0h\0a".to_vec())),
        Case::accepted("dictionary_in_itself", built(b"}q\0X\x01\0\0\0ah\0s")),
        Case::accepted("tuple_in_list_in_itself", model(b"]q\0h\0\x85a".to_vec())),
        Case::accepted("namespace_in_itself", built(b"}X\x04\0\0\0argscargparse\nNamespace\n)\x81q\0h\0bs")),
        Case::accepted("namespaces_nested_deeper", built(&namespaces)),
        Case::accepted("lists_nested_deep", nested(40)),
        Case::accepted("lists_nested_deeper", nested(20_000)),
        Case::accepted("dictionaries_in_each_other", model(in_each_other)),
        Case::accepted("lists_one_deeper_than_the_last", built(&growing)),
        Case::accepted("lists_doubled_30_times", model(doubled_lists())),
        Case::accepted("names_nested_long", built(&deep)),
        Case::rejected("name_twice", built(&same), "a.b"),
        Case::accepted("key_twice", built(&twice)),
        Case::rejected("root_a_list", built(b"]"), "expected a dictionary"),
        Case::rejected("root_a_tensor", built(&tensor("0", &[16])), "expected a dictionary"),
    ]
}

/// A list of two lists, each of two lists, and so on for 30 levels.
pub fn doubled_lists() -> Vec<u8> {
    let step = |i: u8| [b"](h".as_slice(), &[i], b"h", &[i], b"eq", &[i + 1]].concat();
    [b"]q\0".to_vec(), (0..30).flat_map(step).collect()].concat()
}

fn views() -> Vec<Case> {
    let of = |offset, shape: &[i64], strides: &[i64]| model(view(floats("0", 16), offset, shape, strides));
    let pair = f32::NAN.to_le_bytes().repeat(16);
    let nan = zip(&checkpoint(&pickle(&dict(&[("w", tensor("0", &[16]))])), &[&pair]));
    // One tensor, a memo entry, under many names.
    let once =
        |shape: &[i64], strides: &[i64]| [view(floats("0", 16), 0, shape, strides), b"q\0".to_vec()].concat();
    let names = |n: usize| -> Vec<u8> {
        (1..n).flat_map(|i| [text(&i.to_string()).as_slice(), b"h\0"].concat()).collect()
    };
    let many =
        |n: usize, tensor: Vec<u8>| built(&[b"}(".as_slice(), &text("0"), &tensor, &names(n), b"u"].concat());
    let subclass = |function: Vec<u8>, arguments: Vec<u8>| {
        let rebuild = global("torch._tensor", "_rebuild_from_type_v2");
        call(&rebuild, &[function, global("torchvision.tv_tensors", "Image"), arguments, b"N".to_vec()])
    };
    let of_a_subclass = subclass(
        global("torch._utils", "_rebuild_tensor_v2"),
        tuple(&[floats("0", 16), int(0), tuple(&[int(16)]), tuple(&[int(1)])]),
    );
    let in_itself =
        subclass(global("torch._tensor", "_rebuild_from_type_v2"), tuple(&[int(1), int(2), int(3)]));
    vec![
        Case::accepted("tensor_of_a_subclass", model(of_a_subclass)),
        Case::accepted("tensor_of_a_subclass_in_itself", model(in_itself)),
        Case::accepted("storage_under_some_names", many(500, once(&[16], &[1]))),
        Case::accepted("storage_under_many_names", many(40, once(&[1 << 16], &[0]))),
        Case::accepted("view_expanded", of(3, &[13, 100], &[1, 0])),
        Case::accepted("view_empty", of(16, &[0, 7], &[7, 1])),
        Case::accepted("view_with_axes_of_size_one", of(5, &[1, 3, 1], &[999_999, 2, 77])),
        Case::rejected("view_expanded_too_far", of(0, &[1 << 20, 1 << 12], &[0, 0]), "a view of at most"),
        Case::rejected("view_outside", of(1, &[4, 4], &[4, 1]), "a view inside its storage"),
        Case::rejected("view_offset_outside", of(16, &[], &[]), "a view inside its storage"),
        Case::rejected("view_stride_overflows", of(0, &[3], &[i64::MAX]), "a view inside its storage"),
        Case::rejected("view_shape_overflows", of(0, &[1 << 62, 1 << 62], &[0, 0]), "does not overflow"),
        Case::rejected(
            "view_stride_negative",
            of(15, &[4], &[-1]),
            "expected a non-negative integer, got -1",
        ),
        Case::rejected("view_offset_negative", of(-1, &[4], &[1]), "expected a non-negative integer, got -1"),
        Case::rejected("view_shape_negative", of(0, &[-4], &[1]), "expected a non-negative integer, got -4"),
        Case::rejected("view_without_strides", of(0, &[4, 4], &[1]), "expected 2 strides for 2 sizes, got 1"),
        Case::accepted("view_of_nine_axes", of(0, &[1; 9], &[1; 9])),
        Case::rejected(
            "view_of_a_number",
            model(view(int(1), 0, &[1], &[1])),
            "expected a storage, got an integer",
        ),
        Case::rejected(
            "storage_of_a_terabyte",
            model(view(floats("0", 1 << 38), 0, &[1 << 38], &[1])),
            "64 bytes",
        ),
        Case::rejected("storage_length_max", model(view(floats("0", i64::MAX), 0, &[1], &[1])), "64 bytes"),
        Case::rejected("storage_key_unknown", model(view(floats("7", 16), 0, &[1], &[1])), "a/data/7"),
        Case::rejected(
            "storage_in_parent_folder",
            model(view(floats("../0", 16), 0, &[1], &[1])),
            "a/data/../0",
        ),
        // A tensor that cannot be read does not make the others unreadable.
        Case::accepted("storage_of_strings", model(view(storage("StringStorage", "0", 16), 0, &[1], &[1]))),
        Case::rejected("storage_of_bytes", model(view(storage("ByteStorage", "0", 64), 0, &[1], &[1])), "U8"),
        Case::rejected("values_nan", nan, "NaN at element 0"),
    ]
}
