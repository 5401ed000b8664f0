// Injected failures, call counts and the launch log: emulated_cuda.h and the variables of README.md.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <sstream>

#include "driver.h"
#include "emulated_cuda.h"

namespace {

constexpr size_t kLogged = 65536;

struct Failure {
    std::string function;
    int after;             // calls
    unsigned code;
};

struct Control {
    std::mutex mutex;
    std::map<std::string, uint64_t> counts;
    std::vector<Failure> failures;
    std::deque<std::string> log;
    uint64_t launches = 0;
    std::string error;

    Control();
};

// Removes the suffix "_v2": "cuMemAlloc" also means "cuMemAlloc_v2".
std::string base(std::string function) {
    if (function.size() > 3 && function.compare(function.size() - 3, 3, "_v2") == 0) function.resize(function.size() - 3);
    return function;
}

std::vector<std::string> split(const char* list, char separator) {
    std::vector<std::string> parts;
    std::istringstream stream(list == nullptr ? "" : list);
    for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
    return parts;
}

// EMULATED_CUDA_FAIL="function:nth:code,...".
Control::Control() {
    for (const std::string& part : split(std::getenv("EMULATED_CUDA_FAIL"), ',')) {
        const std::vector<std::string> fields = split(part.c_str(), ':');
        if (fields.size() != 3) {
            std::fprintf(stderr, "EMULATED_CUDA_FAIL is function:nth:code,..., not %s\n", part.c_str());
            std::abort();
        }
        failures.push_back({base(fields[0]), std::atoi(fields[1].c_str()), unsigned(std::atoi(fields[2].c_str()))});
    }
}

Control& control() {
    static Control instance;
    return instance;
}

size_t copy(const std::string& text, char* out, size_t length) {
    if (length > 0) {
        const size_t bytes = std::min(text.size(), length - 1);
        std::memcpy(out, text.data(), bytes);
        out[bytes] = 0;
    }
    return text.size() + 1;
}

}  // namespace

namespace driver {

unsigned enter(const char* function) {
    Control& c = control();
    const std::lock_guard<std::mutex> lock(c.mutex);
    const std::string name = base(function);
    ++c.counts[name];
    unsigned code = kSuccess;
    for (Failure& failure : c.failures) {
        if (failure.function == name && --failure.after == 0) code = failure.code;
    }
    return corrupt_context(code);
}

bool missing(const char* symbol) {
    const std::vector<std::string> names = split(std::getenv("EMULATED_CUDA_MISSING"), ',');
    return std::find(names.begin(), names.end(), symbol) != names.end();
}

void log_launch(const std::string& line) {
    Control& c = control();
    const std::lock_guard<std::mutex> lock(c.mutex);
    ++c.launches;
    c.log.push_back(line);
    if (c.log.size() > kLogged) c.log.pop_front();
}

unsigned failure(unsigned code, const std::string& reason) {
    Control& c = control();
    const std::lock_guard<std::mutex> lock(c.mutex);
    c.error = reason;
    std::fprintf(stderr, "emulated CUDA: %s\n", reason.c_str());
    return corrupt_context(code);
}

uint64_t setting(const char* variable, uint64_t otherwise) {
    const char* value = std::getenv(variable);
    return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

}  // namespace driver

API void emulated_cuda_fail(const char* function, int nth, unsigned code) {
    Control& c = control();
    const std::lock_guard<std::mutex> lock(c.mutex);
    c.failures.push_back({base(function), nth, code});
}

API uint64_t emulated_cuda_count(const char* function) {
    Control& c = control();
    const std::lock_guard<std::mutex> lock(c.mutex);
    const auto found = c.counts.find(base(function));
    return found == c.counts.end() ? 0 : found->second;
}

API uint64_t emulated_cuda_launches(void) {
    Control& c = control();
    const std::lock_guard<std::mutex> lock(c.mutex);
    return c.launches;
}

API size_t emulated_cuda_log(char* out, size_t length) {
    Control& c = control();
    const std::lock_guard<std::mutex> lock(c.mutex);
    std::string text;
    for (const std::string& line : c.log) text += line + "\n";
    return copy(text, out, length);
}

API size_t emulated_cuda_error(char* out, size_t length) {
    Control& c = control();
    const std::lock_guard<std::mutex> lock(c.mutex);
    return copy(c.error, out, length);
}

API void emulated_cuda_reset(void) {
    Control& c = control();
    const std::lock_guard<std::mutex> lock(c.mutex);
    c.counts.clear();
    c.failures.clear();
    c.log.clear();
    c.launches = 0;
    c.error.clear();
}
