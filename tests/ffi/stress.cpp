// Threads and memory through the C ABI: `stress threads MODEL VAE ROUNDS` and `stress loop MODEL VAE ROUNDS`, with the
// files of transdiff-ffi's example tiny_model. Exits with 0 if all is as it has to be, else says what is not.

#include <malloc.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "transcdiff.h"

namespace {

constexpr int kThreads = 8;
constexpr size_t kImages = 2;
constexpr uint32_t kSteps = 4, kPreviewInterval = 2;

struct Files {
    const char *model, *vae;
};

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "stress: %s\n", what.c_str());
    std::_Exit(1);
}

void expect(bool holds, const std::string& what) {
    if (!holds) fail(what);
}

// The status of a call, whose error, if there is one, is read and freed.
template <typename Call>
transcdiff_status status_of(Call call) {
    transcdiff_error* error = nullptr;
    const transcdiff_status status = call(&error);
    expect((status == TRANSCDIFF_OK) == (error == nullptr), "an error comes with a status that is none");
    if (error != nullptr) {
        expect(transcdiff_error_status(error) == status, "an error has another status than its call");
        expect(std::strlen(transcdiff_error_message(error)) > 0, "an error without a message");
    }
    transcdiff_error_free(error);
    return status;
}

template <typename Call>
void succeed(const char* what, Call call) {
    transcdiff_error* error = nullptr;
    if (call(&error) != TRANSCDIFF_OK) fail(std::string(what) + ": " + transcdiff_error_message(error));
}

transcdiff_model* load(const Files& files) {
    transcdiff_load_options options;
    expect(transcdiff_load_options_init(&options, sizeof options) == TRANSCDIFF_OK, "load options");
    options.model_path = files.model;
    options.vae_path = files.vae;
    options.threads = 2;
    transcdiff_model* model = nullptr;
    succeed("load", [&](auto error) { return transcdiff_model_load(&options, &model, error); });
    return model;
}

transcdiff_session* session_on(const transcdiff_model* model) {
    transcdiff_session* session = nullptr;
    succeed("session", [&](auto error) { return transcdiff_session_new(model, &session, error); });
    return session;
}

transcdiff_model_info info_of(const transcdiff_model* model) {
    transcdiff_model_info info{};
    info.struct_size = sizeof info;
    succeed("info", [&](auto error) { return transcdiff_model_get_info(model, &info, error); });
    return info;
}

size_t latent_size(const transcdiff_model_info& info) {
    return info.latent_channels * info.latent_height * info.latent_width;
}

template <typename T>
size_t bytes(const std::vector<T>& values) {
    return values.size() * sizeof(T);
}

template <typename T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), bytes(a)) == 0;
}

struct Images {
    std::vector<float> latents;
    std::vector<uint8_t> pixels;

    explicit Images(const transcdiff_model_info& info)
        : latents(kImages * latent_size(info)),
          pixels(kImages * transcdiff_pixel_bytes(TRANSCDIFF_RGB8_HWC, info.image_height, info.image_width)) {}
    bool operator==(const Images& other) const { return same(latents, other.latents) && same(pixels, other.pixels); }
};

// A generation of two images, by number. At a step its callback does what it is asked to, and says whether to stop.
struct Request {
    transcdiff_model_info info;
    uint32_t classes[kImages];
    uint64_t seeds[kImages];
    transcdiff_generate_options options;
    Images images;
    std::vector<float> references;
    size_t previews = 0;
    uint32_t act_at = 0;
    std::function<bool()> stops;

    Request(const transcdiff_model* model, uint32_t number)
        : info(info_of(model)),
          classes{number % 3, 0},
          seeds{number, 7},
          images(info),
          references((info.groups - 1) * images.latents.size()) {
        const auto status = transcdiff_generate_options_init(model, &options, sizeof options);
        expect(status == TRANSCDIFF_OK, "generate options");
        options.images = kImages;
        options.classes = classes;
        options.seeds = seeds;
        options.steps = kSteps;
        options.guidance = 1.5;
        options.batch = 1 + number % 2;
        options.progress = on_progress;
        options.preview = on_preview;
        options.preview_interval = kPreviewInterval;
        options.user_data = this;
    }
    Request(const Request&) = delete;

