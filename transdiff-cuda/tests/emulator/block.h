// Execution of a block: its threads, the queue of runnable threads, and their synchronisation points.
#pragma once

#include <cstdarg>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "async_copies.h"
#include "fiber.h"
#include "launch.h"

namespace simt {

// Execution order of threads and blocks where CUDA leaves it open: EMULATED_CUDA_ORDER.
class Order {
public:
    // Reads the environment and restarts the random sequence.
    void begin();
    void arrange(std::vector<unsigned>& items);
    // Returns whether a warp whose lanes have synchronised continues before other warps.
    bool runs_ahead();

private:
    enum class Kind { forward, reverse, shuffled } kind_ = Kind::forward;
    std::mt19937 random_;
};

class Block {
public:
    // The block executor of this host thread.
    static Block& mine();
    // Returns whether this host thread executes a block.
    static bool running();

    // Prepares for a launch: restarts the order and fills static shared memory.
    void begin(const Launch& launch);
    bool run(Index block, std::string& error);

    void barrier(const char* file, int line);
    void meet(const char* name, void* mine, void (*combine)(void* const*));
    [[noreturn]] void fail(const char* format, va_list arguments);
    bool in_shared(const void* address, size_t bytes) const;
    size_t written_static_shared() const;
    AsyncCopies& copies() { return threads_[current_].copies; }

private:
    enum class State { ready, barrier, warp, done };

    // A stack. Threads that never wait share one.
    struct Fiber {
        Context context;
        size_t number;
        bool used;            // by this block
    };

    struct Slot {
        Thread thread;
        State state;
        Fiber* fiber;         // null until its first instruction
        AsyncCopies copies;
    };

    struct Warp {
        const char* name;
        unsigned arrived;
        void* records[kWarp];
    };

    void prepare(Index block);
    // Appends threads to the queue, or with `ahead` prepends them.
    void enqueue(unsigned first, unsigned count, bool ahead = false);
    unsigned dequeue();
    void suspend(State state);
    void resume_next(Context& from);
    static void fiber_main();
    void take_threads(Fiber& fiber);
    Fiber* idle_fiber();
    void inspect();
    std::string stuck() const;

    const Launch* launch_ = nullptr;
    Place place_{};
    std::vector<Slot> threads_{kMaxThreads};
    Warp warps_[kMaxThreads / kWarp];
    unsigned count_ = 0, done_ = 0, current_ = 0;

    // A ring buffer; each thread is in it at most once.
    unsigned queue_[kMaxThreads];
    unsigned head_ = 0, queued_ = 0;
    std::vector<unsigned> batch_;
    Order order_;

    unsigned at_barrier_ = 0;
    const char* barrier_file_ = nullptr;
    int barrier_line_ = 0;

    Stacks stacks_;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    std::vector<Fiber*> idle_, used_;
    Context main_;
    std::string error_;

    std::vector<unsigned char> memory_;
    unsigned char *static_shared_ = nullptr, *static_shared_end_ = nullptr;
};

}  // namespace simt
