// Device memory: host memory between guards, up to a limit.
#include <algorithm>
#include <cstring>
#include <new>

#include "driver.h"

namespace {

// Unwritten memory is NaN. The guards around an allocation are a signalling NaN, which arithmetic changes: an addition to
// a guard that stores the sum is detected.
constexpr unsigned char kUnwritten = 0xFF;
constexpr uint16_t kGuardWord = 0xFFA5;
constexpr size_t kGuard = 1024, kAlignment = 256;
constexpr uint64_t kMemory = uint64_t{4} << 30;

struct Allocation {
    unsigned char* memory;    // a guard, then the allocation, then a guard
    size_t bytes;
};

struct Memory {
    std::mutex mutex;
    std::map<uint64_t, Allocation> allocations;
    std::map<void*, size_t> pinned;
    uint64_t used = 0;
};

Memory& memory() {
    static Memory instance;
    return instance;
}

uint64_t total() { return driver::setting("EMULATED_CUDA_MEMORY", kMemory); }

unsigned char* take(size_t bytes) {
    return static_cast<unsigned char*>(::operator new(bytes, std::align_val_t{kAlignment}, std::nothrow));
}

void give(void* address) { ::operator delete(address, std::align_val_t{kAlignment}); }

// Frees memory after overwriting it with NaN, for reads after free.
void discard(const Allocation& allocation) {
    std::memset(allocation.memory, kUnwritten, allocation.bytes + 2 * kGuard);
    give(allocation.memory);
}

void guard(unsigned char* start) {
    for (size_t i = 0; i < kGuard; i += sizeof kGuardWord) std::memcpy(start + i, &kGuardWord, sizeof kGuardWord);
}

bool intact(const unsigned char* guard) {
    for (size_t i = 0; i < kGuard; i += sizeof kGuardWord) {
        if (std::memcmp(guard + i, &kGuardWord, sizeof kGuardWord) != 0) return false;
    }
    return true;
}

unsigned allocate(uint64_t* address, size_t bytes) {
    if (address == nullptr || bytes == 0) return driver::kInvalidValue;
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    if (m.used > total() || bytes > total() - m.used) return driver::kOutOfMemory;
    unsigned char* taken = take(bytes + 2 * kGuard);
    if (taken == nullptr) return driver::kOutOfMemory;
    guard(taken);
    std::memset(taken + kGuard, kUnwritten, bytes);
    guard(taken + kGuard + bytes);
    *address = reinterpret_cast<uint64_t>(taken + kGuard);
    m.allocations[*address] = {taken, bytes};
    m.used += bytes;
    return driver::kSuccess;
}

bool intact(const Allocation& allocation) {
    return intact(allocation.memory) && intact(allocation.memory + kGuard + allocation.bytes);
}

std::string overrun(const Allocation& allocation) {
    return "something wrote beyond an allocation of " + std::to_string(allocation.bytes) + " bytes";
}

unsigned release(uint64_t address) {
    if (address == 0) return driver::kSuccess;
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    const auto found = m.allocations.find(address);
    if (found == m.allocations.end()) return driver::kInvalidValue;
    const Allocation allocation = found->second;
    m.allocations.erase(found);
    m.used -= allocation.bytes;
    const bool fine = intact(allocation);
    discard(allocation);
    return fine ? driver::kSuccess : driver::failure(driver::kLaunchFailed, overrun(allocation));
}

unsigned copy(driver::StreamHandle stream, void* to, const void* from, size_t bytes) {
    return driver::submit(stream, [=] {
        std::memmove(to, from, bytes);
        return driver::kSuccess;
    });
}

unsigned to_device(uint64_t to, const void* from, size_t bytes, driver::StreamHandle stream) {
    if (!driver::on_device(to, bytes)) return driver::kInvalidValue;
    return copy(stream, reinterpret_cast<void*>(to), from, bytes);
}

unsigned to_host(void* to, uint64_t from, size_t bytes, driver::StreamHandle stream) {
    if (!driver::on_device(from, bytes)) return driver::kInvalidValue;
    return copy(stream, to, reinterpret_cast<const void*>(from), bytes);
}

unsigned on_the_device(uint64_t to, uint64_t from, size_t bytes, driver::StreamHandle stream) {
    if (!driver::on_device(to, bytes) || !driver::on_device(from, bytes)) return driver::kInvalidValue;
    return copy(stream, reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
}

template <typename T>
unsigned fill(uint64_t to, T value, size_t count, driver::StreamHandle stream) {
    if (count > SIZE_MAX / sizeof(T) || !driver::on_device(to, count * sizeof(T)) || to % sizeof(T) != 0) {
        return driver::kInvalidValue;
    }
    return driver::submit(stream, [=] {
        std::fill_n(reinterpret_cast<T*>(to), count, value);
        return driver::kSuccess;
    });
}

unsigned allocate_pinned(void** address, size_t bytes) {
    if (address == nullptr || bytes == 0) return driver::kInvalidValue;
    *address = take(bytes);
    if (*address == nullptr) return driver::kOutOfMemory;
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    m.pinned[*address] = bytes;
    return driver::kSuccess;
}

}  // namespace

namespace driver {

bool on_device(uint64_t address, size_t bytes) {
    if (bytes == 0) return true;
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    auto after = m.allocations.upper_bound(address);
    if (after == m.allocations.begin()) return false;
    const auto& [start, allocation] = *--after;
    return address - start <= allocation.bytes && bytes <= allocation.bytes - (address - start);
}

bool guards_hold(std::string& error) {
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    for (const auto& [address, allocation] : m.allocations) {
        if (intact(allocation)) continue;
        error = overrun(allocation);
        return false;
    }
    return true;
}

void release_all() {
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    for (const auto& [address, allocation] : m.allocations) discard(allocation);
    m.allocations.clear();
    m.used = 0;
}

}  // namespace driver

using driver::StreamHandle;

API unsigned cuMemGetInfo_v2(size_t* free, size_t* all) {
    ENTER_CONTEXT;
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    *all = total();
    *free = *all - std::min<size_t>(*all, m.used);
    return driver::kSuccess;
}

API unsigned cuMemAlloc_v2(uint64_t* address, size_t bytes) {
    ENTER_WAITING;
    return allocate(address, bytes);
}

API unsigned cuMemFree_v2(uint64_t address) {
    ENTER_WAITING;
    driver::wait_for_all();
    return release(address);
}

API unsigned cuMemAllocHost_v2(void** address, size_t bytes) {
    ENTER_WAITING;
    return allocate_pinned(address, bytes);
}

API unsigned cuMemFreeHost(void* address) {
    ENTER_WAITING;
    driver::wait_for_all();
    Memory& m = memory();
    const std::lock_guard<std::mutex> lock(m.mutex);
    if (m.pinned.erase(address) == 0) return driver::kInvalidValue;
    give(address);
    return driver::kSuccess;
}

API unsigned cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, StreamHandle stream) {
    ENTER_CONTEXT;
    return to_device(to, from, bytes, stream);
}

API unsigned cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, StreamHandle stream) {
    ENTER_CONTEXT;
    return to_host(to, from, bytes, stream);
}

API unsigned cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, StreamHandle stream) {
    ENTER_CONTEXT;
    return on_the_device(to, from, bytes, stream);
}

API unsigned cuMemsetD8Async(uint64_t to, unsigned char value, size_t count, StreamHandle stream) {
    ENTER_CONTEXT;
    return fill(to, value, count, stream);
}