    static int32_t on_progress(const transcdiff_progress* progress, void* user_data) {
        const auto& self = *static_cast<const Request*>(user_data);
        return progress->step == self.act_at && self.stops() ? 1 : 0;
    }

    static int32_t on_preview(const transcdiff_progress* progress, const float* latents, size_t count,
                              void* user_data) {
        auto& self = *static_cast<Request*>(user_data);
        expect(count == progress->images * latent_size(self.info), "a preview of another size");
        for (size_t i = 0; i < count; ++i) expect(std::isfinite(latents[i]), "a preview that is not finite");
        self.previews += progress->images;
        return 0;
    }

    transcdiff_status run(transcdiff_session* session) {
        transcdiff_outputs outputs;
        expect(transcdiff_outputs_init(&outputs, sizeof outputs) == TRANSCDIFF_OK, "outputs");
        outputs.images = images.pixels.data();
        outputs.images_size = bytes(images.pixels);
        outputs.latents = images.latents.data();
        outputs.latents_size = bytes(images.latents);
        const bool from_classes = options.classes != nullptr;
        if (from_classes) {
            outputs.references = references.data();
            outputs.references_size = bytes(references);
        }
        const auto status = status_of(
            [&](auto error) { return transcdiff_session_generate(session, &options, &outputs, error); });
        const size_t expected = kImages * (from_classes ? info.groups : 1) * (kSteps / kPreviewInterval);
        expect(status != TRANSCDIFF_OK || previews == expected, "another number of previews");
        return status;
    }
};

// The features of all groups, for the references of a request that was run.
std::vector<float> features_of(transcdiff_session* session, const Request& run, const uint32_t* classes) {
    std::vector<float> features(kImages * run.info.feature_count * run.info.feature_width);
    succeed("features", [&](auto error) {
        return transcdiff_session_features(session, classes, kImages, run.references.data(), run.info.groups - 1,
                                           nullptr, features.data(), bytes(features), error);
    });
    return features;
}

// Decodes the latents, which gives the pixels again, and encodes those.
void check_vae(transcdiff_session* session, const transcdiff_model_info& info, const Images& images) {
    Images again(info);
    succeed("decode", [&](auto error) {
        return transcdiff_session_decode(session, images.latents.data(), bytes(images.latents), kImages,
                                         info.latent_height, info.latent_width, TRANSCDIFF_RGB8_HWC, nullptr,
                                         again.pixels.data(), bytes(again.pixels), error);
    });
    expect(same(again.pixels, images.pixels), "other pixels than on the way");
    const uint64_t seeds[kImages] = {1, 2};
    succeed("encode", [&](auto error) {
        return transcdiff_session_encode(session, images.pixels.data(), bytes(images.pixels), TRANSCDIFF_RGB8_HWC,
                                         kImages, info.image_height, info.image_width, seeds, nullptr,
                                         again.latents.data(), bytes(again.latents), error);
    });
    for (const float value : again.latents) expect(std::isfinite(value), "an encoded value that is not finite");
}

// The images of a request's features, the first of each image before others of other classes: of one group, which is
// what can be decoded.
Images mixed(const transcdiff_model* model, transcdiff_session* session, const Request& run) {
    const uint32_t others[kImages] = {1, 2};
    const auto first = features_of(session, run, run.classes), second = features_of(session, run, others);
    const size_t all = run.info.feature_count, group = all / run.info.groups, width = run.info.feature_width;
    std::vector<float> features(first.size()), cut(kImages * group * width);
    succeed("mix", [&](auto error) {
        return transcdiff_features_mix(first.data(), second.data(), kImages, all, width, 1, features.data(), error);
    });
    succeed("cut", [&](auto error) {
        return transcdiff_features_cut(features.data(), kImages, all, width, group, cut.data(), error);
    });
    Request request(model, 0);
    request.options.classes = nullptr;
    request.options.features = cut.data();
    request.options.feature_count = group;
    expect(request.run(session) == TRANSCDIFF_OK, "a generation from features");
    check_vae(session, run.info, request.images);
    return request.images;
}

