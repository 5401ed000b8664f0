/*
 * C ABI of TransDiff: image generation with an autoregressive transformer and a diffusion decoder.
 *
 * Generated from the source of transdiff-ffi by `cargo xtask header`; do not edit.
 *
 * - Errors: a call that can fail returns a status. On failure *error is set to an error object, which the caller frees with
 *   transcdiff_error_free; on success it is set to NULL. If `error` is NULL, only the status is returned.
 * - Ownership: handles are created by ..._new and ..._load, and freed by the caller with ..._free. Strings returned by the
 *   library belong to it. Arrays and buffers passed to a call belong to the caller, and are not used after it returns.
 * - Structs begin with struct_size. Options and outputs are initialised by their ..._init function; for structs that
 *   receive a description, set struct_size. Fields beyond the caller's struct_size take their defaults.
 * - Threads: a thread-safe function may be called from any thread at any time. Any number of sessions share a model; a
 *   session serves one call at a time.
 * - fork: a child process can use and free the models and sessions on the CPU that it inherits, if no other thread was in a
 *   call at the time. Inherited models compute on the calling thread alone.
 * - Arrays are contiguous and row-major; [n, C, h, w] is the shape, first axis outermost.
 * - Only platforms with 64-bit pointers are supported.
 */

#ifndef TRANSCDIFF_H
#define TRANSCDIFF_H

#include <stddef.h>
#include <stdint.h>

/**
 * EMA (exponential moving average) weights if the file contains them, else the raw weights. Loading fails if the file
 * contains EMA weights in a form that is not understood.
 */
#define TRANSCDIFF_WEIGHTS_AUTO 0

/**
 * EMA weights; loading fails if the file does not contain them.
 */
#define TRANSCDIFF_WEIGHTS_EMA 1

/**
 * Raw weights, without averaging.
 */
#define TRANSCDIFF_WEIGHTS_RAW 2

/**
 * Information, such as a setting that was chosen and the reason.
 */
#define TRANSCDIFF_LOG_INFO 0

/**
 * Warning: the result may not be what the caller intends.
 */
#define TRANSCDIFF_LOG_WARNING 1

/**
 * Computation in f32.
 */
#define TRANSCDIFF_F32 0

/**
 * Computation in bf16 with f32 accumulation; weights are stored in bf16.
 */
#define TRANSCDIFF_BF16 1

/**
 * Computation with 8-bit integers in the linear layers of the model's blocks, but for the first of the decoder: weights have
 * one scale per output, inputs one per token. Everything else is as with `TRANSCDIFF_BF16`, the codec too. CPU only.
 */
#define TRANSCDIFF_INT8 2

/**
 * 1-step mode: all features are computed at once.
 */
#define TRANSCDIFF_MODE_ONE_STEP 0

/**
 * Multi-reference autoregression (MRAR): one group of features per AR step.
 */
#define TRANSCDIFF_MODE_MULTI_REFERENCE 1

/**
 * Euler–Maruyama: the paper's stochastic solver with drift and noise scales, on the paper's timesteps.
 */
#define TRANSCDIFF_SOLVER_EULER_MARUYAMA 0

/**
 * Euler: deterministic, first order, on uniform timesteps.
 */
#define TRANSCDIFF_SOLVER_EULER 1

/**
 * Heun: deterministic, second order, on uniform timesteps, with two model evaluations per step.
 */
#define TRANSCDIFF_SOLVER_HEUN 2

/**
 * Exponential integrator of the paper's SDE with drift and noise scales, first or second order, on the paper's timesteps, for
 * fewer steps.
 */
#define TRANSCDIFF_SOLVER_EXPONENTIAL_SDE 3

/**
 * Adams–Bashforth: deterministic, through the velocities of the last 2 to 4 steps, on uniform timesteps, for fewer steps.
 */
#define TRANSCDIFF_SOLVER_ADAMS_BASHFORTH 4

/**
 * Consistency: stochastic, for distilled models only, on uniform timesteps.
 */
#define TRANSCDIFF_SOLVER_CONSISTENCY 5

/**
 * No quality: solver and steps are those of the options.
 */
#define TRANSCDIFF_QUALITY_NONE 0

/**
 * Draft: the exponential integrator of order 2 in 8 steps, 6 for references.
 */
#define TRANSCDIFF_QUALITY_DRAFT 1

/**
 * Fast: the exponential integrator of order 2 in 16 steps, 10 for references.
 */
#define TRANSCDIFF_QUALITY_FAST 2

/**
 * Paper: Euler–Maruyama in 100 steps.
 */
#define TRANSCDIFF_QUALITY_PAPER 3

/**
 * 8-bit RGB, height × width × channel (interleaved pixels).
 */
#define TRANSCDIFF_RGB8_HWC 0

/**
 * 8-bit RGB, channel × height × width (one plane per channel).
 */
#define TRANSCDIFF_RGB8_CHW 1

/**
 * 32-bit float RGB, −1 (black) to 1 (white) without clamping, height × width × channel.
 */
#define TRANSCDIFF_F32_HWC 2

/**
 * 32-bit float RGB, −1 (black) to 1 (white) without clamping, channel × height × width.
 */
