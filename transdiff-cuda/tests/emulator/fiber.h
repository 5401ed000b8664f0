// Fibers: execution contexts with their own stacks and explicit switching.
#pragma once

#include <cstddef>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace simt {

// A suspended execution context.
class Context {
public:
    // Saves the running context to `from` and continues `this`.
    void resume(Context& from);
    // Sets `this` to start with `entry`, which must not return, on the stack [stack, stack + bytes).
    void prepare(unsigned char* stack, size_t bytes, void (*entry)());

private:
#if defined(__x86_64__)
    void* stack_pointer_ = nullptr;
#else
    ucontext_t context_;
#endif
};

// Reusable stacks of one size. Each ends in guard bytes.
class Stacks {
public:
    static constexpr size_t kBytes = size_t{64} << 10;

    ~Stacks() { clear(); }
    void clear();
    // Returns stack `index`, allocating it if it is the next.
    unsigned char* get(size_t index);
    bool overflown(size_t index) const;

private:
    std::vector<unsigned char*> stacks_;
};

}  // namespace simt
