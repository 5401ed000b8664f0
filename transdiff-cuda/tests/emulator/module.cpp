// Modules, functions and launches. A kernel is a symbol of this library; the image of a module names its source.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "driver.h"
#include "launch.h"

namespace {

using simt::Index;
using simt::Kernel;

constexpr size_t kDefaultShared = 49152;      // dynamic shared memory that a function gets unasked
constexpr unsigned kMaxGridX = 2147483647, kMaxGridYZ = 65535, kMaxBlockZ = 64;

struct Function {
    const Kernel* kernel;
    std::string name;
    size_t max_shared = kDefaultShared;
};

struct Module {
    std::string stem;         // of the source
    std::map<std::string, void*> functions;
};

struct Modules {
    std::mutex mutex;
    driver::Handles<Module> modules;
    driver::Handles<Function> functions;
};

Modules& all() {
    static Modules instance;
    return instance;
}

// Looks up a symbol of this library only.
void* symbol(const char* name) {
    static void* const library = [] {
        Dl_info info;
        if (dladdr(reinterpret_cast<void*>(&symbol), &info) == 0) return static_cast<void*>(nullptr);
        return dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    }();
    return dlsym(library == nullptr ? RTLD_DEFAULT : library, name);
}

std::string stem(const std::string& file) {
    const size_t slash = file.rfind('/'), start = slash == std::string::npos ? 0 : slash + 1;
    return file.substr(start, file.rfind('.') - start);
}

const Kernel* find_kernel(const Module& module, const char* name) {
    if (driver::missing(name) || std::strncmp(name, "cu", 2) == 0) return nullptr;
    const Kernel* kernel = static_cast<const Kernel*>(symbol(name));
    if (kernel == nullptr || kernel->magic != simt::kMagic) return nullptr;
    return module.stem == stem(kernel->file) ? kernel : nullptr;
}

// The known part of the fatbin format of nvcc: a header, and one entry per architecture, which has the position of the
// source's name.
struct Fatbin {
    uint32_t magic;
    uint16_t version, header_bytes;
    uint64_t bytes;

    struct Entry {
        uint32_t kind, header_bytes;
        uint64_t bytes;
        uint32_t unread[4];
        uint32_t name, name_bytes;   // from the start of the entry
    };
};
static_assert(sizeof(Fatbin) == 16 && sizeof(Fatbin::Entry) == 40, "the layout is nvcc's");
constexpr uint32_t kFatbin = 0xBA55ED50;

// The source name of a fatbin's first entry; "" if it is not a fatbin.
std::string source(const void* image) {
    const char* bytes = static_cast<const char*>(image);
    Fatbin fatbin;
    std::memcpy(&fatbin, bytes, sizeof fatbin);
    if (fatbin.magic != kFatbin || fatbin.bytes < sizeof(Fatbin::Entry)) return "";
    Fatbin::Entry entry;
    bytes += fatbin.header_bytes;
    std::memcpy(&entry, bytes, sizeof entry);
    if (entry.name > entry.header_bytes || entry.name_bytes > entry.header_bytes - entry.name) return "";
    return std::string(bytes + entry.name, entry.name_bytes);
}

unsigned load(void** module, const void* image) {
    if (module == nullptr || image == nullptr) return driver::kInvalidValue;
    if (driver::capability() < 80) return driver::kNoBinaryForGpu;
    auto loaded = std::make_unique<Module>();
    loaded->stem = stem(source(image));
    if (loaded->stem.empty()) return driver::kInvalidImage;
    *module = all().modules.add(std::move(loaded));
    return driver::kSuccess;
}

uint64_t volume(Index size) { return uint64_t{size.x} * size.y * size.z; }

// The error code of an invalid launch geometry.
unsigned check(const Function& function, Index grid, Index block, size_t shared) {
    if (volume(grid) == 0 || volume(block) == 0) return driver::kInvalidValue;
    if (grid.x > kMaxGridX || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ) return driver::kInvalidValue;
    const unsigned most = simt::kMaxThreads;
    if (block.x > most || block.y > most || block.z > kMaxBlockZ || volume(block) > most) return driver::kInvalidValue;
    if (volume(block) > function.kernel->max_threads) return driver::kLaunchOutOfResources;
    return shared > function.max_shared ? driver::kInvalidValue : driver::kSuccess;
}

std::string describe(const char* name, Index grid, Index block, size_t shared) {
    char text[256];
    std::snprintf(text, sizeof text, "%s grid %u %u %u block %u %u %u shared %zu", name, grid.x, grid.y, grid.z, block.x,
                  block.y, block.z, shared);
    return text;
}

// `limit` applies to static and dynamic shared memory together; the static part is known only after the launch.
unsigned execute(const simt::Launch& launch, size_t limit) {
    const std::string description = describe(launch.name, launch.grid, launch.block, launch.shared);
    driver::log_launch(description);
    std::string error;
    if (!simt::run(launch, error)) return driver::failure(driver::kLaunchFailed, error);
    const size_t together = launch.shared + simt::written_static_shared();
    if (together > limit) {
        return driver::failure(driver::kInvalidValue, "refused: " + description + ", with static " + std::to_string(together));
    }
    if (driver::setting("EMULATED_CUDA_CHECK", 0) == 0 || driver::guards_hold(error)) return driver::kSuccess;
    return driver::failure(driver::kLaunchFailed, "after kernel " + std::string(launch.name) + ": " + error);
}

}  // namespace

