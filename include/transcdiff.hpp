/*
 * TransDiff for C++17 and later: transcdiff.h with handles that free themselves, results that carry errors, and lambdas.
 *
 * - Handles are move-only. A moved-from handle may be destroyed or assigned to; other calls on a Model or a Session give an
 *   Error, and a Cancellation cancels nothing.
 * - A function `try_f` returns a Result, which is a value or an Error. Where exceptions are enabled, `f` returns the value
 *   and throws the Error; it is try_f and nothing else. With -fno-exceptions only the forms `try_f` exist.
 * - What a lambda throws stops the generation that it was given to, and comes out of that call (out of `try_f` too) once
 *   the C frames in between have returned; what it throws while a model is loaded comes out when that is done.
 * - Results are in vectors, whose memory is std::allocator's: what it throws, both forms throw.
 * - Threads: a Model is shared by any number of sessions; a Session serves one call at a time; a Cancellation can be used
 *   by any thread.
 */

#ifndef TRANSCDIFF_HPP
#define TRANSCDIFF_HPP

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

// Translation units with and without std::span, with and without exceptions can be linked together: what differs has
// different names.
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
/// Elements that belong to somebody else.
template <class T>
using Span = std::span<T>;
#else
/// Elements that belong to somebody else: what is needed of C++20's std::span, which takes its place where there is one.
template <class T>
class Span {
public:
    constexpr Span() noexcept = default;
    /// `size` elements from `data` on. As with std::span, a zero is no pointer: {0, n} are not n elements at NULL.
    template <class U, class = std::enable_if_t<std::is_convertible_v<U (*)[], T (*)[]>>>
    constexpr Span(U *data, std::size_t size) noexcept : data_(data), size_(size) {}
    /// The elements of a container that has them one after another.
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

/// What a call came to. Later versions may have values that this header does not name.
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

/// The sampler.
enum class Solver : std::uint32_t {
    euler_maruyama = TRANSCDIFF_SOLVER_EULER_MARUYAMA,
    euler = TRANSCDIFF_SOLVER_EULER,
    heun = TRANSCDIFF_SOLVER_HEUN,
};

/// Which of a file's weights are loaded.
enum class Weights : std::uint32_t {
    automatic = TRANSCDIFF_WEIGHTS_AUTO,
    ema = TRANSCDIFF_WEIGHTS_EMA,
    model = TRANSCDIFF_WEIGHTS_MODEL,
};

/// How much a message matters.
enum class LogLevel : std::uint32_t { info = TRANSCDIFF_LOG_INFO, warning = TRANSCDIFF_LOG_WARNING };

/// The type that a model computes in.
enum class DType : std::uint32_t { f32 = TRANSCDIFF_F32, bf16 = TRANSCDIFF_BF16 };

/// The order and type of an image's values.
enum class PixelFormat : std::uint32_t {
    rgb8_hwc = TRANSCDIFF_RGB8_HWC,
    rgb8_chw = TRANSCDIFF_RGB8_CHW,
    f32_hwc = TRANSCDIFF_F32_HWC,
    f32_chw = TRANSCDIFF_F32_CHW,
};

/// What a progress or preview lambda says: whether the call goes on, or ends as cancelled.
enum class Flow { go_on, stop };

/// A step of the sampler that was just done; transcdiff.h describes the fields, here and below.
using Progress = transcdiff_progress;
/// What a model is.
using ModelInfo = transcdiff_model_info;
/// What loading and generating will take, in bytes.
using Memory = transcdiff_memory;

using ProgressFunction = std::function<Flow(const Progress &)>;
/// Told the clean latents [images, C, h, w] of the batch as predicted at this step, in the scale of the model.
using PreviewFunction = std::function<Flow(const Progress &, Span<const float> latents)>;
/// Told a line of UTF-8.
using LogFunction = std::function<void(LogLevel, std::string_view message)>;

namespace detail {
struct Free {
    void operator()(transcdiff_error *error) const noexcept { transcdiff_error_free(error); }
    void operator()(transcdiff_model *model) const noexcept { transcdiff_model_free(model); }
    void operator()(transcdiff_session *session) const noexcept { transcdiff_session_free(session); }
    void operator()(transcdiff_cancellation *flag) const noexcept { transcdiff_cancellation_free(flag); }
};

template <class T>
using Handle = std::unique_ptr<T, Free>;

/// NULL stands for "not given".
template <class C>
auto data_or_null(const C &elements) noexcept -> decltype(elements.data()) {
    return elements.size() == 0 ? nullptr : elements.data();
}
} // namespace detail

/// What went wrong in one call.
class Error : public std::exception {
public:
    Error(Status status, std::string message, std::string subject = {}, std::string expected = {},
          std::string got = {})
        : status_(status), message_(std::move(message)), subject_(std::move(subject)),
          expected_(std::move(expected)), got_(std::move(got)) {}