#define TRANSCDIFF_F32_CHW 3

/**
 * 8-bit grey, one value per pixel, for models of one image channel. (The formats above have three equal values for them.)
 */
#define TRANSCDIFF_GRAY8 4

/**
 * 32-bit float grey, −1 (black) to 1 (white) without clamping, one value per pixel, for models of one image channel.
 */
#define TRANSCDIFF_GRAY_F32 5

/**
 * Version of the ABI that this header describes. It increases when functions or fields are added; a compiled program keeps
 * working with every library of the same soname.
 */
#define TRANSCDIFF_ABI_VERSION 3

/**
 * Cancellation token: stops the calls that it is passed to. Created by `transcdiff_cancellation_new` and freed by
 * `transcdiff_cancellation_free`. All functions except the latter are thread-safe, and `transcdiff_cancellation_cancel` is
 * async-signal-safe as well.
 */
typedef struct transcdiff_cancellation transcdiff_cancellation;

/**
 * Error of one call. Owned by the caller, who frees it with `transcdiff_error_free`; readable from any thread.
 *
 * Every text is a single line of UTF-8: control characters, which names in a file may contain, are escaped, as in `\n`,
 * and a text longer than 8192 characters is truncated.
 */
typedef struct transcdiff_error transcdiff_error;

/**
 * Model on a device, with or without a codec. Created by `transcdiff_model_load` and freed by `transcdiff_model_free`.
 *
 * A model is immutable: any number of sessions and threads can use it concurrently. The handle may be freed while sessions
 * exist; the memory is released with the last of them.
 */
typedef struct transcdiff_model transcdiff_model;

/**
 * Session: the per-caller state and buffers for using a model. Created by `transcdiff_session_new` and freed by
 * `transcdiff_session_free`.
 *
 * A session serves one call at a time: a concurrent call, from another thread or from a callback, fails with
 * `TRANSCDIFF_BUSY` and does not affect the running one. Calls may come from different threads. A session keeps its model
 * alive, and remains usable after an error.
 */
typedef struct transcdiff_session transcdiff_session;

/**
 * Status code of a call: `TRANSCDIFF_OK` or one of the other `TRANSCDIFF_…` codes. Codes are never renumbered; later
 * versions may add codes.
 */
typedef uint32_t transcdiff_status;

/**
 * Progress of a generation after a sampling step.
 */
typedef struct transcdiff_progress {
    /**
     * sizeof(transcdiff_progress) in the library.
     */
    size_t struct_size;
    /**
     * Index of the first image of the current batch.
     */
    size_t first_image;
    /**
     * Number of images in the current batch.
     */
    size_t images;
    /**
     * Index of the current AR step, from 0.
     */
    size_t ar_step;
    /**
     * Number of AR steps: the `ar_steps` of the model, or 1 from features.
     */
    size_t ar_steps;
    /**
     * Number of completed sampling steps of the current AR step, from 1.
     */
    size_t step;
    /**
     * Number of sampling steps of the current AR step.
     */
    size_t steps;
    /**
     * Time in (0, 1] at which the sampling step started.
     */
    double t;
    /**
     * Completed fraction of all sampling steps of the call, in (0, 1].
     */
    double fraction;
} transcdiff_progress;

/**
 * Progress callback, invoked after every sampling step on the calling thread. `progress` is valid until the callback returns.
 * A return value other than 0 stops the call, which then fails with `TRANSCDIFF_CANCELLED`.
 *
 * The callback may use other sessions; calls on the running one fail with `TRANSCDIFF_BUSY`. Like every callback it must
 * return normally: no exception, longjmp or thread exit may leave it.
 */
typedef int32_t (*transcdiff_progress_callback)(const struct transcdiff_progress *progress, void *user_data);

/**
 * Preview callback, invoked after the progress callback and with the same rules. `latents` are the denoised latents
 * [images, C, h, w] of the current batch as predicted at this step, in the scale of the model: `count` floats that are
 * valid until the callback returns.
 */
typedef int32_t (*transcdiff_preview_callback)(const struct transcdiff_progress *progress,
                                               const float *latents,
                                               size_t count,
                                               void *user_data);

/**
 * Log callback, invoked on the calling thread during the call. `level` is `TRANSCDIFF_LOG_INFO` or
 * `TRANSCDIFF_LOG_WARNING`; `message` is a single line of UTF-8 and valid until the callback returns. The callback must
 * return normally: no exception, longjmp or thread exit may leave it.
 */
typedef void (*transcdiff_log_callback)(uint32_t level, const char *message, void *user_data);

/**
 * Options of a generation. Initialise with `transcdiff_generate_options_init`.
 *
 * Images are generated from `classes` or from `features`; the other one is NULL. Arrays belong to the caller, and are not
 * used after the call returns.
 */
