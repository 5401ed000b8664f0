/*
 * The C ABI of TransDiff: image generation by an autoregressive transformer and a diffusion decoder.
 *
 * Generated from the library's source; do not edit.
 *
 * - Every call returns a status. Where it fails, and an error was asked for, *error is an object that says what is wrong
 *   and that the caller frees; otherwise *error is NULL. Error arguments may be NULL.
 * - Handles are made by ..._new and ..._load and freed by ..._free. Strings that the library returns belong to it.
 * - A struct begins with its size, and is set up by its ..._init function or, where it is a result, by setting
 *   struct_size. A library that knows more fields than the caller uses their defaults.
 * - Each function says on which threads it may be called. A model is shared by any number of sessions; a session serves
 *   one call at a time.
 * - There is a library for machines with pointers of 64 bits alone.
 */

#ifndef TRANSCDIFF_H
#define TRANSCDIFF_H

#include <stddef.h>
#include <stdint.h>

/**
 * The paper's stochastic sampler: Euler–Maruyama with two scales, on the paper's times.
 */
#define TRANSCDIFF_SOLVER_EULER_MARUYAMA 0

/**
 * Deterministic, order 1, on equal steps.
 */
#define TRANSCDIFF_SOLVER_EULER 1

/**
 * Deterministic, order 2, on equal steps; two evaluations of the model a step.
 */
#define TRANSCDIFF_SOLVER_HEUN 2

/**
 * The averaged weights where the file has them, else the others.
 */
#define TRANSCDIFF_WEIGHTS_AUTO 0

/**
 * The averaged weights (EMA); an error where the file has none.
 */
#define TRANSCDIFF_WEIGHTS_EMA 1

/**
 * The weights that are not averaged.
 */
#define TRANSCDIFF_WEIGHTS_MODEL 2

/**
 * What was chosen, and why.
 */
#define TRANSCDIFF_LOG_INFO 0

/**
 * What the caller would probably want otherwise.
 */
#define TRANSCDIFF_LOG_WARNING 1

/**
 * Computes in f32.
 */
#define TRANSCDIFF_F32 0

/**
 * Computes in bf16 with f32 sums; weights are kept in bf16.
 */
#define TRANSCDIFF_BF16 1

/**
 * All features at once.
 */
#define TRANSCDIFF_MODE_ONE_STEP 0

/**
 * Multi-reference autoregression (MRAR).
 */
#define TRANSCDIFF_MODE_MULTI_REFERENCE 1

/**
 * Bytes, rows of pixels of red, green and blue.
 */
#define TRANSCDIFF_RGB8_HWC 0

/**
 * Bytes, a plane each for red, green and blue.
 */
#define TRANSCDIFF_RGB8_CHW 1

/**
 * Floats, -1 black to 1 white and not clamped, rows of pixels.
 */
#define TRANSCDIFF_F32_HWC 2

/**
 * Floats, -1 black to 1 white and not clamped, planes.
 */
#define TRANSCDIFF_F32_CHW 3

/**
 * The version of the ABI that this header describes. It grows when functions or fields are added; what a program was compiled
 * against goes on working as long as the library's soname is the same.
 */
#define TRANSCDIFF_ABI_VERSION 1

/**
 * A flag that stops the calls that watch it. Every function but `transcdiff_cancellation_free` may be called from any
 * thread at any time, `transcdiff_cancellation_cancel` from a signal handler too.
 */
typedef struct transcdiff_cancellation transcdiff_cancellation;

/**
 * What went wrong in one call. It belongs to whoever made the call, who frees it with `transcdiff_error_free`; it can
 * be read from any thread. Its texts are lines of UTF-8: control characters, which a file's names may have, are written
 * out, as `\n`, and a text of more than 8192 characters is cut off.
 */
typedef struct transcdiff_error transcdiff_error;

/**
 * A model on a device, with a VAE or without. It does not change: any number of sessions, on any threads, use it at the
 * same time. It can be freed while sessions live; its memory is given back with the last of them.
 */
typedef struct transcdiff_model transcdiff_model;

/**
 * One caller's use of a model. A session serves one call at a time: a second one, from another thread or from a callback,
 * returns `TRANSCDIFF_BUSY` and disturbs nothing. It can move between threads.
 */
typedef struct transcdiff_session transcdiff_session;

/**
 * What a call returns: `TRANSCDIFF_OK` or one of the other `TRANSCDIFF_…` codes. Codes are never renumbered; later
 * versions may add some.
 */
