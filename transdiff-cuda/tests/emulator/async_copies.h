// Pending asynchronous copies of a thread.
#pragma once

#include <cstddef>
#include <vector>

namespace simt {

class AsyncCopies {
public:
    void clear();
    void add(void* shared, const void* global);   // a null `global` copies zeros
    void commit();
    void wait(unsigned pending);

private:
    struct Copy {
        void* shared;
        const void* global;
    };

    std::vector<Copy> copies_;
    std::vector<size_t> ends_;   // ends of the groups in copies_
};

}  // namespace simt
