//! Generation of images, latents and features.

use transdiff::pipeline::LogLevel;

use crate::buffers::Buffers;
use crate::log::Log;
use crate::options::{DEFAULT_OUTPUTS, default_options, transcdiff_generate_options, transcdiff_outputs};
use crate::request::{ar_steps, check, report, request};
use crate::session::{session_of, transcdiff_session};
use crate::status::{guard, transcdiff_error, transcdiff_status};
use crate::versioned;

/// Generates images and writes the selected results to `outputs`. Results are deterministic: on the CPU, the same options
/// give bitwise identical results with any batch size.
///
/// Fails with `TRANSCDIFF_INVALID_ARGUMENT`, `_INVALID_SHAPE` or `_INVALID_STRUCT` for invalid options or outputs,
/// `_CANCELLED` if a callback or the cancellation token stops the call, `_NON_FINITE` if a value overflows, `_OUT_OF_MEMORY`
/// or `_BACKEND` for the device, and `_BUSY` if the session is in use. One call per session at a time, on any thread.
///
/// # Safety
/// The pointers, and those within the structs, are NULL or valid as documented; buffers do not overlap.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn transcdiff_session_generate(
    session: *mut transcdiff_session,
    options: *const transcdiff_generate_options,
    outputs: *const transcdiff_outputs,
    error: *mut *mut transcdiff_error,
) -> transcdiff_status {
    let body = || {
        // SAFETY: the caller promises what the functions called here require.
        unsafe {
            let session = session_of(session)?;
            let info = session.info();
            let o = versioned::read(options, "options", default_options(Some(&info.generator)))?;
            let out = Buffers::new(versioned::read(outputs, "outputs", DEFAULT_OUTPUTS)?)?;
            check(info, &o)?;
            // Before anything is copied: buffers of the right size confirm that the image count fits in memory.
            out.check(info, &o)?;
            let mut pipeline = session.lock(o.cancellation)?;
            let request = request(info, &o, out.selection())?;
            let log = Log { callback: o.log, user_data: o.user_data };
            let evaluations = request.sampling.work(ar_steps(info, &o), o.reference_count)?.evaluations;
            let message = format!("generating {} images in {evaluations} evaluations each", o.images);
            log.message(LogLevel::Info, &message);
            let output = pipeline.generate(&request, &mut |progress| report(&o, progress))?;
            out.write(&output)
        }
    };
    // SAFETY: the caller promises it.
    unsafe { guard(error, body) }
}
