// Test of the C++ header against the library: `wrapper MODEL VAE DESCRIBED`, with the small files of
// `linking small`: a model, its VAE, and a model whose file describes grey images.

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <type_traits>

#include <transcdiff.hpp>

using namespace transcdiff;

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            std::fprintf(stderr, "%s:%d: expectation failed: %s\n", __FILE__, __LINE__, #condition);                              \
            std::exit(EXIT_FAILURE);                                                                                   \
        }                                                                                                              \
    } while (false)

static_assert(std::is_nothrow_move_constructible_v<Model> && !std::is_copy_constructible_v<Model>);
static_assert(std::is_nothrow_move_constructible_v<Session> && !std::is_copy_constructible_v<Session>);
static_assert(std::is_nothrow_move_constructible_v<CancellationToken> && !std::is_copy_constructible_v<CancellationToken>);
static_assert(std::is_base_of_v<std::exception, Error>);

/// Trait: S can be constructed from {0, 2}.
template <class S, class = void>
struct TakesZero : std::false_type {};
template <class S>
struct TakesZero<S, std::void_t<decltype(S{0, std::size_t{2}})>> : std::true_type {};

static_assert(!TakesZero<Span<const float>>::value);
static_assert(std::is_constructible_v<Span<const float>, float *, std::size_t>);
static_assert(!std::is_constructible_v<Span<float>, const float *, std::size_t>);