constexpr uint32_t kRequests = 6;

struct Expected {
    Images made, mixed;
};

std::vector<Expected> alone(const transcdiff_model* model) {
    std::vector<Expected> results;
    transcdiff_session* session = session_on(model);
    for (uint32_t number = 0; number < kRequests; ++number) {
        Request request(model, number);
        expect(request.run(session) == TRANSCDIFF_OK, "a generation alone");
        results.push_back({request.images, mixed(model, session, request)});
        expect(!(results.back().made == results.back().mixed), "mixing changes the images");
    }
    transcdiff_session_free(session);
    return results;
}

// What all threads share: the model, results to compare with, and a session that each tries to use at any time.
struct Shared {
    const transcdiff_model* model;
    std::vector<Expected> expected;
    transcdiff_session* contested;
    std::atomic<int> busy{0}, cancelled{0}, elsewhere{0}, done{0};
};

// What happens to a generation: those up to kCancelAnyTime may end as cancelled, those before it have to.
enum How { kStop, kCancel, kCancelElsewhere, kCancelAnyTime, kContest, kMix, kNothing, kHows };

// Does it in a thread of its own, and waits for that.
template <typename Act>
void elsewhere(Act act) {
    std::thread(act).join();
}

void work(Shared& shared, uint32_t seed, int rounds) {
    std::mt19937 random(seed);
    transcdiff_session* own = session_on(shared.model);
    transcdiff_cancellation* flag = transcdiff_cancellation_new();
    for (int round = 0; round < rounds; ++round) {
        const uint32_t number = random() % kRequests;
        Request request(shared.model, number);
        request.options.cancellation = flag;
        const uint32_t how = random() % kHows;
        const auto cancel = [flag] { transcdiff_cancellation_cancel(flag); };
        std::thread other;
        if (how == kStop) {
            request.act_at = 1 + random() % kSteps;
            request.stops = [] { return true; };
        }
        if (how == kCancel || how == kCancelElsewhere) {
            request.act_at = 1 + random() % (kSteps - 1);
            request.stops = [how, cancel] {
                if (how == kCancel) cancel(); else elsewhere(cancel);
                return false;
            };
        }
        if (how == kCancelAnyTime) {
            const auto after = std::chrono::microseconds(random() % 3000);
            other = std::thread([cancel, after] {
                std::this_thread::sleep_for(after);
                cancel();
            });
        }
        if (how == kContest) {
            request.act_at = 1;
            request.stops = [&shared] {
                elsewhere([&shared] {
                    Request intruder(shared.model, 0);
                    expect(intruder.run(shared.contested) == TRANSCDIFF_BUSY, "a session at work is not busy");
                    ++shared.busy;
                });
                return false;
            };
        }
        const transcdiff_status status = request.run(how == kContest ? shared.contested : own);
        if (other.joinable()) other.join();
        transcdiff_cancellation_reset(flag);
        if (status == TRANSCDIFF_OK) {
            expect(how >= kCancelAnyTime, "a call went on that was cancelled");
            expect(request.images == shared.expected[number].made, "other bytes than alone");
            if (how == kMix) {
                const Images images = mixed(shared.model, own, request);
                expect(images == shared.expected[number].mixed, "mixed: other bytes than alone");
            }
            ++shared.done;
        } else if (status == TRANSCDIFF_CANCELLED) {
            expect(how <= kCancelAnyTime, "a call was cancelled that nobody cancelled");
            ++(how == kCancelElsewhere ? shared.elsewhere : shared.cancelled);
        } else {
            expect(status == TRANSCDIFF_BUSY && how == kContest, transcdiff_status_name(status));
            ++shared.busy;
        }
    }
    transcdiff_cancellation_free(flag);
    transcdiff_session_free(own);
}

