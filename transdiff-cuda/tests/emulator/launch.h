// Execution of a grid.
#pragma once

#include <string>

#include "simt.h"

namespace simt {

struct Launch {
    const Kernel* kernel;
    const char* name;
    Index grid, block;
    size_t shared;            // bytes of dynamic shared memory
    const void* params;
};

// Runs all blocks. Returns false if a block fails, with its message in `error`.
bool run(const Launch& launch, std::string& error);

// Bytes of `__shared__` variables that the last launch on this host thread wrote, a lower bound of their size.
size_t written_static_shared();

// Returns whether [address, address + bytes) is shared memory of the running block.
bool in_shared(const void* address, size_t bytes);

}  // namespace simt