typedef uint32_t transcdiff_status;

/**
 * A step of the sampler that was just done.
 */
typedef struct transcdiff_progress {
    /**
     * sizeof(transcdiff_progress) of the library.
     */
    size_t struct_size;
    /**
     * The first image of the batch that is being computed.
     */
    size_t first_image;
    /**
     * Number of images in the batch.
     */
    size_t images;
    /**
     * Which of the batch's trajectories is running, from 0: one in one step, with MRAR one for each group.
     */
    size_t trajectory;
    /**
     * How many trajectories there are.
     */
    size_t trajectories;
    /**
     * How many steps of the trajectory are done, from 1.
     */
    size_t step;
    /**
     * How many steps the trajectory has.
     */
    size_t steps;
    /**
     * The time in (0, 1] from which the step was made.
     */
    double t;
    /**
     * Share of the whole call's steps that are done, in (0, 1].
     */
    double fraction;
} transcdiff_progress;

/**
 * Called after every step, from the thread that made the call. Not 0: the call returns `TRANSCDIFF_CANCELLED`. It must not
 * use the session that is at work, and may use any other. Like every callback it ends by returning: not by an exception, a
 * longjmp, or the thread's cancellation or end.
 */
typedef int32_t (*transcdiff_progress_callback)(const struct transcdiff_progress *progress, void *user_data);

/**
 * Called like the progress callback, with the clean latents [images, C, h, w] of the batch as predicted at this step, in the
 * scale of the model: `count` floats that live until the callback returns.
 */
typedef int32_t (*transcdiff_preview_callback)(const struct transcdiff_progress *progress,
                                               const float *latents,
                                               size_t count,
                                               void *user_data);

/**
 * Called with messages of one call, from the thread that made it. `message` is one line of UTF-8, as those of an error,
 * that lives until the callback returns.
 */
typedef void (*transcdiff_log_callback)(uint32_t level, const char *message, void *user_data);

/**
 * What is generated, and how. Set up by `transcdiff_generate_options_init`. Arrays belong to the caller and are not needed
 * any more when the call returns.
 *
 * Images are made from `classes`, or from `features`; the other one is NULL.
 */
typedef struct transcdiff_generate_options {
    /**
     * sizeof(transcdiff_generate_options).
     */
    size_t struct_size;
    /**
     * Number n of images.
     */
    size_t images;
    /**
     * [n]: a class for each image.
     */
    const uint32_t *classes;
    /**
     * [n]: a seed for each image. With it the image is the same alone and in any batch.
     */
    const uint64_t *seeds;
    /**
     * Steps of the sampler; more take longer.
     */
    uint32_t steps;
    /**
     * One of `TRANSCDIFF_SOLVER_…`.
     */
    uint32_t solver;
    /**
     * Guidance, at least 1, which is none.
     */
    double guidance;
    /**
     * [step_guidance_count]: with MRAR, guidance for each trajectory in place of `guidance`. NULL: `guidance` for all.
     */
    const double *step_guidance;
    /**
     * 0, or the number of trajectories: the model's `groups`, 1 from features.
     */
    size_t step_guidance_count;
    /**
     * Guidance acts at times from this one, in [0, 1].
     */
    double guidance_low;
    /**
     * Guidance acts at times up to this one, in [0, 1].
     */
    double guidance_high;
    /**
     * The paper's s0, the factor of the drift, at least 0; for Euler–Maruyama.
     */
    double drift_scale;
    /**
     * The paper's s1, the factor of the injected noise, at least 0; for Euler–Maruyama.
     */
    double noise_scale;
    /**
     * How many images are computed at a time; 0: all. More take more memory, and change nothing else.
     */
    size_t batch;
    /**
     * [n, feature_count, feature_width]: semantic features to decode, which may have been cut or mixed.
     */
    const float *features;
    /**
     * Features of each image, 1 to the model's `feature_count`; 0 without features.
     */
    size_t feature_count;
    /**
     * [unconditional_images, feature_count, feature_width]: what guidance leads away from. NULL: the features for no class.
     */
    const float *unconditional;
    /**
     * 1 or n; 0 without unconditional features.
     */
    size_t unconditional_images;
    /**
     * [reference_count, n, C, h, w]: with MRAR, latents in the scale of the model to use in place of the first ones that it
     * would generate.
     */
    const float *references;
    /**
     * Less than the model's `groups`; 0 without references.
     */
    size_t reference_count;
    /**
     * [n, C, h, w]: latents in the scale of the model to start from, at time 1, in place of the noise of the seeds. NULL: that
     * noise.
     */
    const float *starting;
    /**
     * Stops the call from another thread. NULL: nothing does.
     */
    const struct transcdiff_cancellation *cancellation;
    /**
     * Called after every step. May be NULL.
     */
    transcdiff_progress_callback progress;
    /**
     * Called after every `preview_interval` steps. May be NULL.
     */
    transcdiff_preview_callback preview;
    /**
     * At least 1.
     */
    size_t preview_interval;
    /**
     * Told what is done. May be NULL.
     */
    transcdiff_log_callback log;
    /**
     * Handed to the callbacks.
     */
    void *user_data;
} transcdiff_generate_options;

