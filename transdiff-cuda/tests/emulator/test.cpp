// The emulator's own test: every statement of README.md. Prints failures, and exits with 1 if there are any.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "emulated_cuda.h"

extern "C" {
unsigned cuInit(unsigned);
unsigned cuDeviceGet(int*, int);
unsigned cuDeviceGetAttribute(int*, unsigned, int);
unsigned cuDeviceGetUuid_v2(unsigned char*, int);
unsigned cuDevicePrimaryCtxRetain(void**, int);
unsigned cuDevicePrimaryCtxRelease_v2(int);
unsigned cuCtxSetCurrent(void*);
unsigned cuGetErrorString(unsigned, const char**);
unsigned cuModuleLoadDataEx(void**, const void*, unsigned, void*, void*);
unsigned cuModuleGetFunction(void**, void*, const char*);
unsigned cuModuleUnload(void*);
unsigned cuFuncSetAttribute(void*, unsigned, int);
unsigned cuFuncGetParamInfo(void*, size_t, size_t*, size_t*);
unsigned cuLaunchKernel(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
unsigned cuMemAlloc_v2(uint64_t*, size_t);
unsigned cuMemFree_v2(uint64_t);
unsigned cuMemGetInfo_v2(size_t*, size_t*);
unsigned cuMemcpyHtoDAsync_v2(uint64_t, const void*, size_t, void*);
unsigned cuMemcpyDtoHAsync_v2(void*, uint64_t, size_t, void*);
unsigned cuMemsetD8Async(uint64_t, unsigned char, size_t, void*);
unsigned cuStreamCreate(void**, unsigned);
unsigned cuStreamDestroy_v2(void*);
unsigned cuStreamSynchronize(void*);
unsigned cuStreamBeginCapture_v2(void*, unsigned);
unsigned cuStreamEndCapture(void*, void**);
unsigned cuEventCreate(void**, unsigned);
unsigned cuEventDestroy_v2(void*);
unsigned cuEventRecord(void*, void*);
unsigned cuEventSynchronize(void*);
unsigned cuEventQuery(void*);
unsigned cuStreamWaitEvent(void*, void*, unsigned);
unsigned cuGraphInstantiateWithFlags(void**, void*, unsigned long long);
unsigned cuGraphLaunch(void*, void*);
unsigned cuGraphDestroy(void*);
unsigned cuGraphExecDestroy(void*);
unsigned cublasLtCreate(void**);
unsigned cublasLtDestroy(void*);
unsigned cublasLtMatmulDescCreate(void**, int, int);
unsigned cublasLtMatmulDescSetAttribute(void*, unsigned, const void*, size_t);
unsigned cublasLtMatrixLayoutCreate(void**, int, uint64_t, uint64_t, int64_t);
unsigned cublasLtMatrixLayoutSetAttribute(void*, unsigned, const void*, size_t);
unsigned cublasLtMatmulPreferenceCreate(void**);
unsigned cublasLtMatmulPreferenceSetAttribute(void*, unsigned, const void*, size_t);
unsigned cublasLtMatmulAlgoGetHeuristic(void*, void*, void*, void*, void*, void*, void*, int, void*, int*);
unsigned cublasLtMatmul(void*, void*, const float*, uint64_t, void*, uint64_t, void*, const float*, uint64_t, void*,
                        uint64_t, void*, const void*, uint64_t, size_t, void*);
}

namespace {

int failures = 0;

void expect(bool holds, const char* what, int line) {
    if (holds) return;
    std::printf("test.cpp:%d: %s\n", line, what);
    ++failures;
}

#define EXPECT(condition) expect(condition, #condition, __LINE__)
#define EXPECT_CODE(code, call) expect_code(call, code, #call, __LINE__)

void expect_code(unsigned got, unsigned expected, const char* call, int line) {
    if (got == expected) return;
    std::printf("test.cpp:%d: %s is %u, not %u\n", line, call, got, expected);
    ++failures;
}

// `TestParams` of test_kernels.cu.
struct Params {
    uint64_t out, in;
    uint32_t choice;
    float value;
};

void* module_of_tests;
std::mt19937 generator(7);

std::string error() {
    std::string text(4096, 0);
    text.resize(emulated_cuda_error(&text[0], text.size()) - 1);
    return text;
}

bool error_has(const char* part) { return error().find(part) != std::string::npos; }

// A fatbin with one entry, which has only the source name `name`.
std::vector<unsigned char> fatbin(const std::string& name) {
    const uint32_t name_bytes = static_cast<uint32_t>(name.size()), entry = 40 + name_bytes;
    const uint32_t words[] = {0xBA55ED50, 16 << 16 | 1, entry, 0, 0x01010001, entry, 0, 0, 0, 0, 0, 0, 40, name_bytes};
    std::vector<unsigned char> image(sizeof words + name.size());
    std::memcpy(image.data(), words, sizeof words);
    std::memcpy(image.data() + sizeof words, name.data(), name.size());
    return image;
}

// Recreates the context after a fault. All allocations are gone.
void recreate_context() {
    void* context = nullptr;
    EXPECT_CODE(0, cuDevicePrimaryCtxRelease_v2(0));
    EXPECT_CODE(0, cuDevicePrimaryCtxRetain(&context, 0));
    size_t free = 0, total = 0;
    EXPECT_CODE(0, cuMemGetInfo_v2(&free, &total));
    EXPECT(free == total);
}

void* function(const char* name) {
    void* found = nullptr;
    EXPECT_CODE(0, cuModuleGetFunction(&found, module_of_tests, name));
    return found;
}

unsigned launch(const char* name, unsigned grid, unsigned block, unsigned shared, Params params, void* stream = nullptr) {
    void* arguments[] = {&params};
    return cuLaunchKernel(function(name), grid, 1, 1, block, 1, 1, shared, stream, arguments, nullptr);
}

std::vector<float> random_values(size_t count) {
    std::vector<float> values(count);
    // Exact in bf16, and their products and short sums are exact in f32.
    for (float& value : values) value = static_cast<float>(static_cast<int>(generator() % 33) - 16) / 8.0f;
    return values;
}

unsigned load_module(void** module, const void* image) { return cuModuleLoadDataEx(module, image, 0, nullptr, nullptr); }

// Waits for the default stream.
unsigned synchronize() { return cuStreamSynchronize(nullptr); }

unsigned upload(uint64_t to, const void* from, size_t bytes) {
    const unsigned code = cuMemcpyHtoDAsync_v2(to, from, bytes, nullptr);
    return code == 0 ? synchronize() : code;
}

unsigned download(void* to, uint64_t from, size_t bytes) {
    const unsigned code = cuMemcpyDtoHAsync_v2(to, from, bytes, nullptr);
    return code == 0 ? synchronize() : code;
}

// An array on the device.
struct Array {
    uint64_t address = 0;
    size_t count;

    explicit Array(size_t n) : count(n) { EXPECT_CODE(0, cuMemAlloc_v2(&address, n * sizeof(float))); }
    explicit Array(const std::vector<float>& values) : Array(values.size()) {
        EXPECT_CODE(0, upload(address, values.data(), count * sizeof(float)));
    }
    Array(const Array&) = delete;
    ~Array() { cuMemFree_v2(address); }

    std::vector<float> values() const {
        std::vector<float> copied(count);
        EXPECT_CODE(0, download(copied.data(), address, count * sizeof(float)));
        return copied;
    }
};

void test_sum() {
    const std::vector<float> in = random_values(3 * 256);
    Array from(in), out(3);
    EXPECT_CODE(0, launch("test_sum", 3, 256, 0, {out.address, from.address, 0, 0}));
    for (size_t block = 0; block < 3; ++block) {
        float sum = 0;
        for (size_t i = 0; i < 256; ++i) sum += in[block * 256 + i];
        EXPECT(out.values()[block] == sum);
    }
}

void test_mma() {
    const std::vector<float> in = random_values(256 + 128);
    Array from(in), out(128);
    EXPECT_CODE(0, launch("test_mma", 1, 32, 0, {out.address, from.address, 0, 3.0f}));
    const std::vector<float> got = out.values();
    for (size_t row = 0; row < 16; ++row) {
        for (size_t column = 0; column < 8; ++column) {
            float sum = 3.0f;
            for (size_t k = 0; k < 16; ++k) sum += in[row * 16 + k] * in[256 + k * 8 + column];
            EXPECT(got[row * 8 + column] == sum);
        }
    }
}

void test_ldmatrix() {
    for (uint32_t transposed = 0; transposed < 2; ++transposed) {
        Array out(128);
        EXPECT_CODE(0, launch("test_ldmatrix", 1, 32, 0, {out.address, 0, transposed, 0}));
        const std::vector<float> values = out.values();
        for (uint32_t lane = 0; lane < 32; ++lane) {
            for (uint32_t matrix = 0; matrix < 4; ++matrix) {
                uint32_t word;
                std::memcpy(&word, &values[lane * 4 + matrix], 4);
                const uint32_t row = lane / 4, column = lane % 4 * 2;
                const uint32_t first = 64 * matrix + (transposed ? 8 * column + row : 8 * row + column);
                EXPECT((word & 0xFFFF) == first);
                EXPECT(word >> 16 == first + (transposed ? 8 : 1));
            }
        }
    }
}

void test_copy_async() {
    const std::vector<float> in = random_values(256);
    Array from(in), out(256);
    const auto run = [&](uint32_t choice) {
        EXPECT_CODE(0, launch("test_copy_async", 1, 64, 1024, {out.address, from.address, choice, 0}));
        return out.values();
    };
    EXPECT(run(0) == in);
    for (uint32_t wrong = 1; wrong < 4; ++wrong) EXPECT(std::isnan(run(wrong)[5]));
    EXPECT(run(4) == std::vector<float>(256, 0.0f));
    EXPECT_CODE(719, launch("test_copy_async", 1, 64, 1024, {out.address, from.address + 4, 0, 0}));
    EXPECT(error_has("misaligned"));
    recreate_context();
    Array outside(256);
    EXPECT_CODE(719, launch("test_copy_async", 1, 64, 512, {outside.address, outside.address, 0, 0}));
    EXPECT(error_has("not shared memory"));
    recreate_context();
}

void test_order() {
    Array out(64);
    std::vector<float> seen[2][3];
    const char* orders[] = {"forward", "reverse", "shuffled"};
    for (uint32_t racy = 0; racy < 2; ++racy) {
        for (size_t i = 0; i < 3; ++i) {
            setenv("EMULATED_CUDA_ORDER", orders[i], 1);
            EXPECT_CODE(0, launch("test_race", 1, 64, 0, {out.address, 0, racy, 1.0f}));
            seen[racy][i] = out.values();
            // NaN is not equal to itself.
            for (float& value : seen[racy][i]) value = std::isnan(value) ? -1.0f : value;
        }
    }
    std::vector<float> last;
    for (const char* order : orders) {
        setenv("EMULATED_CUDA_ORDER", order, 1);
        EXPECT_CODE(0, launch("test_blocks", 128, 1, 0, {out.address, 0, 0, 0}));
        last.push_back(out.values()[0]);
    }
    const std::vector<float> ones(64, 1.0f);
    for (const char* order : orders) {
        setenv("EMULATED_CUDA_ORDER", order, 1);
        EXPECT_CODE(0, launch("test_ahead", 1, 64, 0, {out.address, 0, 0, 1.0f}));
        EXPECT(out.values() == ones);
        EXPECT_CODE(0, launch("test_ahead", 1, 64, 0, {out.address, 0, 1, 1.0f}));
        // With shuffled order either may happen.
        if (order != orders[2]) EXPECT((out.values() == ones) == (order == orders[0]));
    }
    EXPECT(last[0] == 127.0f && last[1] == 0.0f && last[2] != 127.0f && last[2] != 0.0f);
    unsetenv("EMULATED_CUDA_ORDER");
    EXPECT(seen[0][0] == std::vector<float>(64, 1.0f));
    EXPECT(seen[0][1] == seen[0][0] && seen[0][2] == seen[0][0]);
    EXPECT(seen[1][0] != seen[1][1] && seen[1][0] != seen[1][2] && seen[1][1] != seen[1][2]);
}

void test_misuse() {
    const auto fails = [&](const char* name, unsigned block, unsigned shared, uint32_t choice, const char* part) {
        Array out(128), in(std::vector<float>(128, 1.0f));
        EXPECT_CODE(719, launch(name, 2, block, shared, {out.address, in.address, choice, 0}));
        if (!error_has(part) || !error_has(name)) std::printf("%s: %s\n", name, error().c_str()), ++failures;
        // The context is unusable until it is released.
        float value;
        EXPECT_CODE(719, download(&value, out.address, 4));
        EXPECT_CODE(719, synchronize());
        recreate_context();
        Array after(128);
        EXPECT_CODE(0, launch("test_add", 1, 64, 0, {after.address, 0, 0, 1.0f}));
    };
    fails("test_returns_early", 128, 0, 0, "deadlock: of 128 threads 40 returned, 88 wait at the barrier");
    fails("test_two_barriers", 64, 0, 0, "others at that of");
    fails("test_half_warp", 64, 0, 0, "16 lanes of warp 0 in shuffle");
    fails("test_two_collectives", 32, 0, 0, "other lanes of its warp to shuffle");
    fails("test_half_warp", 16, 0, 0, "a warp of 16 lanes");
    fails("test_misaligned", 1, 0, 0, "misaligned");
    fails("test_overrun", 32, 128, 1, "beyond its 128 bytes of dynamic shared memory");
    fails("test_deep", 1, 0, 0, "stack");
    Array out(128);
    EXPECT_CODE(0, launch("test_overrun", 1, 32, 128, {out.address, 0, 0, 0}));
}

// Only some codes corrupt the context.
void test_corrupted_context() {
    Array out(64);
    const Params params{out.address, 0, 0, 1.0f};
    const auto launched = [&] { return launch("test_add", 1, 64, 0, params); };
    for (unsigned code : {1u, 701u, 999u}) {
        emulated_cuda_fail("cuLaunchKernel", 1, code);
        EXPECT_CODE(code, launched());
        EXPECT_CODE(0, launched());
    }
    for (unsigned code : {700u, 716u, 719u}) {
        emulated_cuda_fail("cuLaunchKernel", 1, code);
        EXPECT_CODE(code, launched());
        EXPECT_CODE(code, synchronize());
        EXPECT_CODE(code, cuMemFree_v2(out.address));
        recreate_context();
    }
}

void test_unwritten() {
    for (uint32_t choice = 0; choice < 2; ++choice) {
        Array out(64);
        EXPECT(std::isnan(out.values()[0]));
        EXPECT_CODE(0, launch("test_unwritten", 1, 64, 256, {out.address, 0, choice, 0}));
        EXPECT(std::isnan(out.values()[0]));
        EXPECT(out.values()[1] == 1.0f);
    }
}

void test_launches() {
    Array out(128);
    const Params params{out.address, 0, 0, 1.0f};
    void* found = nullptr;
    EXPECT_CODE(500, cuModuleGetFunction(&found, module_of_tests, "test_no_such_kernel"));
    EXPECT_CODE(500, cuModuleGetFunction(&found, module_of_tests, "cuInit"));
    setenv("EMULATED_CUDA_MISSING", "test_other,test_add", 1);
    EXPECT_CODE(500, cuModuleGetFunction(&found, module_of_tests, "test_add"));
    unsetenv("EMULATED_CUDA_MISSING");

    size_t offset = 1, bytes = 0;
    EXPECT_CODE(0, cuFuncGetParamInfo(function("test_add"), 0, &offset, &bytes));
    EXPECT(offset == 0 && bytes == sizeof(Params));
    EXPECT_CODE(1, cuFuncGetParamInfo(function("test_add"), 1, &offset, &bytes));

    EXPECT_CODE(1, launch("test_add", 0, 64, 0, params));
    EXPECT_CODE(1, launch("test_sum", 1, 1056, 0, params));
    EXPECT_CODE(701, launch("test_add", 1, 128, 0, params));
    EXPECT_CODE(1, launch("test_unwritten", 1, 64, 49153, params));
    EXPECT_CODE(1, cuFuncSetAttribute(function("test_unwritten"), 8, 232449));
    EXPECT_CODE(0, cuFuncSetAttribute(function("test_unwritten"), 8, 232448));
    EXPECT_CODE(0, launch("test_unwritten", 1, 64, 232448 - 1024, params));
    EXPECT_CODE(400, launch("test_add", 1, 64, 0, params, &failures));
    // `__shared__` variables count towards the limit too.
    Array ones(std::vector<float>(256, 1.0f));
    const Params sum{out.address, ones.address, 0, 0};
    EXPECT_CODE(0, launch("test_sum", 1, 256, 49152 - 128, sum));
    EXPECT_CODE(1, launch("test_sum", 1, 256, 49152, sum));
    EXPECT(error_has("with static"));

    void* other = nullptr;
    EXPECT_CODE(0, load_module(&other, fatbin("kernels/norm.cu").data()));
    EXPECT_CODE(500, cuModuleGetFunction(&found, other, "test_add"));
    EXPECT_CODE(0, cuModuleUnload(other));
    EXPECT_CODE(400, cuModuleUnload(other));
    EXPECT_CODE(200, load_module(&other, "not an image at all......"));
    EXPECT_CODE(200, load_module(&other, fatbin("").data()));
}

void test_memory() {
    uint64_t address = 0;
    float values[4] = {};
    EXPECT_CODE(0, cuMemAlloc_v2(&address, 16));
    EXPECT(address % 256 == 0);
    EXPECT_CODE(1, upload(address + 4, values, 16));
    EXPECT_CODE(1, download(values, address - 1, 4));
    EXPECT_CODE(1, cuMemsetD8Async(address, 0, 17, nullptr));
    EXPECT_CODE(1, cuMemFree_v2(address + 4));
    EXPECT_CODE(0, launch("test_add", 1, 5, 0, {address, 0, 0, 1.0f}));
    EXPECT_CODE(719, cuMemFree_v2(address));
    recreate_context();
    EXPECT_CODE(0, cuMemAlloc_v2(&address, 16));
    setenv("EMULATED_CUDA_CHECK", "1", 1);
    EXPECT_CODE(719, launch("test_add", 1, 5, 0, {address, 0, 0, 1.0f}));
    EXPECT(error_has("after kernel test_add: something wrote beyond an allocation of 16 bytes"));
    unsetenv("EMULATED_CUDA_CHECK");
    recreate_context();

    setenv("EMULATED_CUDA_MEMORY", "1000", 1);
    size_t free = 0, total = 0;
    EXPECT_CODE(0, cuMemAlloc_v2(&address, 600));
    uint64_t second = 0;
    EXPECT_CODE(2, cuMemAlloc_v2(&second, 401));
    EXPECT_CODE(0, cuMemGetInfo_v2(&free, &total));
    EXPECT(free == 400 && total == 1000);
    EXPECT_CODE(0, cuMemFree_v2(address));
    EXPECT_CODE(0, cuMemAlloc_v2(&address, 1000));
    EXPECT_CODE(0, cuMemFree_v2(address));
    unsetenv("EMULATED_CUDA_MEMORY");
}

void test_graphs() {
    Array out(std::vector<float>(64, 0.0f));
    const Params params{out.address, 0, 0, 1.0f};
    void *stream = nullptr, *graph = nullptr, *exec = nullptr;
    EXPECT_CODE(0, cuStreamCreate(&stream, 1));
    EXPECT_CODE(0, cuStreamBeginCapture_v2(stream, 0));
    EXPECT_CODE(0, launch("test_add", 1, 64, 0, params, stream));
    EXPECT_CODE(0, launch("test_add", 1, 32, 0, params, stream));
    EXPECT_CODE(0, cuStreamEndCapture(stream, &graph));
    EXPECT(out.values() == std::vector<float>(64, 0.0f));
    EXPECT_CODE(0, cuGraphInstantiateWithFlags(&exec, graph, 0));
    EXPECT_CODE(0, cuGraphDestroy(graph));
    for (int i = 0; i < 2; ++i) EXPECT_CODE(0, cuGraphLaunch(exec, stream));
    EXPECT(out.values()[31] == 4.0f && out.values()[32] == 2.0f);
    EXPECT_CODE(0, cuGraphExecDestroy(exec));

    // Calls that wait invalidate the capture.
    const std::function<unsigned()> forbidden[] = {
        [] { uint64_t address; return cuMemAlloc_v2(&address, 16); },
        [&] { return cuMemFree_v2(out.address); },
        [&] { return cuStreamSynchronize(stream); },
    };
    for (const auto& call : forbidden) {
        EXPECT_CODE(0, cuStreamBeginCapture_v2(stream, 0));
        EXPECT_CODE(900, call());
        EXPECT_CODE(901, cuStreamEndCapture(stream, &graph));
        EXPECT(graph == nullptr);
    }
    // An event of the capture cannot be waited for.
    void* event = nullptr;
    EXPECT_CODE(0, cuEventCreate(&event, 2));
    EXPECT_CODE(0, cuStreamBeginCapture_v2(stream, 2));
    EXPECT_CODE(0, cuEventRecord(event, stream));
    EXPECT_CODE(907, cuEventSynchronize(event));
    EXPECT_CODE(0, cuStreamEndCapture(stream, &graph));
    EXPECT_CODE(0, cuGraphDestroy(graph));
    EXPECT_CODE(0, cuEventDestroy_v2(event));
    EXPECT_CODE(0, cuStreamDestroy_v2(stream));
    // A stream that synchronizes with the default stream.
    EXPECT_CODE(0, cuStreamCreate(&stream, 0));
    EXPECT_CODE(0, cuStreamBeginCapture_v2(stream, 2));
    EXPECT_CODE(906, launch("test_add", 1, 64, 0, params));
    EXPECT_CODE(901, cuStreamEndCapture(stream, &graph));
    EXPECT_CODE(0, cuStreamDestroy_v2(stream));
}

void test_streams() {
    Array out(std::vector<float>(64, 0.0f));
    const Params params{out.address, 0, 0, 1.0f};
    void *streams[2], *event = nullptr;
    for (void*& stream : streams) EXPECT_CODE(0, cuStreamCreate(&stream, 1));
    EXPECT_CODE(0, cuEventCreate(&event, 2));
    setenv("EMULATED_CUDA_ASYNC", "300000", 1);
    EXPECT_CODE(0, launch("test_add", 1, 64, 0, params, streams[0]));
    EXPECT_CODE(0, cuEventRecord(event, streams[0]));
    EXPECT_CODE(600, cuEventQuery(event));
    unsetenv("EMULATED_CUDA_ASYNC");
    // Work behind an event waits, as does work behind that; other work does not.
    EXPECT_CODE(0, cuStreamWaitEvent(streams[1], event, 0));
    std::vector<float> values(64);
    EXPECT_CODE(0, cuMemcpyDtoHAsync_v2(values.data(), out.address, 64 * sizeof(float), streams[1]));
    EXPECT(values[0] == 0.0f && out.values()[0] == 0.0f);
    EXPECT_CODE(0, cuStreamSynchronize(streams[1]));
    EXPECT(values[0] == 1.0f);
    EXPECT_CODE(0, cuEventQuery(event));
    EXPECT_CODE(0, cuEventSynchronize(event));
    // Freeing memory waits for all work.
    setenv("EMULATED_CUDA_ASYNC", "300000", 1);
    uint64_t address = 0;
    EXPECT_CODE(0, cuMemAlloc_v2(&address, 64));
    EXPECT_CODE(0, launch("test_add", 1, 16, 0, Params{address, 0, 0, 1.0f}, streams[0]));
    EXPECT_CODE(0, cuMemFree_v2(address));
    EXPECT_CODE(0, cuStreamSynchronize(streams[0]));
    // Faults show in later calls.
    EXPECT_CODE(0, launch("test_add", 1, 64, 0, Params{out.address + 1, 0, 0, 1.0f}, streams[0]));
    EXPECT_CODE(719, cuStreamSynchronize(streams[0]));
    unsetenv("EMULATED_CUDA_ASYNC");
    recreate_context();
}

void test_devices() {
    int device = 0;
    unsigned char uuids[2][16];
    void* context = nullptr;
    setenv("EMULATED_CUDA_DEVICES", "2", 1);
    EXPECT_CODE(0, cuDeviceGet(&device, 1));
    for (int i = 0; i < 2; ++i) EXPECT_CODE(0, cuDeviceGetUuid_v2(uuids[i], i));
    EXPECT(std::memcmp(uuids[0], uuids[1], sizeof uuids[0]) != 0);
    // A process uses one device at a time.
    EXPECT_CODE(801, cuDevicePrimaryCtxRetain(&context, 1));
    unsetenv("EMULATED_CUDA_DEVICES");
    EXPECT_CODE(101, cuDeviceGet(&device, 1));
}

void test_control() {
    emulated_cuda_reset();
    uint64_t address = 0;
    emulated_cuda_fail("cuMemAlloc", 2, 2);
    emulated_cuda_fail("cuStreamSynchronize", 1, 987);
    EXPECT_CODE(0, cuMemAlloc_v2(&address, 16));
    EXPECT_CODE(0, cuMemFree_v2(address));
    EXPECT_CODE(2, cuMemAlloc_v2(&address, 16));
    EXPECT_CODE(0, cuMemAlloc_v2(&address, 256));
    EXPECT_CODE(987, synchronize());
    EXPECT_CODE(0, synchronize());
    const char* text = "";
    EXPECT_CODE(1, cuGetErrorString(987, &text));
    EXPECT(text == nullptr);
    EXPECT(emulated_cuda_count("cuMemAlloc_v2") == 3 && emulated_cuda_count("cuMemFree") == 1);
    EXPECT_CODE(0, launch("test_add", 1, 64, 0, {address, 0, 0, 1.0f}));
    char log[256];
    EXPECT(emulated_cuda_log(log, sizeof log) == std::strlen(log) + 1);
    EXPECT(std::string(log) == "test_add grid 1 1 1 block 64 1 1 shared 0\n");
    EXPECT(emulated_cuda_launches() == 1);
    EXPECT_CODE(0, cuMemFree_v2(address));
    int value = 0;
    setenv("EMULATED_CUDA_CAPABILITY", "75", 1);
    EXPECT_CODE(0, cuDeviceGetAttribute(&value, 75, 0));
    EXPECT(value == 7);
    EXPECT_CODE(0, cuDeviceGetAttribute(&value, 16, 0));
    EXPECT(value == 4);
    setenv("EMULATED_CUDA_MULTIPROCESSORS", "132", 1);
    EXPECT_CODE(0, cuDeviceGetAttribute(&value, 16, 0));
    EXPECT(value == 132);
    unsetenv("EMULATED_CUDA_MULTIPROCESSORS");
    void* module = nullptr;
    EXPECT_CODE(209, load_module(&module, "image"));
    unsetenv("EMULATED_CUDA_CAPABILITY");
    EXPECT_CODE(0, cuCtxSetCurrent(nullptr));
    EXPECT_CODE(201, synchronize());
}

// --- cuBLASLt ---

float gelu(double x) { return static_cast<float>(0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)))); }

