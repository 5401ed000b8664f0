//! Sequences of calls decoded from input bytes: handles, arguments and buffers within the contract of the header, with
//! arbitrary numbers. Every call returns a status, and sessions work afterwards.

use std::ffi::c_void;
use std::ptr;
use std::sync::OnceLock;

use super::files::shared;
use super::{ErrorInfo, GenerationRequest, Model, Outputs, Session, Token, call, no_outputs, with_progress};
use transcdiff::*;

/// Counts that the buffers are large enough for, and counts whose sizes overflow.
const COUNTS: [usize; 10] = [0, 1, 2, 3, 4, 5, usize::MAX, usize::MAX / 4, 1 << 62, 1 << 63];
const FLOATS: [f64; 10] =
    [1.0, 0.5, 0.0, 1.5, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, f64::MIN_POSITIVE];
/// Maximum number of calls per input.
const MAX_CALLS: usize = 24;

/// Remaining input bytes, followed by zeros.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn flip(&mut self) -> bool {
        self.byte() % 2 == 1
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n
    }

    fn count(&mut self) -> usize {
        COUNTS[self.below(COUNTS.len())]
    }

    fn float(&mut self) -> f64 {
        FLOATS[self.below(FLOATS.len())]
    }

    /// Code, mostly in 0..=`max`.
    fn code(&mut self, max: u32) -> u32 {
        match self.byte() {
            255 => u32::MAX,
            byte => u32::from(byte) % (max + 1),
        }
    }

    /// Size of a buffer, mostly the right one.
    fn size(&mut self, right: usize) -> usize {
        match self.byte() {
            byte if byte < 224 => right,
            byte if byte < 240 => right.wrapping_add(1),
            _ => self.count(),
        }
    }

    fn or_null<T>(&mut self, pointer: *mut T) -> *mut T {
        if self.byte() == 255 { ptr::null_mut() } else { pointer }
    }
}

fn product(sizes: &[usize]) -> usize {
    sizes.iter().fold(1, |n, &size| n.wrapping_mul(size))
}

/// Arrays of the caller, large enough for the largest valid counts within [`COUNTS`].
struct Scratch {
    classes: [u32; 8],
    seeds: [u64; 8],
    guidances: [f64; 8],
    floats: Vec<f32>,
    results: Vec<f32>,
    pixels: Vec<f32>,
}

/// Models, and the expected results of a generation of each.
struct Fixture {
    models: [Model; 2],
    expected: [Outputs; 2],
}

fn fixture() -> &'static Fixture {
    static FIXTURE: OnceLock<Fixture> = OnceLock::new();
    FIXTURE.get_or_init(|| {
        let files = shared();
        let models =
            [Model::from_memory(&files.one_step, Some(&files.vae)), Model::from_memory(&files.mrar, None)];
        let expected = [0, 1].map(|i: usize| generate_expected(&models[i], &models[i].session()).unwrap());
        Fixture { models, expected }
    })
}

fn generate_expected(model: &Model, session: &Session) -> Result<Outputs, ErrorInfo> {
    let request = GenerationRequest::new(2, 2);
    session.generate(&request.options(model))
}

/// Makes the calls encoded by `bytes`. The first run also creates the models, which takes more memory.
pub fn run(bytes: &[u8]) {
    let fixture = fixture();
    let mut input = Input(bytes);
    let mut scratch = Scratch {
        classes: [0, 1, 2, 0, 1, 2, 3, u32::MAX],
        seeds: [0, 1, 2, 3, u64::MAX, 5, 6, 7],
        guidances: [1.5; 8],
        floats: vec![0.25; 2048],
        results: vec![0.0; 2048],
        pixels: vec![0.5; 4096],
    };
    if input.flip() {
        scratch.floats[usize::from(input.byte())] = f32::NAN;
    }
    let sessions = fixture.models.each_ref().map(Model::session);
    let token = Token::new();
    for _ in 0..MAX_CALLS {
        if input.0.is_empty() {
            break;
        }
        let session = &sessions[input.below(2)];
        let handle = input.or_null(session.session);
        // `call` checks the contract of errors; any status is valid here.
        let _ = match input.below(10) {
            0 | 1 => generate(&mut input, &mut scratch, session, handle, &token),
            2 => features(&mut input, &mut scratch, handle, &token),
            7 => unconditional(&mut input, &mut scratch, handle, &token),
            8 => load(&mut input),
            3 => encode(&mut input, &mut scratch, handle, &token),
            4 => decode(&mut input, &mut scratch, handle, &token),
            5 => truncate_or_splice(&mut input, &mut scratch),
            6 => describe(&mut input, &fixture.models),
            _ => {
                if input.flip() {
                    token.cancel()
                } else {
                    token.reset()
                };
                Ok(())
            }
        };
    }
    for ((model, session), expected) in fixture.models.iter().zip(&sessions).zip(&fixture.expected) {
        assert_eq!(&generate_expected(model, session).unwrap(), expected, "the session is unchanged");
    }
}

