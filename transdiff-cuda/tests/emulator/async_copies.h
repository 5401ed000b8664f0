// The asynchronous copies of a thread that are still to be done.
#pragma once

#include <cstddef>
#include <vector>

namespace simt {

class AsyncCopies {
public:
    void clear();
    void add(void* shared, const void* global);   // `global` is null: zeros
    void commit();
    void wait(unsigned pending);

private:
    struct Copy {
        void* shared;
        const void* global;
    };

    std::vector<Copy> copies_;
    std::vector<size_t> ends_;   // of the groups, in copies_
};

}  // namespace simt