typedef struct transcdiff_generate_options {
    /**
     * sizeof(transcdiff_generate_options).
     */
    size_t struct_size;
    /**
     * Number of images, n, at least 1.
     */
    size_t images;
    /**
     * Class per image, [n]; `transcdiff_model_find_class` finds a class by its name.
     */
    const uint32_t *classes;
    /**
     * Seed per image, [n]. The noise of an image depends on its own seed only, so it is the same in any batch.
     */
    const uint64_t *seeds;
    /**
     * Number of sampling steps, at least 1.
     */
    uint32_t steps;
    /**
     * Solver: one of `TRANSCDIFF_SOLVER_…`.
     */
    uint32_t solver;
    /**
     * Guidance scale, at least 1; 1 disables guidance, and is all that a distilled model takes.
     */
    double guidance;
    /**
     * Guidance scale per AR step, [ar_step_guidance_count], overriding `guidance`. NULL: `guidance` for every AR step.
     */
    const double *ar_step_guidance;
    /**
     * Number of elements of `ar_step_guidance`: 0 or the number of AR steps, which is the model's `ar_steps`, or 1 from
     * features.
     */
    size_t ar_step_guidance_count;
    /**
     * Lower end of the time interval with guidance, in [0, 1].
     */
    double guidance_low;
    /**
     * Upper end of the time interval with guidance, in [0, 1].
     */
    double guidance_high;
    /**
     * Scale of the drift, s0 in the paper, at least 0; ignored by solvers without scales.
     */
    double drift_scale;
    /**
     * Scale of the injected noise, s1 in the paper, at least 0; ignored by solvers without scales.
     */
    double noise_scale;
    /**
     * Number of images per batch; 0 means all. Larger batches take more memory and give the same images.
     */
    size_t batch;
    /**
     * Semantic features to decode, [n, feature_count, feature_width], possibly truncated or spliced.
     */
    const float *features;
    /**
     * Number of features per image, 1 to the model's `feature_count`; 0 without features.
     */
    size_t feature_count;
    /**
     * Unconditional features for classifier-free guidance, [unconditional_images, feature_count, feature_width]. NULL: the
     * model's unconditional features. Required if a guidance scale is above 1 and `features` span several AR steps.
     */
    const float *unconditional;
    /**
     * Number of images in `unconditional`: 1 or n; 0 for NULL.
     */
    size_t unconditional_images;
    /**
     * Latents of reference images, [reference_count, n, C, h, w], in the scale of the model. With MRAR they replace the
     * results of the first `reference_count` AR steps.
     */
    const float *references;
    /**
     * Number of references per image, less than the model's `ar_steps`; 0 without references.
     */
    size_t reference_count;
    /**
     * Initial noise, [n, C, h, w], in the scale of the model: the state at time 1. NULL: noise generated from the seeds.
     */
    const float *initial_noise;
    /**
     * Cancellation token, or NULL. It must outlive the call.
     */
    const struct transcdiff_cancellation *cancellation;
    /**
     * Progress callback, invoked after every sampling step, or NULL.
     */
    transcdiff_progress_callback progress;
    /**
     * Preview callback, invoked after every `preview_interval` sampling steps, or NULL.
     */
    transcdiff_preview_callback preview;
    /**
     * Number of sampling steps of an AR step between previews, at least 1.
     */
    size_t preview_interval;
    /**
     * Callback for log messages, or NULL.
     */
    transcdiff_log_callback log;
    /**
     * Pointer passed to the callbacks.
     */
    void *user_data;
    /**
     * Order of the solver: 1 or 2 for the exponential integrator, 2 to 4 for Adams–Bashforth; 0 means 2. Ignored by other solvers.
     */
    uint32_t order;
    /**
     * Tested combination of solver, order, and numbers and times of steps, which overrides these options and the extrapolation:
     * one of `TRANSCDIFF_QUALITY_…`; none for distilled models.
     */
    uint32_t quality;
    /**
     * Number of sampling steps per AR step, [ar_step_steps_count], overriding `steps`. NULL: `steps` for every AR step.
     */
    const uint32_t *ar_step_steps;
    /**
     * Number of elements of `ar_step_steps`: 0 or the number of AR steps, as for `ar_step_guidance_count`.
     */
    size_t ar_step_steps_count;
    /**
     * Times of the sampling steps of every AR step, [time_count], overriding `steps`: all of them, falling strictly from 1 (noise)
     * to 0; without `ar_step_steps` and `warp`. NULL: times that go with the solver.
     */
    const double *times;
    /**
     * Number of elements of `times`: 0 or at least 2.
     */
    size_t time_count;
    /**
     * Three exponents a, b, c above 0 that warp the times of n sampling steps, at most 1000000, to 1 − (1 − (1 − uᵃ)ᵇ)ᶜ with
     * u = i/n, or NULL.
     */
    const double *warp;
    /**
     * Extrapolation of Euler's predictions, from 0 to below 1; ignored by other solvers.
     */
    double extrapolation;
} transcdiff_generate_options;

/**
 * Buffers for the results of a generation. Initialise with `transcdiff_outputs_init`.
 *
 * Buffers belong to the caller, are aligned, and have exactly the size of the result. NULL omits a result; at least one
 * buffer must be set. A failed call writes nothing.
 */
