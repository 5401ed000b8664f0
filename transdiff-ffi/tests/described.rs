//! Models whose files describe codec, images and classes.

mod common;

use std::ffi::{CStr, CString};
use std::ptr;

use common::files::{self, described, grey, shared, vae_with};
use common::{GenerationRequest, Model, call, expect_error, load_options, no_outputs};
use transcdiff::*;
use transdiff::models::{CodecSource, ImageSpec};

/// Writes a file and loads the model in it, with the codec `codec` if it is given.
fn load(folder: &std::path::Path, bytes: &[u8], codec: Option<&str>) -> Result<Model, common::ErrorInfo> {
    let path = folder.join("model");
    std::fs::write(&path, bytes).unwrap();
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let codec = codec.map(|codec| CString::new(codec).unwrap());
    Model::load(&transcdiff_load_options {
        model_path: path.as_ptr(),
        codec_path: codec.as_ref().map_or(ptr::null(), |codec| codec.as_ptr()),
        ..load_options()
    })
}

fn names(model: &Model) -> Vec<String> {
    let name = |class| {
        // SAFETY: the model is alive, and names end with a zero byte.
        let name = unsafe { transcdiff_model_class_name(model.0, class).as_ref() };
        // SAFETY: as above.
        name.map(|name| unsafe { CStr::from_ptr(name) }.to_str().unwrap().to_owned())
    };
    (0..).map_while(name).collect()
}

fn find(model: &Model, name: &str) -> Result<u32, common::ErrorInfo> {
    let (name, mut class) = (CString::new(name).unwrap(), u32::MAX);
    // SAFETY: the pointers are valid.
    call(|e| unsafe { transcdiff_model_find_class(model.0, name.as_ptr(), &mut class, e) }).map(|()| class)
}

#[test]
fn class_names_are_those_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let (config, images) = grey();
    let model = load(folder.path(), &described(&config, &images), None).unwrap();
    assert_eq!((model.info().class_names, names(&model)), (3, images.classes.clone()));
    for (text, class) in [("trouser", 0), ("ANKLE_BOOT", 1), ("boot", 1), ("größe", 2), ("2", 2)] {
        assert_eq!(find(&model, text).unwrap(), class, "{text}");
    }
    for text in ["skirt", "3", "-1", ""] {
        let failed = find(&model, text).unwrap_err();
        assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_INVALID_ARGUMENT, "class"), "{text}");
    }
    let mut class = 7;
    let text = c"trouser".as_ptr();
    // SAFETY: NULL and text that is not UTF-8 are rejected.
    unsafe {
        let find = |model, text, class| move |e| transcdiff_model_find_class(model, text, class, e);
        expect_error(TRANSCDIFF_INVALID_ARGUMENT, "model", find(ptr::null(), text, &mut class));
        expect_error(TRANSCDIFF_INVALID_ARGUMENT, "name", find(model.0, ptr::null(), &mut class));
        expect_error(TRANSCDIFF_INVALID_ARGUMENT, "name", find(model.0, c"\xff".as_ptr(), &mut class));
        expect_error(TRANSCDIFF_INVALID_ARGUMENT, "class_number", find(model.0, text, ptr::null_mut()));
        assert!(transcdiff_model_class_name(ptr::null(), 0).is_null());
        assert!(transcdiff_model_class_name(model.0, usize::MAX).is_null());
    }
    assert_eq!(class, 7);
    let unnamed = Model::from_memory(&shared().one_step, None);
    assert_eq!((unnamed.info().class_names, names(&unnamed).len(), find(&unnamed, "1").unwrap()), (0, 0, 1));
}

