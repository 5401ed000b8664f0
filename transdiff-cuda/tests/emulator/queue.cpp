#include "queue.h"

#include <chrono>
#include <thread>

namespace driver {

void Queue::push(Work work) {
    const std::lock_guard<std::mutex> lock(mutex_);
    works_.push_back({std::move(work), delay()});
    // Detached: a program may end while its device is busy.
    if (pushed_++ == done_) std::thread([self = shared_from_this()] { self->run(); }).detach();
}

uint64_t Queue::pushed() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return pushed_;
}

bool Queue::done(uint64_t position) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return done_ >= position;
}

void Queue::wait(uint64_t position) {
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [&] { return done_ >= position; });
}

void Queue::run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!works_.empty()) {
        const Entry entry = std::move(works_.front());
        works_.pop_front();
        lock.unlock();
        std::this_thread::sleep_for(std::chrono::microseconds(entry.delay));
        // A failure makes the context unusable, and is reported by the calls that follow.
        entry.work();
        lock.lock();
        ++done_;
        finished_.notify_all();
    }
}

uint64_t delay() { return setting("EMULATED_CUDA_ASYNC", 0); }

}  // namespace driver
