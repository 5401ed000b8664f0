//! Hostile PyTorch checkpoints: archives, and the pickles in them.

use super::Case;
use super::archive::{Entry, checkpoint, zip};
use super::pickle::*;

/// Two storages of 16 elements of f32.
const STORAGES: [&[u8]; 2] = [&[0; 64], &[0; 64]];

/// A checkpoint of the pickle that builds `body`.
fn built(body: &[u8]) -> Vec<u8> {
    zip(&checkpoint(&pickle(body), &STORAGES))
}

/// A checkpoint of the pickle `code`.
fn coded(code: &[u8]) -> Vec<u8> {
    zip(&checkpoint(code, &STORAGES))
}

pub fn model(value: Vec<u8>) -> Vec<u8> {
    built(&dict(&[("w", value)]))
}

fn floats(key: &str, elements: i64) -> Vec<u8> {
    storage("FloatStorage", key, elements)
}

fn sound_pickle() -> Vec<u8> {
    let tensors = dict(&[("w", tensor("0", &[4, 4])), ("b", view(floats("0", 16), 1, &[4, 3], &[1, 4]))]);
    let args = namespace(&[("model", text("transdiff_base")), ("mrar", boolean(false))]);
    pickle(&dict(&[("model", tensors), ("args", args), ("epoch", int(3)), ("lrs", list(&[int(1), int(2)]))]))
}

fn sound() -> Vec<Entry> {
    checkpoint(&sound_pickle(), &STORAGES)
}

/// The sound checkpoint, but for what `change` does to its entry `index`.
fn changed(index: usize, change: impl Fn(&mut Entry)) -> Vec<u8> {
    let mut entries = sound();
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
    out
}

fn archives() -> Vec<Case> {
    let sound = zip(&sound());
    let find = |magic: &[u8]| sound.windows(4).position(|w| w == magic).expect("it has one");
    let (pickle, directory, end) = (41, find(b"PK\x01\x02"), find(b"PK\x05\x06"));
    let cut = |name: &'static str, len: usize| Case::refused(name, sound[..len].to_vec(), "truncated");
    let patched = |places: &[usize], byte: u8| {
        let mut bytes = sound.clone();
        places.iter().for_each(|&at| bytes[at] = byte);
        bytes
    };
    vec![
        Case::sound("sound", sound.clone()),
        cut("truncated_in_the_first_header", 20),
        cut("truncated_in_the_pickle", pickle + 10),
        cut("truncated_before_the_directory", directory),
        cut("truncated_in_the_directory", directory + 50),
        cut("truncated_before_the_end_record", end),
        cut("truncated_in_the_end_record", sound.len() - 1),
        Case::refused("bytes_after_the_end", [sound.as_slice(), b"x"].concat(), "no end record"),
        Case::refused(
            "bytes_before_the_start",
            [b"PK\x03\x04", sound.as_slice()].concat(),
            "does not end where",
        ),
        Case::refused("fewer_entries_than_there_are", patched(&[end + 8, end + 10], 3), "after the last"),
        Case::refused("more_entries_than_there_are", patched(&[end + 8, end + 10], 9), "ends too early"),
        Case::refused("several_parts", patched(&[end + 4], 1), "several parts"),
        Case::refused("empty_archive", zip(&[]), "without data.pkl"),
        Case::refused("bare_pickle", sound_pickle(), "torch.save"),
        Case::refused("end64_missing", end64(&sound, end, 0), "64-bit end record"),
        Case::refused("end64_of_all_memory", end64(&sound, end, u64::MAX), "64-bit end record"),
    ]
}

/// The archive with a locator that says that its 64-bit end record is at `at`.
fn end64(sound: &[u8], end: usize, at: u64) -> Vec<u8> {
    let locator = [b"PK\x06\x07", [0; 4].as_slice(), &at.to_le_bytes(), &1u32.to_le_bytes()].concat();
    [&sound[..end], &locator, &sound[end..]].concat()
}

