// Shared by the parts of the driver: error codes, entry checks of API functions, and streams.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <map>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

// Counts the call of an API function, and returns an injected failure (`emulated_cuda_fail`).
#define ENTER                                                     \
    do {                                                          \
        if (const unsigned code = driver::enter(__func__)) return code; \
    } while (0)

// ENTER for functions that need a context.
#define ENTER_CONTEXT                                                      \
    do {                                                                   \
        ENTER;                                                             \
        if (const unsigned code = driver::context_error()) return code; \
    } while (0)

// ENTER for functions that may wait for the device, which are not allowed during a stream capture.
#define ENTER_WAITING                                                       \
    do {                                                                    \
        ENTER_CONTEXT;                                                      \
        if (const unsigned code = driver::forbidden_while_capturing()) return code; \
    } while (0)

namespace driver {

enum Code : unsigned {
    kSuccess = 0,
    kInvalidValue = 1,
    kOutOfMemory = 2,
    kNotInitialized = 3,
    kInvalidDevice = 101,
    kInvalidImage = 200,
    kInvalidContext = 201,
    kNoBinaryForGpu = 209,
    kInvalidHandle = 400,
    kNotFound = 500,
    kNotReady = 600,
    kIllegalAddress = 700,
    kLaunchOutOfResources = 701,
    kLaunchFailed = 719,
    kNotSupported = 801,
    kCaptureUnsupported = 900,
    kCaptureInvalidated = 901,
    kCaptureImplicit = 906,
    kCapturedEvent = 907,
    kCaptureWrongThread = 908,
};

// control.cpp
unsigned enter(const char* function);
bool missing(const char* symbol);
void log_launch(const std::string& line);
// Stores the reason of a failure for `emulated_cuda_error` and prints it to standard error.
unsigned failure(unsigned code, const std::string& reason);
// A number from the environment.
uint64_t setting(const char* variable, uint64_t otherwise);

// device.cpp
// The error code if the thread has no usable context.
unsigned context_error();
// Returns `code`; if it is one that corrupts the context, the context is unusable until its last owner releases it.
unsigned corrupt_context(unsigned code);
int capability();
unsigned max_shared();
// Ordinal of the device whose context the process has.
int ordinal();

// memory.cpp
// Returns whether [address, address + bytes) lies within one allocation of the device.
bool on_device(uint64_t address, size_t bytes);
// Returns whether the guards around all allocations are intact; otherwise `error` names the allocation.
bool guards_hold(std::string& error);
// Frees the memory of a destroyed context.
void release_all();

// stream.cpp
using Work = std::function<unsigned()>;
using StreamHandle = void*;

struct Graph {
    std::vector<Work> nodes;
};

// Executes the work, unless work before it is not done; or adds it to the graph if the stream captures.
unsigned submit(StreamHandle stream, Work work);
// Nanoseconds of a device whose work takes 1 us each, which events record: times are the same in every run.
std::atomic<uint64_t>& clock();
// Has work that waits for other processes executed while the caller goes on.
unsigned enqueue(StreamHandle stream, Work work);
// Waits for the work of all streams.
void wait_for_all();
unsigned forbidden_while_capturing();

// Objects whose handles are their addresses.
template <typename T>
class Handles {
public:
    void* add(std::unique_ptr<T> object) {
        const std::lock_guard<std::mutex> lock(mutex_);
        T* address = object.get();
        objects_.emplace(address, std::move(object));
        return address;
    }

    // Null if there is no such object.
    T* find(void* handle) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto found = objects_.find(static_cast<T*>(handle));
        return found == objects_.end() ? nullptr : found->second.get();
    }

    bool remove(void* handle) {
        const std::lock_guard<std::mutex> lock(mutex_);
        return objects_.erase(static_cast<T*>(handle)) == 1;
    }

private:
    std::mutex mutex_;
    std::map<T*, std::unique_ptr<T>> objects_;
};

}  // namespace driver