struct Product {
    void *handle, *description, *a, *b, *d, *preference;
    unsigned char result[96];

    // D [m, n] = op(A) op(B), column-major; bits of `transposed`: 1 for A, 2 for B.
    Product(uint64_t m, uint64_t n, uint64_t k, unsigned transposed, unsigned epilogue, uint64_t bias) {
        EXPECT_CODE(0, cublasLtCreate(&handle));
        EXPECT_CODE(0, cublasLtMatmulDescCreate(&description, 68, 0));
        const auto layout = [&](void** created, uint64_t r, uint64_t c) {
            EXPECT_CODE(0, cublasLtMatrixLayoutCreate(created, 0, r, c, static_cast<int64_t>(r)));
        };
        layout(&a, transposed & 1 ? k : m, transposed & 1 ? m : k);
        layout(&b, transposed & 2 ? n : k, transposed & 2 ? k : n);
        layout(&d, m, n);
        const int op[] = {static_cast<int>(transposed & 1), static_cast<int>(transposed >> 1 & 1)};
        for (unsigned i = 0; i < 2; ++i) EXPECT_CODE(0, cublasLtMatmulDescSetAttribute(description, 3 + i, &op[i], 4));
        EXPECT_CODE(0, cublasLtMatmulDescSetAttribute(description, 7, &epilogue, 4));
        EXPECT_CODE(0, cublasLtMatmulDescSetAttribute(description, 8, &bias, 8));
        EXPECT_CODE(0, cublasLtMatmulPreferenceCreate(&preference));
        const uint32_t alignment = 16;
        for (unsigned i = 5; i < 9; ++i) {
            EXPECT_CODE(0, cublasLtMatmulPreferenceSetAttribute(preference, i, &alignment, 4));
        }
    }
    ~Product() { EXPECT_CODE(0, cublasLtDestroy(handle)); }