typedef struct transcdiff_outputs {
    /**
     * sizeof(transcdiff_outputs).
     */
    size_t struct_size;
    /**
     * Pixel format of `images`: one of `TRANSCDIFF_RGB8_HWC`, `_RGB8_CHW`, `_F32_HWC`, `_F32_CHW`; for models
     * of one image channel also `TRANSCDIFF_GRAY8`, `_GRAY_F32`.
     */
    uint32_t pixel_format;
    /**
     * Reserved; must be 0.
     */
    uint32_t reserved;
    /**
     * Images of the model's size, [n] contiguous images, or NULL. Requires a codec.
     */
    void *images;
    /**
     * Size of `images` in bytes: n · `transcdiff_image_bytes`.
     */
    size_t images_size;
    /**
     * Latents, [n, C, h, w], in the scale of the model, or NULL.
     */
    float *latents;
    /**
     * Size of `latents` in bytes.
     */
    size_t latents_size;
    /**
     * Latents of the reference images, [ar_steps − 1, n, C, h, w], in the scale of the model, or NULL: with MRAR from classes,
     * the results of all AR steps but the last. Empty in 1-step mode and from features.
     */
    float *references;
    /**
     * Size of `references` in bytes.
     */
    size_t references_size;
    /**
     * Semantic features that the latents were decoded from, [n, k, feature_width], or NULL. k is the model's `feature_count`,
     * or `feature_count` of the options from features.
     */
    float *features;
    /**
     * Size of `features` in bytes.
     */
    size_t features_size;
} transcdiff_outputs;

/**
 * Options for loading a model. Initialise with `transcdiff_load_options_init`.
 *
 * Model and codec are read from a path or from memory: set exactly one of the two for the model, and at most one for the
 * codec. Formats (safetensors, PyTorch `.pth` and `.ckpt`) are detected from the contents. Strings and memory belong to the
 * caller, and are not used after the call returns.
 */
typedef struct transcdiff_load_options {
    /**
     * sizeof(transcdiff_load_options).
     */
    size_t struct_size;
    /**
     * Path of the model file: any bytes on Unix, UTF-8 elsewhere. A model in several safetensors files is given by the
     * path of its index, such as `model.safetensors.index.json`, which stands in the same folder as they do.
     */
    const char *model_path;
    /**
     * Contents of the model file in memory.
     */
    const void *model_data;
    /**
     * Size of `model_data` in bytes.
     */
    size_t model_size;
    /**
     * Codec: the path of a KL-VAE, with the rules of `model_path`; "patch:N" for patches of N×N pixels; or "none". NULL
     * takes the codec that the model file describes: a KL-VAE lies beside the model file, and its SHA-256 is checked.
     * Without a codec the model generates latents only.
     */
    const char *codec_path;
    /**
     * Contents of the codec file in memory.
     */
    const void *codec_data;
    /**
     * Size of `codec_data` in bytes.
     */
    size_t codec_size;
    /**
     * Device: "cpu", "cuda", "cuda:N" or "auto"; NULL means "auto".
     */
    const char *device;
    /**
     * Data type of the computation: `TRANSCDIFF_F32`, `TRANSCDIFF_BF16` or `TRANSCDIFF_INT8`.
     */
    uint32_t dtype;
    /**
     * Number of CPU threads; 0 means one thread per core.
     */
    uint32_t threads;
    /**
     * Weight set: `TRANSCDIFF_WEIGHTS_AUTO`, `_EMA` or `_RAW`.
     */
    uint32_t weights;
    /**
     * Number of attention heads, for files that do not contain it; 0 takes it from the file or from the published sizes.
     */
    uint32_t heads;
    /**
     * Not 0: memory-map files instead of reading them; the caller guarantees that they are not modified or truncated during
     * the call. 0: read files, which may change meanwhile.
     */
    uint32_t map_files;
    /**
     * Reserved; must be 0.
     */
    uint32_t reserved;
    /**
     * Callback for log messages, or NULL.
     */
    transcdiff_log_callback log;
    /**
     * Pointer passed to `log`.
     */
    void *user_data;
    /**
     * Key of the dictionary that holds the weights of the model, such as "state_dict.model"; "" is the top level, NULL
     * finds it. Required only if several are equally good, which the error says.
     */
    const char *key;
} transcdiff_load_options;

/**
 * Estimate of the memory for loading and generation, in bytes: host memory on the CPU, device memory elsewhere. Set
 * `struct_size` before the call.
 */
typedef struct transcdiff_memory {
    /**
     * sizeof(transcdiff_memory).
     */
    size_t struct_size;
    /**
     * Memory of the weights of model and codec, held while the model lives.
     */
    uint64_t weights;
    /**
     * Additional memory during loading.
     */
    uint64_t loading;
    /**
     * Additional memory during the generation of one batch.
     */
    uint64_t generation;
} transcdiff_memory;

/**
 * Description of a model. Set `struct_size` before the call.
 */