    /// The error of a call that returned `status`, with what `error` knows; `error` may be NULL.
    Error(transcdiff_status status, const transcdiff_error *error)
        : Error(static_cast<Status>(status),
                error == nullptr ? transcdiff_status_name(status) : transcdiff_error_message(error),
                transcdiff_error_subject(error), transcdiff_error_expected(error), transcdiff_error_got(error)) {}

    /// What kind of error it is.
    Status status() const noexcept { return status_; }
    /// The whole message, in one line of UTF-8.
    const std::string &message() const noexcept { return message_; }
    /// What it is about: the argument, tensor, operation, stage or file; or empty.
    const std::string &subject() const noexcept { return subject_; }
    /// What was expected, in words; or empty.
    const std::string &expected() const noexcept { return expected_; }
    /// What came instead, in words; or empty.
    const std::string &got() const noexcept { return got_; }
    /// The message.
    const char *what() const noexcept override { return message_.c_str(); }

private:
    Status status_;
    std::string message_, subject_, expected_, got_;
};

/// A value or an Error. Asking for the one that is not there is undefined, but for `value`.
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
    /// The value; throws the Error where there is none.
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

/// Nothing, or an Error.
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
/// Makes a call that takes an error argument.
template <class Call>
Result<void> checked(Call call) {
    transcdiff_error *raw = nullptr;
    const transcdiff_status status = call(&raw);
    const Handle<transcdiff_error> error(raw);
    return status == TRANSCDIFF_OK ? Result<void>() : Result<void>(Error(status, error.get()));
}

inline Error invalid(Status status, std::string subject, std::string expected, std::string got) {
    std::string message = subject + ": expected " + expected + ", got " + got;
    return {status, std::move(message), std::move(subject), std::move(expected), std::move(got)};
}

/// How many times `unit` goes into `size`, which it must do without a rest.
inline Result<std::size_t> times(const char *subject, std::size_t size, std::size_t unit) {
    if (unit == 0 ? size == 0 : size % unit == 0) {
        return unit == 0 ? 0 : size / unit;
    }
    return invalid(Status::invalid_shape, subject, "a multiple of " + std::to_string(unit),
                   std::to_string(size));
}

inline Result<void> same(const char *subject, std::size_t size, std::size_t expected) {
    if (size == expected) {
        return {};
    }
    return invalid(Status::invalid_shape, subject, std::to_string(expected), std::to_string(size));
}

/// The lambdas of one call, and the first exception that came out of one.
class Callbacks {
public:
    Callbacks(const LogFunction *log, const ProgressFunction *progress = nullptr,
              const PreviewFunction *preview = nullptr)
        : log_(log), progress_(progress), preview_(preview) {}

    static std::int32_t on_progress(const transcdiff_progress *step, void *self) noexcept {
        auto &callbacks = *static_cast<Callbacks *>(self);
        return callbacks.flow([&] { return *callbacks.progress_ ? (*callbacks.progress_)(*step) : Flow::go_on; });
    }

    static std::int32_t on_preview(const transcdiff_progress *step, const float *latents, std::size_t count,
                                   void *self) noexcept {
        auto &callbacks = *static_cast<Callbacks *>(self);
        return callbacks.flow([&] { return (*callbacks.preview_)(*step, Span<const float>(latents, count)); });
    }

    static void on_log(std::uint32_t level, const char *message, void *self) noexcept {
        auto &callbacks = *static_cast<Callbacks *>(self);
        callbacks.guarded([&] { (*callbacks.log_)(static_cast<LogLevel>(level), message); });
    }

