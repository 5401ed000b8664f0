// Work of a stream that waits for other work, or is executed while the host goes on.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>

#include "driver.h"

namespace driver {

// Queue of a stream. A thread executes its work in order, and ends when there is none left.
class Queue : public std::enable_shared_from_this<Queue> {
public:
    void push(Work work);
    // Number of works pushed so far: the position of an event that is recorded now.
    uint64_t pushed();
    // Returns whether the first `position` works are done.
    bool done(uint64_t position);
    void wait(uint64_t position);

private:
    struct Entry {
        Work work;
        uint64_t delay;
    };

    void run();

    std::mutex mutex_;
    std::condition_variable finished_;
    std::deque<Entry> works_;
    uint64_t pushed_ = 0, done_ = 0;
};

// A place in the work of a stream; complete if there is no stream.
struct Position {
    std::shared_ptr<Queue> queue;
    uint64_t index = 0;

    bool done() const { return queue == nullptr || queue->done(index); }
    void wait() const {
        if (queue != nullptr) queue->wait(index);
    }
};

// Microseconds before each work of a queue (EMULATED_CUDA_ASYNC), for which all work is queued; 0 if work is executed when it
// is submitted, unless it has to wait.
uint64_t delay();

}  // namespace driver
