// The C++ header against the library: `wrapper MODEL VAE`, with the small model and VAE of `linking small`.

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
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                              \
            std::exit(EXIT_FAILURE);                                                                                   \
        }                                                                                                              \
    } while (false)

static_assert(std::is_nothrow_move_constructible_v<Model> && !std::is_copy_constructible_v<Model>);
static_assert(std::is_nothrow_move_constructible_v<Session> && !std::is_copy_constructible_v<Session>);
static_assert(std::is_nothrow_move_constructible_v<Cancellation> && !std::is_copy_constructible_v<Cancellation>);
static_assert(std::is_base_of_v<std::exception, Error>);

/// Whether {0, 2} are two elements.
template <class S, class = void>
struct TakesZero : std::false_type {};
template <class S>
struct TakesZero<S, std::void_t<decltype(S{0, std::size_t{2}})>> : std::true_type {};

static_assert(!TakesZero<Span<const float>>::value);
static_assert(std::is_constructible_v<Span<const float>, float *, std::size_t>);
static_assert(!std::is_constructible_v<Span<float>, const float *, std::size_t>);

namespace {

template <class T>
T must(Result<T> result) {
    if (!result) {
        std::fprintf(stderr, "%s\n", result.error().what());
        std::exit(EXIT_FAILURE);
    }
    return *std::move(result);
}

template <class T>
void fails(const Result<T> &result, Status status, const char *subject) {
    EXPECT(!result);
    EXPECT(result.error().status() == status);
    EXPECT(result.error().subject() == subject);
    EXPECT(!result.error().message().empty());
}

GenerateOptions two_images() {
    GenerateOptions options;
    options.classes = {0, 2};
    options.seeds = {5, 6};
    options.steps = 3;
    return options;
}

Wanted latents() {
    Wanted wanted;
    wanted.latents = true;
    return wanted;
}

Wanted everything() {
    Wanted wanted;
    wanted.images = wanted.latents = wanted.references = wanted.features = true;
    return wanted;
}

void results_have_the_sizes_of_the_model(const Model &model, Session &session) {
    const auto &info = model.info();
    EXPECT(info.groups == 2 && info.image_height == 256 && !model.device().empty());
    const auto made = must(session.try_generate(two_images(), everything()));
    const auto latent = info.latent_channels * info.latent_height * info.latent_width;
    EXPECT(made.images.count == 2 && made.images.bytes.size() == 2 * 3 * 256 * 256);
    EXPECT(made.latents.size() == 2 * latent && made.references.size() == 2 * latent);
    EXPECT(made.features.size() == 2 * info.feature_count * info.feature_width);
    // An image is decoded from its latent.
    const auto decoded = must(session.try_decode(made.latents));
    EXPECT(decoded.bytes == made.images.bytes);
    // What was generated on the way gives the same when it is given.
    auto options = two_images();
    options.references = made.references;
    EXPECT(must(session.try_generate(options, everything())).latents == made.latents);
    // Floats, and back to latents of the same size.
    const auto floats = must(session.try_decode(made.latents, PixelFormat::f32_chw));
    EXPECT(floats.floats.size() == 2 * 3 * 256 * 256 && floats.bytes.empty());
    EXPECT(must(session.try_encode(floats)).size() == made.latents.size());
    const std::vector<std::uint64_t> seeds = {1, 2};
    EXPECT(must(session.try_encode(floats, seeds)) != must(session.try_encode(floats)));
}

void guidance_leads_away_from_no_class(const Model &model, Session &session) {
    const auto &info = model.info();
    const std::vector<std::uint32_t> classes = {0, 2};
    const auto none = must(session.try_unconditional_features(2));
    EXPECT(none.size() == 2 * info.feature_count / info.groups * info.feature_width);
    GenerateOptions options;
    options.features = must(session.try_features(classes));
    options.seeds = {5, 6};
    options.steps = 3;
    options.guidance = 1.5;
    const auto made = must(session.try_generate(options, everything()));
    options.unconditional = none;
    EXPECT(must(session.try_generate(options, everything())).images.bytes == made.images.bytes);
    options.unconditional.assign(none.size(), 0.25F);
    EXPECT(must(session.try_generate(options, everything())).latents != made.latents);
}

void features_are_cut_and_mixed(const Model &model, Session &session) {
    const auto &info = model.info();
    const std::vector<std::uint32_t> classes = {0, 2};
    const auto count = info.feature_count / info.groups, width = info.feature_width;
    const auto features = must(session.try_features(classes));
    EXPECT(features.size() == 2 * count * width);
    const auto cut = must(try_cut_features(features, count, width, 1));
    EXPECT(cut.size() == 2 * width && cut[0] == features[0] && cut[width] == features[count * width]);
    EXPECT(must(try_mix_features(features, features, count, width, 1)) == features);
    GenerateOptions options;
    options.features = cut;
    options.seeds = {1, 2};
    options.steps = 2;
    EXPECT(!must(session.try_generate(options, everything())).latents.empty());
    fails(try_cut_features(features, count, width, std::numeric_limits<std::size_t>::max()),
          Status::invalid_argument, "k");
    fails(try_mix_features(features, cut, count, width, 1), Status::invalid_shape, "second");
}

void errors_say_what_is_wrong(const Model &model, Session &session, const char *model_path) {
    fails(Model::try_load({"nowhere.safetensors"}), Status::io, "nowhere.safetensors");
    fails(Model::try_load({std::string("a\0b", 3)}), Status::invalid_argument, "model_path");
    fails(try_estimate_memory({"nowhere.safetensors"}, 1), Status::io, "nowhere.safetensors");
    EXPECT(must(try_estimate_memory({model_path}, 1)).weights >= 4 * model.info().parameters);
    auto options = two_images();
    options.classes = {0, 3};
    fails(session.try_generate(two_images(), {}), Status::invalid_argument, "outputs");
    EXPECT(session.try_generate(options, everything()).error().status() == Status::invalid_argument);
    options.classes = {0};
    fails(session.try_generate(options, everything()), Status::invalid_shape, "classes");
    options = two_images();
    options.starting = {1.0F};
    fails(session.try_generate(options, everything()), Status::invalid_shape, "starting");
    Images wrong = Images::blank(PixelFormat::rgb8_hwc, 1, 256, 256);
    wrong.count = std::numeric_limits<std::size_t>::max();
    fails(session.try_encode(wrong), Status::invalid_shape, "images");
    // Without a VAE there are no images, and that is said.
    const auto alone = must(Model::try_load({model_path}));
    auto latents_only = must(alone.try_session());
    fails(latents_only.try_generate(two_images(), everything()), Status::invalid_argument, "images");
    fails(latents_only.try_decode(std::vector<float>(16 * 16 * 16)), Status::invalid_argument, "images");
    auto moved = std::move(latents_only);
    EXPECT(latents_only.try_generate(two_images(), latents()).error().status() == Status::invalid_argument);
    EXPECT(must(moved.try_generate(two_images(), latents())).references.empty());
}

void a_model_comes_from_memory_too(const char *path) {
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
    EXPECT(must(Model::try_load(options)).info().classes == 3);
    EXPECT(!log.empty());
}

void lambdas_see_every_step_and_stop(Session &session) {
    auto options = two_images();
    std::size_t steps = 0, previews = 0;
    double last = 0.0;
    options.progress = [&](const Progress &p) {
        steps++;
        EXPECT(p.fraction > last);
        last = p.fraction;
        return Flow::go_on;
    };
    options.preview = [&](const Progress &p, Span<const float> latents) {
        previews++;
        EXPECT(latents.size() == p.images * 16 * 16 * 16);
        return Flow::go_on;
    };
    options.preview_interval = 3;
    must(session.try_generate(options, latents()));
    EXPECT(steps == 6 && previews == 2 && last == 1.0);
    options.progress = [](const Progress &) { return Flow::stop; };
    EXPECT(session.try_generate(options, latents()).error().status() == Status::cancelled);
    const auto cancellation = must(Cancellation::try_create());
    options = two_images();
    options.cancellation = &cancellation;
    cancellation.cancel();
    EXPECT(cancellation.is_cancelled());
    EXPECT(session.try_generate(options, latents()).error().status() == Status::cancelled);
    cancellation.reset();
    must(session.try_generate(options, latents()));
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

void what_lambdas_throw_comes_out(Session &session, const char *path) {
    std::size_t steps = 0;
    auto options = two_images();
    options.progress = [&](const Progress &) -> Flow {
        steps++;
        throw Thrown();
    };
    throws<Thrown>([&] { (void)session.try_generate(options, latents()); });
    throws<Thrown>([&] { (void)session.generate(options, latents()); });
    EXPECT(steps == 2);
    options = two_images();
    options.log = [](LogLevel, std::string_view) { throw Thrown(); };
    throws<Thrown>([&] { (void)session.generate(options, latents()); });
    options = two_images();
    options.preview = [](const Progress &, Span<const float>) -> Flow { throw Thrown(); };
    options.preview_interval = 1;
    throws<Thrown>([&] { (void)session.generate(options, latents()); });
    LoadOptions load{path};
    load.log = [](LogLevel, std::string_view) { throw Thrown(); };
    throws<Thrown>([&] { (void)Model::load(load); });
    throws<Error>([] { (void)Model::load({"nowhere.safetensors"}); });
    EXPECT(session.generate(two_images(), everything()).latents.size() == 2 * 16 * 16 * 16);
}
#endif

} // namespace

int main(int argc, char **argv) {
    EXPECT(argc == 3);
    EXPECT(abi_version() >= TRANSCDIFF_ABI_VERSION && !version().empty() && !name(Status::busy).empty());
    LoadOptions options{argv[1], argv[2]};
    options.device = "cpu";
    auto model = std::make_unique<Model>(must(Model::try_load(options)));
    auto session = must(model->try_session());
    results_have_the_sizes_of_the_model(*model, session);
    features_are_cut_and_mixed(*model, session);
    guidance_leads_away_from_no_class(*model, session);
    errors_say_what_is_wrong(*model, session, argv[1]);
    a_model_comes_from_memory_too(argv[1]);
    lambdas_see_every_step_and_stop(session);
#if TRANSCDIFF_EXCEPTIONS
    what_lambdas_throw_comes_out(session, argv[1]);
#endif
    model.reset();
    must(session.try_generate(two_images(), latents())); // A session outlives the handle of its model.
    return EXIT_SUCCESS;
}