    unsigned find() {
        int found = 0;
        return cublasLtMatmulAlgoGetHeuristic(handle, description, a, b, d, d, preference, 1, result, &found);
    }

    unsigned run(uint64_t from_a, uint64_t from_b, uint64_t to, float alpha, float beta, void* stream = nullptr,
                 uint64_t workspace = 0, size_t bytes = 0) {
        return cublasLtMatmul(handle, description, &alpha, from_a, a, from_b, b, &beta, to, d, to, d, result, workspace, bytes,
                              stream);
    }
};

constexpr size_t kM = 8, kN = 3, kK = 5;

// Element (row, column) of op(X) [rows, columns], X being column-major.
float at(const std::vector<float>& values, size_t rows, size_t columns, bool transposed, size_t row, size_t column) {
    return values[transposed ? row * columns + column : column * rows + row];
}

void test_products() {
    const std::vector<float> left = random_values(kM * kK), right = random_values(kK * kN), start = random_values(kM * kN);
    Array a(left), b(right);
    for (unsigned transposed = 0; transposed < 4; ++transposed) {
        Array d(start);
        Product product(kM, kN, kK, transposed, 1, 0);
        EXPECT_CODE(0, product.find());
        EXPECT_CODE(0, product.run(a.address, b.address, d.address, 2.0f, 0.5f));
        const std::vector<float> got = d.values();
        for (size_t i = 0; i < kM * kN; ++i) {
            const size_t row = i % kM, column = i / kM;
            float sum = 0;
            for (size_t k = 0; k < kK; ++k) {
                sum += at(left, kM, kK, transposed & 1, row, k) * at(right, kK, kN, transposed & 2, k, column);
            }
            EXPECT(got[i] == 2.0f * sum + 0.5f * start[i]);
        }
    }
}

