// cp.async: asynchronous copies from global to shared memory. They are executed when waited for and no sooner, so that a
// missing wait shows.
#pragma once

#include <cstddef>

namespace simt {

// Copies 16 bytes; if not `valid`, writes zeros and does not read `global`.
void copy_async_16(void* shared, const void* global, bool valid);
// Commits this thread's copies since the last commit as a group.
void copy_async_commit();
// Executes all groups of this thread except the last `pending`.
void copy_async_wait(unsigned pending);

}  // namespace simt