    /// Throws what a lambda threw.
    void rethrow() const {
#if TRANSCDIFF_EXCEPTIONS
        if (thrown_) {
            std::rethrow_exception(thrown_);
        }
#endif
    }

private:
    template <class Call>
    std::int32_t flow(Call call) noexcept {
        Flow flow = Flow::stop;
        guarded([&] { flow = call(); });
        return flow == Flow::stop ? 1 : 0;
    }

    /// Nothing is called any more once something was thrown.
    template <class Call>
    void guarded(Call call) noexcept {
#if TRANSCDIFF_EXCEPTIONS
        if (thrown_) {
            return;
        }
        try {
            call();
        } catch (...) {
            thrown_ = std::current_exception();
        }
#else
        call();
#endif
    }

    const LogFunction *log_;
    const ProgressFunction *progress_;
    const PreviewFunction *preview_;
#if TRANSCDIFF_EXCEPTIONS
    std::exception_ptr thrown_;
#endif
};
} // namespace detail

/// A flag that stops the calls that watch it.
class Cancellation {
public:
    /// A flag that is not set.
    static Result<Cancellation> try_create() {
        Cancellation made{transcdiff_cancellation_new()};
        if (made.handle_ == nullptr) {
            return Error(TRANSCDIFF_INTERNAL, nullptr);
        }
        return made;
    }

#if TRANSCDIFF_EXCEPTIONS
    static Cancellation create() { return try_create().value(); }
#endif

    /// Sets the flag. It stays set until it is reset. May be called in a signal handler.
    void cancel() const noexcept { transcdiff_cancellation_cancel(get()); }
    /// Clears the flag.
    void reset() const noexcept { transcdiff_cancellation_reset(get()); }
    bool is_cancelled() const noexcept { return transcdiff_cancellation_is_cancelled(get()) != 0; }
    /// The C handle, which stays this object's.
    transcdiff_cancellation *get() const noexcept { return handle_.get(); }

private:
    explicit Cancellation(transcdiff_cancellation *handle) : handle_(handle) {}

    detail::Handle<transcdiff_cancellation> handle_;
};

/// A weights file: a path, or the file's bytes, which stay the caller's and are not needed after the call.
using Source = std::variant<std::string, Span<const std::uint8_t>>;

/// How a model is loaded.
struct LoadOptions {
    /// The model's file.
    Source model;
    /// The VAE's. Without one the model gives latents.
    std::optional<Source> vae = std::nullopt;
    /// "cpu", "cuda", "cuda:N" or "auto".
    std::string device = "auto";
    DType dtype = DType::f32;
    /// Threads of the CPU; 0: one a core.
    std::uint32_t threads = 0;
    Weights weights = Weights::automatic;
    /// Attention heads of a model whose file does not tell them; 0: the file, or the published sizes, tell.
    std::uint32_t heads = 0;
    /// Files are mapped instead of read: the caller promises that nobody changes or truncates them during the call.
    bool map_files = false;
    /// Told what was chosen, and why.
    LogFunction log = nullptr;
};

/// What is generated, and how. What is not set is the library's default for the model. Counts follow from sizes: there are
/// as many images as seeds.
struct GenerateOptions {
    /// [n]: a class for each image; or none, where `features` are given.
    std::vector<std::uint32_t> classes = {};
    /// [n]: a seed for each image. With it the image is the same alone and in any batch.
    std::vector<std::uint64_t> seeds = {};
    /// Steps of the sampler.
    std::optional<std::uint32_t> steps = std::nullopt;
    std::optional<Solver> solver = std::nullopt;
    /// Guidance, at least 1, which is none.
    std::optional<double> guidance = std::nullopt;
    /// [groups]: with MRAR, guidance for each trajectory in place of `guidance`.
    std::vector<double> step_guidance = {};
    /// Guidance acts at times in [low, high].
    std::optional<double> guidance_low = std::nullopt, guidance_high = std::nullopt;
    /// The paper's s0 and s1; for Euler–Maruyama.
    std::optional<double> drift_scale = std::nullopt, noise_scale = std::nullopt;
    /// How many images are computed at a time; 0: all.
    std::size_t batch = 0;
    /// [n, k, feature_width]: semantic features to decode in place of classes.
    std::vector<float> features = {};
    /// [1 or n, k, feature_width]: what guidance leads away from.
    std::vector<float> unconditional = {};
    /// [count, n, C, h, w]: with MRAR, latents in the scale of the model to use in place of the first ones.
    std::vector<float> references = {};
    /// [n, C, h, w]: latents in the scale of the model to start from in place of noise.
    std::vector<float> starting = {};
    /// Stops the call from elsewhere; outlives it.
    const Cancellation *cancellation = nullptr;
    /// Called after every step.
    ProgressFunction progress = nullptr;
    /// Called after every `preview_interval` steps.
    PreviewFunction preview = nullptr;
    /// At least 1.
    std::optional<std::size_t> preview_interval = std::nullopt;
    /// Told what is done.
    LogFunction log = nullptr;
};

