// Stress test of the C ABI with threads and over time: `stress threads MODEL VAE ROUNDS` and `stress loop MODEL VAE ROUNDS`,
// with the files of transdiff-ffi's example tiny_model. Exits with 0 on success, else with a message.

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
    const char *model, *codec;
};

[[noreturn]] void fail(const std::string& message) {
    std::fprintf(stderr, "stress: %s\n", message.c_str());
    std::_Exit(1);
}

void expect(bool holds, const std::string& failure) {
    if (!holds) fail(failure);
}

// Returns the status of a call, after checking and freeing its error.
template <typename Call>
transcdiff_status status_of(Call call) {
    transcdiff_error* error = nullptr;
    const transcdiff_status status = call(&error);
    expect((status == TRANSCDIFF_OK) == (error == nullptr), "status and error object disagree");
    if (error != nullptr) {
        expect(transcdiff_error_status(error) == status, "the error has a different status than its call");
        expect(std::strlen(transcdiff_error_message(error)) > 0, "an error without a message");
    }
    transcdiff_error_free(error);
    return status;
}

template <typename Call>
void succeed(const char* name, Call call) {
    transcdiff_error* error = nullptr;
    if (call(&error) != TRANSCDIFF_OK) fail(std::string(name) + ": " + transcdiff_error_message(error));
}

transcdiff_model* load(const Files& files) {
    transcdiff_load_options options;
    expect(transcdiff_load_options_init(&options, sizeof options) == TRANSCDIFF_OK, "load options");
    options.model_path = files.model;
    options.codec_path = files.codec;
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
          pixels(kImages * transcdiff_image_bytes(TRANSCDIFF_RGB8_HWC, info.image_height, info.image_width)) {}
    bool operator==(const Images& other) const { return same(latents, other.latents) && same(pixels, other.pixels); }
};

// Generation of two images, by number. At step `act_at` the progress callback calls `stops`, which returns whether to cancel.
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
          references((info.ar_steps - 1) * images.latents.size()) {
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
        expect(count == progress->images * latent_size(self.info), "preview of wrong size");
        for (size_t i = 0; i < count; ++i) expect(std::isfinite(latents[i]), "preview is not finite");
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
        const size_t expected = kImages * (from_classes ? info.ar_steps : 1) * (kSteps / kPreviewInterval);
        expect(status != TRANSCDIFF_OK || previews == expected, "wrong number of previews");
        return status;
    }
};

// Features of all AR steps, given the references of a completed request.
std::vector<float> features_of(transcdiff_session* session, const Request& run, const uint32_t* classes) {
    std::vector<float> features(kImages * run.info.feature_count * run.info.feature_width);
    succeed("features", [&](auto error) {
        return transcdiff_session_features(session, classes, kImages, run.references.data(), run.info.ar_steps - 1,
                                           nullptr, features.data(), bytes(features), error);
    });
    return features;
}

// Decodes the latents, which must reproduce the pixels, and encodes those.
void check_codec(transcdiff_session* session, const transcdiff_model_info& info, const Images& images) {
    Images result(info);
    succeed("decode", [&](auto error) {
        return transcdiff_session_decode(session, images.latents.data(), bytes(images.latents), kImages,
                                         info.latent_height, info.latent_width, TRANSCDIFF_RGB8_HWC, nullptr,
                                         result.pixels.data(), bytes(result.pixels), error);
    });
    expect(same(result.pixels, images.pixels), "decoded pixels differ from the generated ones");
    const uint64_t seeds[kImages] = {1, 2};
    succeed("encode", [&](auto error) {
        return transcdiff_session_encode(session, images.pixels.data(), bytes(images.pixels), TRANSCDIFF_RGB8_HWC,
                                         kImages, info.image_height, info.image_width, seeds, nullptr,
                                         result.latents.data(), bytes(result.latents), error);
    });
    for (const float value : result.latents) expect(std::isfinite(value), "encoded latents are not finite");
}