/**
 * Where results go. Set up by `transcdiff_outputs_init`. Every buffer is the caller's, exactly as large as what is written, and aligned;
 * NULL where something is not wanted, but not everywhere. Nothing is written unless the call succeeds.
 */
typedef struct transcdiff_outputs {
    /**
     * sizeof(transcdiff_outputs).
     */
    size_t struct_size;
    /**
     * One of `TRANSCDIFF_RGB8_HWC`, …: the format of `images`.
     */
    uint32_t pixel_format;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * n images of the model's size one after another; takes a VAE.
     */
    void *images;
    /**
     * In bytes: n · `transcdiff_pixel_bytes`.
     */
    size_t images_size;
    /**
     * [n, C, h, w], in the scale of the model.
     */
    float *latents;
    /**
     * In bytes.
     */
    size_t latents_size;
    /**
     * [groups − 1, n, C, h, w], in the scale of the model: with MRAR from classes, the latents that were references on the way.
     */
    float *references;
    /**
     * In bytes.
     */
    size_t references_size;
    /**
     * [n, k, feature_width]: the features that the latents were decoded from; k is the model's `feature_count`, or that of
     * the features that were given.
     */
    float *features;
    /**
     * In bytes.
     */
    size_t features_size;
} transcdiff_outputs;

/**
 * How a model is loaded. Set up by `transcdiff_load_options_init`.
 *
 * A model, and the VAE, come from a path or from memory: exactly one of the two is set for the model, at most one for the
 * VAE. Formats (safetensors, PyTorch's `.pth` and `.ckpt`) are told by their contents.
 */
typedef struct transcdiff_load_options {
    /**
     * sizeof(transcdiff_load_options).
     */
    size_t struct_size;
    /**
     * The model's file: on Unix any bytes, elsewhere UTF-8.
     */
    const char *model_path;
    /**
     * The model's file in memory. Not needed any more when the call returns.
     */
    const void *model_data;
    /**
     * Its size in bytes.
     */
    size_t model_size;
    /**
     * The VAE's file, as `model_path`. Without a VAE the model gives latents.
     */
    const char *vae_path;
    /**
     * The VAE's file in memory. Not needed any more when the call returns.
     */
    const void *vae_data;
    /**
     * Its size in bytes.
     */
    size_t vae_size;
    /**
     * "cpu", "cuda", "cuda:N" or "auto", which NULL means too.
     */
    const char *device;
    /**
     * `TRANSCDIFF_F32` or `TRANSCDIFF_BF16`: the type that the model computes in.
     */
    uint32_t dtype;
    /**
     * Threads of the CPU; 0: one a core.
     */
    uint32_t threads;
    /**
     * `TRANSCDIFF_WEIGHTS_AUTO`, `_EMA` or `_MODEL`.
     */
    uint32_t weights;
    /**
     * Attention heads of a model whose file does not tell them; 0: the file, or the published sizes, tell.
     */
    uint32_t heads;
    /**
     * Not 0: files are mapped instead of read, and the caller promises that nobody changes or truncates them during the
     * call. 0: files may change underneath.
     */
    uint32_t map_files;
    /**
     * 0.
     */
    uint32_t reserved;
    /**
     * Told what was chosen, and why. May be NULL.
     */
    transcdiff_log_callback log;
    /**
     * Handed to `log`.
     */
    void *user_data;
} transcdiff_load_options;

/**
 * What loading and generating will take, in bytes. Host memory on the CPU, the device's elsewhere.
 */
typedef struct transcdiff_memory {
    /**
     * sizeof(transcdiff_memory).
     */
    size_t struct_size;
    /**
     * Kept while the model lives: the weights of model and VAE.
     */
    uint64_t weights;
    /**
     * On top of what is kept, while it is loaded.
     */
    uint64_t loading;
    /**
     * On top of the weights, while the images of one batch are generated.
     */
    uint64_t generation;
} transcdiff_memory;