void threads(const Files& files, int rounds) {
    transcdiff_model* model = load(files);
    Shared shared{model, alone(model), session_on(model)};
    std::vector<std::thread> workers;
    for (int i = 0; i < kThreads; ++i) {
        workers.emplace_back([&shared, i, rounds] { work(shared, 100 + i, rounds); });
    }
    for (auto& worker : workers) worker.join();
    // The last session goes on without its model.
    Request request(model, 0);
    transcdiff_model_free(model);
    expect(request.run(shared.contested) == TRANSCDIFF_OK, "a session without its model's handle");
    expect(request.images == shared.expected[0].made, "other bytes without the model's handle");
    transcdiff_session_free(shared.contested);
    std::printf("threads: %d done, %d cancelled, %d by another thread, %d busy\n", shared.done.load(),
                shared.cancelled.load(), shared.elsewhere.load(), shared.busy.load());
    expect(shared.done > 0 && shared.cancelled > 0, "nothing was done, or nothing cancelled");
    expect(shared.elsewhere > 0, "no call was cancelled by another thread");
    expect(shared.busy > 0, "no session was busy");
}

// What the library and the allocator keep is full-grown after half of them; then 1,000 generations are still to come.
constexpr int kMeasuredRounds = 2600;

struct Memory {
    // Bytes of the heap in use, and what the whole process has resident.
    size_t used, resident;
};

Memory memory() {
    // What is free and was not given back to the system yet changes from round to round by more than 1 %.
    malloc_trim(0);
    const auto heap = mallinfo2();
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("VmRSS:", 0) != 0) continue;
        return {heap.uordblks + heap.hblkhd, 1024 * static_cast<size_t>(std::atol(line.c_str() + 6))};
    }
    fail("/proc/self/status has no VmRSS");
}

// Everything that a long-lived program does over and over; memory is looked at half-way, and in the end.
void loop(const Files& files, int rounds) {
    transcdiff_model* model = load(files);
    transcdiff_session* session = session_on(model);
    Memory warm{};
    int completed = 0;
    for (int round = 0; round < rounds; ++round) {
        if (round == rounds / 2) {
            warm = memory();
            completed = 0;
        }
        Request request(model, static_cast<uint32_t>(round));
        if (round % 10 == 9) {
            request.act_at = 2;
            request.stops = [] { return true; };
        }
        if (round % 10 == 5) request.options.steps = 0;
        const auto expected = round % 10 == 9   ? TRANSCDIFF_CANCELLED
                              : round % 10 == 5 ? TRANSCDIFF_INVALID_ARGUMENT
                                                : TRANSCDIFF_OK;
        expect(request.run(session) == transcdiff_status(expected), "the status of a round");
        completed += expected == TRANSCDIFF_OK;
        if (round % 10 == 0) mixed(model, session, request);
        if (round % 50 == 49) {
            transcdiff_session_free(session);
            transcdiff_model* again = load(files);
            transcdiff_model_free(model);
            model = again;
            session = session_on(model);
        }
    }
    const Memory end = memory();
    transcdiff_session_free(session);
    transcdiff_model_free(model);
    std::printf("loop: %d generations in %d rounds, before them %zu bytes in use and %zu resident, then %zu and %zu\n",
                completed, rounds - rounds / 2, warm.used, warm.resident, end.used, end.resident);
    std::fflush(stdout);
    // Sanitizers and Valgrind keep what is freed for a while, and look for leaks themselves: their loops are shorter.
    if (rounds < kMeasuredRounds) return;
    expect(completed >= 1000, "too few generations to judge memory by");
    expect(end.used * 100 < warm.used * 101, "memory in use grows");
    expect(end.resident * 100 < warm.resident * 101, "resident memory grows");
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 5) fail("usage: stress threads|loop MODEL VAE ROUNDS");
    const std::string what = argv[1];
    const Files files = {argv[2], argv[3]};
    const int rounds = std::atoi(argv[4]);
    if (what == "threads") {
        threads(files, rounds);
    } else if (what == "loop") {
        loop(files, rounds);
    } else {
        fail("unknown: " + what);
    }
    return 0;
}
