/*
 * TransDiff for C++17 and later: RAII handles, results that carry errors, and callables as callbacks, over transcdiff.h.
 *
 * - Handles are move-only and free their resources. A moved-from handle may be destroyed or assigned to; calls on a
 *   moved-from Model or Session fail with an Error, and cancelling a moved-from CancellationToken has no effect.
 * - A function `try_f` returns a Result, which holds a value or an Error. With exceptions enabled, `f` is try_f with the
 *   value returned and the Error thrown. With -fno-exceptions only the `try_f` forms exist. Errors are those documented in
 *   transcdiff.h.
 * - An exception thrown by a callback stops the generation and is rethrown from the call, `try_f` included, after the C
 *   frames have returned; while a model is loaded, it is rethrown when loading ends.
 * - Results are stored in vectors with std::allocator; its exceptions are thrown by both forms.
 * - Threads: any number of sessions and threads share a Model; a Session serves one call at a time; a CancellationToken is
 *   thread-safe.
 */

#ifndef TRANSCDIFF_HPP
#define TRANSCDIFF_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#if __has_include(<version>)
#include <version>
#endif
#ifdef __cpp_lib_span
#include <span>
#endif

#include "transcdiff.h"

#if defined(__cpp_exceptions) || defined(_CPPUNWIND)
#define TRANSCDIFF_EXCEPTIONS 1
#else
#define TRANSCDIFF_EXCEPTIONS 0
#endif

// Translation units with and without std::span or exceptions can be linked together: the inline namespace keeps their
// differing definitions apart.
#if defined(__cpp_lib_span) && TRANSCDIFF_EXCEPTIONS
#define TRANSCDIFF_NAMESPACE std_span
#elif defined(__cpp_lib_span)
#define TRANSCDIFF_NAMESPACE std_span_without_exceptions
#elif TRANSCDIFF_EXCEPTIONS
#define TRANSCDIFF_NAMESPACE own_span
#else
#define TRANSCDIFF_NAMESPACE own_span_without_exceptions
#endif

namespace transcdiff {
inline namespace TRANSCDIFF_NAMESPACE {

#ifdef __cpp_lib_span
/// Non-owning view of contiguous elements.
template <class T>
using Span = std::span<T>;
#else
/// Non-owning view of contiguous elements: a subset of std::span, which replaces it from C++20 on.
template <class T>
class Span {
public:
    constexpr Span() noexcept = default;
    /// View of `size` elements at `data`. As with std::span, the literal 0 is not accepted as a pointer.
    template <class U, class = std::enable_if_t<std::is_convertible_v<U (*)[], T (*)[]>>>
    constexpr Span(U *data, std::size_t size) noexcept : data_(data), size_(size) {}
    /// View of the elements of a contiguous container.
    template <class C, class = std::enable_if_t<std::is_convertible_v<
                           std::remove_pointer_t<decltype(std::declval<C &>().data())> (*)[], T (*)[]>>>
    constexpr Span(C &&container) noexcept : data_(container.data()), size_(container.size()) {}

    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }
    constexpr T &operator[](std::size_t index) const { return data_[index]; }
    constexpr Span subspan(std::size_t first, std::size_t count) const { return {data_ + first, count}; }

private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};
#endif

/// Status of a call. Later versions of the library may return values that this header does not name.
enum class Status : transcdiff_status {
    ok = TRANSCDIFF_OK,
    invalid_argument = TRANSCDIFF_INVALID_ARGUMENT,
    invalid_shape = TRANSCDIFF_INVALID_SHAPE,
    invalid_dtype = TRANSCDIFF_INVALID_DTYPE,
    invalid_config = TRANSCDIFF_INVALID_CONFIG,
    invalid_struct = TRANSCDIFF_INVALID_STRUCT,
    device_unavailable = TRANSCDIFF_DEVICE_UNAVAILABLE,
    out_of_memory = TRANSCDIFF_OUT_OF_MEMORY,
    backend = TRANSCDIFF_BACKEND,
    io = TRANSCDIFF_IO,
    format = TRANSCDIFF_FORMAT,
    tensor = TRANSCDIFF_TENSOR,
    non_finite = TRANSCDIFF_NON_FINITE,
    cancelled = TRANSCDIFF_CANCELLED,
    busy = TRANSCDIFF_BUSY,
    internal = TRANSCDIFF_INTERNAL,
};

/// Solver of the sampling process.
enum class Solver : std::uint32_t {
    euler_maruyama = TRANSCDIFF_SOLVER_EULER_MARUYAMA,
    euler = TRANSCDIFF_SOLVER_EULER,
    heun = TRANSCDIFF_SOLVER_HEUN,
    exponential_sde = TRANSCDIFF_SOLVER_EXPONENTIAL_SDE,
    adams_bashforth = TRANSCDIFF_SOLVER_ADAMS_BASHFORTH,
    consistency = TRANSCDIFF_SOLVER_CONSISTENCY,
};

/// Tested combination of solver, steps and interval of guidance.
enum class Quality : std::uint32_t {
    none = TRANSCDIFF_QUALITY_NONE,
    draft = TRANSCDIFF_QUALITY_DRAFT,
    fast = TRANSCDIFF_QUALITY_FAST,
    paper = TRANSCDIFF_QUALITY_PAPER,
};

/// Weight set to load from a file.
enum class WeightSet : std::uint32_t {
    automatic = TRANSCDIFF_WEIGHTS_AUTO,
    ema = TRANSCDIFF_WEIGHTS_EMA,
    raw = TRANSCDIFF_WEIGHTS_RAW,
};

/// Severity of a log message.
enum class LogLevel : std::uint32_t { info = TRANSCDIFF_LOG_INFO, warning = TRANSCDIFF_LOG_WARNING };

/// Data type of the computation.
enum class DType : std::uint32_t { f32 = TRANSCDIFF_F32, bf16 = TRANSCDIFF_BF16, int8 = TRANSCDIFF_INT8 };

/// Order and type of the values of an image.
enum class PixelFormat : std::uint32_t {
    rgb8_hwc = TRANSCDIFF_RGB8_HWC,
    rgb8_chw = TRANSCDIFF_RGB8_CHW,
    f32_hwc = TRANSCDIFF_F32_HWC,
    f32_chw = TRANSCDIFF_F32_CHW,
    gray8 = TRANSCDIFF_GRAY8,
    gray_f32 = TRANSCDIFF_GRAY_F32,
};

/// Return value of a progress or preview callback: continue the call, or stop it with Status::cancelled.
enum class ControlFlow { continue_, cancel };

/// Progress after a sampling step; transcdiff.h documents the fields, here and below.
using Progress = transcdiff_progress;
/// Description of a model.
using ModelInfo = transcdiff_model_info;
/// Estimate of the memory for loading and generation, in bytes.
using Memory = transcdiff_memory;

/// Progress callback, invoked after every sampling step on the calling thread.
using ProgressFunction = std::function<ControlFlow(const Progress &)>;
/// Preview callback: receives the denoised latents [images, C, h, w] of the batch as predicted at this step, in the scale
/// of the model.
using PreviewFunction = std::function<ControlFlow(const Progress &, Span<const float> latents)>;
/// Log callback: receives a single line of UTF-8.
using LogFunction = std::function<void(LogLevel, std::string_view message)>;

namespace detail {
struct Deleter {
    void operator()(transcdiff_error *error) const noexcept { transcdiff_error_free(error); }
    void operator()(transcdiff_model *model) const noexcept { transcdiff_model_free(model); }
    void operator()(transcdiff_session *session) const noexcept { transcdiff_session_free(session); }
    void operator()(transcdiff_cancellation *token) const noexcept { transcdiff_cancellation_free(token); }
};

template <class T>
using Handle = std::unique_ptr<T, Deleter>;

/// Pointer to the elements, or NULL ("not set") if there are none.
template <class C>
auto data_or_null(const C &elements) noexcept -> decltype(elements.data()) {
    return elements.size() == 0 ? nullptr : elements.data();
}
} // namespace detail

/// Error of a call.
class Error : public std::exception {
public:
    Error(Status status, std::string message, std::string subject = {}, std::string expected = {},
          std::string got = {})
        : status_(status), message_(std::move(message)), subject_(std::move(subject)),
          expected_(std::move(expected)), got_(std::move(got)) {}

