//! Conversion between images and latents with the codec.

use std::ffi::c_void;

use transdiff::pipeline::from_pixels;

use crate::buffers::{write_floats, write_pixels};
use crate::cancellation::transcdiff_cancellation;
use crate::input::{array, check_floats, check_size, product};
use crate::pixel_format::{self, pixel_bytes};
use crate::request::tensor;
use crate::session::{session_of, transcdiff_session};
use crate::status::{FfiError, guard, transcdiff_error, transcdiff_status};

/// Encodes images to latents with the codec.
///
/// `images` are `n` contiguous images of `height` × `width` pixels in `pixel_format`, a grey one if and only if the model's
/// `image_channels` is 1; both sides are multiples of d, the model's `downsampling`. `latents` receives [n, C, height/d, width/d] in the scale of the model. `images_size` and
/// `latents_size` are in bytes. With `seeds` [n], latents are sampled from the posterior; with NULL they are its mean.
/// `cancellation` is a cancellation token or NULL. All buffers belong to the caller.
///
/// Fails with `TRANSCDIFF_INVALID_ARGUMENT` or `_INVALID_SHAPE` for invalid arguments or a model without a codec,
/// `_CANCELLED`, `_NON_FINITE`, `_OUT_OF_MEMORY`, `_BACKEND` or `_BUSY`. One call per session at a time, on any thread.
///
/// # Safety
/// The pointers are NULL or valid for their sizes; `latents` does not overlap other arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_session_encode(
    session: *mut transcdiff_session,
    images: *const c_void,
    images_size: usize,
    pixel_format: u32,
    n: usize,
    height: usize,
    width: usize,
    seeds: *const u64,
    cancellation: *const transcdiff_cancellation,
    latents: *mut f32,
    latents_size: usize,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises what the functions called here require.
        unsafe {
            let session = session_of(session)?;
            let format = pixel_format::pixel_format(pixel_format)?;
            if images.is_null() || latents.is_null() {
                return Err(FfiError::Null(if images.is_null() { "images" } else { "latents" }));
            }
            if let Some(codec) = session.info().codec.as_ref()
                && codec.image_channels != format.channels()
            {
                let expected = format!("a format of {} channels per pixel", codec.image_channels);
                return Err(FfiError::argument("pixel_format", expected, format.channels()));
            }
            check_size("images", pixel_bytes(format, n, height, width)?, images_size)?;
            if let Some(d) = session.info().codec.as_ref().map(|codec| codec.downsampling) {
                let shape =
                    [n, session.info().generator.code_shape[0], height / d, width / d, size_of::<f32>()];
                check_floats("latents", latents, product("latents", &shape)?, latents_size)?;
            }
            let seeds = if seeds.is_null() { None } else { Some(array(seeds, n, "seeds")?) };
            let pixels = array(images.cast::<u8>(), images_size, "images")?;
            let mut session = session.lock(cancellation)?;
            let result = session.encode(&from_pixels(pixels, format, n, height, width)?, seeds)?;
            write_floats(&[&result], latents, "latents")
        }
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// Decodes latents to images with the codec.
///
/// `latents` are [n, C, height, width] in the scale of the model. `images` receives `n` contiguous images of
/// d·height × d·width pixels in `pixel_format`, where d is the model's `downsampling`. `latents_size` and `images_size` are
/// in bytes. `cancellation` is a cancellation token or NULL. All buffers belong to the caller.
///
/// Fails with `TRANSCDIFF_INVALID_ARGUMENT` or `_INVALID_SHAPE` for invalid arguments or a model without a codec,
/// `_CANCELLED`, `_NON_FINITE`, `_OUT_OF_MEMORY`, `_BACKEND` or `_BUSY`. One call per session at a time, on any thread.
///
/// # Safety
/// The pointers are NULL or valid for their sizes; `images` does not overlap other arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_session_decode(
    session: *mut transcdiff_session,
    latents: *const f32,
    latents_size: usize,
    n: usize,
    height: usize,
    width: usize,
    pixel_format: u32,
    cancellation: *const transcdiff_cancellation,
    images: *mut c_void,
    images_size: usize,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises what the functions called here require.
        unsafe {
            let session = session_of(session)?;
            let format = pixel_format::pixel_format(pixel_format)?;
            if images.is_null() {
                return Err(FfiError::Null("images"));
            }
            let shape = [n, session.info().generator.code_shape[0], height, width];
            check_size(
                "latents",
                product("latents", &[&shape[..], &[size_of::<f32>()]].concat())?,
                latents_size,
            )?;
            if let Some(codec) = &session.info().codec {
                pixel_format::check_channels(format, Some(codec))?;
                let pixels = |size: usize| product("images", &[size, codec.downsampling]);
                check_size("images", pixel_bytes(format, n, pixels(height)?, pixels(width)?)?, images_size)?;
            }
            let mut session = session.lock(cancellation)?;
            let result = session.decode(&tensor(latents, &shape, "latents")?)?;
            write_pixels(&result, format, images, images_size)
        }
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}