API unsigned cuModuleLoadDataEx(void** module, const void* image, unsigned, void*, void*) {
    ENTER_WAITING;
    return load(module, image);
}

API unsigned cuModuleUnload(void* handle) {
    ENTER_WAITING;
    const Module* module = all().modules.find(handle);
    if (module == nullptr) return driver::kInvalidHandle;
    for (const auto& [name, function] : module->functions) all().functions.remove(function);
    all().modules.remove(handle);
    return driver::kSuccess;
}

API unsigned cuModuleGetFunction(void** function, void* handle, const char* name) {
    ENTER_CONTEXT;
    Module* module = all().modules.find(handle);
    if (module == nullptr) return driver::kInvalidHandle;
    const Kernel* kernel = find_kernel(*module, name);
    if (kernel == nullptr) return driver::kNotFound;
    const std::lock_guard<std::mutex> lock(all().mutex);
    void*& known = module->functions[name];
    if (known == nullptr) known = all().functions.add(std::make_unique<Function>(Function{kernel, name}));
    *function = known;
    return driver::kSuccess;
}

API unsigned cuFuncSetAttribute(void* handle, unsigned attribute, int value) {
    ENTER_CONTEXT;
    Function* function = all().functions.find(handle);
    if (function == nullptr) return driver::kInvalidHandle;
    if (attribute != 8 || value < 0 || static_cast<unsigned>(value) > driver::max_shared()) return driver::kInvalidValue;
    function->max_shared = static_cast<size_t>(value);
    return driver::kSuccess;
}

API unsigned cuFuncGetParamInfo(void* handle, size_t index, size_t* offset, size_t* size) {
    ENTER;
    const Function* function = all().functions.find(handle);
    if (function == nullptr) return driver::kInvalidHandle;
    if (index != 0 || offset == nullptr) return driver::kInvalidValue;
    *offset = 0;
    if (size != nullptr) *size = function->kernel->params;
    return driver::kSuccess;
}

API unsigned cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                            unsigned block_y, unsigned block_z, unsigned shared, driver::StreamHandle stream, void** params,
                            void** extra) {
    ENTER_CONTEXT;
    const Function* function = all().functions.find(handle);
    if (function == nullptr) return driver::kInvalidHandle;
    if (params == nullptr || params[0] == nullptr || extra != nullptr) return driver::kInvalidValue;
    const Index grid{grid_x, grid_y, grid_z}, block{block_x, block_y, block_z};
    if (const unsigned code = check(*function, grid, block, shared)) {
        return driver::failure(code, "refused: " + describe(function->name.c_str(), grid, block, shared));
    }
    // The caller may reuse its parameters when the call returns.
    std::vector<std::max_align_t> copy(function->kernel->params / sizeof(std::max_align_t) + 1);
    std::memcpy(copy.data(), params[0], function->kernel->params);
    const size_t limit = function->max_shared > kDefaultShared ? driver::max_shared() : kDefaultShared;
    return driver::submit(stream, [kernel = function->kernel, name = function->name, grid, block, shared, copy, limit] {
        return execute({kernel, name.c_str(), grid, block, shared, copy.data()}, limit);
    });
}
