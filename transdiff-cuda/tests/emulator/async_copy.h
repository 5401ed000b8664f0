// cp.async: copies from global to shared memory that are done when they are waited for, no sooner. The emulator does
// them as late as it may, so that a wait that is missing shows.
#pragma once

#include <cstddef>

namespace simt {

// Copies 16 bytes, or writes zeros where they are not `valid`; `global` is then not read.
void copy_async_16(void* shared, const void* global, bool valid);
// Closes a group: this thread's copies since the last.
void copy_async_commit();
// Does all groups of this thread but the last `pending`.
void copy_async_wait(unsigned pending);

}  // namespace simt
