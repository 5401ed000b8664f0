#include "block.h"

#include <pthread.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "host_thread.h"
#include "static_shared.h"


namespace simt {

HOST_THREAD const Thread* self = nullptr;

namespace {

HOST_THREAD Block* block_of_host_thread = nullptr;

constexpr size_t kMaxShared = 232448, kAlignment = 1024, kGuard = 256;
constexpr unsigned char kUnwritten = 0xFF, kGuardByte = 0xA5;

pthread_key_t destroyer() {
    static const pthread_key_t key = [] {
        pthread_key_t created;
        if (pthread_key_create(&created, [](void* block) { delete static_cast<Block*>(block); }) != 0) std::abort();
        return created;
    }();
    return key;
}

std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));
std::string text(const char* format, ...) {
    char result[1024];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(result, sizeof result, format, arguments);
    va_end(arguments);
    return result;
}

std::string text(Index index) { return text("(%u, %u, %u)", index.x, index.y, index.z); }

}  // namespace

void Order::begin() {
    const char* name = std::getenv("EMULATED_CUDA_ORDER");
    const std::string order = name == nullptr ? "forward" : name;
    if (order != "forward" && order != "reverse" && order != "shuffled") {
        std::fprintf(stderr, "EMULATED_CUDA_ORDER is forward, reverse or shuffled, not %s\n", name);
        std::abort();
    }
    kind_ = order == "forward" ? Kind::forward : order == "reverse" ? Kind::reverse : Kind::shuffled;
    const char* seed = std::getenv("EMULATED_CUDA_SEED");
    random_.seed(seed == nullptr ? 1 : static_cast<unsigned>(std::strtoul(seed, nullptr, 10)));
}

void Order::arrange(std::vector<unsigned>& items) {
    if (kind_ == Kind::reverse) std::reverse(items.begin(), items.end());
    if (kind_ == Kind::shuffled) std::shuffle(items.begin(), items.end(), random_);
}

bool Order::runs_ahead() { return kind_ == Kind::reverse || (kind_ == Kind::shuffled && random_() % 2 == 0); }

Block& Block::mine() {
    if (block_of_host_thread == nullptr) {
        block_of_host_thread = new Block;
        pthread_setspecific(destroyer(), block_of_host_thread);
    }
    return *block_of_host_thread;
}

bool Block::running() { return self != nullptr; }

void Block::begin(const Launch& launch) {
    launch_ = &launch;
    order_.begin();
    static_shared(static_shared_, static_shared_end_);
    std::fill(static_shared_, static_shared_end_, kUnwritten);
    memory_.resize(kMaxShared + kAlignment + kGuard);
}

size_t Block::written_static_shared() const {
    const auto filled = std::count(static_shared_, static_shared_end_, kUnwritten);
    return static_cast<size_t>(static_shared_end_ - static_shared_ - filled);
}

bool Block::run(Index block, std::string& error) {
    prepare(block);
    resume_next(main_);
    self = nullptr;
    inspect();
    error = error_;
    return error_.empty();
}

void Block::prepare(Index block) {
    const uintptr_t start = reinterpret_cast<uintptr_t>(memory_.data());
    unsigned char* shared = memory_.data() + (kAlignment - start % kAlignment) % kAlignment;
    std::fill_n(shared, launch_->shared, kUnwritten);
    std::fill_n(shared + launch_->shared, kGuard, kGuardByte);
    place_ = Place{block, launch_->block, launch_->grid, shared};

    const Index size = launch_->block;
    count_ = size.x * size.y * size.z;
    done_ = at_barrier_ = head_ = queued_ = 0;
    error_.clear();
    for (unsigned i = 0; i < count_; ++i) {
        Slot& slot = threads_[i];
        slot.thread = Thread{{i % size.x, i / size.x % size.y, i / (size.x * size.y)}, i % kWarp, &place_};
        slot.state = State::ready;
        slot.fiber = nullptr;
        slot.copies.clear();
    }
    for (unsigned i = 0; i < (count_ + kWarp - 1) / kWarp; ++i) warps_[i].arrived = 0;
    enqueue(0, count_);
}

void Block::enqueue(unsigned first, unsigned count, bool ahead) {
    batch_.resize(count);
    for (unsigned i = 0; i < count; ++i) batch_[i] = first + i;
    order_.arrange(batch_);
    if (ahead) head_ = (head_ + kMaxThreads - count) % kMaxThreads;
    const unsigned begin = ahead ? head_ : head_ + queued_;
    for (unsigned i = 0; i < count; ++i) {
        threads_[batch_[i]].state = State::ready;
        queue_[(begin + i) % kMaxThreads] = batch_[i];
    }
    queued_ += count;
}

unsigned Block::dequeue() {
    const unsigned thread = queue_[head_];
    head_ = (head_ + 1) % kMaxThreads;
    --queued_;
    return thread;
}

void Block::suspend(State state) {
    Fiber& fiber = *threads_[current_].fiber;
    if (state != State::ready) threads_[current_].state = state;
    resume_next(fiber.context);
}

// Continues the next thread of the queue, or `run` if the queue is empty.
void Block::resume_next(Context& from) {
    if (queued_ == 0) return main_.resume(from);
    current_ = dequeue();
    Slot& slot = threads_[current_];
    self = &slot.thread;
    if (slot.fiber == nullptr) slot.fiber = idle_fiber();
    if (&slot.fiber->context != &from) slot.fiber->context.resume(from);
}