/**
 * What a model is.
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
     * `TRANSCDIFF_MODE_ONE_STEP` or `TRANSCDIFF_MODE_MULTI_REFERENCE`.
     */
    uint32_t mode;
    /**
     * `TRANSCDIFF_F32` or `TRANSCDIFF_BF16`.
     */
    uint32_t dtype;
    /**
     * Trajectories of one generation: 1 in one step, else as many as there are groups of features.
     */
    size_t groups;
    /**
     * Semantic features of an image.
     */
    size_t feature_count;
    /**
     * Values of a feature.
     */
    size_t feature_width;
    /**
     * Channels of a latent.
     */
    size_t latent_channels;
    /**
     * Height of a latent.
     */
    size_t latent_height;
    /**
     * Width of a latent.
     */
    size_t latent_width;
    /**
     * Height of an image in pixels; 0 without a VAE.
     */
    size_t image_height;
    /**
     * Width of an image in pixels; 0 without a VAE.
     */
    size_t image_width;
    /**
     * Pixels for one position of a latent in both directions; 0 without a VAE.
     */
    size_t downsampling;
    /**
     * Values in the parameters of the model.
     */
    uint64_t parameters;
    /**
     * Values in the parameters of the VAE; 0 without one.
     */
    uint64_t vae_parameters;
} transcdiff_model_info;

/**
 * The call did what it was asked to.
 */
#define TRANSCDIFF_OK 0

/**
 * An argument is outside of what the function takes: NULL, a class that is none, a number out of range.
 */
#define TRANSCDIFF_INVALID_ARGUMENT 1

/**
 * Sizes do not fit together, or a buffer is not of the size that it has to have.
 */
#define TRANSCDIFF_INVALID_SHAPE 2

/**
 * The device does not compute in this type.
 */
#define TRANSCDIFF_INVALID_DTYPE 3

/**
 * The model's configuration is impossible, or incomplete.
 */
#define TRANSCDIFF_INVALID_CONFIG 4

/**
 * A struct is not of a size that this library knows, or sets fields that it does not know.
 */
#define TRANSCDIFF_INVALID_STRUCT 5

/**
 * The device cannot be used.
 */
#define TRANSCDIFF_DEVICE_UNAVAILABLE 6

/**
 * Memory ran out. The model and the session are as usable as before.
 */
#define TRANSCDIFF_OUT_OF_MEMORY 7

/**
 * The device failed.
 */
#define TRANSCDIFF_BACKEND 8

/**
 * A file could not be read.
 */
#define TRANSCDIFF_IO 9

/**
 * A file is not of a known format, or is damaged.
 */
#define TRANSCDIFF_FORMAT 10

/**
 * A tensor in a file is not what the model needs.
 */
#define TRANSCDIFF_TENSOR 11

/**
 * A value became infinite or no number; the message names the stage.
 */
#define TRANSCDIFF_NON_FINITE 12

/**
 * A callback or another thread asked to stop. The session is as usable as before.
 */
#define TRANSCDIFF_CANCELLED 13

/**
 * Another thread, or a callback's caller, is using the session.
 */
#define TRANSCDIFF_BUSY 14

/**
 * A defect of this library. The model and the session can still be used or freed.
 */
#define TRANSCDIFF_INTERNAL 15

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * A flag that is not set. NULL only after a defect of this library. Any thread.
 */
struct transcdiff_cancellation *transcdiff_cancellation_new(void);

/**
 * Sets the flag: calls that watch it return `TRANSCDIFF_CANCELLED` within a part of a denoising step. It stays set, and
 * stops later calls at once, until it is reset. NULL is ignored. Any thread; async-signal-safe.
 *
 * Contract:
 * `cancellation` is NULL or was not freed.
 */
void transcdiff_cancellation_cancel(const struct transcdiff_cancellation *cancellation);

/**
 * Clears the flag. NULL is ignored. Any thread.
 *
 * Contract:
 * `cancellation` is NULL or was not freed.
 */
void transcdiff_cancellation_reset(const struct transcdiff_cancellation *cancellation);

/**
 * 1 if the flag is set, else 0; 0 for NULL. Any thread.
 *
 * Contract:
 * `cancellation` is NULL or was not freed.
 */
int32_t transcdiff_cancellation_is_cancelled(const struct transcdiff_cancellation *cancellation);