    /// Error of a call that returned `status`, with the texts of `error`, which may be NULL.
    Error(transcdiff_status status, const transcdiff_error *error)
        : Error(static_cast<Status>(status),
                error == nullptr ? transcdiff_status_name(status) : transcdiff_error_message(error),
                transcdiff_error_subject(error), transcdiff_error_expected(error), transcdiff_error_got(error)) {}

    /// Status code.
    Status status() const noexcept { return status_; }
    /// Full message, a single line of UTF-8.
    const std::string &message() const noexcept { return message_; }
    /// Name of the argument, tensor, operation, stage or file that the error is about, or empty.
    const std::string &subject() const noexcept { return subject_; }
    /// Description of the expected value, or empty.
    const std::string &expected() const noexcept { return expected_; }
    /// Description of the actual value, or empty.
    const std::string &got() const noexcept { return got_; }
    /// Full message.
    const char *what() const noexcept override { return message_.c_str(); }

private:
    Status status_;
    std::string message_, subject_, expected_, got_;
};

/// Value or Error. Accessing the alternative that is not held is undefined behaviour, except through `value`.
template <class T>
class [[nodiscard]] Result {
public:
    Result(T value) : state_(std::move(value)) {}
    Result(Error error) : state_(std::move(error)) {}

    bool has_value() const noexcept { return state_.index() == 0; }
    explicit operator bool() const noexcept { return has_value(); }
    T &operator*() & noexcept { return *std::get_if<0>(&state_); }
    const T &operator*() const & noexcept { return *std::get_if<0>(&state_); }
    T &&operator*() && noexcept { return std::move(*std::get_if<0>(&state_)); }
    T *operator->() noexcept { return std::get_if<0>(&state_); }
    const T *operator->() const noexcept { return std::get_if<0>(&state_); }
    const Error &error() const & noexcept { return *std::get_if<1>(&state_); }
    Error &&error() && noexcept { return std::move(*std::get_if<1>(&state_)); }

#if TRANSCDIFF_EXCEPTIONS
    /// Returns the value, or throws the Error.
    T value() && {
        if (!has_value()) {
            throw std::move(*this).error();
        }
        return std::move(**this);
    }
#endif

private:
    std::variant<T, Error> state_;
};

/// Success without a value, or an Error.
template <>
class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Error error) : error_(std::move(error)) {}

    bool has_value() const noexcept { return !error_.has_value(); }
    explicit operator bool() const noexcept { return has_value(); }
    const Error &error() const & noexcept { return *error_; }
    Error &&error() && noexcept { return *std::move(error_); }

private:
    std::optional<Error> error_;
};