#[test]
fn grey_images_are_generated_without_a_codec_path() {
    let folder = tempfile::tempdir().unwrap();
    let (config, images) = grey();
    let bytes = described(&config, &images);
    let model = load(folder.path(), &bytes, None).unwrap();
    let info = model.info();
    assert_eq!((info.image_channels, info.image_height, info.image_width), (1, 4, 4));
    assert_eq!((info.downsampling, info.codec_parameters), (2, 0));
    let (session, request) = (model.session(), GenerationRequest::new(2, 3));
    let options = request.options(&model);
    let written = |format: u32| {
        let mut images = vec![0u8; 2 * transcdiff_image_bytes(format, 4, 4)];
        let out = transcdiff_outputs {
            pixel_format: format,
            images: images.as_mut_ptr().cast(),
            images_size: images.len(),
            ..no_outputs()
        };
        session.run(&options, &out).map(|()| images)
    };
    let grey = written(TRANSCDIFF_GRAY8).unwrap();
    assert_eq!(grey.len(), 32);
    let rgb: Vec<u8> = grey.iter().flat_map(|&byte| [byte; 3]).collect();
    assert_eq!(written(TRANSCDIFF_RGB8_HWC).unwrap(), rgb);
    assert_eq!(written(TRANSCDIFF_GRAY_F32).unwrap().len(), 128);
    // The codec that is given wins, and there may be none.
    let given = load(folder.path(), &bytes, Some("patch:2")).unwrap();
    assert_eq!(given.info().image_channels, 1);
    let none = load(folder.path(), &bytes, Some("none")).unwrap();
    assert_eq!((none.info().image_channels, none.info().class_names), (0, 3));
    for codec in ["patch:3", "patch:0", "patch:x"] {
        let failed = load(folder.path(), &bytes, Some(codec)).unwrap_err();
        assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_INVALID_ARGUMENT, "codec"), "{codec}");
    }
}

#[test]
fn grey_formats_are_for_grey_models() {
    let folder = tempfile::tempdir().unwrap();
    let coloured = Model::from_memory(&shared().one_step, Some(&shared().vae)).session();
    let (config, images) = grey();
    let grey = load(folder.path(), &described(&config, &images), None).unwrap().session();
    let (mut pixels, mut latents) = ([0u8; 48], [0.5f32; 16]);
    for (session, format, bytes, floats) in
        [(&coloured, TRANSCDIFF_GRAY8, 16, 32), (&grey, TRANSCDIFF_RGB8_HWC, 48, 64)]
    {
        let (pixels, latents) = (pixels.as_mut_ptr(), latents.as_mut_ptr());
        // SAFETY: the buffers have these sizes.
        let encode = |e| unsafe {
            transcdiff_session_encode(
                session.session,
                pixels.cast(),
                bytes,
                format,
                1,
                4,
                4,
                ptr::null(),
                ptr::null(),
                latents,
                floats,
                e,
            )
        };
        expect_error(TRANSCDIFF_INVALID_ARGUMENT, "pixel_format", encode);
        let decode = |format, bytes| {
            // SAFETY: as above.
            move |e| unsafe {
                transcdiff_session_decode(
                    session.session,
                    latents,
                    floats,
                    1,
                    2,
                    2,
                    format,
                    ptr::null(),
                    pixels.cast(),
                    bytes,
                    e,
                )
            }
        };
        match session.info.image_channels {
            3 => expect_error(TRANSCDIFF_INVALID_ARGUMENT, "pixel_format", decode(format, bytes)),
            _ => {
                call(decode(TRANSCDIFF_GRAY8, 16)).unwrap();
                call(decode(format, bytes)).unwrap();
            }
        }
    }
    let out = transcdiff_outputs {
        pixel_format: TRANSCDIFF_GRAY8,
        images: pixels.as_mut_ptr().cast(),
        images_size: 16,
        ..no_outputs()
    };
    let request = GenerationRequest::new(1, 1);
    let failed = coloured.run(&request.plain_options(), &out).unwrap_err();
    assert_eq!((failed.status, &*failed.subject), (TRANSCDIFF_INVALID_ARGUMENT, "pixel_format"));
}

#[test]
fn described_codec_files_lie_beside_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let vae = folder.path().join("vae");
    std::fs::write(&vae, &shared().vae).unwrap();
    let codec = CodecSource::File(vae.clone()).open(3).unwrap().record().unwrap();
    let images = ImageSpec { codec, channels: 3, size: 4, classes: Vec::new() };
    let bytes = described(&files::one_step(), &images);
    assert_eq!(load(folder.path(), &bytes, None).unwrap().info().image_channels, 3);
    let in_memory = Model::load(&common::load_from_memory(&bytes, None)).unwrap_err();
    assert!(in_memory.message.contains("because it is in memory"), "{in_memory:?}");
    Model::load(&common::load_from_memory(&bytes, Some(&shared().vae))).unwrap();
    std::fs::write(&vae, vae_with(&files::vae(), |_, values| values[0] += 1.0)).unwrap();
    let failed = load(folder.path(), &bytes, None).unwrap_err();
    assert_eq!(failed.status, TRANSCDIFF_FORMAT, "{failed:?}");
    assert!(failed.message.contains("vae: not the codec that"), "{failed:?}");
    std::fs::remove_file(&vae).unwrap();
    let failed = load(folder.path(), &bytes, None).unwrap_err();
    assert!(failed.message.contains("model: its codec's file vae is not beside it"), "{failed:?}");
}