void test_epilogues() {
    const std::vector<float> left = random_values(kM * kK), right = random_values(kK * kN), biases = random_values(kM);
    Array a(left), b(right);
    for (unsigned epilogue : {4, 36, 256, 512}) {
        Array bias(biases), d(kM * kN);
        const unsigned transposed = epilogue == 512 ? 2 : 0;
        Product product(kM, kN, kK, transposed, epilogue, bias.address);
        EXPECT_CODE(0, product.find());
        EXPECT_CODE(0, product.run(a.address, b.address, d.address, 1.0f, 0.0f));
        const std::vector<float> got = d.values(), sums = bias.values();
        for (size_t i = 0; i < kM * kN; ++i) {
            const size_t row = i % kM, column = i / kM;
            float value = 0;
            for (size_t k = 0; k < kK; ++k) value += left[k * kM + row] * at(right, kK, kN, transposed, k, column);
            if (epilogue & 4) value += biases[row];
            if (epilogue & 32) value = gelu(value);
            EXPECT(std::fabs(got[i] - value) <= 1e-3f * (1 + std::fabs(value)));
        }
        for (size_t i = 0; epilogue >= 256 && i < (epilogue == 256 ? kM : kN); ++i) {
            float sum = 0;
            for (size_t k = 0; k < kK; ++k) sum += epilogue == 256 ? left[k * kM + i] : at(right, kK, kN, transposed, k, i);
            EXPECT(sums[i] == sum);
        }
    }
}

