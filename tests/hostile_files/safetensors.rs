//! Malformed and malicious safetensors files.

use serde_json::{Value, json};

use super::Case;

/// A file of `header` and `data`, consistent or not.
fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn file(header: Value, data: &[u8]) -> Vec<u8> {
    raw(&header.to_string(), data)
}

fn entry(dtype: &str, shape: Value, start: u64, end: u64) -> Value {
    json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]})
}

/// A file with one tensor `w` of f32.
fn one(shape: Value, start: u64, end: u64, data: &[u8]) -> Vec<u8> {
    file(json!({"w": entry("F32", shape, start, end)}), data)
}

pub fn cases() -> Vec<Case> {
    let mut out = containers();
    out.extend(headers());
    out.extend(extents());
    out.extend(values());
    out.extend(metadata());
    out.extend(other_formats());
    out
}

fn containers() -> Vec<Case> {
    let valid = file(
        json!({"__metadata__": {"note": "n"}, "w": entry("F32", json!([2]), 0, 8), "i": entry("I64", json!([1]), 8, 16)}),
        &[0; 16],
    );
    let header = valid.len() - 16;
    vec![
        Case::accepted("valid", valid.clone()),
        Case::rejected("empty", vec![], "an empty file"),
        Case::rejected("truncated_in_the_length", valid[..7].to_vec(), "truncated"),
        Case::rejected("truncated_after_the_length", valid[..8].to_vec(), "truncated"),
        Case::rejected("truncated_in_the_header", valid[..header / 2].to_vec(), "truncated"),
        Case::rejected("truncated_after_the_header", valid[..header].to_vec(), "truncated"),
        Case::rejected("truncated_in_the_data", valid[..valid.len() - 1].to_vec(), "truncated"),
        Case::rejected("bytes_after_the_end", [valid.as_slice(), b"x"].concat(), "too long"),
        Case::rejected("header_length_max", raw_length(u64::MAX), "bytes, at most 100000000 are allowed"),
        Case::rejected("header_oversized", raw_length(100_000_001), "has 100000001 bytes, at most 100000000"),
        Case::rejected("autoencoder_of_200_blocks", blocks_without_values(), "res_blocks"),
        Case::rejected("header_longer_than_the_file", raw_length(1 << 20), "truncated"),
    ]
}

/// An autoencoder with unreasonably many blocks, all of them empty.
fn blocks_without_values() -> Vec<u8> {
    let weight = |name: String, shape: Value| (name, entry("F32", shape, 0, 0));
    let block = |i: usize| weight(format!("encoder.down.0.block.{i}.conv1.weight"), json!([32, 32, 0, 0]));
    let ends = ["encoder.conv_in.weight", "post_quant_conv.weight"];
    let ends = ends.into_iter().map(|name| weight(name.to_owned(), json!([32, 3, 0, 0])));
    let entries: serde_json::Map<String, Value> = (0..200).map(block).chain(ends).collect();
    file(Value::Object(entries), &[])
}

fn raw_length(length: u64) -> Vec<u8> {
    [&length.to_le_bytes(), b"{}".as_slice()].concat()
}