namespace detail {
/// Calls a C function with an error argument and converts its error.
template <class Call>
Result<void> call(Call function) {
    transcdiff_error *raw = nullptr;
    const transcdiff_status status = function(&raw);
    const Handle<transcdiff_error> error(raw);
    return status == TRANSCDIFF_OK ? Result<void>() : Result<void>(Error(status, error.get()));
}

inline Error mismatch(Status status, std::string subject, std::string expected, std::string got) {
    std::string message = subject + ": expected " + expected + ", got " + got;
    return {status, std::move(message), std::move(subject), std::move(expected), std::move(got)};
}

/// Returns size / unit; fails if `size` is not a multiple of `unit`.
inline Result<std::size_t> divide_exactly(const char *subject, std::size_t size, std::size_t unit) {
    if (unit == 0 ? size == 0 : size % unit == 0) {
        return unit == 0 ? 0 : size / unit;
    }
    return mismatch(Status::invalid_shape, subject, "a multiple of " + std::to_string(unit),
                   std::to_string(size));
}

inline Result<void> check_size(const char *subject, std::size_t size, std::size_t expected) {
    if (size == expected) {
        return {};
    }
    return mismatch(Status::invalid_shape, subject, std::to_string(expected), std::to_string(size));
}

/// Callbacks of one call, and the first exception that one of them threw.
class Callbacks {
public:
    Callbacks(const LogFunction *log, const ProgressFunction *progress = nullptr,
              const PreviewFunction *preview = nullptr)
        : log_(log), progress_(progress), preview_(preview) {}

    static std::int32_t on_progress(const transcdiff_progress *step, void *self) noexcept {
        auto &callbacks = *static_cast<Callbacks *>(self);
        return callbacks.control(
            [&] { return *callbacks.progress_ ? (*callbacks.progress_)(*step) : ControlFlow::continue_; });
    }

    static std::int32_t on_preview(const transcdiff_progress *step, const float *latents, std::size_t count,
                                   void *self) noexcept {
        auto &callbacks = *static_cast<Callbacks *>(self);
        return callbacks.control([&] { return (*callbacks.preview_)(*step, Span<const float>(latents, count)); });
    }

    static void on_log(std::uint32_t level, const char *message, void *self) noexcept {
        auto &callbacks = *static_cast<Callbacks *>(self);
        callbacks.guarded([&] { (*callbacks.log_)(static_cast<LogLevel>(level), message); });
    }

    /// Rethrows the exception of a callback, if any.
    void rethrow() const {
#if TRANSCDIFF_EXCEPTIONS
        if (exception_) {
            std::rethrow_exception(exception_);
        }
#endif
    }

private:
    template <class Call>
    std::int32_t control(Call call) noexcept {
        ControlFlow result = ControlFlow::cancel;
        guarded([&] { result = call(); });
        return result == ControlFlow::cancel ? 1 : 0;
    }

    /// Invokes a callback and stores its exception; after an exception no callback is invoked.
    template <class Call>
    void guarded(Call call) noexcept {
#if TRANSCDIFF_EXCEPTIONS
        if (exception_) {
            return;
        }
        try {
            call();
        } catch (...) {
            exception_ = std::current_exception();
        }
#else
        call();
#endif
    }

    const LogFunction *log_;
    const ProgressFunction *progress_;
    const PreviewFunction *preview_;
#if TRANSCDIFF_EXCEPTIONS
    std::exception_ptr exception_;
#endif
};
} // namespace detail

/// Cancellation token: stops the calls that it is passed to. Thread-safe.
class CancellationToken {
public:
    /// Creates a token in the state "not cancelled".
    static Result<CancellationToken> try_create() {
        CancellationToken token{transcdiff_cancellation_new()};
        if (token.handle_ == nullptr) {
            return Error(TRANSCDIFF_INTERNAL, nullptr);
        }
        return token;
    }

#if TRANSCDIFF_EXCEPTIONS
    /// Throwing form of try_create.
    static CancellationToken create() { return try_create().value(); }
#endif

    /// Cancels running and later calls with this token until it is reset. Async-signal-safe.
    void cancel() const noexcept { transcdiff_cancellation_cancel(get()); }
    /// Resets the token to "not cancelled".
    void reset() const noexcept { transcdiff_cancellation_reset(get()); }
    /// Returns whether the token is cancelled.
    bool is_cancelled() const noexcept { return transcdiff_cancellation_is_cancelled(get()) != 0; }
    /// C handle, owned by this object.
    transcdiff_cancellation *get() const noexcept { return handle_.get(); }

private:
    explicit CancellationToken(transcdiff_cancellation *handle) : handle_(handle) {}

    detail::Handle<transcdiff_cancellation> handle_;
};

/// Weight file: a path, or the contents, which belong to the caller and are not used after the call returns.
using WeightFile = std::variant<std::string, Span<const std::uint8_t>>;

/// Options for loading a model.
struct LoadOptions {
    /// Model file.
    WeightFile model;
    /// Codec: the file of a KL-VAE, or as a string "patch:N" for patches of N×N pixels, or "none". If unset, it is the codec
    /// that the model file describes, if any. Without a codec the model generates latents only.
    std::optional<WeightFile> codec = std::nullopt;
    /// Device: "cpu", "cuda", "cuda:N" or "auto".
    std::string device = "auto";
    /// Data type of the computation.
    DType dtype = DType::f32;
    /// Number of CPU threads; 0 means one thread per core.
    std::uint32_t threads = 0;
    /// Weight set to load.
    WeightSet weights = WeightSet::automatic;
    /// Number of attention heads, for files that do not contain it; 0 takes it from the file or from the published sizes.
    std::uint32_t heads = 0;
    /// Memory-map files instead of reading them; the caller guarantees that they are not modified or truncated during the
    /// call.
    bool map_files = false;
    /// Callback for log messages.
    LogFunction log = nullptr;
    /// Key of the dictionary that holds the weights of the model, such as "state_dict.model"; "" is the top level. Without
    /// one it is found. Required only if several are equally good, which the error says.
    std::optional<std::string> key = std::nullopt;
};