void test_refusals() {
    Array a(kM * kK + 4), b(kK * kN), d(kM * kN);
    Product unknown(kM, kN, kK, 0, 160, d.address);
    EXPECT_CODE(15, unknown.find());
    Product product(kM, kN, kK, 0, 1, 0), other(kM, kN, kK, 3, 1, 0);
    EXPECT_CODE(0, product.find());
    EXPECT_CODE(7, product.run(a.address + 4, b.address, d.address, 1, 0));
    EXPECT(error_has("less aligned"));
    EXPECT_CODE(7, product.run(a.address, b.address, d.address + 16, 1, 0));
    EXPECT(error_has("in memory of the device"));
    std::memcpy(other.result, product.result, sizeof other.result);
    EXPECT_CODE(7, other.run(a.address, b.address, d.address, 1, 0));
    EXPECT(error_has("another problem"));
    const uint64_t workspace = 1 << 20;
    EXPECT_CODE(0, cublasLtMatmulPreferenceSetAttribute(product.preference, 1, &workspace, 8));
    EXPECT_CODE(0, product.find());
    EXPECT_CODE(7, product.run(a.address, b.address, d.address, 1, 0));
    EXPECT(error_has("workspace"));
    Array scratch(65536 / sizeof(float));
    EXPECT_CODE(7, product.run(a.address, b.address, d.address, 1, 0, nullptr, scratch.address + 16, 32768));
    EXPECT(error_has("aligned to 256 bytes"));
    EXPECT_CODE(0, product.run(a.address, b.address, d.address, 1, 0, nullptr, scratch.address + 256, 32768));
    // Sums of A need A not transposed, sums of B need B transposed.
    for (unsigned transposed = 0; transposed < 4; ++transposed) {
        EXPECT_CODE(transposed & 1 ? 15 : 0, Product(kM, kN, kK, transposed, 256, d.address).find());
        EXPECT_CODE(transposed & 2 ? 0 : 15, Product(kM, kN, kK, transposed, 512, d.address).find());
    }
    EXPECT_CODE(7, Product(kM, kN, kK, 0, 1, d.address).find());
    Product other_bias(kM, kN, kK, 0, 4, d.address);
    const int32_t bf16 = 14;
    EXPECT_CODE(0, cublasLtMatmulDescSetAttribute(other_bias.description, 26, &bf16, 4));
    EXPECT_CODE(7, other_bias.find());
}

