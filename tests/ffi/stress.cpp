// Threads and memory through the C ABI: `stress threads MODEL ROUNDS` and `stress loop MODEL ROUNDS`. Exits with 0 if all
// is as it has to be, else says what is not.

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "transcdiff.h"

namespace {

constexpr int kThreads = 8;
constexpr uint32_t kSteps = 4;

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

transcdiff_model* load(const char* path) {
    transcdiff_load_options options;
    expect(transcdiff_load_options_init(&options, sizeof options) == TRANSCDIFF_OK, "load options");
    options.model_path = path;
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

size_t latent_size(const transcdiff_model* model) {
    transcdiff_model_info info{};
    info.struct_size = sizeof info;
    succeed("info", [&](auto error) { return transcdiff_model_get_info(model, &info, error); });
    return info.latent_channels * info.latent_height * info.latent_width;
}

// A generation of two images, by number. Callbacks stop it at a step, if they are asked to.
struct Request {
    uint32_t classes[2];
    uint64_t seeds[2];
    transcdiff_generate_options options;
    std::vector<float> latents;
    uint32_t stop_at = 0;
    const transcdiff_cancellation* cancel_at_stop = nullptr;

    Request(const transcdiff_model* model, uint32_t number)
        : classes{number % 3, 0}, seeds{number, 7}, latents(2 * latent_size(model)) {
        const auto status = transcdiff_generate_options_init(model, &options, sizeof options);
        expect(status == TRANSCDIFF_OK, "generate options");
        options.images = 2;
        options.classes = classes;
        options.seeds = seeds;
        options.steps = kSteps;
        options.guidance = 1.5;
        options.batch = 1 + number % 2;
        options.progress = on_progress;
        options.user_data = this;
    }
    Request(const Request&) = delete;

    static int32_t on_progress(const transcdiff_progress* progress, void* user_data) {
        const auto& self = *static_cast<const Request*>(user_data);
        if (progress->step != self.stop_at) return 0;
        if (self.cancel_at_stop == nullptr) return 1;
        transcdiff_cancellation_cancel(self.cancel_at_stop);
        return 0;
    }

    transcdiff_status run(transcdiff_session* session) {
        transcdiff_outputs outputs;
        expect(transcdiff_outputs_init(&outputs, sizeof outputs) == TRANSCDIFF_OK, "outputs");
        outputs.latents = latents.data();
        outputs.latents_size = latents.size() * sizeof(float);
        return status_of(
            [&](auto error) { return transcdiff_session_generate(session, &options, &outputs, error); });
    }
};

constexpr uint32_t kRequests = 6;

std::vector<std::vector<float>> alone(const transcdiff_model* model) {
    std::vector<std::vector<float>> results;
    transcdiff_session* session = session_on(model);
    for (uint32_t number = 0; number < kRequests; ++number) {
        Request request(model, number);
        expect(request.run(session) == TRANSCDIFF_OK, "a generation alone");
        results.push_back(request.latents);
    }
    transcdiff_session_free(session);
    return results;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// What all threads share: the model, results to compare with, and a session that each tries to use at any time.
struct Shared {
    const transcdiff_model* model;
    std::vector<std::vector<float>> expected;
    transcdiff_session* contested;
    std::atomic<int> busy{0}, cancelled{0}, done{0};
};

void work(Shared& shared, uint32_t seed, int rounds) {
    std::mt19937 random(seed);
    transcdiff_session* own = session_on(shared.model);
    transcdiff_cancellation* flag = transcdiff_cancellation_new();
    for (int round = 0; round < rounds; ++round) {
        const uint32_t number = random() % kRequests;
        Request request(shared.model, number);
        request.options.cancellation = flag;
        const uint32_t how = random() % 6;
        std::thread other;
        if (how == 0) request.stop_at = 1 + random() % kSteps;
        if (how == 1) {
            request.stop_at = 1 + random() % (kSteps - 1);
            request.cancel_at_stop = flag;
        }
        if (how == 2) {
            const auto after = std::chrono::microseconds(random() % 3000);
            other = std::thread([flag, after] {
                std::this_thread::sleep_for(after);
                transcdiff_cancellation_cancel(flag);
            });
        }
        const bool contested = how == 3;
        const transcdiff_status status = request.run(contested ? shared.contested : own);
        if (other.joinable()) other.join();
        transcdiff_cancellation_reset(flag);
        if (status == TRANSCDIFF_OK) {
            expect(how > 1, "a call went on that was cancelled");
            expect(same(request.latents, shared.expected[number]), "other bytes than alone");
            ++shared.done;
        } else if (status == TRANSCDIFF_CANCELLED) {
            expect(how <= 2, "a call was cancelled that nobody cancelled");
            ++shared.cancelled;
        } else {
            expect(status == TRANSCDIFF_BUSY && contested, transcdiff_status_name(status));
            ++shared.busy;
        }
    }
    transcdiff_cancellation_free(flag);
    transcdiff_session_free(own);
}

void threads(const char* path, int rounds) {
    transcdiff_model* model = load(path);
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
    expect(same(request.latents, shared.expected[0]), "other bytes without the model's handle");
    transcdiff_session_free(shared.contested);
    std::printf("threads: %d done, %d cancelled, %d busy\n", shared.done.load(), shared.cancelled.load(),
                shared.busy.load());
}

long resident_kb() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("VmRSS:", 0) == 0) return std::atol(line.c_str() + 6);
    }
    fail("/proc/self/status has no VmRSS");
}

// Everything that a long-lived program does over and over; memory is looked at after the first fifth, and in the end.
void loop(const char* path, int rounds) {
    transcdiff_model* model = load(path);
    transcdiff_session* session = session_on(model);
    long warm = 0;
    for (int round = 0; round < rounds; ++round) {
        if (round == rounds / 5) warm = resident_kb();
        Request request(model, static_cast<uint32_t>(round));
        if (round % 10 == 9) request.stop_at = 2;
        if (round % 10 == 5) request.options.steps = 0;
        const auto expected = round % 10 == 9   ? TRANSCDIFF_CANCELLED
                              : round % 10 == 5 ? TRANSCDIFF_INVALID_ARGUMENT
                                                : TRANSCDIFF_OK;
        expect(request.run(session) == transcdiff_status(expected), "the status of a round");
        if (round % 50 == 49) {
            transcdiff_session_free(session);
            transcdiff_model* again = load(path);
            transcdiff_model_free(model);
            model = again;
            session = session_on(model);
        }
    }
    const long end = resident_kb();
    transcdiff_session_free(session);
    transcdiff_model_free(model);
    std::printf("loop: %ld KB after %d rounds, %ld KB after %d\n", warm, rounds / 5, end, rounds);
    std::fflush(stdout);
    // Sanitizers and Valgrind keep what is freed for a while, and look for leaks themselves.
    if (rounds >= 1000) expect(end * 100 < warm * 101, "resident memory grows");
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) fail("usage: stress threads|loop MODEL ROUNDS");
    const std::string what = argv[1];
    const int rounds = std::atoi(argv[3]);
    if (what == "threads") {
        threads(argv[2], rounds);
    } else if (what == "loop") {
        loop(argv[2], rounds);
    } else {
        fail("unknown: " + what);
    }
    return 0;
}
