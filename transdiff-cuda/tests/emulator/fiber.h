// Fibers: contexts on stacks of their own that hand the processor to each other by name.
#pragma once

#include <cstddef>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace simt {

// Where a context that does not run goes on.
class Context {
public:
    // Leaves the running context in `from` and goes on with `this`.
    void resume(Context& from);
    // Makes `this` begin with `entry`, which must not return, on the stack [stack, stack + bytes).
    void prepare(unsigned char* stack, size_t bytes, void (*entry)());

private:
#if defined(__x86_64__)
    void* stack_pointer_ = nullptr;
#else
    ucontext_t context_;
#endif
};

// Stacks of one size, used again and again. Each ends in bytes that nothing may change.
class Stacks {
public:
    static constexpr size_t kBytes = size_t{64} << 10;

    ~Stacks() { clear(); }
    void clear();
    // The stack `index`; those below it exist already.
    unsigned char* get(size_t index);
    bool overflown(size_t index) const;

private:
    std::vector<unsigned char*> stacks_;
};

}  // namespace simt