/// Options of a generation. Unset options take the library's defaults for the model. The number of images n is that of the
/// seeds.
struct GenerateOptions {
    /// Class per image, [n]; empty if `features` are set.
    std::vector<std::uint32_t> classes = {};
    /// Seed per image, [n]. The noise of an image depends on its own seed only, so it is the same in any batch.
    std::vector<std::uint64_t> seeds = {};
    /// Number of sampling steps, at least 1.
    std::optional<std::uint32_t> steps = std::nullopt;
    /// Solver of the sampling process.
    std::optional<Solver> solver = std::nullopt;
    /// Guidance scale, at least 1; 1 disables guidance.
    std::optional<double> guidance = std::nullopt;
    /// Guidance scale per AR step, [ar_steps], overriding `guidance`.
    std::vector<double> ar_step_guidance = {};
    /// Time interval [low, high] with guidance, within [0, 1].
    std::optional<double> guidance_low = std::nullopt, guidance_high = std::nullopt;
    /// Scales of the drift and of the injected noise, s0 and s1 in the paper, at least 0; ignored by solvers without scales.
    std::optional<double> drift_scale = std::nullopt, noise_scale = std::nullopt;
    /// Number of images per batch; 0 means all.
    std::size_t batch = 0;
    /// Semantic features to decode instead of classes, [n, k, feature_width].
    std::vector<float> features = {};
    /// Unconditional features for classifier-free guidance, [1 or n, k, feature_width].
    std::vector<float> unconditional = {};
    /// Latents of reference images, [count, n, C, h, w], in the scale of the model: with MRAR they replace the results of the
    /// first `count` AR steps.
    std::vector<float> references = {};
    /// Initial noise, [n, C, h, w], in the scale of the model, instead of noise generated from the seeds.
    std::vector<float> initial_noise = {};
    /// Cancellation token, or NULL. It must outlive the call.
    const CancellationToken *cancellation = nullptr;
    /// Progress callback, invoked after every sampling step.
    ProgressFunction progress = nullptr;
    /// Preview callback, invoked after every `preview_interval` sampling steps.
    PreviewFunction preview = nullptr;
    /// Number of sampling steps of an AR step between previews, at least 1.
    std::optional<std::size_t> preview_interval = std::nullopt;
    /// Callback for log messages.
    LogFunction log = nullptr;
    /// Order of the solver: 1 or 2 for exponential_sde, 2 to 4 for adams_bashforth; ignored by other solvers.
    std::optional<std::uint32_t> order = std::nullopt;
    /// Tested combination, which overrides solver, order, numbers and times of steps, and extrapolation; not for distilled models.
    std::optional<Quality> quality = std::nullopt;
    /// Number of sampling steps per AR step, [ar_steps], overriding `steps`.
    std::vector<std::uint32_t> ar_step_steps = {};
    /// Times of the sampling steps of every AR step, overriding `steps`: all of them, falling strictly from 1 (noise) to 0;
    /// without `ar_step_steps` and `warp`.
    std::vector<double> times = {};
    /// Exponents a, b, c above 0 that warp the times of n sampling steps, at most 1000000, to 1 − (1 − (1 − uᵃ)ᵇ)ᶜ with u = i/n.
    std::optional<std::array<double, 3>> warp = std::nullopt;
    /// Extrapolation of Euler's predictions, from 0 to below 1; ignored by other solvers.
    std::optional<double> extrapolation = std::nullopt;
};

/// Contiguous images of one size.
struct Images {
    PixelFormat format = PixelFormat::rgb8_hwc;
    std::size_t count = 0, height = 0, width = 0;
    /// Values of the 8-bit formats, else empty.
    std::vector<std::uint8_t> bytes = {};
    /// Values of the float formats, else empty.
    std::vector<float> floats = {};

    /// Black images.
    static Images blank(PixelFormat format, std::size_t count, std::size_t height, std::size_t width) {
        Images images{format, count, height, width};
        const auto size = count * transcdiff_image_bytes(static_cast<std::uint32_t>(format), height, width);
        if (images.has_floats()) {
            images.floats.resize(size / sizeof(float), -1.0F);
        } else {
            images.bytes.resize(size);
        }
        return images;
    }

    /// Returns whether the format has float values.
    bool has_floats() const noexcept {
        return format == PixelFormat::f32_hwc || format == PixelFormat::f32_chw || format == PixelFormat::gray_f32;
    }
    /// Size of the values in bytes.
    std::size_t size_bytes() const noexcept {
        return has_floats() ? floats.size() * sizeof(float) : bytes.size();
    }
    /// Values in `format`.
    const void *data() const noexcept {
        return has_floats() ? static_cast<const void *>(floats.data()) : bytes.data();
    }
    /// Values in `format`.
    void *data() noexcept { return has_floats() ? static_cast<void *>(floats.data()) : bytes.data(); }
};

/// Results of a generation to return; at least one.
struct OutputSelection {
    /// Images; requires a codec.
    bool images = false;
    PixelFormat pixel_format = PixelFormat::rgb8_hwc;
    bool latents = false;
    bool references = false;
    bool features = false;
};