/// Images of one size, one after another.
struct Images {
    PixelFormat format = PixelFormat::rgb8_hwc;
    std::size_t count = 0, height = 0, width = 0;
    /// The values, where they are bytes.
    std::vector<std::uint8_t> bytes = {};
    /// The values, where they are floats.
    std::vector<float> floats = {};

    /// Black images, to be written to.
    static Images blank(PixelFormat format, std::size_t count, std::size_t height, std::size_t width) {
        Images made{format, count, height, width};
        const auto size = count * transcdiff_pixel_bytes(static_cast<std::uint32_t>(format), height, width);
        if (made.has_floats()) {
            made.floats.resize(size / sizeof(float), -1.0F);
        } else {
            made.bytes.resize(size);
        }
        return made;
    }

    bool has_floats() const noexcept {
        return format == PixelFormat::f32_hwc || format == PixelFormat::f32_chw;
    }
    std::size_t size_bytes() const noexcept {
        return has_floats() ? floats.size() * sizeof(float) : bytes.size();
    }
    const void *data() const noexcept {
        return has_floats() ? static_cast<const void *>(floats.data()) : bytes.data();
    }
    void *data() noexcept { return has_floats() ? static_cast<void *>(floats.data()) : bytes.data(); }
};

/// Which results of a generation are wanted: at least one.
struct Wanted {
    /// Takes a VAE.
    bool images = false;
    PixelFormat pixel_format = PixelFormat::rgb8_hwc;
    bool latents = false;
    bool references = false;
    bool features = false;
};

/// What was generated, where it was wanted.
struct Generated {
    Images images = {};
    /// [n, C, h, w], in the scale of the model.
    std::vector<float> latents = {};
    /// [groups − 1, n, C, h, w], in the scale of the model: with MRAR from classes, the latents that were references on the way.
    std::vector<float> references = {};
    /// [n, k, feature_width]: the features that the latents were decoded from.
    std::vector<float> features = {};
};

namespace detail {
/// Options as C has them, pointing into the C++ ones; a path with a zero byte would be another path there.
class CLoadOptions {
public:
    static Result<CLoadOptions> make(const LoadOptions &from, Callbacks &callbacks) {
        CLoadOptions made;
        transcdiff_load_options &to = made.options;
        if (const auto status = transcdiff_load_options_init(&to, sizeof to); status != TRANSCDIFF_OK) {
            return Error(status, nullptr);
        }
        const std::pair<const char *, const std::string *> texts[] = {
            {"device", &from.device},
            {"model_path", path(&from.model)},
            {"vae_path", path(from.vae ? &*from.vae : nullptr)},
        };
        for (const auto &[name, text] : texts) {
            if (text != nullptr && text->find('\0') != std::string::npos) {
                return invalid(Status::invalid_argument, name, "a text without zero bytes", "one with");
            }
        }
        set(from.model, to.model_path, to.model_data, to.model_size);
        if (from.vae) {
            set(*from.vae, to.vae_path, to.vae_data, to.vae_size);
        }
        to.device = from.device.c_str();
        to.dtype = static_cast<std::uint32_t>(from.dtype);
        to.threads = from.threads;
        to.weights = static_cast<std::uint32_t>(from.weights);
        to.heads = from.heads;
        to.map_files = from.map_files ? 1 : 0;
        to.log = from.log ? Callbacks::on_log : nullptr;
        to.user_data = &callbacks;
        return made;
    }

    transcdiff_load_options options;

private:
    static const std::string *path(const Source *source) { return std::get_if<std::string>(source); }

