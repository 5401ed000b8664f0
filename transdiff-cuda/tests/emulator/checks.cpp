// What the compiler calls where an access of a kernel is not aligned (-fsanitize=alignment, in build.sh).
#include "simt.h"

namespace {

// The layout is the compiler's.
struct Mismatch {
    const char* file;
    uint32_t line, column;
    const void* type;
    unsigned char log_alignment, kind;
};

}  // namespace

extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(Mismatch* where, uintptr_t address) {
    simt::fail("%s:%u: misaligned address %#zx, not a multiple of %u", where->file, where->line, size_t{address},
               1u << where->log_alignment);
}
