// cp.async: copies from global to shared memory that are done when they are waited for, no sooner. The emulator does
// them as late as it may, so that a wait that is missing shows.
#pragma once

#include <cstddef>

namespace simt {

// Copies 16 bytes, or writes zeros where they are not `valid`; `global` is then not read.
void cp_async_16(void* shared, const void* global, bool valid);
// Closes a group: this thread's copies since the last.
void cp_async_commit();
// Does all groups of this thread but the last `pending`.
void cp_async_wait_group(unsigned pending);

template <int pending>
void cp_async_wait() {
    static_assert(pending >= 0, "number of groups that may stay pending");
    cp_async_wait_group(pending);
}

}  // namespace simt