void test_captured_product() {
    Array a(std::vector<float>(kM * kK, 1.0f)), b(std::vector<float>(kK * kN, 1.0f)), d(kM * kN);
    Product product(kM, kN, kK, 0, 1, 0);
    EXPECT_CODE(0, product.find());
    void *stream = nullptr, *graph = nullptr, *exec = nullptr;
    EXPECT_CODE(0, cuStreamCreate(&stream, 1));
    EXPECT_CODE(0, cuStreamBeginCapture_v2(stream, 1));
    EXPECT_CODE(0, product.run(a.address, b.address, d.address, 1, 0, stream));
    EXPECT_CODE(0, cuStreamEndCapture(stream, &graph));
    EXPECT(std::isnan(d.values()[0]));
    EXPECT_CODE(0, cuGraphInstantiateWithFlags(&exec, graph, 0));
    EXPECT_CODE(0, cuGraphLaunch(exec, stream));
    EXPECT(d.values()[0] == static_cast<float>(kK));
}

}  // namespace

int main(int count, char** arguments) {
    std::setvbuf(stdout, nullptr, _IONBF, 0);
    // Run by test.sh with a failure in the environment.
    if (count > 1 && std::string(arguments[1]) == "no-device") return cuInit(0) == 100 && cuInit(0) == 0 ? 0 : 1;
    void* context = nullptr;
    int device = 0;
    EXPECT_CODE(3, cuDevicePrimaryCtxRetain(&context, 0));
    EXPECT_CODE(0, cuInit(0));
    EXPECT_CODE(101, cuDeviceGet(&device, 1));
    EXPECT_CODE(0, cuDevicePrimaryCtxRetain(&context, 0));
    EXPECT_CODE(201, synchronize());
    EXPECT_CODE(0, cuCtxSetCurrent(context));
    EXPECT_CODE(0, load_module(&module_of_tests, fatbin("tests/emulator/test_kernels.cu").data()));
    for (void (*test)() : {test_sum, test_mma, test_ldmatrix, test_copy_async, test_order, test_misuse, test_corrupted_context,
                           test_unwritten, test_launches, test_memory, test_graphs, test_products, test_epilogues,
                           test_refusals, test_captured_product, test_streams, test_devices, test_control}) {
        test();
    }
    std::printf("emulator: %d failures\n", failures);
    return failures == 0 ? 0 : 1;
}
