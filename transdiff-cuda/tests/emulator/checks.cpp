// Handler of misaligned accesses of kernels (-fsanitize=alignment, in build.sh).
#include "simt.h"

namespace {

// Layout defined by the compiler.
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