/// Results of a generation; those that were not selected are empty.
struct Outputs {
    Images images = {};
    /// Latents, [n, C, h, w], in the scale of the model.
    std::vector<float> latents = {};
    /// Latents of the reference images, [ar_steps − 1, n, C, h, w], in the scale of the model: with MRAR from classes, the
    /// results of all AR steps but the last.
    std::vector<float> references = {};
    /// Semantic features that the latents were decoded from, [n, k, feature_width].
    std::vector<float> features = {};
};

namespace detail {
/// C options that point into the C++ ones. Strings with zero bytes are rejected, since C would truncate them.
class CLoadOptions {
public:
    static Result<CLoadOptions> make(const LoadOptions &from, Callbacks &callbacks) {
        CLoadOptions result;
        transcdiff_load_options &to = result.options;
        if (const auto status = transcdiff_load_options_init(&to, sizeof to); status != TRANSCDIFF_OK) {
            return Error(status, nullptr);
        }
        const std::pair<const char *, const std::string *> texts[] = {
            {"device", &from.device},
            {"model_path", path(&from.model)},
            {"codec_path", path(from.codec ? &*from.codec : nullptr)},
            {"key", from.key ? &*from.key : nullptr},
        };
        for (const auto &[name, text] : texts) {
            if (text != nullptr && text->find('\0') != std::string::npos) {
                return mismatch(Status::invalid_argument, name, "a string without zero bytes",
                                "a string with zero bytes");
            }
        }
        set(from.model, to.model_path, to.model_data, to.model_size);
        if (from.codec) {
            set(*from.codec, to.codec_path, to.codec_data, to.codec_size);
        }
        to.device = from.device.c_str();
        to.dtype = static_cast<std::uint32_t>(from.dtype);
        to.threads = from.threads;
        to.weights = static_cast<std::uint32_t>(from.weights);
        to.heads = from.heads;
        to.map_files = from.map_files ? 1 : 0;
        to.log = from.log ? Callbacks::on_log : nullptr;
        to.user_data = &callbacks;
        to.key = from.key ? from.key->c_str() : nullptr;
        return result;
    }

    transcdiff_load_options options;

private:
    static const std::string *path(const WeightFile *file) { return std::get_if<std::string>(file); }

    static void set(const WeightFile &file, const char *&path, const void *&data, std::size_t &size) {
        if (const auto *text = std::get_if<std::string>(&file)) {
            path = text->c_str();
        } else {
            const auto bytes = *std::get_if<Span<const std::uint8_t>>(&file);
            // An empty file is reported as a damaged file; with a NULL pointer it would count as not set.
            data = bytes.data() == nullptr ? static_cast<const void *>("") : bytes.data();
            size = bytes.size();
        }
    }
};

template <class To, class From>
void set_if(To &to, const std::optional<From> &from) {
    if (from) {
        to = static_cast<To>(*from);
    }
}

inline const transcdiff_cancellation *handle(const CancellationToken *cancellation) noexcept {
    return cancellation == nullptr ? nullptr : cancellation->get();
}

/// Pointer that selects an output even if it is empty, so that the library reports the reason.
template <class T>
T *non_null(T *data) noexcept {
    static T dummy = {};
    return data == nullptr ? &dummy : data;
}

inline float *allocate(std::vector<float> &values, std::size_t size, std::size_t &bytes) {
    values.resize(size);
    bytes = size * sizeof(float);
    return non_null(values.data());
}
} // namespace detail

/// Session: the per-caller state for using a model, created by Model::session. It serves one call at a time, may outlive
/// the Model, and remains usable after an error.
class Session {
public:
    /// Description of the model.
    const ModelInfo &info() const noexcept { return info_; }

    /// Generates images and returns the selected results. Deterministic as transcdiff_session_generate.
    Result<Outputs> try_generate(const GenerateOptions &options, const OutputSelection &selection) {
        detail::Callbacks callbacks(&options.log, &options.progress, &options.preview);
        const auto c_options = this->c_options(options, callbacks);
        if (!c_options) {
            return c_options.error();
        }
        transcdiff_outputs outputs;
        if (const auto status = transcdiff_outputs_init(&outputs, sizeof outputs); status != TRANSCDIFF_OK) {
            return Error(status, nullptr);
        }
        Outputs results = allocate_outputs(*c_options, selection, outputs);
        const auto done = detail::call([&](transcdiff_error **error) {
            return transcdiff_session_generate(handle_.get(), &*c_options, &outputs, error);
        });
        callbacks.rethrow();
        if (!done) {
            return done.error();
        }
        return results;
    }

    /// Computes the semantic features [n, k, feature_width] of classes; with MRAR those of the first 1 + count AR steps, given
    /// references [count, n, C, h, w].
    Result<std::vector<float>> try_features(Span<const std::uint32_t> classes, Span<const float> references = {},
                                            const CancellationToken *cancellation = nullptr) {
        const auto call = [&](auto... out) {
            return transcdiff_session_features(handle_.get(), classes.data(), classes.size(),
                                               detail::data_or_null(references), out...);
        };
        return features_of(classes.size(), references, cancellation, call);
    }

    /// Computes unconditional features of n images for classifier-free guidance, in the shape of try_features.
    Result<std::vector<float>> try_unconditional_features(std::size_t n, Span<const float> references = {},
                                                          const CancellationToken *cancellation = nullptr) {
        const auto call = [&](auto... out) {
            return transcdiff_session_unconditional_features(handle_.get(), n,
                                                             detail::data_or_null(references), out...);
        };
        return features_of(n, references, cancellation, call);
    }