typedef struct transcdiff_model_info {
    /**
     * sizeof(transcdiff_model_info).
     */
    size_t struct_size;
    /**
     * Number of classes.
     */
    size_t classes;
    /**
     * Generation mode: `TRANSCDIFF_MODE_ONE_STEP` or `TRANSCDIFF_MODE_MULTI_REFERENCE`.
     */
    uint32_t mode;
    /**
     * Data type of the computation: `TRANSCDIFF_F32`, `TRANSCDIFF_BF16` or `TRANSCDIFF_INT8`.
     */
    uint32_t dtype;
    /**
     * Number of AR steps per generation, each with one group of features; 1 in 1-step mode.
     */
    size_t ar_steps;
    /**
     * Number of semantic features per image.
     */
    size_t feature_count;
    /**
     * Number of values per feature.
     */
    size_t feature_width;
    /**
     * Number of latent channels, C.
     */
    size_t latent_channels;
    /**
     * Latent height, h.
     */
    size_t latent_height;
    /**
     * Latent width, w.
     */
    size_t latent_width;
    /**
     * Image height in pixels; 0 without a codec.
     */
    size_t image_height;
    /**
     * Image width in pixels; 0 without a codec.
     */
    size_t image_width;
    /**
     * Downsampling factor d of the codec, in pixels per latent position along each side; 0 without a codec.
     */
    size_t downsampling;
    /**
     * Number of parameters of the model.
     */
    uint64_t parameters;
    /**
     * Number of parameters of the codec; 0 without a codec, and for patches.
     */
    uint64_t codec_parameters;
    /**
     * Colour channels of the images, 1 (grey) or 3 (RGB); 0 without a codec.
     */
    size_t image_channels;
    /**
     * Number of class names: `classes`, or 0 if the classes have no names.
     */
    size_t class_names;
    /**
     * 1 for a distilled model, which `TRANSCDIFF_SOLVER_CONSISTENCY` goes with, and 0 for others.
     */
    uint32_t distilled;
    /**
     * Reserved; 0.
     */
    uint32_t reserved;
} transcdiff_model_info;

/**
 * Success.
 */
#define TRANSCDIFF_OK 0

/**
 * An argument is invalid: NULL, an unknown class, or a number out of range.
 */
#define TRANSCDIFF_INVALID_ARGUMENT 1

/**
 * Sizes do not match, or a buffer does not have the required size.
 */
#define TRANSCDIFF_INVALID_SHAPE 2

/**
 * The device does not support this data type.
 */
#define TRANSCDIFF_INVALID_DTYPE 3

/**
 * The model configuration is invalid or incomplete.
 */
#define TRANSCDIFF_INVALID_CONFIG 4

/**
 * `struct_size` is not a valid size, or fields that are unknown to this library are not zero.
 */
#define TRANSCDIFF_INVALID_STRUCT 5

/**
 * The device cannot be used.
 */
#define TRANSCDIFF_DEVICE_UNAVAILABLE 6

/**
 * Out of memory. The model and the session remain usable.
 */
#define TRANSCDIFF_OUT_OF_MEMORY 7

/**
 * The device reported an error.
 */
#define TRANSCDIFF_BACKEND 8

/**
 * A file could not be read.
 */
#define TRANSCDIFF_IO 9

/**
 * A file has an unknown format or is damaged.
 */
#define TRANSCDIFF_FORMAT 10

/**
 * A tensor in a file does not match the model.
 */
#define TRANSCDIFF_TENSOR 11

/**
 * A value became infinite or NaN; the message names the stage.
 */
#define TRANSCDIFF_NON_FINITE 12

/**
 * A callback or a cancellation token stopped the call. The session remains usable.
 */
#define TRANSCDIFF_CANCELLED 13

/**
 * The session is in use by another call: one of another thread, or the one that invoked the callback.
 */
#define TRANSCDIFF_BUSY 14

/**
 * Internal error: a defect of this library. The model and the session can still be used and freed.
 */
#define TRANSCDIFF_INTERNAL 15

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Creates a cancellation token in the state "not cancelled". The caller owns it and frees it with
 * `transcdiff_cancellation_free`. Returns NULL only after an internal error. Thread-safe.
 */
struct transcdiff_cancellation *transcdiff_cancellation_new(void);

/**
 * Cancels the token: running calls with this token fail with `TRANSCDIFF_CANCELLED` within a fraction of a sampling step,
 * and later calls fail at once, until the token is reset. Does nothing for NULL. Thread-safe and async-signal-safe.
 *
 * Contract:
 * `cancellation` is NULL or has not been freed.
 */
void transcdiff_cancellation_cancel(const struct transcdiff_cancellation *cancellation);

/**
 * Resets the token to "not cancelled". Does nothing for NULL. Thread-safe.
 *
 * Contract:
 * `cancellation` is NULL or has not been freed.
 */
void transcdiff_cancellation_reset(const struct transcdiff_cancellation *cancellation);

/**
 * Returns 1 if the token is cancelled, else 0; 0 for NULL. Thread-safe.
 *
 * Contract:
 * `cancellation` is NULL or has not been freed.
 */
int32_t transcdiff_cancellation_is_cancelled(const struct transcdiff_cancellation *cancellation);

/**
 * Frees the token; does nothing for NULL. Callable from any thread, once every call with this token has returned.
 *
 * Contract:
 * `cancellation` is NULL or has not been freed, and is not in use by another call.
 */
void transcdiff_cancellation_free(struct transcdiff_cancellation *cancellation);