namespace {

template <class T>
T expect_value(Result<T> result) {
    if (!result) {
        std::fprintf(stderr, "%s\n", result.error().what());
        std::exit(EXIT_FAILURE);
    }
    return *std::move(result);
}

template <class T>
void expect_error(const Result<T> &result, Status status, const char *subject) {
    EXPECT(!result);
    EXPECT(result.error().status() == status);
    EXPECT(result.error().subject() == subject);
    EXPECT(!result.error().message().empty());
}

GenerateOptions options_for_two_images() {
    GenerateOptions options;
    options.classes = {0, 2};
    options.seeds = {5, 6};
    options.steps = 3;
    return options;
}

OutputSelection latents_only() {
    OutputSelection selection;
    selection.latents = true;
    return selection;
}

OutputSelection all_outputs() {
    OutputSelection selection;
    selection.images = selection.latents = selection.references = selection.features = true;
    return selection;
}

void outputs_have_the_sizes_of_the_model(const Model &model, Session &session) {
    const auto &info = model.info();
    EXPECT(info.ar_steps == 2 && info.image_height == 16 && !model.device().empty());
    const auto outputs = expect_value(session.try_generate(options_for_two_images(), all_outputs()));
    const auto latent = info.latent_channels * info.latent_height * info.latent_width;
    EXPECT(outputs.images.count == 2 && outputs.images.bytes.size() == 2 * 3 * 16 * 16);
    EXPECT(outputs.latents.size() == 2 * latent && outputs.references.size() == 2 * latent);
    EXPECT(outputs.features.size() == 2 * info.feature_count * info.feature_width);
    // Images are decoded from their latents.
    const auto decoded = expect_value(session.try_decode(outputs.latents));
    EXPECT(decoded.bytes == outputs.images.bytes);
    // References equal to the generated ones do not change the result.
    auto options = options_for_two_images();
    options.references = outputs.references;
    EXPECT(expect_value(session.try_generate(options, all_outputs())).latents == outputs.latents);
    // Float images, encoded to latents of the same size.
    const auto floats = expect_value(session.try_decode(outputs.latents, PixelFormat::f32_chw));
    EXPECT(floats.floats.size() == 2 * 3 * 16 * 16 && floats.bytes.empty());
    EXPECT(expect_value(session.try_encode(floats)).size() == outputs.latents.size());
    const std::vector<std::uint64_t> seeds = {1, 2};
    EXPECT(expect_value(session.try_encode(floats, seeds)) != expect_value(session.try_encode(floats)));
}

void solvers_and_their_steps_are_set(Session &session) {
    const auto latents = [&](auto change) {
        auto options = options_for_two_images();
        options.solver = Solver::euler;
        change(options);
        return expect_value(session.try_generate(options, all_outputs()));
    };
    const auto plain = latents([](GenerateOptions &) {});
    // The same times in several notations.
    const auto two = latents([](GenerateOptions &o) { o.steps = 2; }).latents;
    EXPECT(two != plain.latents);
    EXPECT(latents([](GenerateOptions &o) { o.times = {1.0, 0.5, 0.0}; }).latents == two);
    EXPECT(latents([](GenerateOptions &o) { o.times = {1.0, 0.25, 0.0}; }).latents != two);
    EXPECT(latents([](GenerateOptions &o) { o.steps = 2, o.warp = {1.0, 1.0, 1.0}; }).latents == two);
    EXPECT(latents([](GenerateOptions &o) { o.steps = 2, o.warp = {1.17, 0.8, 1.1}; }).latents != two);
    EXPECT(latents([](GenerateOptions &o) { o.ar_step_steps = {3, 3}; }).latents == plain.latents);
    const auto last = latents([](GenerateOptions &o) { o.ar_step_steps = {3, 1}; });
    EXPECT(last.references == plain.references && last.latents != plain.latents);
    EXPECT(latents([](GenerateOptions &o) { o.extrapolation = 0.0; }).latents == plain.latents);
    EXPECT(latents([](GenerateOptions &o) { o.extrapolation = 0.3; }).latents != plain.latents);
    const auto exponential = [&](std::optional<std::uint32_t> order) {
        return latents([&](GenerateOptions &o) { o.solver = Solver::exponential_sde, o.order = order, o.steps = 4; }).latents;
    };
    EXPECT(exponential(2) == exponential(std::nullopt) && exponential(1) != exponential(2));
    EXPECT(latents([](GenerateOptions &o) { o.solver = Solver::adams_bashforth; }).latents != plain.latents);
    EXPECT(latents([](GenerateOptions &o) { o.quality = Quality::draft; }).latents ==
           latents([](GenerateOptions &o) {
               o.solver = Solver::exponential_sde, o.ar_step_steps = {6, 8};
           }).latents);
    auto options = options_for_two_images();
    options.solver = Solver::consistency;
    expect_error(session.try_generate(options, all_outputs()), Status::invalid_argument, "solver");
    options.solver = Solver::adams_bashforth;
    options.order = 5;
    expect_error(session.try_generate(options, all_outputs()), Status::invalid_argument, "order");
}

void distilled_models_have_their_own_settings(const Model &model, const Model &student) {
    EXPECT(model.info().distilled == 0 && student.info().distilled == 1);
    auto session = expect_value(student.try_session());
    GenerateOptions options;
    options.classes = {0, 2};
    options.seeds = {5, 6};
    const auto own = expect_value(session.try_generate(options, latents_only())).latents;
    options.solver = Solver::consistency;
    options.steps = 2;
    EXPECT(expect_value(session.try_generate(options, latents_only())).latents == own);
    options.steps = 3;
    EXPECT(expect_value(session.try_generate(options, latents_only())).latents != own);
    options.guidance = 1.5;
    expect_error(session.try_generate(options, latents_only()), Status::invalid_argument, "guidance");
    options.guidance = 1.0;
    options.quality = Quality::fast;
    expect_error(session.try_generate(options, latents_only()), Status::invalid_argument, "quality");
    options.quality = std::nullopt;
    options.solver = Solver::euler;
    expect_error(session.try_generate(options, latents_only()), Status::invalid_argument, "solver");
}

void unconditional_features_affect_guidance(const Model &model, Session &session) {
    const auto &info = model.info();
    const std::vector<std::uint32_t> classes = {0, 2};
    const auto unconditional = expect_value(session.try_unconditional_features(2));
    EXPECT(unconditional.size() == 2 * info.feature_count / info.ar_steps * info.feature_width);
    GenerateOptions options;
    options.features = expect_value(session.try_features(classes));
    options.seeds = {5, 6};
    options.steps = 3;
    options.guidance = 1.5;
    const auto outputs = expect_value(session.try_generate(options, all_outputs()));
    options.unconditional = unconditional;
    EXPECT(expect_value(session.try_generate(options, all_outputs())).images.bytes == outputs.images.bytes);
    options.unconditional.assign(unconditional.size(), 0.25F);
    EXPECT(expect_value(session.try_generate(options, all_outputs())).latents != outputs.latents);
}

void features_are_truncated_and_spliced(const Model &model, Session &session) {
    const auto &info = model.info();
    const std::vector<std::uint32_t> classes = {0, 2};
    const auto count = info.feature_count / info.ar_steps, width = info.feature_width;
    const auto features = expect_value(session.try_features(classes));
    EXPECT(features.size() == 2 * count * width);
    const auto truncated = expect_value(try_truncate_features(features, count, width, 1));
    EXPECT(truncated.size() == 2 * width && truncated[0] == features[0] && truncated[width] == features[count * width]);
    EXPECT(expect_value(try_splice_features(features, features, count, width, 1)) == features);
    const std::vector<float> zeros(features.size());
    EXPECT(expect_value(try_splice_features(zeros, features, count, width, 0)) == features);
    EXPECT(expect_value(try_splice_features(features, zeros, count, width, count)) == features);
    GenerateOptions options;
    options.features = truncated;
    options.seeds = {1, 2};
    options.steps = 2;
    EXPECT(!expect_value(session.try_generate(options, all_outputs())).latents.empty());
    expect_error(try_truncate_features(features, count, width, std::numeric_limits<std::size_t>::max()),
                 Status::invalid_argument, "k");
    expect_error(try_splice_features(features, truncated, count, width, 1), Status::invalid_shape, "second");
}

void errors_have_status_and_subject(const Model &model, Session &session, const char *model_path) {
    expect_error(Model::try_load({"nowhere.safetensors"}), Status::io, "nowhere.safetensors");
    expect_error(Model::try_load({std::string("a\0b", 3)}), Status::invalid_argument, "model_path");
    expect_error(try_estimate_memory({"nowhere.safetensors"}, 1), Status::io, "nowhere.safetensors");
    EXPECT(expect_value(try_estimate_memory({model_path}, 1)).weights >= 4 * model.info().parameters);
    auto options = options_for_two_images();
    options.classes = {0, 3};
    expect_error(session.try_generate(options_for_two_images(), {}), Status::invalid_argument, "outputs");
    EXPECT(session.try_generate(options, all_outputs()).error().status() == Status::invalid_argument);
    options.classes = {0};
    expect_error(session.try_generate(options, all_outputs()), Status::invalid_shape, "classes");
    options = options_for_two_images();
    options.initial_noise = {1.0F};
    expect_error(session.try_generate(options, all_outputs()), Status::invalid_shape, "initial_noise");
    Images wrong = Images::blank(PixelFormat::rgb8_hwc, 1, 16, 16);
    wrong.count = std::numeric_limits<std::size_t>::max();
    expect_error(session.try_encode(wrong), Status::invalid_shape, "images");
    // Without a codec, requests for images fail.
    const auto without_codec = expect_value(Model::try_load({model_path}));
    auto session_without_codec = expect_value(without_codec.try_session());
    expect_error(session_without_codec.try_generate(options_for_two_images(), all_outputs()),
                 Status::invalid_argument, "images");
    expect_error(session_without_codec.try_decode(std::vector<float>(16 * 4 * 4)), Status::invalid_argument, "images");
    auto moved = std::move(session_without_codec);
    const auto from_moved = session_without_codec.try_generate(options_for_two_images(), latents_only());
    EXPECT(from_moved.error().status() == Status::invalid_argument);
    EXPECT(expect_value(moved.try_generate(options_for_two_images(), latents_only())).references.empty());
}

void classes_are_found_by_name(const Model &described, const Model &unnamed) {
    EXPECT(described.info().class_names == 3 && described.class_name(0) == "trouser");
    EXPECT(!described.class_name(3) && !unnamed.class_name(0) && unnamed.info().class_names == 0);
    EXPECT(expect_value(described.try_find_class("ANKLE_BOOT")) == 1);
    EXPECT(expect_value(unnamed.try_find_class("2")) == 2);
    expect_error(described.try_find_class("skirt"), Status::invalid_argument, "class");
    expect_error(described.try_find_class(std::string("bag\0", 4)), Status::invalid_argument, "name");
}

void grey_images_need_no_codec_file(const Model &model, const char *path) {
    const auto &info = model.info();
    EXPECT(info.image_channels == 1 && info.image_height == 8 && info.downsampling == 2);
    auto session = expect_value(model.try_session());
    OutputSelection selection;
    selection.images = selection.latents = true;
    const auto rgb = expect_value(session.try_generate(options_for_two_images(), selection));
    selection.pixel_format = PixelFormat::gray8;
    const auto grey = expect_value(session.try_generate(options_for_two_images(), selection)).images;
    EXPECT(grey.bytes.size() == 2 * 64 && rgb.images.bytes.size() == 3 * grey.bytes.size());
    for (std::size_t i = 0; i < rgb.images.bytes.size(); i++) {
        EXPECT(rgb.images.bytes[i] == grey.bytes[i / 3]);
    }
    const auto decoded = expect_value(session.try_decode(rgb.latents, PixelFormat::gray_f32));
    EXPECT(decoded.has_floats() && expect_value(session.try_encode(decoded)) == rgb.latents);
    expect_error(session.try_encode(rgb.images), Status::invalid_argument, "pixel_format");
    EXPECT(expect_value(Model::try_load({path, "none"})).info().image_channels == 0);
    EXPECT(expect_value(Model::try_load({path, "patch:2"})).info().image_channels == 1);
    expect_error(Model::try_load({path, "patch:3"}), Status::invalid_argument, "codec");
}

void model_loads_from_memory(const char *path) {
    std::FILE *file = std::fopen(path, "rb");
    EXPECT(file != nullptr);
    std::vector<std::uint8_t> bytes;
    for (int byte; (byte = std::fgetc(file)) != EOF;) {
        bytes.push_back(static_cast<std::uint8_t>(byte));
    }
    std::fclose(file);
    std::string log;
    LoadOptions options{Span<const std::uint8_t>(bytes)};
    options.log = [&](LogLevel, std::string_view line) { log += line; };
    EXPECT(expect_value(Model::try_load(options)).info().classes == 3);
    EXPECT(!log.empty());
}

void callbacks_receive_every_step_and_cancel(Session &session) {
    auto options = options_for_two_images();
    std::size_t steps = 0, previews = 0;
    double last = 0.0;
    options.progress = [&](const Progress &p) {
        steps++;
        EXPECT(p.fraction > last);
        last = p.fraction;
        return ControlFlow::continue_;
    };
    options.preview = [&](const Progress &p, Span<const float> latents) {
        previews++;
        EXPECT(latents.size() == p.images * 16 * 4 * 4);
        return ControlFlow::continue_;
    };
    options.preview_interval = 3;
    expect_value(session.try_generate(options, latents_only()));
    EXPECT(steps == 6 && previews == 2 && last == 1.0);
    options.progress = [](const Progress &) { return ControlFlow::cancel; };
    EXPECT(session.try_generate(options, latents_only()).error().status() == Status::cancelled);
    const auto cancellation = expect_value(CancellationToken::try_create());
    options = options_for_two_images();
    options.cancellation = &cancellation;
    cancellation.cancel();
    EXPECT(cancellation.is_cancelled());
    EXPECT(session.try_generate(options, latents_only()).error().status() == Status::cancelled);
    cancellation.reset();
    expect_value(session.try_generate(options, latents_only()));
}

#if TRANSCDIFF_EXCEPTIONS
struct Thrown {};

template <class E, class Call>
void throws(Call call) {
    bool caught = false;
    try {
        call();
    } catch (const E &) {
        caught = true;
    }
    EXPECT(caught);
}

void callback_exceptions_are_rethrown(Session &session, const char *path) {
    std::size_t steps = 0;
    auto options = options_for_two_images();
    options.progress = [&](const Progress &) -> ControlFlow {
        steps++;
        throw Thrown();
    };
    throws<Thrown>([&] { (void)session.try_generate(options, latents_only()); });
    throws<Thrown>([&] { (void)session.generate(options, latents_only()); });
    EXPECT(steps == 2);
    options = options_for_two_images();
    options.log = [](LogLevel, std::string_view) { throw Thrown(); };
    throws<Thrown>([&] { (void)session.generate(options, latents_only()); });
    options = options_for_two_images();
    options.preview = [](const Progress &, Span<const float>) -> ControlFlow { throw Thrown(); };
    options.preview_interval = 1;
    throws<Thrown>([&] { (void)session.generate(options, latents_only()); });
    LoadOptions load{path};
    load.log = [](LogLevel, std::string_view) { throw Thrown(); };
    throws<Thrown>([&] { (void)Model::load(load); });
    throws<Error>([] { (void)Model::load({"nowhere.safetensors"}); });
    EXPECT(session.generate(options_for_two_images(), all_outputs()).latents.size() == 2 * 16 * 4 * 4);
}
#endif

} // namespace