    static void set(const Source &source, const char *&path, const void *&data, std::size_t &size) {
        if (const auto *text = std::get_if<std::string>(&source)) {
            path = text->c_str();
        } else {
            const auto bytes = *std::get_if<Span<const std::uint8_t>>(&source);
            // A file of no bytes is a file, and not a good one: without a pointer there would be none.
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

inline const transcdiff_cancellation *handle(const Cancellation *cancellation) noexcept {
    return cancellation == nullptr ? nullptr : cancellation->get();
}

/// A buffer that is asked for, even if nothing will be written to it: only then does the library say what is missing.
template <class T>
T *wanted_buffer(T *data) noexcept {
    static T nothing = {};
    return data == nullptr ? &nothing : data;
}

inline float *buffer(std::vector<float> &values, std::size_t size, std::size_t &bytes) {
    values.resize(size);
    bytes = size * sizeof(float);
    return wanted_buffer(values.data());
}
} // namespace detail

/// One caller's use of a model; made by Model::session. It serves one call at a time, may outlive the Model, and is as
/// usable after an error as before.
class Session {
public:
    /// The model that the session uses.
    const ModelInfo &info() const noexcept { return info_; }

    /// Generates what is wanted. The same options give the same values, in any batch.
    Result<Generated> try_generate(const GenerateOptions &options, const Wanted &wanted) {
        detail::Callbacks callbacks(&options.log, &options.progress, &options.preview);
        const auto c_options = this->c_options(options, callbacks);
        if (!c_options) {
            return c_options.error();
        }
        transcdiff_outputs outputs;
        if (const auto status = transcdiff_outputs_init(&outputs, sizeof outputs); status != TRANSCDIFF_OK) {
            return Error(status, nullptr);
        }
        Generated made = prepare(*c_options, wanted, outputs);
        const auto done = detail::checked([&](transcdiff_error **error) {
            return transcdiff_session_generate(handle_.get(), &*c_options, &outputs, error);
        });
        callbacks.rethrow();
        if (!done) {
            return done.error();
        }
        return made;
    }

    /// Semantic features [n, k, feature_width] of classes; with MRAR of the first 1 + count groups, for references
    /// [count, n, C, h, w].
    Result<std::vector<float>> try_features(Span<const std::uint32_t> classes, Span<const float> references = {},
                                            const Cancellation *cancellation = nullptr) {
        const auto call = [&](auto... out) {
            return transcdiff_session_features(handle_.get(), classes.data(), classes.size(),
                                               detail::data_or_null(references), out...);
        };
        return features_of(classes.size(), references, cancellation, call);
    }

    /// Semantic features for no class of n images, in the shape of try_features: what guidance leads away from.
    Result<std::vector<float>> try_unconditional_features(std::size_t n, Span<const float> references = {},
                                                          const Cancellation *cancellation = nullptr) {
        const auto call = [&](auto... out) {
            return transcdiff_session_unconditional_features(handle_.get(), n,
                                                             detail::data_or_null(references), out...);
        };
        return features_of(n, references, cancellation, call);
    }

    /// Latents [n, C, height/d, width/d] of images whose sides are multiples of the model's downsampling d: drawn from the
    /// posterior with [n] seeds, its mean without.
    Result<std::vector<float>> try_encode(const Images &images, Span<const std::uint64_t> seeds = {},
                                          const Cancellation *cancellation = nullptr) {
        if (auto sized = detail::same("seeds", seeds.size(), seeds.empty() ? 0 : images.count); !sized) {
            return sized.error();
        }
        const auto format = static_cast<std::uint32_t>(images.format);
        const auto each = transcdiff_pixel_bytes(format, images.height, images.width);
        const auto count = detail::times("images", images.size_bytes(), each);
        if (!count) {
            return count.error();
        }
        if (auto sized = detail::same("images", *count, images.count); !sized) {
            return sized.error();
        }
        const auto d = info_.downsampling == 0 ? 1 : info_.downsampling;
        std::vector<float> latents(images.count * info_.latent_channels * (images.height / d) *
                                   (images.width / d));
        return into(std::move(latents), [&](float *to, std::size_t bytes, transcdiff_error **error) {
            return transcdiff_session_encode(handle_.get(), images.data(), images.size_bytes(), format,
                                             images.count, images.height, images.width,
                                             detail::data_or_null(seeds), detail::handle(cancellation), to, bytes,
                                             error);
        });
    }

    /// Images of latents [n, C, height, width]; with the model's latent height and width unless others are given.
    Result<Images> try_decode(Span<const float> latents, PixelFormat format = PixelFormat::rgb8_hwc,
                              std::optional<std::pair<std::size_t, std::size_t>> size = std::nullopt,
                              const Cancellation *cancellation = nullptr) {
        const auto height = size ? size->first : info_.latent_height;
        const auto width = size ? size->second : info_.latent_width;
        const auto count = detail::times("latents", latents.size(), info_.latent_channels * height * width);
        if (!count) {
            return count.error();
        }
        const auto d = info_.downsampling;
        Images images = Images::blank(format, *count, d * height, d * width);
        const auto done = detail::checked([&](transcdiff_error **error) {
            return transcdiff_session_decode(handle_.get(), latents.data(), latents.size() * sizeof(float), *count,
                                             height, width, static_cast<std::uint32_t>(format),
                                             detail::handle(cancellation),
                                             detail::wanted_buffer(static_cast<char *>(images.data())),
                                             images.size_bytes(), error);
        });
        if (!done) {
            return done.error();
        }
        return images;
    }

#if TRANSCDIFF_EXCEPTIONS
    Generated generate(const GenerateOptions &options, const Wanted &wanted) {
        return try_generate(options, wanted).value();
    }
    std::vector<float> features(Span<const std::uint32_t> classes, Span<const float> references = {},
                                const Cancellation *cancellation = nullptr) {
        return try_features(classes, references, cancellation).value();
    }
    std::vector<float> unconditional_features(std::size_t n, Span<const float> references = {},
                                              const Cancellation *cancellation = nullptr) {
        return try_unconditional_features(n, references, cancellation).value();
    }
    std::vector<float> encode(const Images &images, Span<const std::uint64_t> seeds = {},
                              const Cancellation *cancellation = nullptr) {
        return try_encode(images, seeds, cancellation).value();
    }
    Images decode(Span<const float> latents, PixelFormat format = PixelFormat::rgb8_hwc,
                  std::optional<std::pair<std::size_t, std::size_t>> size = std::nullopt,
                  const Cancellation *cancellation = nullptr) {
        return try_decode(latents, format, size, cancellation).value();
    }
#endif

    /// The C handle, which stays this object's.
    transcdiff_session *get() const noexcept { return handle_.get(); }

private:
    friend class Model;

    Session(transcdiff_session *handle, const ModelInfo &info, const transcdiff_generate_options &defaults)
        : handle_(handle), info_(info), defaults_(defaults) {}

    std::size_t latent_size() const noexcept {
        return info_.latent_channels * info_.latent_height * info_.latent_width;
    }

    /// The options as C has them, pointing into `from` and `callbacks`.
    Result<transcdiff_generate_options> c_options(const GenerateOptions &from,
                                                  detail::Callbacks &callbacks) const {
        transcdiff_generate_options to = defaults_;
        to.images = from.seeds.size();
        to.classes = detail::data_or_null(from.classes);
        to.seeds = detail::data_or_null(from.seeds);
        detail::set_if(to.steps, from.steps);
        detail::set_if(to.solver, from.solver);
        detail::set_if(to.guidance, from.guidance);
        to.step_guidance = detail::data_or_null(from.step_guidance);
        to.step_guidance_count = from.step_guidance.size();
        detail::set_if(to.guidance_low, from.guidance_low);
        detail::set_if(to.guidance_high, from.guidance_high);
        detail::set_if(to.drift_scale, from.drift_scale);
        detail::set_if(to.noise_scale, from.noise_scale);
        to.batch = from.batch;
        to.cancellation = detail::handle(from.cancellation);
        // Always there: it stops the call for what another lambda threw.
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

    /// The arrays whose counts follow from their sizes.
    Result<void> set_arrays(const GenerateOptions &from, transcdiff_generate_options &to) const {
        const auto n = from.seeds.size();
        if (auto sized = detail::same("classes", from.classes.size(), from.classes.empty() ? 0 : n); !sized) {
            return sized;
        }
        const auto start = from.starting.empty() ? 0 : n * latent_size();
        if (auto sized = detail::same("starting", from.starting.size(), start); !sized) {
            return sized;
        }
        const auto count = detail::times("features", from.features.size(), n * info_.feature_width);
        if (!count) {
            return count.error();
        }
        const auto others =
            detail::times("unconditional", from.unconditional.size(), *count * info_.feature_width);
        if (!others) {
            return others.error();
        }
        const auto references = detail::times("references", from.references.size(), n * latent_size());
        if (!references) {
            return references.error();
        }
        to.features = detail::data_or_null(from.features);
        to.feature_count = *count;
        to.unconditional = detail::data_or_null(from.unconditional);
        to.unconditional_images = *others;
        to.references = detail::data_or_null(from.references);
        to.reference_count = *references;
        to.starting = detail::data_or_null(from.starting);
        return {};
    }

    /// Memory for what is wanted, and `outputs` pointing to it.
    Generated prepare(const transcdiff_generate_options &options, const Wanted &wanted,
                      transcdiff_outputs &outputs) const {
        Generated made;
        const auto n = options.images;
        const auto latents = n * latent_size();
        outputs.pixel_format = static_cast<std::uint32_t>(wanted.pixel_format);
        if (wanted.images) {
            made.images = Images::blank(wanted.pixel_format, n, info_.image_height, info_.image_width);
            outputs.images = detail::wanted_buffer(static_cast<char *>(made.images.data()));
            outputs.images_size = made.images.size_bytes();
        }
        if (wanted.latents) {
            outputs.latents = detail::buffer(made.latents, latents, outputs.latents_size);
        }
        if (wanted.references && options.classes != nullptr) {
            const auto steps = info_.groups == 0 ? 0 : info_.groups - 1;
            outputs.references = detail::buffer(made.references, steps * latents, outputs.references_size);
        }
        if (wanted.features) {
            const auto count = options.features == nullptr ? info_.feature_count : options.feature_count;
            outputs.features =
                detail::buffer(made.features, n * count * info_.feature_width, outputs.features_size);
        }
        return made;
    }

    /// Features of n images; `call` takes what comes after the references in C.
    template <typename Call>
    Result<std::vector<float>> features_of(std::size_t n, Span<const float> references,
                                           const Cancellation *cancellation, Call call) {
        const auto count = detail::times("references", references.size(), n * latent_size());
        if (!count) {
            return count.error();
        }
        const auto tokens = info_.groups == 0 ? 0 : info_.feature_count / info_.groups * (1 + *count);
        std::vector<float> features(n * tokens * info_.feature_width);
        return into(std::move(features), [&](float *to, std::size_t bytes, transcdiff_error **error) {
            return call(*count, detail::handle(cancellation), to, bytes, error);
        });
    }

    /// `values`, once `call` has written them.
    template <class Call>
    static Result<std::vector<float>> into(std::vector<float> values, Call call) {
        const auto done = detail::checked([&](transcdiff_error **error) {
            return call(detail::wanted_buffer(values.data()), values.size() * sizeof(float), error);
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

/// A model on a device, with a VAE or without. Any number of sessions, on any threads, use it at the same time.
class Model {
public:
    /// Loads a model.
    static Result<Model> try_load(const LoadOptions &options) {
        detail::Callbacks callbacks(&options.log);
        const auto c_options = detail::CLoadOptions::make(options, callbacks);
        if (!c_options) {
            return c_options.error();
        }
        transcdiff_model *raw = nullptr;
        const auto loaded = detail::checked(
            [&](transcdiff_error **error) { return transcdiff_model_load(&c_options->options, &raw, error); });
        Model model{raw};
        callbacks.rethrow();
        if (!loaded) {
            return loaded.error();
        }
        model.info_.struct_size = sizeof model.info_;
        const auto known = detail::checked(
            [&](transcdiff_error **error) { return transcdiff_model_get_info(raw, &model.info_, error); });
        if (!known) {
            return known.error();
        }
        return model;
    }

    /// A session of one caller.
    Result<Session> try_session() const {
        transcdiff_generate_options defaults;
        const auto status = transcdiff_generate_options_init(get(), &defaults, sizeof defaults);
        if (status != TRANSCDIFF_OK) {
            return Error(status, nullptr);
        }
        transcdiff_session *raw = nullptr;
        const auto made = detail::checked(
            [&](transcdiff_error **error) { return transcdiff_session_new(get(), &raw, error); });
        if (!made) {
            return made.error();
        }
        return Session(raw, info_, defaults);
    }

#if TRANSCDIFF_EXCEPTIONS
    static Model load(const LoadOptions &options) { return try_load(options).value(); }
    Session session() const { return try_session().value(); }
#endif

    /// What was loaded.
    const ModelInfo &info() const noexcept { return info_; }
    /// The device's name, for people; valid while the model lives.
    std::string_view device() const noexcept { return transcdiff_model_device(get()); }
    /// The C handle, which stays this object's.
    const transcdiff_model *get() const noexcept { return handle_.get(); }

private:
    explicit Model(transcdiff_model *handle) : handle_(handle) {}

    detail::Handle<transcdiff_model> handle_;
    ModelInfo info_ = {};
};

/// What loading with `options` and generating `images` images at a time will take, from the files' headers alone.
inline Result<Memory> try_estimate_memory(const LoadOptions &options, std::size_t images) {
    detail::Callbacks callbacks(&options.log);
    const auto c_options = detail::CLoadOptions::make(options, callbacks);
    if (!c_options) {
        return c_options.error();
    }
    Memory memory = {};
    memory.struct_size = sizeof memory;
    const auto done = detail::checked([&](transcdiff_error **error) {
        return transcdiff_memory_estimate(&c_options->options, images, &memory, error);
    });
    callbacks.rethrow();
    if (!done) {
        return done.error();
    }
    return memory;
}

/// The first `k` features of each of n images, whose features are [n, count, width].
inline Result<std::vector<float>> try_cut_features(Span<const float> features, std::size_t count,
                                                   std::size_t width, std::size_t k) {
    const auto n = detail::times("features", features.size(), count * width);
    if (!n) {
        return n.error();
    }
    // Nothing that is refused is allocated for.
    std::vector<float> cut(k <= count ? *n * k * width : 0);
    const auto done = detail::checked([&](transcdiff_error **error) {
        return transcdiff_features_cut(features.data(), *n, count, width, k, cut.data(), error);
    });
    if (!done) {
        return done.error();
    }
    return cut;
}

/// Of each of n images, whose features are [n, count, width], the first `k` features of `first`, then those of `second`.
inline Result<std::vector<float>> try_mix_features(Span<const float> first, Span<const float> second,
                                                   std::size_t count, std::size_t width, std::size_t k) {
    if (auto sized = detail::same("second", second.size(), first.size()); !sized) {
        return sized.error();
    }
    const auto n = detail::times("first", first.size(), count * width);
    if (!n) {
        return n.error();
    }
    std::vector<float> mixed(first.size());
    const auto done = detail::checked([&](transcdiff_error **error) {
        return transcdiff_features_mix(first.data(), second.data(), *n, count, width, k, mixed.data(), error);
    });
    if (!done) {
        return done.error();
    }
    return mixed;
}

#if TRANSCDIFF_EXCEPTIONS
inline Memory estimate_memory(const LoadOptions &options, std::size_t images) {
    return try_estimate_memory(options, images).value();
}
inline std::vector<float> cut_features(Span<const float> features, std::size_t count, std::size_t width,
                                       std::size_t k) {
    return try_cut_features(features, count, width, k).value();
}
inline std::vector<float> mix_features(Span<const float> first, Span<const float> second, std::size_t count,
                                       std::size_t width, std::size_t k) {
    return try_mix_features(first, second, count, width, k).value();
}
#endif

/// The library's version, "MAJOR.MINOR.PATCH".
inline std::string_view version() noexcept { return transcdiff_version(); }
/// The version of the ABI that the library implements.
inline std::uint32_t abi_version() noexcept { return transcdiff_abi_version(); }
/// The name of a status.
inline std::string_view name(Status status) noexcept {
    return transcdiff_status_name(static_cast<transcdiff_status>(status));
}

} // namespace TRANSCDIFF_NAMESPACE
} // namespace transcdiff

#endif // TRANSCDIFF_HPP