fn generate(
    input: &mut Input<'_>,
    scratch: &mut Scratch,
    session: &Session,
    handle: *mut transcdiff_session,
    token: &Token,
) -> Result<(), ErrorInfo> {
    let (n, k) = (input.count(), input.count());
    let floats = scratch.floats.as_mut_ptr();
    let from_features = input.byte().is_multiple_of(4);
    let other = input.byte() == 255;
    let given = |is: bool| if is { floats.cast_const() } else { ptr::null() };
    let (mut times, warp) = ([1.0, 0.5, 0.25, 0.0, -1.0, f64::NAN], [1.0, 0.8, input.float()]);
    let options = transcdiff_generate_options {
        images: n,
        classes: if from_features != other { ptr::null() } else { scratch.classes.as_ptr() },
        seeds: input.or_null(scratch.seeds.as_mut_ptr()),
        steps: [1, 2, 3, 0, u32::MAX][input.below(5)],
        solver: input.code(4),
        order: input.below(6) as u32,
        quality: if input.byte() == 255 { 4 } else { 0 },
        times: input.or_null(times.as_mut_ptr()),
        time_count: if input.flip() { 0 } else { input.below(7) },
        warp: if input.flip() { ptr::null() } else { warp.as_ptr() },
        extrapolation: input.float(),
        guidance: input.float(),
        ar_step_guidance: scratch.guidances.as_ptr(),
        ar_step_guidance_count: if input.flip() { 0 } else { input.count() },
        guidance_low: input.float(),
        guidance_high: input.float(),
        drift_scale: input.float(),
        noise_scale: input.float(),
        batch: input.count(),
        features: given(from_features),
        feature_count: if from_features { k } else { 0 },
        unconditional: given(from_features && input.flip()),
        unconditional_images: if from_features { input.count() } else { 0 },
        references: given(input.flip()),
        reference_count: if input.flip() { 0 } else { input.count() },
        initial_noise: given(input.flip()),
        cancellation: input.or_null(token.0),
        ..no_options()
    };
    let results = scratch.results.as_mut_ptr();
    let latents = product(&[n, session.latent(), 4]);
    let outputs = transcdiff_outputs {
        pixel_format: input.code(5),
        images: if input.flip() { ptr::null_mut() } else { scratch.pixels.as_mut_ptr().cast() },
        images_size: input.size(product(&[n, 48])),
        latents: input.or_null(results),
        latents_size: input.size(latents),
        ..no_outputs()
    };
    let mut calls = 0;
    let mut stop = |_: &transcdiff_progress| {
        calls += 1;
        i32::from(calls > 16)
    };
    let options = with_progress(&options, &mut stop);
    // SAFETY: the scratch arrays are large enough for all counts that are not rejected, here and below.
    call(|error| unsafe { transcdiff_session_generate(handle, &options, &outputs, error) })
}

fn no_options() -> transcdiff_generate_options {
    GenerationRequest::new(0, 0).plain_options()
}

fn features(
    input: &mut Input<'_>,
    scratch: &mut Scratch,
    handle: *mut transcdiff_session,
    token: &Token,
) -> Result<(), ErrorInfo> {
    let (n, count) = (input.count(), if input.flip() { 0 } else { input.count() });
    let tokens = if input.flip() { 4 } else { 1 };
    let size = input.size(product(&[n, count.wrapping_add(1), tokens, 8, 4]));
    let classes = input.or_null(scratch.classes.as_mut_ptr());
    let references = input.or_null(scratch.floats.as_mut_ptr());
    let (to, token) = (input.or_null(scratch.results.as_mut_ptr()), input.or_null(token.0));
    // SAFETY: as above.
    call(|error| unsafe {
        transcdiff_session_features(handle, classes, n, references, count, token, to, size, error)
    })
}

fn unconditional(
    input: &mut Input<'_>,
    scratch: &mut Scratch,
    handle: *mut transcdiff_session,
    token: &Token,
) -> Result<(), ErrorInfo> {
    let (n, count) = (input.count(), if input.flip() { 0 } else { input.count() });
    let tokens = if input.flip() { 4 } else { 1 };
    let size = input.size(product(&[n, count.wrapping_add(1), tokens, 8, 4]));
    let references = input.or_null(scratch.floats.as_mut_ptr());
    let (to, token) = (input.or_null(scratch.results.as_mut_ptr()), input.or_null(token.0));
    // SAFETY: as above.
    call(|error| unsafe {
        transcdiff_session_unconditional_features(handle, n, references, count, token, to, size, error)
    })
}