int main(int argc, char **argv) {
    EXPECT(argc == 5);
    EXPECT(abi_version() >= TRANSCDIFF_ABI_VERSION && !version().empty() && !name(Status::busy).empty());
    LoadOptions options{argv[1], argv[2]};
    options.device = "cpu";
    auto model = std::make_unique<Model>(expect_value(Model::try_load(options)));
    auto session = expect_value(model->try_session());
    outputs_have_the_sizes_of_the_model(*model, session);
    features_are_truncated_and_spliced(*model, session);
    solvers_and_their_steps_are_set(session);
    unconditional_features_affect_guidance(*model, session);
    errors_have_status_and_subject(*model, session, argv[1]);
    model_loads_from_memory(argv[1]);
    const auto described = expect_value(Model::try_load({argv[3]}));
    classes_are_found_by_name(described, *model);
    grey_images_need_no_codec_file(described, argv[3]);
    distilled_models_have_their_own_settings(*model, expect_value(Model::try_load({argv[4]})));
    callbacks_receive_every_step_and_cancel(session);
#if TRANSCDIFF_EXCEPTIONS
    callback_exceptions_are_rethrown(session, argv[1]);
#endif
    model.reset();
    expect_value(session.try_generate(options_for_two_images(), latents_only())); // A session outlives the handle of its model.
    return EXIT_SUCCESS;
}
