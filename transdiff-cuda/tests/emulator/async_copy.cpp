#include "async_copy.h"

#include <cstring>

#include "block.h"

namespace simt {

namespace {
constexpr size_t kBytes = 16;
}

void AsyncCopies::clear() {
    copies_.clear();
    ends_.clear();
}

void AsyncCopies::add(void* shared, const void* global) { copies_.push_back({shared, global}); }

void AsyncCopies::commit() { ends_.push_back(copies_.size()); }

void AsyncCopies::wait(unsigned pending) {
    if (ends_.size() <= pending) return;
    const size_t groups = ends_.size() - pending, end = ends_[groups - 1];
    for (size_t i = 0; i < end; ++i) {
        if (copies_[i].global == nullptr) {
            std::memset(copies_[i].shared, 0, kBytes);
        } else {
            std::memcpy(copies_[i].shared, copies_[i].global, kBytes);
        }
    }
    copies_.erase(copies_.begin(), copies_.begin() + static_cast<std::ptrdiff_t>(end));
    ends_.erase(ends_.begin(), ends_.begin() + static_cast<std::ptrdiff_t>(groups));
    for (size_t& group : ends_) group -= end;
}

void copy_async_16(void* shared, const void* global, bool valid) {
    check_aligned(shared, kBytes);
    check_aligned(global, kBytes);
    if (!in_shared(shared, kBytes)) fail("copy_async_16 writes to %p, which is not shared memory", shared);
    if (valid && global == nullptr) fail("copy_async_16 reads from a null address");
    Block::mine().copies().add(shared, valid ? global : nullptr);
}

void copy_async_commit() { Block::mine().copies().commit(); }

void copy_async_wait(unsigned pending) { Block::mine().copies().wait(pending); }

}  // namespace simt
