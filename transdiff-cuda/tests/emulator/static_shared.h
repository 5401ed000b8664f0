// Where this host thread has the kernels' `__shared__` variables.
#pragma once

namespace simt {

void static_shared(unsigned char*& begin, unsigned char*& end);

}  // namespace simt