// Images of spliced features: the first feature per image from the request, the others from other classes, truncated to one
// group, which is what can be decoded.
Images generate_spliced(const transcdiff_model* model, transcdiff_session* session, const Request& run) {
    const uint32_t others[kImages] = {1, 2};
    const auto first = features_of(session, run, run.classes), second = features_of(session, run, others);
    const size_t all = run.info.feature_count, group = all / run.info.ar_steps, width = run.info.feature_width;
    std::vector<float> features(first.size()), truncated(kImages * group * width);
    succeed("splice", [&](auto error) {
        return transcdiff_features_splice(first.data(), second.data(), kImages, all, width, 1, features.data(), error);
    });
    succeed("truncate", [&](auto error) {
        return transcdiff_features_truncate(features.data(), kImages, all, width, group, truncated.data(), error);
    });
    Request request(model, 0);
    request.options.classes = nullptr;
    request.options.features = truncated.data();
    request.options.feature_count = group;
    expect(request.run(session) == TRANSCDIFF_OK, "generation from features failed");
    check_codec(session, run.info, request.images);
    return request.images;
}

constexpr uint32_t kRequests = 6;

struct Expected {
    Images generated, spliced;
};

// Results of all requests without concurrency.
std::vector<Expected> sequential_results(const transcdiff_model* model) {
    std::vector<Expected> results;
    transcdiff_session* session = session_on(model);
    for (uint32_t number = 0; number < kRequests; ++number) {
        Request request(model, number);
        expect(request.run(session) == TRANSCDIFF_OK, "sequential generation failed");
        results.push_back({request.images, generate_spliced(model, session, request)});
        expect(!(results.back().generated == results.back().spliced), "splicing does not change the images");
    }
    transcdiff_session_free(session);
    return results;
}

// State shared by all threads: the model, expected results, and a session that every thread tries to use at any time.
struct Shared {
    const transcdiff_model* model;
    std::vector<Expected> expected;
    transcdiff_session* contested;
    std::atomic<int> busy{0}, cancelled{0}, cancelled_by_thread{0}, done{0};
};

// Event during a generation: with those before kCancelAnyTime it must end as cancelled, with kCancelAnyTime it may.
enum Event { kStop, kCancel, kCancelFromThread, kCancelAnyTime, kContend, kSplice, kNone, kEventCount };

// Runs a function on a new thread and waits for it.
template <typename Function>
void run_on_thread(Function function) {
    std::thread(function).join();
}

void work(Shared& shared, uint32_t seed, int rounds) {
    std::mt19937 random(seed);
    transcdiff_session* own = session_on(shared.model);
    transcdiff_cancellation* token = transcdiff_cancellation_new();
    for (int round = 0; round < rounds; ++round) {
        const uint32_t number = random() % kRequests;
        Request request(shared.model, number);
        request.options.cancellation = token;
        const uint32_t event = random() % kEventCount;
        const auto cancel = [token] { transcdiff_cancellation_cancel(token); };
        std::thread other;
        if (event == kStop) {
            request.act_at = 1 + random() % kSteps;
            request.stops = [] { return true; };
        }
        if (event == kCancel || event == kCancelFromThread) {
            request.act_at = 1 + random() % (kSteps - 1);
            request.stops = [event, cancel] {
                if (event == kCancel) cancel(); else run_on_thread(cancel);
                return false;
            };
        }
        if (event == kCancelAnyTime) {
            const auto after = std::chrono::microseconds(random() % 3000);
            other = std::thread([cancel, after] {
                std::this_thread::sleep_for(after);
                cancel();
            });
        }
        if (event == kContend) {
            request.act_at = 1;
            request.stops = [&shared] {
                run_on_thread([&shared] {
                    Request concurrent(shared.model, 0);
                    expect(concurrent.run(shared.contested) == TRANSCDIFF_BUSY, "a running session is not busy");
                    ++shared.busy;
                });
                return false;
            };
        }
        const transcdiff_status status = request.run(event == kContend ? shared.contested : own);
        if (other.joinable()) other.join();
        transcdiff_cancellation_reset(token);
        if (status == TRANSCDIFF_OK) {
            expect(event >= kCancelAnyTime, "a cancelled call succeeded");
            expect(request.images == shared.expected[number].generated, "results differ from the sequential ones");
            if (event == kSplice) {
                const Images images = generate_spliced(shared.model, own, request);
                expect(images == shared.expected[number].spliced, "spliced results differ from the sequential ones");
            }
            ++shared.done;
        } else if (status == TRANSCDIFF_CANCELLED) {
            expect(event <= kCancelAnyTime, "a call was cancelled without a cancellation");
            ++(event == kCancelFromThread ? shared.cancelled_by_thread : shared.cancelled);
        } else {
            expect(status == TRANSCDIFF_BUSY && event == kContend, transcdiff_status_name(status));
            ++shared.busy;
        }
    }
    transcdiff_cancellation_free(token);
    transcdiff_session_free(own);
}