/**
 * Frees the flag, not before every call that was given it has returned. NULL is nothing to free. Any thread.
 *
 * Contract:
 * `cancellation` is NULL or was not freed, and no other call is using it.
 */
void transcdiff_cancellation_free(struct transcdiff_cancellation *cancellation);

/**
 * Computes the semantic features [n, k, feature_width] of `n` classes. k is the model's `feature_count` in one step; with MRAR
 * it is (1 + reference_count)·feature_count/groups, for `references` [reference_count, n, C, h, w], the latents of the images
 * before each group but the first. `features_size` is in bytes. `cancellation` may be NULL. One call a session at a time.
 *
 * Contract:
 * The pointers are NULL or valid for their sizes; `features` overlaps nothing.
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
 * Computes the semantic features for no class of `n` images, as `transcdiff_session_features`: what guidance leads away from.
 * With MRAR they depend on the references.
 *
 * Contract:
 * The pointers are NULL or valid for their sizes; `features` overlaps nothing.
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
 * Cuts features [n, count, width]: the first `k` of each image go to `cut` [n, k, width]. Any thread.
 *
 * Contract:
 * The pointers are NULL or valid for their shapes; `cut` overlaps nothing.
 */
transcdiff_status transcdiff_features_cut(const float *features,
                                          size_t n,
                                          size_t count,
                                          size_t width,
                                          size_t k,
                                          float *cut,
                                          struct transcdiff_error **error);

/**
 * Mixes features `first` and `second`, both [n, count, width]: of each image the first `k` of `first`, then those of `second`
 * from `k` on, go to `mixed` [n, count, width]. Any thread.
 *
 * Contract:
 * The pointers are NULL or valid for their shapes; `mixed` overlaps nothing.
 */
transcdiff_status transcdiff_features_mix(const float *first,
                                          const float *second,
                                          size_t n,
                                          size_t count,
                                          size_t width,
                                          size_t k,
                                          float *mixed,
                                          struct transcdiff_error **error);

/**
 * Sets every field of `options` to its default: for a published model the sampler's settings with which the paper reports its
 * results, for others and for NULL the plain sampler without guidance; 100 steps. `struct_size` is
 * sizeof(transcdiff_generate_options) as the caller's header has it. Any thread.
 *
 * Contract:
 * `model` is NULL or was not freed; `options` is NULL or points to `struct_size` bytes that can be written.
 */
transcdiff_status transcdiff_generate_options_init(const struct transcdiff_model *model,
                                                   struct transcdiff_generate_options *options,
                                                   size_t struct_size);

/**
 * Sets every field of `outputs` to its default: RGB8, rows of pixels, nothing wanted. `struct_size` is
 * sizeof(transcdiff_outputs) as the caller's header has it. Any thread.
 *
 * Contract:
 * `outputs` is NULL or points to `struct_size` bytes that can be written.
 */
transcdiff_status transcdiff_outputs_init(struct transcdiff_outputs *outputs, size_t struct_size);

/**
 * Generates images, latents or both. The same options give the same bytes, in any batch. One call a session at a time.
 *
 * Contract:
 * The pointers, and those within the structs, are NULL or valid as their documentation says; buffers do not overlap.
 */
transcdiff_status transcdiff_session_generate(struct transcdiff_session *session,
                                              const struct transcdiff_generate_options *options,
                                              const struct transcdiff_outputs *outputs,
                                              struct transcdiff_error **error);

/**
 * Sets every field of `options` to its default. `struct_size` is sizeof(transcdiff_load_options) as the caller's header
 * has it. Any thread.
 *
 * Contract:
 * `options` is NULL or points to `struct_size` bytes that can be written.
 */
transcdiff_status transcdiff_load_options_init(struct transcdiff_load_options *options,
                                               size_t struct_size);

/**
 * Loads a model to `*model`, which is NULL if that fails. Any thread.
 *
 * Contract:
 * The pointers are NULL or valid as their documentation says; `model` and `error` can be written.
 */
transcdiff_status transcdiff_model_load(const struct transcdiff_load_options *options,
                                        struct transcdiff_model **model,
                                        struct transcdiff_error **error);

/**
 * Estimates, from the headers of the files alone, what loading with `options` and generating `images` images at a time
 * will take. Any thread.
 *
 * Contract:
 * As `transcdiff_model_load`.
 */
transcdiff_status transcdiff_memory_estimate(const struct transcdiff_load_options *options,
                                             size_t images,
                                             struct transcdiff_memory *memory,
                                             struct transcdiff_error **error);

