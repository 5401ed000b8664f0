#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <new>

namespace simt {

namespace {

constexpr uint64_t kGuard = 0xA5A5A5A5A5A5A5A5;
// Stacks start at different offsets within a page, so that their tops do not map to the same cache lines.
constexpr size_t kColours = 32, kColourBytes = 192;
// Memory below the guard: a small overflow does no further damage.
constexpr size_t kSlack = size_t{16} << 10;
constexpr size_t kMapped = kSlack + Stacks::kBytes + kColours * kColourBytes;

unsigned char* stack_in(unsigned char* memory, size_t index) { return memory + kSlack + index % kColours * kColourBytes; }

}  // namespace

void Stacks::clear() {
    for (unsigned char* stack : stacks_) munmap(stack, kMapped);
    stacks_.clear();
}

unsigned char* Stacks::get(size_t index) {
    if (index < stacks_.size()) return stack_in(stacks_[index], index);
    void* memory = mmap(nullptr, kMapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stacks_.push_back(static_cast<unsigned char*>(memory));
    std::memcpy(get(index), &kGuard, sizeof kGuard);
    return get(index);
}

bool Stacks::overflown(size_t index) const {
    return std::memcmp(stack_in(stacks_[index], index), &kGuard, sizeof kGuard) != 0;
}

#if defined(__x86_64__)

// Saves the callee-saved registers to the old stack and restores them from the new one.
extern "C" void simt_switch(void** from, void* to) __attribute__((visibility("hidden")));
asm(R"(
    .text
    .p2align 4
    .globl simt_switch
    .hidden simt_switch
    .type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size simt_switch, . - simt_switch
)");

void Context::resume(Context& from) { simt_switch(&from.stack_pointer_, stack_pointer_); }

void Context::prepare(unsigned char* stack, size_t bytes, void (*entry)()) {
    // Six registers, the return address of simt_switch, and a return address that `entry` never uses, placed so that the
    // stack is aligned as after a call.
    const uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t{15};
    void** frame = reinterpret_cast<void**>(top) - 8;
    std::memset(frame, 0, 8 * sizeof(void*));
    frame[6] = reinterpret_cast<void*>(entry);
    stack_pointer_ = frame;
}

#else

void Context::resume(Context& from) { swapcontext(&from.context_, &context_); }

void Context::prepare(unsigned char* stack, size_t bytes, void (*entry)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
}

#endif

}  // namespace simt