void threads(const Files& files, int rounds) {
    transcdiff_model* model = load(files);
    Shared shared{model, sequential_results(model), session_on(model)};
    std::vector<std::thread> workers;
    for (int i = 0; i < kThreads; ++i) {
        workers.emplace_back([&shared, i, rounds] { work(shared, 100 + i, rounds); });
    }
    for (auto& worker : workers) worker.join();
    // The last session outlives its model handle.
    Request request(model, 0);
    transcdiff_model_free(model);
    expect(request.run(shared.contested) == TRANSCDIFF_OK, "generation failed after the model handle was freed");
    expect(request.images == shared.expected[0].generated, "results differ after the model handle was freed");
    transcdiff_session_free(shared.contested);
    std::printf("threads: %d done, %d cancelled, %d by another thread, %d busy\n", shared.done.load(),
                shared.cancelled.load(), shared.cancelled_by_thread.load(), shared.busy.load());
    expect(shared.done > 0 && shared.cancelled > 0, "no call was completed, or none cancelled");
    expect(shared.cancelled_by_thread > 0, "no call was cancelled by another thread");
    expect(shared.busy > 0, "no session was busy");
}

// Rounds of a loop whose memory is measured: caches are full after half of them, and more than 1,000 generations follow.
constexpr int kMeasuredRounds = 2600;

struct Memory {
    // Bytes of the heap in use, and resident bytes of the process.
    size_t used, resident;
};

Memory memory() {
    // Free memory that was not returned to the system varies by more than 1 % from round to round.
    malloc_trim(0);
    const auto heap = mallinfo2();
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("VmRSS:", 0) != 0) continue;
        return {heap.uordblks + heap.hblkhd, 1024 * static_cast<size_t>(std::atol(line.c_str() + 6))};
    }
    fail("/proc/self/status has no VmRSS");
}

// Repeats everything that a long-lived program does; memory is measured half-way and at the end.
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
        expect(request.run(session) == transcdiff_status(expected), "wrong status of a round");
        completed += expected == TRANSCDIFF_OK;
        if (round % 10 == 0) generate_spliced(model, session, request);
        if (round % 50 == 49) {
            transcdiff_session_free(session);
            transcdiff_model* reloaded = load(files);
            transcdiff_model_free(model);
            model = reloaded;
            session = session_on(model);
        }
    }
    const Memory end = memory();
    transcdiff_session_free(session);
    transcdiff_model_free(model);
    std::printf("loop: %d generations in %d rounds, before them %zu bytes in use and %zu resident, then %zu and %zu\n",
                completed, rounds - rounds / 2, warm.used, warm.resident, end.used, end.resident);
    std::fflush(stdout);
    // Sanitizers and Valgrind delay freeing and detect leaks themselves: their loops are shorter and not measured.
    if (rounds < kMeasuredRounds) return;
    expect(completed >= 1000, "too few generations to measure memory");
    expect(end.used * 100 < warm.used * 101, "memory in use grows");
    expect(end.resident * 100 < warm.resident * 101, "resident memory grows");
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 5) fail("usage: stress threads|loop MODEL VAE ROUNDS");
    const std::string mode = argv[1];
    const Files files = {argv[2], argv[3]};
    const int rounds = std::atoi(argv[4]);
    if (mode == "threads") {
        threads(files, rounds);
    } else if (mode == "loop") {
        loop(files, rounds);
    } else {
        fail("unknown mode: " + mode);
    }
    return 0;
}