/**
 * What the model is. Any thread.
 *
 * Contract:
 * `model` is NULL or was not freed; `info` is NULL or points to a struct of the size that its first field says.
 */
transcdiff_status transcdiff_model_get_info(const struct transcdiff_model *model,
                                            struct transcdiff_model_info *info,
                                            struct transcdiff_error **error);

/**
 * The device's name, for people. It lives as long as the model; "" for NULL. Any thread.
 *
 * Contract:
 * `model` is NULL or was not freed.
 */
const char *transcdiff_model_device(const struct transcdiff_model *model);

/**
 * Frees a model. NULL is nothing to free. Any thread.
 *
 * Contract:
 * `model` is NULL or was not freed, and no other call is using the handle. Sessions may go on.
 */
void transcdiff_model_free(struct transcdiff_model *model);

/**
 * Bytes of one image of `height` × `width` pixels; 0 for an unknown format or a size that memory cannot hold. Any thread.
 */
size_t transcdiff_pixel_bytes(uint32_t pixel_format,
                              size_t height,
                              size_t width);

/**
 * Encodes `n` images of `height` × `width` pixels, which lie one after another in `pixel_format`, to latents
 * [n, C, height/d, width/d] in the scale of the model, where d is the model's `downsampling`; height and width are multiples
 * of d. `images_size` and `latents_size` are in bytes. With `seeds` [n] latents are drawn from the posterior; with NULL they
 * are its mean. `cancellation` may be NULL. One call a session at a time.
 *
 * Contract:
 * The pointers are NULL or valid for their sizes; `latents` overlaps nothing.
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
 * Decodes latents [n, C, height, width] in the scale of the model to `n` images of d·height × d·width pixels, where d is the
 * model's `downsampling`. `latents_size` and `images_size` are in bytes. `cancellation` may be NULL. One call a session at a
 * time.
 *
 * Contract:
 * The pointers are NULL or valid for their sizes; `images` overlaps nothing.
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
 * Makes a session on `model` to `*session`, which is NULL if that fails. Any thread.
 *
 * Contract:
 * `model` is NULL or was not freed; `session` and `error` are NULL or can be written.
 */
transcdiff_status transcdiff_session_new(const struct transcdiff_model *model,
                                         struct transcdiff_session **session,
                                         struct transcdiff_error **error);

/**
 * Frees a session. NULL is nothing to free. Any thread.
 *
 * Contract:
 * `session` is NULL or was not freed, and no other call is using it.
 */
void transcdiff_session_free(struct transcdiff_session *session);

/**
 * Name of a status code, or "unknown status". Static memory. Any thread.
 */
const char *transcdiff_status_name(transcdiff_status status);

/**
 * The status code of an error; `TRANSCDIFF_OK` for NULL. Any thread.
 *
 * Contract:
 * `error` is NULL or an error that was not freed.
 */
transcdiff_status transcdiff_error_status(const struct transcdiff_error *error);

/**
 * The whole message of an error, in one line of UTF-8. It lives as long as the error; "" for NULL. Any thread.
 *
 * Contract:
 * `error` is NULL or an error that was not freed.
 */
const char *transcdiff_error_message(const struct transcdiff_error *error);

/**
 * What the error is about: the argument, tensor, operation, stage or file. It lives as long as the error; "" where there
 * is none. Any thread.
 *
 * Contract:
 * `error` is NULL or an error that was not freed.
 */
const char *transcdiff_error_subject(const struct transcdiff_error *error);

/**
 * What was expected, in words. It lives as long as the error; "" where that cannot be said. Any thread.
 *
 * Contract:
 * `error` is NULL or an error that was not freed.
 */
const char *transcdiff_error_expected(const struct transcdiff_error *error);

/**
 * What came instead, in words. It lives as long as the error; "" where that cannot be said. Any thread.
 *
 * Contract:
 * `error` is NULL or an error that was not freed.
 */
const char *transcdiff_error_got(const struct transcdiff_error *error);

/**
 * Frees an error. NULL is nothing to free. Any thread.
 *
 * Contract:
 * `error` is NULL or an error that was not freed.
 */
void transcdiff_error_free(struct transcdiff_error *error);

/**
 * The version of the ABI that the library implements. Any thread.
 */
uint32_t transcdiff_abi_version(void);

/**
 * The library's version, "MAJOR.MINOR.PATCH". Static memory. Any thread.
 */
const char *transcdiff_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* TRANSCDIFF_H */