    /// Encodes images, whose sides are multiples of the model's downsampling d, to latents [n, C, height/d, width/d]: samples
    /// of the posterior with seeds [n], else its mean.
    Result<std::vector<float>> try_encode(const Images &images, Span<const std::uint64_t> seeds = {},
                                          const CancellationToken *cancellation = nullptr) {
        if (auto sized = detail::check_size("seeds", seeds.size(), seeds.empty() ? 0 : images.count); !sized) {
            return sized.error();
        }
        const auto format = static_cast<std::uint32_t>(images.format);
        const auto each = transcdiff_image_bytes(format, images.height, images.width);
        const auto count = detail::divide_exactly("images", images.size_bytes(), each);
        if (!count) {
            return count.error();
        }
        if (auto sized = detail::check_size("images", *count, images.count); !sized) {
            return sized.error();
        }
        const auto d = info_.downsampling == 0 ? 1 : info_.downsampling;
        std::vector<float> latents(images.count * info_.latent_channels * (images.height / d) *
                                   (images.width / d));
        return write_to(std::move(latents), [&](float *to, std::size_t bytes, transcdiff_error **error) {
            return transcdiff_session_encode(handle_.get(), images.data(), images.size_bytes(), format,
                                             images.count, images.height, images.width,
                                             detail::data_or_null(seeds), detail::handle(cancellation), to, bytes,
                                             error);
        });
    }

    /// Decodes latents [n, C, height, width] to images. `size` is (height, width), by default the model's latent size.
    Result<Images> try_decode(Span<const float> latents, PixelFormat format = PixelFormat::rgb8_hwc,
                              std::optional<std::pair<std::size_t, std::size_t>> size = std::nullopt,
                              const CancellationToken *cancellation = nullptr) {
        const auto height = size ? size->first : info_.latent_height;
        const auto width = size ? size->second : info_.latent_width;
        const auto count = detail::divide_exactly("latents", latents.size(), info_.latent_channels * height * width);
        if (!count) {
            return count.error();
        }
        const auto d = info_.downsampling;
        Images images = Images::blank(format, *count, d * height, d * width);
        const auto done = detail::call([&](transcdiff_error **error) {
            return transcdiff_session_decode(handle_.get(), latents.data(), latents.size() * sizeof(float), *count,
                                             height, width, static_cast<std::uint32_t>(format),
                                             detail::handle(cancellation),
                                             detail::non_null(static_cast<char *>(images.data())),
                                             images.size_bytes(), error);
        });
        if (!done) {
            return done.error();
        }
        return images;
    }

#if TRANSCDIFF_EXCEPTIONS
    /// Throwing form of try_generate.
    Outputs generate(const GenerateOptions &options, const OutputSelection &selection) {
        return try_generate(options, selection).value();
    }
    /// Throwing form of try_features.
    std::vector<float> features(Span<const std::uint32_t> classes, Span<const float> references = {},
                                const CancellationToken *cancellation = nullptr) {
        return try_features(classes, references, cancellation).value();
    }
    /// Throwing form of try_unconditional_features.
    std::vector<float> unconditional_features(std::size_t n, Span<const float> references = {},
                                              const CancellationToken *cancellation = nullptr) {
        return try_unconditional_features(n, references, cancellation).value();
    }
    /// Throwing form of try_encode.
    std::vector<float> encode(const Images &images, Span<const std::uint64_t> seeds = {},
                              const CancellationToken *cancellation = nullptr) {
        return try_encode(images, seeds, cancellation).value();
    }
    /// Throwing form of try_decode.
    Images decode(Span<const float> latents, PixelFormat format = PixelFormat::rgb8_hwc,
                  std::optional<std::pair<std::size_t, std::size_t>> size = std::nullopt,
                  const CancellationToken *cancellation = nullptr) {
        return try_decode(latents, format, size, cancellation).value();
    }
#endif

    /// C handle, owned by this object.
    transcdiff_session *get() const noexcept { return handle_.get(); }

private:
    friend class Model;

    Session(transcdiff_session *handle, const ModelInfo &info, const transcdiff_generate_options &defaults)
        : handle_(handle), info_(info), defaults_(defaults) {}

    std::size_t latent_size() const noexcept {
        return info_.latent_channels * info_.latent_height * info_.latent_width;
    }

    /// C options that point into `from` and `callbacks`.
    Result<transcdiff_generate_options> c_options(const GenerateOptions &from,
                                                  detail::Callbacks &callbacks) const {
        transcdiff_generate_options to = defaults_;
        to.images = from.seeds.size();
        to.classes = detail::data_or_null(from.classes);
        to.seeds = detail::data_or_null(from.seeds);
        detail::set_if(to.steps, from.steps);
        detail::set_if(to.solver, from.solver);
        detail::set_if(to.guidance, from.guidance);
        to.ar_step_guidance = detail::data_or_null(from.ar_step_guidance);
        to.ar_step_guidance_count = from.ar_step_guidance.size();
        detail::set_if(to.guidance_low, from.guidance_low);
        detail::set_if(to.guidance_high, from.guidance_high);
        detail::set_if(to.drift_scale, from.drift_scale);
        detail::set_if(to.noise_scale, from.noise_scale);
        detail::set_if(to.order, from.order);
        detail::set_if(to.quality, from.quality);
        to.ar_step_steps = detail::data_or_null(from.ar_step_steps);
        to.ar_step_steps_count = from.ar_step_steps.size();
        to.times = detail::data_or_null(from.times);
        to.time_count = from.times.size();
        to.warp = from.warp ? from.warp->data() : nullptr;
        detail::set_if(to.extrapolation, from.extrapolation);
        to.batch = from.batch;
        to.cancellation = detail::handle(from.cancellation);
        // Always set: it stops the call after an exception of another callback.
        to.progress = detail::Callbacks::on_progress;
        to.preview = from.preview ? detail::Callbacks::on_preview : nullptr;
        detail::set_if(to.preview_interval, from.preview_interval);
        to.log = from.log ? detail::Callbacks::on_log : nullptr;
        to.user_data = &callbacks;
        if (auto sized = set_arrays(from, to); !sized) {
            return std::move(sized).error();
        }
        return to;
    }