/// Loads a model, and often a VAE, with some bytes changed.
fn load(input: &mut Input<'_>) -> Result<(), ErrorInfo> {
    let files = shared();
    let mut model = if input.flip() { files.one_step.clone() } else { files.mrar.clone() };
    let mut vae = files.vae.clone();
    for _ in 0..input.below(4) {
        let file = if input.byte() < 192 { &mut model } else { &mut vae };
        // Most of the relevant bytes are in the header.
        let at = usize::from(input.byte()) << input.below(8) | usize::from(input.byte());
        let at = at % file.len();
        file[at] = input.byte();
    }
    Model::load(&super::load_from_memory(&model, input.flip().then_some(&vae))).map(drop)
}

fn encode(
    input: &mut Input<'_>,
    scratch: &mut Scratch,
    handle: *mut transcdiff_session,
    token: &Token,
) -> Result<(), ErrorInfo> {
    let (n, height, width, format) = (input.count(), input.count(), input.count(), input.code(3));
    let bytes = if format < TRANSCDIFF_F32_HWC { 3 } else { 12 };
    let images_size = input.size(product(&[n, height, width, bytes]));
    let latents_size = input.size(product(&[n, 2, height / 2, width / 2, 4]));
    let images = input.or_null(scratch.pixels.as_mut_ptr()).cast::<c_void>();
    let latents = input.or_null(scratch.results.as_mut_ptr());
    let seeds = if input.flip() { ptr::null() } else { scratch.seeds.as_ptr() };
    let token = input.or_null(token.0);
    // SAFETY: as above.
    call(|error| unsafe {
        transcdiff_session_encode(
            handle,
            images,
            images_size,
            format,
            n,
            height,
            width,
            seeds,
            token,
            latents,
            latents_size,
            error,
        )
    })
}

fn decode(
    input: &mut Input<'_>,
    scratch: &mut Scratch,
    handle: *mut transcdiff_session,
    token: &Token,
) -> Result<(), ErrorInfo> {
    let (n, height, width, format) = (input.count(), input.count(), input.count(), input.code(3));
    let bytes = if format < TRANSCDIFF_F32_HWC { 3 } else { 12 };
    let images_size = input.size(product(&[n, height, width, 4, bytes]));
    let latents_size = input.size(product(&[n, 2, height, width, 4]));
    let images = input.or_null(scratch.pixels.as_mut_ptr()).cast::<c_void>();
    let (latents, token) = (input.or_null(scratch.floats.as_mut_ptr()), input.or_null(token.0));
    // SAFETY: as above.
    call(|error| unsafe {
        transcdiff_session_decode(
            handle,
            latents,
            latents_size,
            n,
            height,
            width,
            format,
            token,
            images,
            images_size,
            error,
        )
    })
}

fn truncate_or_splice(input: &mut Input<'_>, scratch: &mut Scratch) -> Result<(), ErrorInfo> {
    let [n, count, width, k] = [(); 4].map(|()| input.count());
    let from = input.or_null(scratch.floats.as_mut_ptr());
    let to = input.or_null(scratch.results.as_mut_ptr());
    let truncates = input.flip();
    // SAFETY: as above.
    call(|error| unsafe {
        if truncates {
            transcdiff_features_truncate(from, n, count, width, k, to, error)
        } else {
            transcdiff_features_splice(from, from, n, count, width, k, to, error)
        }
    })
}

/// Queries sizes, descriptions and estimates, into structs of any size.
fn describe(input: &mut Input<'_>, models: &[Model; 2]) -> Result<(), ErrorInfo> {
    let model = models[input.below(2)].0;
    let model = input.or_null(model);
    let mut words = [0usize; 64];
    words[0] = match input.byte() {
        byte if byte < 128 => 8 * usize::from(byte % 64),
        _ => input.count(),
    };
    let images = input.count();
    transcdiff_image_bytes(input.code(5), images, input.count());
    let options = super::load_from_memory(&shared().one_step, None);
    let (to, what) = (words.as_mut_ptr(), input.below(3));
    // SAFETY: there are more words than any size that is not rejected covers.
    call(|error| unsafe {
        match what {
            0 => transcdiff_model_get_info(model, to.cast(), error),
            1 => transcdiff_model_find_class(model, c"1".as_ptr(), to.cast(), error),
            _ => transcdiff_memory_estimate(&options, images, to.cast(), error),
        }
    })
}