/**
 * Encodes images to latents with the codec.
 *
 * `images` are `n` contiguous images of `height` × `width` pixels in `pixel_format`, a grey one if and only if the model's
 * `image_channels` is 1; both sides are multiples of d, the model's `downsampling`. `latents` receives [n, C, height/d, width/d] in the scale of the model. `images_size` and
 * `latents_size` are in bytes. With `seeds` [n], latents are sampled from the posterior; with NULL they are its mean.
 * `cancellation` is a cancellation token or NULL. All buffers belong to the caller.
 *
 * Fails with `TRANSCDIFF_INVALID_ARGUMENT` or `_INVALID_SHAPE` for invalid arguments or a model without a codec,
 * `_CANCELLED`, `_NON_FINITE`, `_OUT_OF_MEMORY`, `_BACKEND` or `_BUSY`. One call per session at a time, on any thread.
 *
 * Contract:
 * The pointers are NULL or valid for their sizes; `latents` does not overlap other arguments.
 */
transcdiff_status transcdiff_session_encode(struct transcdiff_session *session,
                                            const void *images,
                                            size_t images_size,
                                            uint32_t pixel_format,
                                            size_t n,
                                            size_t height,
                                            size_t width,
                                            const uint64_t *seeds,
                                            const struct transcdiff_cancellation *cancellation,
                                            float *latents,
                                            size_t latents_size,
                                            struct transcdiff_error **error);

/**
 * Decodes latents to images with the codec.
 *
 * `latents` are [n, C, height, width] in the scale of the model. `images` receives `n` contiguous images of
 * d·height × d·width pixels in `pixel_format`, where d is the model's `downsampling`. `latents_size` and `images_size` are
 * in bytes. `cancellation` is a cancellation token or NULL. All buffers belong to the caller.
 *
 * Fails with `TRANSCDIFF_INVALID_ARGUMENT` or `_INVALID_SHAPE` for invalid arguments or a model without a codec,
 * `_CANCELLED`, `_NON_FINITE`, `_OUT_OF_MEMORY`, `_BACKEND` or `_BUSY`. One call per session at a time, on any thread.
 *
 * Contract:
 * The pointers are NULL or valid for their sizes; `images` does not overlap other arguments.
 */
transcdiff_status transcdiff_session_decode(struct transcdiff_session *session,
                                            const float *latents,
                                            size_t latents_size,
                                            size_t n,
                                            size_t height,
                                            size_t width,
                                            uint32_t pixel_format,
                                            const struct transcdiff_cancellation *cancellation,
                                            void *images,
                                            size_t images_size,
                                            struct transcdiff_error **error);

/**
 * Computes the semantic features of `n` classes.
 *
 * `features` receives [n, k, feature_width]; `features_size` is in bytes. In 1-step mode k is the model's `feature_count`
 * and there are no references. With MRAR `references` are latents [reference_count, n, C, h, w], the results of the first
 * `reference_count` AR steps, and k = (1 + reference_count)·feature_count/ar_steps. `cancellation` is a cancellation token or
 * NULL. All arrays belong to the caller.
 *
 * Fails with `TRANSCDIFF_INVALID_ARGUMENT` or `_INVALID_SHAPE` for invalid arguments, `_CANCELLED`, `_NON_FINITE`,
 * `_OUT_OF_MEMORY`, `_BACKEND` or `_BUSY`. One call per session at a time, on any thread.
 *
 * Contract:
 * The pointers are NULL or valid for their sizes; `features` does not overlap other arguments.
 */
transcdiff_status transcdiff_session_features(struct transcdiff_session *session,
                                              const uint32_t *classes,
                                              size_t n,
                                              const float *references,
                                              size_t reference_count,
                                              const struct transcdiff_cancellation *cancellation,
                                              float *features,
                                              size_t features_size,
                                              struct transcdiff_error **error);

/**
 * Computes unconditional features of `n` images, for classifier-free guidance. Shapes, errors, ownership and thread rules
 * are those of `transcdiff_session_features`. With MRAR the features depend on the references.
 *
 * Contract:
 * The pointers are NULL or valid for their sizes; `features` does not overlap other arguments.
 */
transcdiff_status transcdiff_session_unconditional_features(struct transcdiff_session *session,
                                                            size_t n,
                                                            const float *references,
                                                            size_t reference_count,
                                                            const struct transcdiff_cancellation *cancellation,
                                                            float *features,
                                                            size_t features_size,
                                                            struct transcdiff_error **error);

/**
 * Truncates features [n, count, width] to the first `k` of each image and writes them to `truncated` [n, k, width]. Both
 * arrays belong to the caller.
 *
 * Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL and for `k` outside 1 to `count`. Thread-safe.
 *
 * Contract:
 * The pointers are NULL or valid for their shapes; `truncated` does not overlap `features`.
 */
transcdiff_status transcdiff_features_truncate(const float *features,
                                               size_t n,
                                               size_t count,
                                               size_t width,
                                               size_t k,
                                               float *truncated,
                                               struct transcdiff_error **error);