    /// Sets the arrays, with counts derived from their sizes.
    Result<void> set_arrays(const GenerateOptions &from, transcdiff_generate_options &to) const {
        const auto n = from.seeds.size();
        if (auto sized = detail::check_size("classes", from.classes.size(), from.classes.empty() ? 0 : n); !sized) {
            return sized;
        }
        const auto noise = from.initial_noise.empty() ? 0 : n * latent_size();
        if (auto sized = detail::check_size("initial_noise", from.initial_noise.size(), noise); !sized) {
            return sized;
        }
        const auto count = detail::divide_exactly("features", from.features.size(), n * info_.feature_width);
        if (!count) {
            return count.error();
        }
        const auto others =
            detail::divide_exactly("unconditional", from.unconditional.size(), *count * info_.feature_width);
        if (!others) {
            return others.error();
        }
        const auto references = detail::divide_exactly("references", from.references.size(), n * latent_size());
        if (!references) {
            return references.error();
        }
        to.features = detail::data_or_null(from.features);
        to.feature_count = *count;
        to.unconditional = detail::data_or_null(from.unconditional);
        to.unconditional_images = *others;
        to.references = detail::data_or_null(from.references);
        to.reference_count = *references;
        to.initial_noise = detail::data_or_null(from.initial_noise);
        return {};
    }

    /// Allocates the selected results, and points `outputs` to them.
    Outputs allocate_outputs(const transcdiff_generate_options &options, const OutputSelection &selection,
                             transcdiff_outputs &outputs) const {
        Outputs results;
        const auto n = options.images;
        const auto latents = n * latent_size();
        outputs.pixel_format = static_cast<std::uint32_t>(selection.pixel_format);
        if (selection.images) {
            results.images = Images::blank(selection.pixel_format, n, info_.image_height, info_.image_width);
            outputs.images = detail::non_null(static_cast<char *>(results.images.data()));
            outputs.images_size = results.images.size_bytes();
        }
        if (selection.latents) {
            outputs.latents = detail::allocate(results.latents, latents, outputs.latents_size);
        }
        if (selection.references && options.classes != nullptr) {
            const auto steps = info_.ar_steps == 0 ? 0 : info_.ar_steps - 1;
            outputs.references = detail::allocate(results.references, steps * latents, outputs.references_size);
        }
        if (selection.features) {
            const auto count = options.features == nullptr ? info_.feature_count : options.feature_count;
            outputs.features =
                detail::allocate(results.features, n * count * info_.feature_width, outputs.features_size);
        }
        return results;
    }

    /// Computes features of n images; `call` takes the C arguments after the references.
    template <typename Call>
    Result<std::vector<float>> features_of(std::size_t n, Span<const float> references,
                                           const CancellationToken *cancellation, Call call) {
        const auto count = detail::divide_exactly("references", references.size(), n * latent_size());
        if (!count) {
            return count.error();
        }
        const auto features_per_image = info_.ar_steps == 0 ? 0 : info_.feature_count / info_.ar_steps * (1 + *count);
        std::vector<float> features(n * features_per_image * info_.feature_width);
        return write_to(std::move(features), [&](float *to, std::size_t bytes, transcdiff_error **error) {
            return call(*count, detail::handle(cancellation), to, bytes, error);
        });
    }

    /// Returns `values` after `call` has written them.
    template <class Call>
    static Result<std::vector<float>> write_to(std::vector<float> values, Call call) {
        const auto done = detail::call([&](transcdiff_error **error) {
            return call(detail::non_null(values.data()), values.size() * sizeof(float), error);
        });
        if (!done) {
            return done.error();
        }
        return values;
    }

    detail::Handle<transcdiff_session> handle_;
    ModelInfo info_;
    transcdiff_generate_options defaults_;
};

/// Model on a device, with or without a codec. Immutable: any number of sessions and threads can use it concurrently.
class Model {
public:
    /// Loads a model, and the codec if one is given or described by the model file. Thread-safe.
    static Result<Model> try_load(const LoadOptions &options) {
        detail::Callbacks callbacks(&options.log);
        const auto c_options = detail::CLoadOptions::make(options, callbacks);
        if (!c_options) {
            return c_options.error();
        }
        transcdiff_model *raw = nullptr;
        const auto loaded = detail::call(
            [&](transcdiff_error **error) { return transcdiff_model_load(&c_options->options, &raw, error); });
        Model model{raw};
        callbacks.rethrow();
        if (!loaded) {
            return loaded.error();
        }
        model.info_.struct_size = sizeof model.info_;
        const auto described = detail::call(
            [&](transcdiff_error **error) { return transcdiff_model_get_info(raw, &model.info_, error); });
        if (!described) {
            return described.error();
        }
        return model;
    }

