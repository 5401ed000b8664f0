// The device and its context.
#include <atomic>
#include <cstdio>

#include "driver.h"
#include "host_thread.h"

namespace {

constexpr int kDepth = 16;     // of the stack of contexts
constexpr int kVersion = 13000;
constexpr unsigned kMultiprocessors = 4;

std::atomic<bool> initialized{false};
std::atomic<int> retained{0};
std::atomic<unsigned> broken{driver::kSuccess};   // the code of what ruined the context
char primary_context;          // its address is the handle

// The last is current; null stands for none.
HOST_THREAD void* contexts[kDepth] = {};
HOST_THREAD int depth = 0;

struct Named {
    unsigned code;
    const char *name, *text;
};

constexpr Named kErrors[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {902, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "operation would result in a merge of separate capture sequences"},
    {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "the capture was not initiated in this stream"},
    {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work"},
    {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing blocking stream"},
    {907, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture sequence from another thread"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

const Named* find_error(unsigned code) {
    for (const Named& error : kErrors) {
        if (error.code == code) return &error;
    }
    return nullptr;
}

unsigned device_error(int device) {
    if (!initialized) return driver::kNotInitialized;
    return device == 0 ? driver::kSuccess : driver::kInvalidDevice;
}

// CUdevice_attribute; those that are not here are 0.
int attribute(int which) {
    switch (which) {
        case 1: case 2: case 3: return 1024;                    // threads of a block, along x, y
        case 4: return 64;                                      // along z
        case 5: return 2147483647;                              // blocks along x
        case 6: case 7: return 65535;                           // along y, z
        case 8: return 49152;                                   // shared memory of a block
        case 9: return 65536;                                   // constant memory
        case 10: return 32;                                     // warp
        case 11: return 2147483647;                             // pitch
        case 12: case 82: return 65536;                         // registers of a block, of a multiprocessor
        case 13: return 1000000;                                // kHz
        case 16: return static_cast<int>(driver::setting("EMULATED_CUDA_MULTIPROCESSORS", kMultiprocessors));
        case 19: case 31: case 41: case 78: case 115: return 1; // mapped memory, concurrent kernels, unified addresses,
                                                                // priorities, memory pools
        case 38: return 52428800;                               // L2
        case 39: return 2048;                                   // threads of a multiprocessor
        case 40: return 2;                                      // copy engines
        case 75: return driver::capability() / 10;
        case 76: return driver::capability() % 10;
        case 81: return static_cast<int>(driver::max_shared()) + 1024;
        case 97: return static_cast<int>(driver::max_shared());
        case 106: return 32;                                    // blocks of a multiprocessor
        case 111: return 1024;                                  // shared memory that the system takes of a block
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

unsigned ruin(unsigned code) {
    // What a kernel did that no driver can undo: errors of addresses, instructions and alignment, and 719.
    const bool beyond_repair = code == kIllegalAddress || (code >= 714 && code <= kLaunchFailed);
    if (beyond_repair && retained > 0) broken = code;
    return code;
}

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

API unsigned cuGetErrorName(unsigned code, const char** name) {
    ENTER;
    const Named* error = find_error(code);
    *name = error == nullptr ? nullptr : error->name;
    return error == nullptr ? driver::kInvalidValue : driver::kSuccess;
}

API unsigned cuInit(unsigned flags) {
    ENTER;
    if (flags != 0) return driver::kInvalidValue;
    initialized = true;
    return driver::kSuccess;
}

API unsigned cuDriverGetVersion(int* version) {
    ENTER;
    *version = static_cast<int>(driver::setting("EMULATED_CUDA_VERSION", kVersion));
    return driver::kSuccess;
}

API unsigned cuDeviceGetCount(int* count) {
    ENTER;
    *count = 1;
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

API unsigned cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
    ENTER;
    for (int i = 0; i < 16; ++i) uuid[i] = static_cast<unsigned char>(i);
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
    ++retained;
    *context = &primary_context;
    return driver::kSuccess;
}

API unsigned cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER;
    if (const unsigned code = device_error(device)) return code;
    if (retained == 0) return driver::kInvalidContext;
    if (--retained > 0) return driver::kSuccess;
    broken = driver::kSuccess;
    driver::release_all();
    return driver::kSuccess;
}

API unsigned cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
    ENTER;
    *flags = 0;
    *active = retained > 0;
    return device_error(device);
}

API unsigned cuDevicePrimaryCtxSetFlags_v2(int device, unsigned) {
    ENTER;
    return device_error(device);
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

API unsigned cuCtxGetDevice(int* device) {
    ENTER_CONTEXT;
    *device = 0;
    return driver::kSuccess;
}

API unsigned cuCtxGetApiVersion(void*, unsigned* version) {
    ENTER;
    *version = kVersion;
    return driver::kSuccess;
}

API unsigned cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    ENTER_CONTEXT;
    if (least != nullptr) *least = 0;
    if (greatest != nullptr) *greatest = -5;
    return driver::kSuccess;
}

API unsigned cuCtxSynchronize() {
    ENTER_WAITING;
    return driver::kSuccess;
}