fn entries() -> Vec<Case> {
    let more = |entry: Entry| zip(&[sound(), vec![entry]].concat());
    let same = |entry: &mut Entry| entry.at = Some(0);
    vec![
        Case::refused("compressed", changed(0, |e| e.method = 8), "compressed"),
        Case::refused(
            "compressed_bomb",
            changed(2, |e| (e.method, e.size) = (8, u32::MAX - 1)),
            "compressed",
        ),
        Case::refused("encrypted", changed(0, |e| e.flags = 1), "encrypted"),
        Case::refused("entries_at_one_place", changed(2, same), "disagrees with the central directory"),
        Case::refused("entries_overlapping", changed(2, |e| e.size += 8), "overlaps"),
        Case::refused("entry_twice", more(Entry::new("a/data/0", &[0; 64])), "two entries named a/data/0"),
        Case::refused("entry_outside", changed(1, |e| e.at = Some(u32::MAX - 1)), "past the end of the file"),
        Case::refused(
            "entry_longer_than_the_file",
            changed(3, |e| e.size = 1 << 30),
            "past the end of the file",
        ),
        Case::refused("entry_without_its_64_bit_size", changed(3, |e| e.size = u32::MAX), "no 64-bit sizes"),
        Case::refused("entry_without_a_header", changed(1, |e| e.at = Some(3)), "no local header"),
        Case::refused("storage_missing", zip(&sound()[..2]), "a/data/0"),
        Case::refused(
            "storage_too_short",
            changed(2, |e| (e.contents, e.size) = (vec![0; 60], 60)),
            "60 bytes",
        ),
        Case::refused("two_pickles", more(Entry::new("b/data.pkl", b"x")), "two data.pkl"),
        Case::refused("torchscript", more(Entry::new("a/constants.pkl", b"x")), "TorchScript"),
        Case::refused(
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
        Case::sound("call_of_system", model(system.clone())),
        Case::sound("call_of_what_a_call_made", model(call(&system, std::slice::from_ref(&system)))),
        Case::sound(
            "state_of_a_function",
            model([system.as_slice(), &dict(&[("x", int(1))]), b"b"].concat()),
        ),
        Case::sound("class_by_name", model(b"X\x05\x00\x00\x00posixX\x06\x00\x00\x00system\x93)R".to_vec())),
        Case::refused("pickle_empty", coded(b""), "truncated"),
        Case::refused("pickle_without_an_end", coded(b"\x80\x02}"), "truncated"),
        Case::refused("pickle_goes_on", coded(b"\x80\x02}.}"), "bytes after the end of the pickle"),
        Case::refused(
            "pickle_of_two_values",
            coded(b"\x80\x02}}."),
            "expected one value on the stack at the end, got 2",
        ),
        Case::refused("pickle_inside_a_mark", coded(b"\x80\x02(}."), "at the end"),
        Case::refused("protocol_9", coded(b"\x80\x09}."), "protocol 9"),
        Case::refused("opcode_inst", coded(b"\x80\x02(iposix\nsystem\n."), "opcode 0x69"),
        Case::refused("opcode_of_an_extension", coded(b"\x80\x02\x82\x01."), "opcode 0x82"),
        Case::refused("stack_empty", coded(b"\x80\x020."), "stack underflow"),
        Case::refused("stack_below_a_mark", coded(b"\x80\x02}(0."), "stack underflow"),
        Case::refused("tuple_below_a_mark", coded(b"\x80\x02}(\x85."), "too few values"),
        Case::refused("mark_missing", coded(b"\x80\x02t."), "no mark"),
        Case::refused("memo_missing", coded(b"\x80\x02h\x05."), "no memo entry 5"),
        Case::refused("key_without_a_value", coded(b"\x80\x02}(Nu."), "a key without a value"),
        Case::refused("items_of_a_number", coded(b"\x80\x02K\x01Na."), "expected a list, got an integer"),
        Case::refused(
            "state_of_a_number",
            coded(b"\x80\x02K\x01}b."),
            "expected an instance, got an integer",
        ),
        Case::refused(
            "arguments_no_tuple",
            coded(b"\x80\x02cm\nf\nK\x01R."),
            "expected a tuple of arguments, got an integer",
        ),
        Case::refused("string_of_4_gigabytes", coded(&[b"\x80\x02", long.as_slice()].concat()), "truncated"),
        Case::refused(
            "string_of_all_memory",
            coded(&[b"\x80\x04", longest.as_slice()].concat()),
            "truncated",
        ),
        Case::refused("integer_of_4_gigabytes", coded(b"\x80\x02}\x8b\xff\xff\xff\xff."), "truncated"),
        Case::sound("integer_of_200_bytes", model([b"\x8b\xc8\x00\x00\x00".as_slice(), &[1; 200]].concat())),
        Case::sound("string_not_utf8", model(b"X\x01\x00\x00\x00\xff".to_vec())),
        Case::refused("name_without_an_end", coded(b"\x80\x02cposix"), "truncated"),
        Case::refused(
            "marks_nested_deep",
            coded(&[b"\x80\x02".as_slice(), &b"(".repeat(5000)].concat()),
            "more than 256 nested marks",
        ),
    ]
}

/// Much of everything that takes more memory than its text.
fn floods() -> Vec<Case> {
    let flood = |start: &[u8], one: &[u8], n: usize, end: &[u8]| {
        let case = coded(&[b"\x80\x04", start, &one.repeat(n), end].concat());
        move |name| Case::refused(name, case, "exceed the allocation limit")
    };
    // A tensor's parts, remembered as 0 and 1, and the tensor itself as 2.
    let made = tensor("0", &[16, 1, 1, 1, 1, 1, 1, 1]);
    let arguments = made.iter().position(|&b| b == b'(').expect("a call has arguments");
    let (function, arguments) = (&made[..arguments], &made[arguments..made.len() - 1]);
    let parts = [function, b"q\x00", arguments, b"q\x01"].concat();
    let keys: Vec<u8> =
        (0..40_000).flat_map(|i| [text(&i.to_string()).as_slice(), b"h\x02"].concat()).collect();
    let tensors = [made.as_slice(), b"q\x020}("].concat();
    let in_a_list = [b"}".as_slice(), &text("l"), b"]("].concat();
    vec![
        flood(b"", b"N\x94", 400_000, b"")("memo_flood"),
        flood(b"", b"]", 400_000, b"")("list_flood"),
        flood(b"N", b"2", 4_000_000, b"")("stack_flood"),
        flood(&parts, b"h\x00h\x01R0", 100_000, b"")("tensor_flood"),
        flood(&tensors, &keys, 1, b"u.")("entry_flood"),
        flood(&in_a_list, b"}NNs", 100_000, b"es.")("dictionary_flood"),
        flood(&in_a_list, b"cm\nf\n", 100_000, b"es.")("class_flood"),
        flood(b"}X\x01\0\0\0l]q\0(", b"K\x01", 100_000, b"eh\0\x86h\0\x86h\0\x86h\0\x86s.")("values_flood"),
    ]
}

fn structures() -> Vec<Case> {
    let nested = |n: usize| model([b"]".repeat(n), b"a".repeat(n - 1)].concat());
    // Each is the state of the one before.
    let namespace = b"cargparse\nNamespace\n)\x81";
    let namespaces = dict(&[("args", [namespace.repeat(2_000), b"N".to_vec(), b"b".repeat(2_000)].concat())]);
    let deep = (0..20).fold(tensor("0", &[1, 16]), |inner, _| dict(&[(&"k".repeat(1000), inner)]));
    let keys = [b"}(N".as_slice(), &int(1), b")", &int(2), b"\x88", &int(3), b"]", &int(4), b"u"].concat();
    let same = dict(&[("a.b", tensor("0", &[16])), ("a", dict(&[("b", tensor("0", &[16]))]))]);
    let twice = dict(&[("x", int(1)), ("x", int(2))]);
    let alike =
        [b"}(".as_slice(), &int(1), &tensor("0", &[16]), &text("1"), &tensor("1", &[16]), b"u"].concat();
    vec![
        Case::sound("keys_of_other_types", model(keys)),
        Case::sound("keys_that_look_alike", model(alike)),
        Case::refused("list_in_itself", model(b"]q\0h\0a".to_vec()), "contains itself"),
        Case::refused("dictionary_in_itself", built(b"}q\0X\x01\0\0\0ah\0s"), "contains itself"),
        Case::refused("tuple_in_a_list_in_it", model(b"]q\0h\0\x85a".to_vec()), "contains itself"),
        Case::refused(
            "namespace_in_itself",
            built(b"}X\x04\0\0\0argscargparse\nNamespace\n)\x81q\0h\0bs"),
            "contains itself",
        ),
        Case::refused("namespaces_nested_deeper", built(&namespaces), "nested more than 32 levels deep"),
        Case::refused("lists_nested_deep", nested(40), "nested more than 32 levels deep"),
        Case::refused("lists_nested_deeper", nested(20_000), "nested more than 32 levels deep"),
        Case::refused("lists_doubled_30_times", model(laughs()), "exceed the allocation limit"),
        Case::refused("names_nested_long", built(&deep), "more than 4096 bytes"),
        Case::refused("name_twice", built(&same), "a.b"),
        Case::refused("key_twice", built(&twice), "x: duplicate key"),
        Case::refused("root_a_list", built(b"]"), "expected a dictionary"),
        Case::refused("root_a_tensor", built(&tensor("0", &[16])), "expected a dictionary"),
    ]
}

/// A list of two lists, each of two, 30 times.
pub fn laughs() -> Vec<u8> {
    let step = |i: u8| [b"](h".as_slice(), &[i], b"h", &[i], b"eq", &[i + 1]].concat();
    [b"]q\0".to_vec(), (0..30).flat_map(step).collect()].concat()
}

fn views() -> Vec<Case> {
    let of = |offset, shape: &[i64], strides: &[i64]| model(view(floats("0", 16), offset, shape, strides));
    let pair = f32::NAN.to_le_bytes().repeat(16);
    let nan = zip(&checkpoint(&pickle(&dict(&[("w", tensor("0", &[16]))])), &[&pair]));
    // One tensor, remembered, under many names.
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
        Case::sound("tensor_of_a_subclass", model(of_a_subclass)),
        Case::sound("tensor_of_a_subclass_in_itself", model(in_itself)),
        Case::sound("storage_under_some_names", many(500, once(&[16], &[1]))),
        Case::refused("storage_under_many_names", many(40, once(&[1 << 16], &[0])), "share storages of 64"),
        Case::sound("view_expanded", of(3, &[13, 100], &[1, 0])),
        Case::sound("view_empty", of(16, &[0, 7], &[7, 1])),
        Case::sound("view_of_single_sizes", of(5, &[1, 3, 1], &[999_999, 2, 77])),
        Case::refused(
            "view_expanded_beyond_reason",
            of(0, &[1 << 20, 1 << 12], &[0, 0]),
            "a view of at most",
        ),
        Case::refused("view_outside", of(1, &[4, 4], &[4, 1]), "a view inside its storage"),
        Case::refused("view_offset_outside", of(16, &[], &[]), "a view inside its storage"),
        Case::refused("view_stride_overflows", of(0, &[3], &[i64::MAX]), "a view inside its storage"),
        Case::refused("view_shape_overflows", of(0, &[1 << 62, 1 << 62], &[0, 0]), "does not overflow"),
        Case::refused("view_stride_negative", of(15, &[4], &[-1]), "expected a non-negative integer, got -1"),
        Case::refused("view_offset_negative", of(-1, &[4], &[1]), "expected a non-negative integer, got -1"),
        Case::refused("view_shape_negative", of(0, &[-4], &[1]), "expected a non-negative integer, got -4"),
        Case::refused(
            "view_without_strides",
            of(0, &[4, 4], &[1]),
            "2 sizes: expected as many strides, got 1",
        ),
        Case::sound("view_of_nine_axes", of(0, &[1; 9], &[1; 9])),
        Case::refused(
            "view_of_a_number",
            model(view(int(1), 0, &[1], &[1])),
            "expected a storage, got an integer",
        ),
        Case::refused(
            "storage_of_a_terabyte",
            model(view(floats("0", 1 << 38), 0, &[1 << 38], &[1])),
            "64 bytes",
        ),
        Case::refused("storage_of_all_memory", model(view(floats("0", i64::MAX), 0, &[1], &[1])), "64 bytes"),
        Case::refused("storage_not_there", model(view(floats("7", 16), 0, &[1], &[1])), "a/data/7"),
        Case::refused("storage_elsewhere", model(view(floats("../0", 16), 0, &[1], &[1])), "a/data/../0"),
        // What is not read is no reason to refuse the rest.
        Case::sound("storage_of_strings", model(view(storage("StringStorage", "0", 16), 0, &[1], &[1]))),
        Case::refused("storage_of_bytes", model(view(storage("ByteStorage", "0", 64), 0, &[1], &[1])), "U8"),
        Case::refused("values_nan", nan, "NaN at element 0"),
    ]
}