    /// Creates a session. Thread-safe.
    Result<Session> try_session() const {
        transcdiff_generate_options defaults;
        const auto status = transcdiff_generate_options_init(get(), &defaults, sizeof defaults);
        if (status != TRANSCDIFF_OK) {
            return Error(status, nullptr);
        }
        transcdiff_session *raw = nullptr;
        const auto created = detail::call(
            [&](transcdiff_error **error) { return transcdiff_session_new(get(), &raw, error); });
        if (!created) {
            return created.error();
        }
        return Session(raw, info_, defaults);
    }

    /// Finds a class by its name, or its number in decimal, as transcdiff_model_find_class. Thread-safe.
    Result<std::uint32_t> try_find_class(const std::string &name) const {
        if (name.find('\0') != std::string::npos) {
            return detail::mismatch(Status::invalid_argument, "name", "a string without zero bytes",
                                    "a string with zero bytes");
        }
        std::uint32_t class_number = 0;
        const auto found = detail::call([&](transcdiff_error **error) {
            return transcdiff_model_find_class(get(), name.c_str(), &class_number, error);
        });
        if (!found) {
            return found.error();
        }
        return class_number;
    }

#if TRANSCDIFF_EXCEPTIONS
    /// Throwing form of try_find_class.
    std::uint32_t find_class(const std::string &name) const { return try_find_class(name).value(); }
    /// Throwing form of try_load.
    static Model load(const LoadOptions &options) { return try_load(options).value(); }
    /// Throwing form of try_session.
    Session session() const { return try_session().value(); }
#endif

    /// Description of the model.
    const ModelInfo &info() const noexcept { return info_; }
    /// Name of a class, or nothing if it has none; valid while the Model lives.
    std::optional<std::string_view> class_name(std::size_t class_number) const noexcept {
        const char *name = transcdiff_model_class_name(get(), class_number);
        return name == nullptr ? std::nullopt : std::optional<std::string_view>(name);
    }
    /// Human-readable name of the device; valid while the Model lives.
    std::string_view device() const noexcept { return transcdiff_model_device(get()); }
    /// C handle, owned by this object.
    const transcdiff_model *get() const noexcept { return handle_.get(); }

private:
    explicit Model(transcdiff_model *handle) : handle_(handle) {}

    detail::Handle<transcdiff_model> handle_;
    ModelInfo info_ = {};
};

/// Estimates the memory for loading with `options` and generating batches of `images` images, from the file headers alone.
/// Thread-safe.
inline Result<Memory> try_estimate_memory(const LoadOptions &options, std::size_t images) {
    detail::Callbacks callbacks(&options.log);
    const auto c_options = detail::CLoadOptions::make(options, callbacks);
    if (!c_options) {
        return c_options.error();
    }
    Memory memory = {};
    memory.struct_size = sizeof memory;
    const auto done = detail::call([&](transcdiff_error **error) {
        return transcdiff_memory_estimate(&c_options->options, images, &memory, error);
    });
    callbacks.rethrow();
    if (!done) {
        return done.error();
    }
    return memory;
}

/// Truncates features [n, count, width] to the first `k` of each image, [n, k, width]. Thread-safe.
inline Result<std::vector<float>> try_truncate_features(Span<const float> features, std::size_t count,
                                                        std::size_t width, std::size_t k) {
    const auto n = detail::divide_exactly("features", features.size(), count * width);
    if (!n) {
        return n.error();
    }
    // Nothing is allocated for arguments that the library rejects.
    std::vector<float> truncated(k <= count ? *n * k * width : 0);
    const auto done = detail::call([&](transcdiff_error **error) {
        return transcdiff_features_truncate(features.data(), *n, count, width, k, truncated.data(), error);
    });
    if (!done) {
        return done.error();
    }
    return truncated;
}

/// Splices features [n, count, width]: for each image the first `k` features of `first`, then those of `second` from index
/// `k`. Thread-safe.
inline Result<std::vector<float>> try_splice_features(Span<const float> first, Span<const float> second,
                                                      std::size_t count, std::size_t width, std::size_t k) {
    if (auto sized = detail::check_size("second", second.size(), first.size()); !sized) {
        return sized.error();
    }
    const auto n = detail::divide_exactly("first", first.size(), count * width);
    if (!n) {
        return n.error();
    }
    std::vector<float> spliced(first.size());
    const auto done = detail::call([&](transcdiff_error **error) {
        return transcdiff_features_splice(first.data(), second.data(), *n, count, width, k, spliced.data(), error);
    });
    if (!done) {
        return done.error();
    }
    return spliced;
}

#if TRANSCDIFF_EXCEPTIONS
/// Throwing form of try_estimate_memory.
inline Memory estimate_memory(const LoadOptions &options, std::size_t images) {
    return try_estimate_memory(options, images).value();
}
/// Throwing form of try_truncate_features.
inline std::vector<float> truncate_features(Span<const float> features, std::size_t count, std::size_t width,
                                            std::size_t k) {
    return try_truncate_features(features, count, width, k).value();
}
/// Throwing form of try_splice_features.
inline std::vector<float> splice_features(Span<const float> first, Span<const float> second, std::size_t count,
                                          std::size_t width, std::size_t k) {
    return try_splice_features(first, second, count, width, k).value();
}
#endif

/// Version of the library, "MAJOR.MINOR.PATCH".
inline std::string_view version() noexcept { return transcdiff_version(); }
/// Version of the ABI that the library implements.
inline std::uint32_t abi_version() noexcept { return transcdiff_abi_version(); }
/// Name of a status.
inline std::string_view name(Status status) noexcept {
    return transcdiff_status_name(static_cast<transcdiff_status>(status));
}

} // namespace TRANSCDIFF_NAMESPACE
} // namespace transcdiff

#endif // TRANSCDIFF_HPP