/**
 * Splices features `first` and `second`, both [n, count, width]: `spliced` [n, count, width] receives, for each image, the
 * first `k` features of `first` followed by the features of `second` from index `k`. All arrays belong to the caller.
 *
 * Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL and for `k` above `count`. Thread-safe.
 *
 * Contract:
 * The pointers are NULL or valid for their shapes; `spliced` does not overlap other arguments.
 */
transcdiff_status transcdiff_features_splice(const float *first,
                                             const float *second,
                                             size_t n,
                                             size_t count,
                                             size_t width,
                                             size_t k,
                                             float *spliced,
                                             struct transcdiff_error **error);

/**
 * Generates images and writes the selected results to `outputs`. Results are deterministic: on the CPU, the same options
 * give bitwise identical results with any batch size.
 *
 * Fails with `TRANSCDIFF_INVALID_ARGUMENT`, `_INVALID_SHAPE` or `_INVALID_STRUCT` for invalid options or outputs,
 * `_CANCELLED` if a callback or the cancellation token stops the call, `_NON_FINITE` if a value overflows, `_OUT_OF_MEMORY`
 * or `_BACKEND` for the device, and `_BUSY` if the session is in use. One call per session at a time, on any thread.
 *
 * Contract:
 * The pointers, and those within the structs, are NULL or valid as documented; buffers do not overlap.
 */
transcdiff_status transcdiff_session_generate(struct transcdiff_session *session,
                                              const struct transcdiff_generate_options *options,
                                              const struct transcdiff_outputs *outputs,
                                              struct transcdiff_error **error);

/**
 * Sets every field of `options` to its default. `struct_size` is sizeof(transcdiff_load_options) in the caller's header.
 *
 * Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL and `TRANSCDIFF_INVALID_STRUCT` for an invalid size. Thread-safe.
 *
 * Contract:
 * `options` is NULL or points to `struct_size` writable bytes.
 */
transcdiff_status transcdiff_load_options_init(struct transcdiff_load_options *options,
                                               size_t struct_size);

/**
 * Loads a model, and the codec if one is given or described by the model file, and returns the handle in `*model`, which is NULL on failure. The caller
 * owns the handle and frees it with `transcdiff_model_free`.
 *
 * Fails with `TRANSCDIFF_INVALID_ARGUMENT`, `_INVALID_STRUCT` or `_INVALID_DTYPE` for invalid options,
 * `_DEVICE_UNAVAILABLE`, `_OUT_OF_MEMORY` or `_BACKEND` for the device, and `_IO`, `_FORMAT`, `_TENSOR` or
 * `_INVALID_CONFIG` for the files. Thread-safe.
 *
 * Contract:
 * Each pointer is NULL or valid as documented; `model` and `error` are NULL or writable.
 */
transcdiff_status transcdiff_model_load(const struct transcdiff_load_options *options,
                                        struct transcdiff_model **model,
                                        struct transcdiff_error **error);

/**
 * Estimates the memory for loading with `options` and generating batches of `images` images, from the file headers alone.
 * The caller sets `memory->struct_size`.
 *
 * Fails as `transcdiff_model_load` does for the options and the files. Thread-safe.
 *
 * Contract:
 * Each pointer is NULL or valid as documented; `memory` and `error` are NULL or writable.
 */
transcdiff_status transcdiff_memory_estimate(const struct transcdiff_load_options *options,
                                             size_t images,
                                             struct transcdiff_memory *memory,
                                             struct transcdiff_error **error);

/**
 * Writes the description of a model to `*info`. The caller sets `info->struct_size`.
 *
 * Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL and `TRANSCDIFF_INVALID_STRUCT` for an invalid size. Thread-safe.
 *
 * Contract:
 * `model` is NULL or has not been freed; `info` is NULL or points to a struct of the size given by its first field; `error`
 * is NULL or writable.
 */
transcdiff_status transcdiff_model_get_info(const struct transcdiff_model *model,
                                            struct transcdiff_model_info *info,
                                            struct transcdiff_error **error);

/**
 * Returns the human-readable name of the device; "" for NULL. The string belongs to the model handle and is valid until
 * that is freed. Thread-safe.
 *
 * Contract:
 * `model` is NULL or has not been freed.
 */
const char *transcdiff_model_device(const struct transcdiff_model *model);

/**
 * Returns the name of a class in UTF-8: the one that the model file records, or else the ImageNet name if there are 1000
 * classes. Returns NULL for a class without a name, and for a NULL model. The string belongs to the model handle and is
 * valid until that is freed. Thread-safe.
 *
 * Contract:
 * `model` is NULL or has not been freed.
 */
const char *transcdiff_model_class_name(const struct transcdiff_model *model,
                                        size_t class_number);

/**
 * Finds a class by `name`, in UTF-8, and writes its number to `*class_number`. `name` is the exact name, the number in
 * decimal, the name in another case or with other separators, or some consecutive words of the name; the first of these
 * that any class has decides.
 *
 * Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL, text that is not UTF-8, an unknown class, and a name that several
 * classes match; the message lists them. Thread-safe.
 *
 * Contract:
 * `model` is NULL or has not been freed; `name` is NULL or a string that ends with a zero byte; `class_number` and `error`
 * are NULL or writable.
 */