void Block::fiber_main() {
    Block& block = mine();
    block.take_threads(*block.threads_[block.current_].fiber);
}

// Runs the current thread, then on the same stack further threads of the queue that have not started.
void Block::take_threads(Fiber& fiber) {
    for (;;) {
        launch_->kernel->thread(launch_->params);
        threads_[current_].state = State::done;
        ++done_;
        const bool next_is_new = queued_ > 0 && threads_[queue_[head_]].fiber == nullptr;
        if (next_is_new) threads_[queue_[head_]].fiber = &fiber;
        if (!next_is_new) idle_.push_back(&fiber);
        resume_next(fiber.context);
    }
}

Block::Fiber* Block::idle_fiber() {
    if (idle_.empty()) {
        const size_t number = fibers_.size();
        fibers_.push_back(std::make_unique<Fiber>());
        fibers_.back()->number = number;
        fibers_.back()->context.prepare(stacks_.get(number), Stacks::kBytes, fiber_main);
        idle_.push_back(fibers_.back().get());
    }
    Fiber* fiber = idle_.back();
    idle_.pop_back();
    if (!fiber->used) used_.push_back(fiber);
    fiber->used = true;
    return fiber;
}

// Checks the block after its last runnable thread.
void Block::inspect() {
    if (error_.empty() && done_ < count_) error_ = stuck();
    const unsigned char* guard = place_.shared + launch_->shared;
    if (error_.empty() && std::any_of(guard, guard + kGuard, [](unsigned char byte) { return byte != kGuardByte; })) {
        error_ = text("writes beyond its %zu bytes of dynamic shared memory", launch_->shared);
    }
    for (Fiber* fiber : used_) {
        if (stacks_.overflown(fiber->number)) error_ = text("a thread needs more than %zu bytes of stack", Stacks::kBytes);
        fiber->used = false;
    }
    used_.clear();
    if (error_.empty()) return;
    error_ = text("kernel %s, block %s: ", launch_->name, text(place_.block).c_str()) + error_;
    // Suspended threads still use these stacks.
    idle_.clear();
    fibers_.clear();
    stacks_.clear();
}

std::string Block::stuck() const {
    unsigned barrier = 0, warp = 0, first_warp = 0;
    for (unsigned i = 0; i < count_; ++i) {
        barrier += threads_[i].state == State::barrier;
        if (threads_[i].state == State::warp && warp++ == 0) first_warp = i / kWarp;
    }
    std::string result = text("deadlock: of %u threads %u returned", count_, done_);
    if (barrier > 0) result += text(", %u wait at the barrier of %s:%d", barrier, barrier_file_, barrier_line_);
    if (warp > 0) {
        result += text(", %u wait for lanes of their warps (%u lanes of warp %u in %s)", warp, warps_[first_warp].arrived,
                       first_warp, warps_[first_warp].name);
    }
    return result;
}

void Block::barrier(const char* file, int line) {
    if (at_barrier_ == 0) {
        barrier_file_ = file;
        barrier_line_ = line;
    }
    if (line != barrier_line_ || std::string_view(file) != barrier_file_) {
        simt::fail("waits at the barrier of %s:%d, others at that of %s:%d", file, line, barrier_file_, barrier_line_);
    }
    if (++at_barrier_ < count_) return suspend(State::barrier);
    at_barrier_ = 0;
    enqueue(0, count_);
    suspend(State::ready);
}

void Block::meet(const char* name, void* mine, void (*combine)(void* const*)) {
    const unsigned first = current_ / kWarp * kWarp;
    Warp& warp = warps_[current_ / kWarp];
    if (warp.arrived == 0) warp.name = name;
    if (std::string_view(warp.name) != name) simt::fail("comes to %s, other lanes of its warp to %s", name, warp.name);
    if (first + kWarp > count_) simt::fail("comes to %s in a warp of %u lanes", name, count_ - first);
    warp.records[current_ % kWarp] = mine;
    if (++warp.arrived < kWarp) return suspend(State::warp);
    warp.arrived = 0;
    combine(warp.records);
    enqueue(first, kWarp, order_.runs_ahead());
    suspend(State::ready);
}

void Block::fail(const char* format, va_list arguments) {
    char message[1024];
    std::vsnprintf(message, sizeof message, format, arguments);
    error_ = "thread " + text(threads_[current_].thread.index) + ": " + message;
    main_.resume(threads_[current_].fiber->context);
    std::abort();
}

bool Block::in_shared(const void* address, size_t bytes) const {
    const auto inside = [=](const unsigned char* begin, const unsigned char* end) {
        const auto* first = static_cast<const unsigned char*>(address);
        return first >= begin && first + bytes <= end;
    };
    return inside(place_.shared, place_.shared + launch_->shared) || inside(static_shared_, static_shared_end_);
}

void barrier(const char* file, int line) { Block::mine().barrier(file, line); }

void meet(const char* name, void* mine, void (*combine)(void* const*)) { Block::mine().meet(name, mine, combine); }

bool in_shared(const void* address, size_t bytes) { return Block::mine().in_shared(address, bytes); }

void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    if (Block::running()) Block::mine().fail(format, arguments);
    std::vfprintf(stderr, format, arguments);
    std::abort();
}

}  // namespace simt
