// Location of the kernels' `__shared__` variables on this host thread.
#pragma once

namespace simt {

void static_shared(unsigned char*& begin, unsigned char*& end);

}  // namespace simt
