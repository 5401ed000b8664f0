//! Images into latents and back, by the VAE.

use std::ffi::c_void;

use transdiff::pipeline::{PixelFormat, from_pixels};

use crate::buffers::{pixel_bytes, write_floats, write_pixels};
use crate::cancellation::transcdiff_cancellation;
use crate::input::{array, check_floats, check_size, product};
use crate::request::tensor;
use crate::session::{session_of, transcdiff_session};
use crate::status::{Failure, Outcome, guard, guard_value, transcdiff_error, transcdiff_status};

/// Bytes, rows of pixels of red, green and blue.
pub const TRANSCDIFF_RGB8_HWC: u32 = 0;
/// Bytes, a plane each for red, green and blue.
pub const TRANSCDIFF_RGB8_CHW: u32 = 1;
/// Floats, -1 black to 1 white and not clamped, rows of pixels.
pub const TRANSCDIFF_F32_HWC: u32 = 2;
/// Floats, -1 black to 1 white and not clamped, planes.
pub const TRANSCDIFF_F32_CHW: u32 = 3;

pub(crate) fn format_of(code: u32) -> Outcome<PixelFormat> {
    match code {
        TRANSCDIFF_RGB8_HWC => Ok(PixelFormat::Rgb8Hwc),
        TRANSCDIFF_RGB8_CHW => Ok(PixelFormat::Rgb8Chw),
        TRANSCDIFF_F32_HWC => Ok(PixelFormat::F32Hwc),
        TRANSCDIFF_F32_CHW => Ok(PixelFormat::F32Chw),
        other => {
            let expected = "one of TRANSCDIFF_RGB8_HWC, _RGB8_CHW, _F32_HWC, _F32_CHW";
            Err(Failure::argument("pixel_format", expected, other))
        }
    }
}

/// Bytes of one image of `height` × `width` pixels; 0 for an unknown format or a size that memory cannot hold. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn transcdiff_pixel_bytes(pixel_format: u32, height: usize, width: usize) -> usize {
    let bytes = || pixel_bytes(format_of(pixel_format)?, 1, height, width);
    guard_value(0, || bytes().unwrap_or(0))
}

/// Encodes `n` images of `height` × `width` pixels, which lie one after another in `pixel_format`, to latents
/// [n, C, height/d, width/d] in the scale of the model, where d is the model's `downsampling`; height and width are multiples
/// of d. `images_size` and `latents_size` are in bytes. With `seeds` [n] latents are drawn from the posterior; with NULL they
/// are its mean. `cancellation` may be NULL. One call a session at a time.
///
/// # Safety
/// The pointers are NULL or valid for their sizes; `latents` overlaps nothing.
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
        // SAFETY: the caller promises what the functions called here ask for.
        unsafe {
            let session = session_of(session)?;
            let format = format_of(pixel_format)?;
            if images.is_null() || latents.is_null() {
                return Err(Failure::Null(if images.is_null() { "images" } else { "latents" }));
            }
            check_size("images", pixel_bytes(format, n, height, width)?, images_size)?;
            let vae = session.info().vae.as_ref();
            if let Some(d) = vae.map(|vae| vae.downsampling) {
                let shape =
                    [n, session.info().config.latent_channels, height / d, width / d, size_of::<f32>()];
                check_floats("latents", latents, product("latents", &shape)?, latents_size)?;
            }
            let seeds = if seeds.is_null() { None } else { Some(array(seeds, n, "seeds")?) };
            let pixels = array(images.cast::<u8>(), images_size, "images")?;
            let mut session = session.enter(cancellation)?;
            let made = session.encode(&from_pixels(pixels, format, n, height, width)?, seeds)?;
            write_floats(&[&made], latents, "latents")
        }
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}

/// Decodes latents [n, C, height, width] in the scale of the model to `n` images of d·height × d·width pixels, where d is the
/// model's `downsampling`. `latents_size` and `images_size` are in bytes. `cancellation` may be NULL. One call a session at a
/// time.
///
/// # Safety
/// The pointers are NULL or valid for their sizes; `images` overlaps nothing.
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
        // SAFETY: the caller promises what the functions called here ask for.
        unsafe {
            let session = session_of(session)?;
            let format = format_of(pixel_format)?;
            if images.is_null() {
                return Err(Failure::Null("images"));
            }
            let shape = [n, session.info().config.latent_channels, height, width];
            check_size(
                "latents",
                product("latents", &[&shape[..], &[size_of::<f32>()]].concat())?,
                latents_size,
            )?;
            if let Some(vae) = &session.info().vae {
                let pixels = |size: usize| product("images", &[size, vae.downsampling]);
                check_size("images", pixel_bytes(format, n, pixels(height)?, pixels(width)?)?, images_size)?;
            }
            let mut session = session.enter(cancellation)?;
            let made = session.decode(&tensor(latents, &shape, "latents")?)?;
            write_pixels(&made, format, images, images_size)
        }
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}