fn headers() -> Vec<Case> {
    let w = r#""w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let many = |n: usize, each: &dyn Fn(usize) -> String| (0..n).map(each).collect::<Vec<_>>().join(",");
    let flood = format!(
        "{{{}}}",
        many(30_000, &|i| { format!(r#""{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#) })
    );
    let metadata = format!(r#"{{"__metadata__":{{{}}}}}"#, many(60_000, &|i| format!(r#""{i}":"""#)));
    let axes = format!(
        r#"{{"w":{{"shape":[{}],"dtype":"F32","data_offsets":[0,0]}}}}"#,
        many(500_000, &|_| "0".into())
    );
    vec![
        Case::rejected("header_not_json", raw("no", &[]), "not a JSON object"),
        Case::rejected("header_an_array", raw("[]", &[]), "not a JSON object"),
        Case::rejected("header_nested_deep", raw(&"[".repeat(5000), &[]), "not a JSON object"),
        Case::rejected(
            "header_entry_nested_deep",
            raw(&format!(r#"{{"w":{}"#, r#"{"x":"#.repeat(5000)), &[]),
            "JSON object",
        ),
        Case::rejected(
            "header_not_utf8",
            [&8u64.to_le_bytes(), b"{\"\xff\":1}".as_slice()].concat(),
            "header",
        ),
        Case::rejected(
            "header_with_trailing_json",
            raw(&format!("{{{w}}}{{}}"), &[0; 4]),
            "not a JSON object",
        ),
        Case::rejected("tensor_twice", raw(&format!("{{{w},{w}}}"), &[0; 4]), "duplicate tensor w"),
        Case::rejected(
            "metadata_twice",
            raw(r#"{"__metadata__":{},"__metadata__":{}}"#, &[]),
            "duplicate key __metadata__",
        ),
        Case::rejected(
            "metadata_key_twice",
            raw(r#"{"__metadata__":{"a":"","a":""}}"#, &[]),
            "duplicate key a",
        ),
        Case::rejected("metadata_of_numbers", raw(r#"{"__metadata__":{"a":1}}"#, &[]), "header"),
        Case::rejected("entry_a_number", raw(r#"{"w":1}"#, &[]), "tensor w"),
        Case::rejected("entry_flood", raw(&flood, &[]), "exceed the allocation limit"),
        Case::rejected("metadata_flood", raw(&metadata, &[]), "exceed the allocation limit"),
        Case::rejected("axes_flood", raw(&axes, &[]), "tensor w"),
        Case::rejected(
            "name_of_a_megabyte",
            raw(&format!(r#"{{"{}":1}}"#, r"\n".repeat(1 << 20)), &[]),
            "the name of a tensor has 2097154 bytes",
        ),
        Case::rejected(
            "entry_with_a_long_field",
            raw(&format!(r#"{{"w":{{"{}":1}}}}"#, r"\n".repeat(4 << 20)), &[]),
            "a description of at most 65536 bytes",
        ),
        Case::rejected(
            "header_nested_in_10_megabytes",
            raw(&format!(r#"{{"w":{}"#, "[".repeat(10 << 20)), &[]),
            "nested deeper than 64 levels",
        ),
    ]
}

fn extents() -> Vec<Case> {
    let two = |start: u64| {
        file(
            json!({"a": entry("F32", json!([1]), 0, 4), "b": entry("F32", json!([1]), start, start + 4)}),
            &[0; 8],
        )
    };
    vec![
        Case::rejected("tensors_at_same_offset", two(0), "a gap or an overlap"),
        Case::rejected("tensors_overlapping", two(2), "a gap or an overlap"),
        Case::rejected("tensors_with_a_gap", two(5), "a gap or an overlap"),
        Case::rejected("offsets_reversed", one(json!([1]), 4, 0, &[0; 4]), "tensor w"),
        Case::rejected("offsets_max", one(json!([1]), 0, u64::MAX, &[0; 4]), "tensor w"),
        Case::rejected("data_beyond_the_file", one(json!([1u64 << 40]), 0, 4 << 40, &[0; 4]), "truncated"),
        Case::rejected("shape_overflows", one(json!([1u64 << 62, 8]), 0, 0, &[]), "tensor w"),
        Case::rejected("shape_overflows_times_zero", one(json!([1u64 << 62, 8, 0]), 0, 0, &[]), "tensor w"),
        Case::rejected("shape_negative", one(json!([-1]), 0, 4, &[0; 4]), "tensor w"),
        Case::rejected(
            "shape_of_nine_axes",
            one(json!([1, 1, 1, 1, 1, 1, 1, 1, 1]), 0, 4, &[0; 4]),
            "at most 8 sizes",
        ),
    ]
}

/// A matrix `w` of 8-bit integers with two rows, and its scales.
fn int8_of(values: &[u8], scales: &[f32]) -> Vec<u8> {
    let (start, end) = (4 * scales.len() as u64, (4 * scales.len() + values.len()) as u64);
    let header = json!({
        "w": entry("I8", json!([2, values.len() / 2]), start, end),
        "w_scale": entry("F32", json!([scales.len()]), 0, start),
    });
    let scales: Vec<u8> = scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
    file(header, &[&scales, values].concat())
}

fn int8(columns: usize, scales: &[f32]) -> Vec<u8> {
    let values: Vec<u8> = (0..2 * columns).map(|i| (i % 127) as u8).collect();
    int8_of(&values, scales)
}

fn values() -> Vec<Case> {
    let float = |x: f32| one(json!([2]), 0, 8, &[1f32.to_le_bytes(), x.to_le_bytes()].concat());
    let typed =
        |dtype: &str, data: &[u8]| file(json!({"w": entry(dtype, json!([1]), 0, data.len() as u64)}), data);
    let config = r#"{"width":8,"heads":2,"encoder_blocks":4096,"decoder_blocks":4096,"mlp_ratio":2,"classes":3,
        "buffer_size":2,"feature_tokens":4,"latent_channels":2,"latent_size":2,"mode":"one_step"}"#;
    let metadata = json!({"__metadata__": {"transdiff.config": config}});
    vec![
        Case::rejected("values_nan", float(f32::NAN), "NaN at element 1"),
        Case::rejected("values_infinite", float(f32::INFINITY), "inf at element 1"),
        Case::rejected("values_beyond_32_bits", typed("I64", &(1i64 << 31).to_le_bytes()), "2147483648"),
        Case::accepted("int8_with_scales", int8(1000, &[0.5, 2.0])),
        Case::rejected("int8_with_a_negative_scale", int8(4, &[0.5, -2.0]), "w_scale: expected"),
        Case::rejected("int8_with_a_scale_nan", int8(4, &[f32::NAN, 1.0]), "NaN at element 0"),
        Case::rejected("int8_with_one_scale_too_few", int8(4, &[0.5]), "and F32 [1]"),
        Case::rejected("int8_beyond_the_range", int8_of(&[128, 0], &[1.0, 1.0]), "-127..=127"),
        Case::rejected("type_unknown", typed("Q8", &[0]), "Q8"),
        Case::rejected("type_unsupported", typed("U8", &[0]), "U8"),
        Case::rejected("model_without_its_blocks", file(metadata, &[]), "encoder_blocks.0"),
    ]
}

fn metadata() -> Vec<Case> {
    let w = r#""w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
    let with = |metadata: &str| raw(&format!(r#"{{"__metadata__":{metadata},{w}}}"#), &[0; 4]);
    // Escapes make the decoded text shorter than the header, and its length unknown beforehand.
    let log = |bytes: usize| format!(r#"{{"log":"{}"}}"#, r#"step 17, \"loss\": 0.25\n"#.repeat(bytes / 25));
    vec![
        Case::accepted("metadata_null", with("null")),
        Case::accepted("metadata_with_escapes", with(r#"{"a\t\u00e9":"\ud83d\ude00\\"}"#)),
        Case::accepted("metadata_of_6_megabytes", with(&log(6_000_000))),
        Case::accepted("metadata_of_40_megabytes", with(&log(40_000_000))),
        Case::rejected("metadata_value_null", with(r#"{"a":null}"#), "__metadata__: a: expected a string"),
        Case::rejected(
            "metadata_value_nested",
            with(r#"{"a":{"b":"c"}}"#),
            "__metadata__: a: expected a string",
        ),
        Case::rejected("metadata_a_list", with("[]"), "__metadata__: "),
        Case::rejected("metadata_lone_surrogate", with(r#"{"a":"\ud800"}"#), "an invalid escape"),
    ]
}

/// Files that users take for checkpoints.
fn other_formats() -> Vec<Case> {
    let padded = |magic: &[u8]| [magic, &[7; 600]].concat();
    let mut tar = vec![0; 1024];
    tar[..7].copy_from_slice(b"a.pth\0\0");
    tar[257..262].copy_from_slice(b"ustar");
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    vec![
        Case::rejected("git_lfs_pointer", lfs.to_vec(), "git lfs pull"),
        Case::rejected("html_page", b"\n<!DOCTYPE html><html><body>404".to_vec(), "download the file again"),
        Case::rejected("html_page_in_capitals", b"\xef\xbb\xbf<HTML>".to_vec(), "an HTML or XML page"),
        Case::rejected("xml_error", b"<?xml version=\"1.0\"?><Error/>".to_vec(), "an HTML or XML page"),
        Case::rejected("gzip_file", padded(b"\x1f\x8b\x08\0"), "gzip -d"),
        Case::rejected("xz_file", padded(b"\xfd7zXZ\0"), "xz -d"),
        Case::rejected("zstd_file", padded(b"\x28\xb5\x2f\xfd"), "zstd -d"),
        Case::rejected("bzip2_file", padded(b"BZh9"), "bzip2 -d"),
        Case::rejected("lz4_file", padded(b"\x04\x22\x4d\x18"), "lz4 -d"),
        Case::rejected("seven_zip_archive", padded(b"7z\xbc\xaf\x27\x1c"), "7z archive"),
        Case::rejected("rar_archive", padded(b"Rar!\x1a\x07\x01\0"), "RAR archive"),
        Case::rejected("tar_archive", tar, "tar -xf"),
        Case::rejected("gguf_file", padded(b"GGUF\x03\0\0\0"), "a GGUF file"),
        Case::rejected("hdf5_file", padded(b"\x89HDF\r\n\x1a\n"), "an HDF5 file"),
        Case::rejected("numpy_array", padded(b"\x93NUMPY\x01\0"), "a NumPy array"),
        Case::rejected("json_config", br#"{"hidden_size": 8}"#.to_vec(), "a JSON file"),
        Case::rejected("plain_text", b"not a checkpoint".to_vec(), "6e 6f 74"),
        // A header may have a length that looks like a magic number.
        Case::accepted("header_length_like_zip", padded_header(0x0403_4b50)),
        Case::accepted("header_length_like_gzip", padded_header(0x8b1f)),
        Case::accepted("header_length_like_bzip2", padded_header(0x68_5a42)),
    ]
}

/// A file whose header is padded with spaces to `len` bytes.
fn padded_header(len: usize) -> Vec<u8> {
    raw(&format!("{{}}{}", " ".repeat(len - 2)), &[])
}
