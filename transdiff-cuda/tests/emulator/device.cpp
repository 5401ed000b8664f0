// The device and its context.
#include <atomic>
#include <cstdio>
#include <cstring>

#include "driver.h"
#include "host_thread.h"

namespace {

constexpr int kDepth = 16;     // of the stack of contexts
constexpr unsigned kMultiprocessors = 4;

std::atomic<bool> initialized{false};
std::atomic<int> retained{0};
std::atomic<int> device_of_context{0};
std::atomic<unsigned> broken{driver::kSuccess};   // the code that corrupted the context
char primary_context;          // its address is the handle

// Stack of contexts, of which the last is current; null stands for none.
HOST_THREAD void* contexts[kDepth] = {};
HOST_THREAD int depth = 0;

struct Named {
    unsigned code;
    const char* text;
};

constexpr Named kErrors[] = {
    {0, "no error"},
    {1, "invalid argument"},
    {2, "out of memory"},
    {3, "initialization error"},
    {100, "no CUDA-capable device is detected"},
    {101, "invalid device ordinal"},
    {200, "device kernel image is invalid"},
    {201, "invalid device context"},
    {209, "no kernel image is available for execution on the device"},
    {400, "invalid resource handle"},
    {500, "named symbol not found"},
    {600, "device not ready"},
    {700, "an illegal memory access was encountered"},
    {701, "too many resources requested for launch"},
    {716, "misaligned address"},
    {719, "unspecified launch failure"},
    {801, "operation not supported"},
    {900, "operation not permitted when stream is capturing"},
    {901, "operation failed due to a previous error during capture"},
    {906, "operation would make the legacy stream depend on a capturing blocking stream"},
    {907, "operation not permitted on an event last recorded in a capturing stream"},
    {908, "attempt to terminate a thread-local capture sequence from another thread"},
    {999, "unknown error"},
};

const Named* find_error(unsigned code) {
    for (const Named& error : kErrors) {
        if (error.code == code) return &error;
    }
    return nullptr;
}

int devices() { return static_cast<int>(driver::setting("EMULATED_CUDA_DEVICES", 1)); }

unsigned device_error(int device) {
    if (!initialized) return driver::kNotInitialized;
    return device >= 0 && device < devices() ? driver::kSuccess : driver::kInvalidDevice;
}

// CUdevice_attribute: the three that the backend queries; the others are 0.
int attribute(int which) {
    switch (which) {
        case 16: return static_cast<int>(driver::setting("EMULATED_CUDA_MULTIPROCESSORS", kMultiprocessors));
        case 75: return driver::capability() / 10;
        case 76: return driver::capability() % 10;
        default: return 0;
    }
}

}  // namespace

namespace driver {

unsigned context_error() {
    if (!initialized) return kNotInitialized;
    const bool current = depth > 0 && contexts[depth - 1] == &primary_context && retained > 0;
    return current ? broken.load() : kInvalidContext;
}

unsigned corrupt_context(unsigned code) {
    // Faults of kernels: illegal addresses and instructions, misaligned accesses, and 719.
    const bool corrupts = code == kIllegalAddress || (code >= 714 && code <= kLaunchFailed);
    if (corrupts && retained > 0) broken = code;
    return code;
}

int ordinal() { return device_of_context; }

int capability() { return static_cast<int>(setting("EMULATED_CUDA_CAPABILITY", 90)); }

unsigned max_shared() {
    const int version = capability();
    if (version >= 100 && version < 120) return 232448;
    if (version >= 90 && version < 100) return 232448;
    if (version == 80 || version == 87) return 166912;
    return version < 80 ? 65536 : 101376;
}

}  // namespace driver

API unsigned cuGetErrorString(unsigned code, const char** text) {
    ENTER;
    const Named* error = find_error(code);
    *text = error == nullptr ? nullptr : error->text;
    return error == nullptr ? driver::kInvalidValue : driver::kSuccess;
}

API unsigned cuInit(unsigned flags) {
    ENTER;
    if (flags != 0) return driver::kInvalidValue;
    initialized = true;
    return driver::kSuccess;
}

API unsigned cuDeviceGetCount(int* count) {
    ENTER;
    *count = devices();
    return device_error(0);
}

API unsigned cuDeviceGet(int* device, int ordinal) {
    ENTER;
    *device = ordinal;
    return device_error(ordinal);
}

API unsigned cuDeviceGetName(char* name, int length, int device) {
    ENTER;
    std::snprintf(name, static_cast<size_t>(length), "Emulated GPU");
    return device_error(device);
}

// The ordinal, so that the devices of all processes are those of one machine.
API unsigned cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
    ENTER;
    std::memset(uuid, 0, 16);
    uuid[15] = static_cast<unsigned char>(device);
    return device_error(device);
}

API unsigned cuDeviceGetAttribute(int* value, int which, int device) {
    ENTER;
    *value = attribute(which);
    return device_error(device);
}

API unsigned cuDevicePrimaryCtxRetain(void** context, int device) {
    ENTER;
    if (const unsigned code = device_error(device)) return code;
    // There is one context, whichever device has it.
    if (retained > 0 && device != device_of_context) return driver::kNotSupported;
    device_of_context = device;
    ++retained;
    *context = &primary_context;
    return driver::kSuccess;
}

API unsigned cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER;
    if (const unsigned code = device_error(device)) return code;
    if (retained == 0 || device != device_of_context) return driver::kInvalidContext;
    if (retained == 1) driver::wait_for_all();
    if (--retained > 0) return driver::kSuccess;
    broken = driver::kSuccess;
    driver::release_all();
    return driver::kSuccess;
}

API unsigned cuCtxSetCurrent(void* context) {
    ENTER;
    if (!initialized) return driver::kNotInitialized;
    if (context != nullptr && context != &primary_context) return driver::kInvalidContext;
    if (depth == 0) ++depth;
    contexts[depth - 1] = context;
    if (context == nullptr) --depth;
    return driver::kSuccess;
}

API unsigned cuCtxGetCurrent(void** context) {
    ENTER;
    if (!initialized) return driver::kNotInitialized;
    *context = depth == 0 ? nullptr : contexts[depth - 1];
    return driver::kSuccess;
}

API unsigned cuCtxPushCurrent_v2(void* context) {
    ENTER;
    if (!initialized) return driver::kNotInitialized;
    if (context != &primary_context || depth == kDepth) return driver::kInvalidContext;
    contexts[depth++] = context;
    return driver::kSuccess;
}

API unsigned cuCtxPopCurrent_v2(void** context) {
    ENTER;
    if (!initialized) return driver::kNotInitialized;
    if (depth == 0) return driver::kInvalidContext;
    --depth;
    if (context != nullptr) *context = contexts[depth];
    return driver::kSuccess;
}