transcdiff_status transcdiff_model_find_class(const struct transcdiff_model *model,
                                              const char *name,
                                              uint32_t *class_number,
                                              struct transcdiff_error **error);

/**
 * Frees a model handle; does nothing for NULL. Sessions of the model remain usable. Callable from any thread, once no other
 * call uses the handle.
 *
 * Contract:
 * `model` is NULL or has not been freed, and the handle is not in use by another call.
 */
void transcdiff_model_free(struct transcdiff_model *model);

/**
 * Sets every field of `options` to its default. The sampling settings are those of the paper's reported results for a
 * published model, and Euler–Maruyama without guidance for other models and NULL, with 100 sampling steps; for a distilled model
 * the consistency sampler with 2. `struct_size` is
 * sizeof(transcdiff_generate_options) in the caller's header.
 *
 * Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL options and `TRANSCDIFF_INVALID_STRUCT` for an invalid size.
 * Thread-safe.
 *
 * Contract:
 * `model` is NULL or has not been freed; `options` is NULL or points to `struct_size` writable bytes.
 */
transcdiff_status transcdiff_generate_options_init(const struct transcdiff_model *model,
                                                   struct transcdiff_generate_options *options,
                                                   size_t struct_size);

/**
 * Sets every field of `outputs` to its default: no buffers, and the pixel format `TRANSCDIFF_RGB8_HWC`. `struct_size` is
 * sizeof(transcdiff_outputs) in the caller's header.
 *
 * Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL and `TRANSCDIFF_INVALID_STRUCT` for an invalid size. Thread-safe.
 *
 * Contract:
 * `outputs` is NULL or points to `struct_size` writable bytes.
 */
transcdiff_status transcdiff_outputs_init(struct transcdiff_outputs *outputs,
                                          size_t struct_size);

/**
 * Returns the size in bytes of one image of `height` × `width` pixels; 0 for an unknown format or a size that does not fit
 * in memory. Thread-safe.
 */
size_t transcdiff_image_bytes(uint32_t pixel_format,
                              size_t height,
                              size_t width);

/**
 * Creates a session of `model` and returns the handle in `*session`, which is NULL on failure. The caller owns the handle
 * and frees it with `transcdiff_session_free`. The session may outlive the model handle.
 *
 * Fails with `TRANSCDIFF_INVALID_ARGUMENT` for NULL. Thread-safe.
 *
 * Contract:
 * `model` is NULL or has not been freed; `session` and `error` are NULL or writable.
 */
transcdiff_status transcdiff_session_new(const struct transcdiff_model *model,
                                         struct transcdiff_session **session,
                                         struct transcdiff_error **error);

/**
 * Frees a session; does nothing for NULL. Callable from any thread, once no other call uses the session.
 *
 * Contract:
 * `session` is NULL or has not been freed, and is not in use by another call.
 */
void transcdiff_session_free(struct transcdiff_session *session);

/**
 * Returns the name of a status code, or "unknown status". The string is static. Thread-safe.
 */
const char *transcdiff_status_name(transcdiff_status status);

/**
 * Returns the status code of an error; `TRANSCDIFF_OK` for NULL. Thread-safe.
 *
 * Contract:
 * `error` is NULL or an error that has not been freed.
 */
transcdiff_status transcdiff_error_status(const struct transcdiff_error *error);

/**
 * Returns the full message of an error, a single line of UTF-8; "" for NULL. The string belongs to the error and is valid
 * until that is freed. Thread-safe.
 *
 * Contract:
 * `error` is NULL or an error that has not been freed.
 */
const char *transcdiff_error_message(const struct transcdiff_error *error);

/**
 * Returns the name of the argument, tensor, operation, stage or file that an error is about; "" if there is none or for
 * NULL. The string belongs to the error and is valid until that is freed. Thread-safe.
 *
 * Contract:
 * `error` is NULL or an error that has not been freed.
 */
const char *transcdiff_error_subject(const struct transcdiff_error *error);

/**
 * Returns a description of the expected value; "" if there is none or for NULL. The string belongs to the error and is
 * valid until that is freed. Thread-safe.
 *
 * Contract:
 * `error` is NULL or an error that has not been freed.
 */
const char *transcdiff_error_expected(const struct transcdiff_error *error);

/**
 * Returns a description of the actual value; "" if there is none or for NULL. The string belongs to the error and is
 * valid until that is freed. Thread-safe.
 *
 * Contract:
 * `error` is NULL or an error that has not been freed.
 */
const char *transcdiff_error_got(const struct transcdiff_error *error);

/**
 * Frees an error; does nothing for NULL. Callable from any thread, once no other call uses the error.
 *
 * Contract:
 * `error` is NULL or an error that has not been freed.
 */
void transcdiff_error_free(struct transcdiff_error *error);

/**
 * Returns the version of the ABI that the library implements. Thread-safe.
 */
uint32_t transcdiff_abi_version(void);

/**
 * Returns the version of the library, "MAJOR.MINOR.PATCH". The string is static. Thread-safe.
 */
const char *transcdiff_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TRANSCDIFF_H */
