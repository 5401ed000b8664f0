// Streams, events and graphs. Work is executed when it is submitted, unless it has to wait for other work (queue.h).
#include <atomic>
#include <thread>

#include "driver.h"
#include "queue.h"

namespace {

using driver::Graph;
using driver::Position;
using driver::Queue;
using driver::StreamHandle;
using driver::Work;

enum Mode : unsigned { kGlobal = 0, kThreadLocal = 1, kRelaxed = 2 };
constexpr unsigned kNonBlocking = 1;

struct Stream;

struct Capture {
    Stream* origin;
    unsigned mode;
    std::thread::id thread;
    Graph graph;
    bool invalid = false, ended = false;
};

struct Stream {
    unsigned flags = 0;
    std::shared_ptr<Capture> capture;
    std::shared_ptr<Queue> queue = std::make_shared<Queue>();
};

struct Event {
    std::shared_ptr<Capture> capture; // of the stream where it was last recorded
    Position position;
    uint64_t time = 0;
};

struct Exec {
    std::vector<Work> nodes;
};

struct Streams {
    std::mutex mutex;                 // of what follows, and of captures
    std::vector<std::weak_ptr<Capture>> captures;
    std::vector<std::weak_ptr<Queue>> queues;
    Stream legacy;
    driver::Handles<Stream> streams;
    driver::Handles<Event> events;
    driver::Handles<Graph> graphs;
    driver::Handles<Exec> execs;
};

Streams& all() {
    static Streams instance;
    return instance;
}

// Null, 1 and 2 are the driver's default streams.
Stream* find(StreamHandle handle) {
    return reinterpret_cast<uintptr_t>(handle) <= 2 ? &all().legacy : all().streams.find(handle);
}

// Calls `visit` for each capture in progress.
template <typename Visit>
void each_capture(Visit visit) {
    for (const std::weak_ptr<Capture>& weak : all().captures) {
        const std::shared_ptr<Capture> capture = weak.lock();
        if (capture != nullptr && !capture->ended) visit(*capture);
    }
}

unsigned capture_work(Stream& stream, Work work) {
    Capture& capture = *stream.capture;
    if (capture.invalid) return driver::kCaptureInvalidated;
    capture.graph.nodes.push_back(std::move(work));
    return driver::kSuccess;
}

// The default stream synchronises with all streams that are not non-blocking: an error while one of them captures.
unsigned legacy_error() {
    unsigned code = driver::kSuccess;
    each_capture([&](Capture& capture) {
        if (capture.origin->flags & kNonBlocking) return;
        capture.invalid = true;
        code = driver::kCaptureImplicit;
    });
    return code;
}

unsigned run(const std::vector<Work>& nodes) {
    for (const Work& node : nodes) {
        if (const unsigned code = node()) return code;
    }
    return driver::kSuccess;
}

unsigned synchronize(StreamHandle handle) {
    Stream* stream = find(handle);
    if (stream == nullptr) return driver::kInvalidHandle;
    std::unique_lock<std::mutex> lock(all().mutex);
    if (stream->capture != nullptr) {
        stream->capture->invalid = true;
        return driver::kCaptureUnsupported;
    }
    if (const unsigned code = stream == &all().legacy ? legacy_error() : driver::kSuccess) return code;
    const Position last{stream->queue, stream->queue->pushed()};
    lock.unlock();
    last.wait();
    return driver::kSuccess;
}

unsigned create_stream(StreamHandle* handle, unsigned flags) {
    if (handle == nullptr || flags > kNonBlocking) return driver::kInvalidValue;
    auto stream = std::make_unique<Stream>();
    stream->flags = flags;
    const std::lock_guard<std::mutex> lock(all().mutex);
    all().queues.push_back(stream->queue);
    *handle = all().streams.add(std::move(stream));
    return driver::kSuccess;
}

unsigned record_event(void* handle, StreamHandle stream_handle) {
    Event* event = all().events.find(handle);
    Stream* stream = find(stream_handle);
    if (event == nullptr || stream == nullptr) return driver::kInvalidHandle;
    const std::lock_guard<std::mutex> lock(all().mutex);
    event->capture = stream->capture;
    event->time = driver::clock();
    event->position = stream->capture != nullptr ? Position{} : Position{stream->queue, stream->queue->pushed()};
    return driver::kSuccess;
}

unsigned end_capture(StreamHandle handle, void** graph) {
    *graph = nullptr;
    Stream* stream = find(handle);
    if (stream == nullptr) return driver::kInvalidHandle;
    const std::lock_guard<std::mutex> lock(all().mutex);
    const std::shared_ptr<Capture> capture = stream->capture;
    if (capture == nullptr) return driver::kInvalidValue;
    if (capture->mode != kRelaxed && capture->thread != std::this_thread::get_id()) return driver::kCaptureWrongThread;
    capture->ended = true;
    stream->capture = nullptr;
    if (capture->invalid) return driver::kCaptureInvalidated;
    *graph = all().graphs.add(std::make_unique<Graph>(capture->graph));
    return driver::kSuccess;
}

unsigned instantiate(void** exec, void* graph) {
    const Graph* found = all().graphs.find(graph);
    if (found == nullptr || exec == nullptr) return driver::kInvalidValue;
    *exec = all().execs.add(std::make_unique<Exec>(Exec{found->nodes}));
    return driver::kSuccess;
}

// Finds the position of an event that may be waited for, or returns an error code.
unsigned position_of(void* handle, Position& position) {
    const Event* event = all().events.find(handle);
    if (event == nullptr) return driver::kInvalidHandle;
    const std::lock_guard<std::mutex> lock(all().mutex);
    position = event->position;
    return event->capture != nullptr ? driver::kCapturedEvent : driver::kSuccess;
}

// Enqueues a wait for an event. A stream that captures would have to capture the wait, which no caller needs.
unsigned wait_for_event(StreamHandle handle, void* event) {
    Position position;
    if (const unsigned code = position_of(event, position)) return code;
    Stream* stream = find(handle);
    if (stream == nullptr) return driver::kInvalidHandle;
    const std::lock_guard<std::mutex> lock(all().mutex);
    if (stream->capture != nullptr) return driver::kCaptureUnsupported;
    if (!position.done()) {
        stream->queue->push([position] {
            position.wait();
            return unsigned{driver::kSuccess};
        });
    }
    return driver::kSuccess;
}

}  // namespace

namespace driver {

std::atomic<uint64_t>& clock() {
    static std::atomic<uint64_t> nanoseconds{0};
    return nanoseconds;
}

unsigned submit(StreamHandle handle, Work work) {
    Stream* stream = find(handle);
    if (stream == nullptr) return kInvalidHandle;
    clock() += 1000;
    {
        const std::lock_guard<std::mutex> lock(all().mutex);
        if (stream->capture != nullptr) return capture_work(*stream, std::move(work));
        if (stream == &all().legacy) {
            if (const unsigned code = legacy_error()) return code;
        }
        if (delay() > 0 || !stream->queue->done(stream->queue->pushed())) {
            stream->queue->push(std::move(work));
            return kSuccess;
        }
    }
    return work();
}

unsigned enqueue(StreamHandle handle, Work work) {
    Stream* stream = find(handle);
    if (stream == nullptr) return kInvalidHandle;
    const std::lock_guard<std::mutex> lock(all().mutex);
    if (stream->capture != nullptr) return kCaptureUnsupported;
    stream->queue->push(std::move(work));
    return kSuccess;
}

void wait_for_all() {
    std::vector<Position> last;
    {
        const std::lock_guard<std::mutex> lock(all().mutex);
        last.push_back({all().legacy.queue, all().legacy.queue->pushed()});
        for (const std::weak_ptr<Queue>& weak : all().queues) {
            if (const std::shared_ptr<Queue> queue = weak.lock()) last.push_back({queue, queue->pushed()});
        }
    }
    for (const Position& position : last) position.wait();
}

unsigned forbidden_while_capturing() {
    const std::lock_guard<std::mutex> lock(all().mutex);
    unsigned code = kSuccess;
    each_capture([&](Capture& capture) {
        const bool mine = capture.thread == std::this_thread::get_id();
        if (capture.mode == kRelaxed || (capture.mode == kThreadLocal && !mine)) return;
        capture.invalid = true;
        code = kCaptureUnsupported;
    });
    return code;
}

}  // namespace driver

API unsigned cuStreamCreate(StreamHandle* stream, unsigned flags) {
    ENTER_CONTEXT;
    return create_stream(stream, flags);
}

API unsigned cuStreamDestroy_v2(StreamHandle stream) {
    ENTER_CONTEXT;
    Stream* found = all().streams.find(stream);
    if (found == nullptr) return driver::kInvalidHandle;
    const std::lock_guard<std::mutex> lock(all().mutex);
    if (found->capture != nullptr) found->capture->ended = true;
    all().streams.remove(stream);
    return driver::kSuccess;
}

API unsigned cuStreamSynchronize(StreamHandle stream) {
    ENTER_CONTEXT;
    if (const unsigned code = synchronize(stream)) return code;
    return driver::context_error();
}

API unsigned cuEventCreate(void** event, unsigned) {
    ENTER_CONTEXT;
    *event = all().events.add(std::make_unique<Event>());
    return driver::kSuccess;
}

API unsigned cuEventDestroy_v2(void* event) {
    ENTER_CONTEXT;
    return all().events.remove(event) ? driver::kSuccess : driver::kInvalidHandle;
}

API unsigned cuEventRecord(void* event, StreamHandle stream) {
    ENTER_CONTEXT;
    return record_event(event, stream);
}

API unsigned cuEventSynchronize(void* handle) {
    ENTER_CONTEXT;
    Position position;
    if (const unsigned code = position_of(handle, position)) return code;
    position.wait();
    return driver::context_error();
}

API unsigned cuEventQuery(void* handle) {
    ENTER_CONTEXT;
    Position position;
    if (const unsigned code = position_of(handle, position)) return code;
    return position.done() ? driver::context_error() : driver::kNotReady;
}

API unsigned cuEventElapsedTime(float* milliseconds, void* start, void* end) {
    ENTER_CONTEXT;
    const Event *from = all().events.find(start), *to = all().events.find(end);
    if (from == nullptr || to == nullptr) return driver::kInvalidHandle;
    const std::lock_guard<std::mutex> lock(all().mutex);
    if (!from->position.done() || !to->position.done()) return driver::kNotReady;
    *milliseconds = float(to->time - from->time) / 1e6f;
    return driver::kSuccess;
}

API unsigned cuStreamWaitEvent(StreamHandle stream, void* event, unsigned flags) {
    ENTER_CONTEXT;
    return flags == 0 ? wait_for_event(stream, event) : driver::kInvalidValue;
}

API unsigned cuStreamBeginCapture_v2(StreamHandle handle, unsigned mode) {
    ENTER_CONTEXT;
    Stream* stream = find(handle);
    if (stream == nullptr) return driver::kInvalidHandle;
    if (mode > kRelaxed) return driver::kInvalidValue;
    if (stream == &all().legacy) return driver::kCaptureUnsupported;
    const std::lock_guard<std::mutex> lock(all().mutex);
    if (stream->capture != nullptr) return driver::kInvalidValue;
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = stream;
    stream->capture->mode = mode;
    stream->capture->thread = std::this_thread::get_id();
    all().captures.push_back(stream->capture);
    return driver::kSuccess;
}

// Ends the capture even if this call fails, as the driver does.
API unsigned cuStreamEndCapture(StreamHandle stream, void** graph) {
    const unsigned told = driver::enter(__func__);
    if (const unsigned code = driver::context_error()) return code;
    const unsigned code = end_capture(stream, graph);
    if (told == driver::kSuccess) return code;
    if (*graph != nullptr) all().graphs.remove(*graph);
    *graph = nullptr;
    return told;
}

API unsigned cuGraphInstantiateWithFlags(void** exec, void* graph, unsigned long long) {
    ENTER_CONTEXT;
    return instantiate(exec, graph);
}

API unsigned cuGraphLaunch(void* handle, StreamHandle stream) {
    ENTER_CONTEXT;
    const Exec* exec = all().execs.find(handle);
    if (exec == nullptr) return driver::kInvalidValue;
    return driver::submit(stream, [nodes = exec->nodes] { return run(nodes); });
}

API unsigned cuGraphDestroy(void* graph) {
    ENTER_CONTEXT;
    return all().graphs.remove(graph) ? driver::kSuccess : driver::kInvalidValue;
}

API unsigned cuGraphExecDestroy(void* exec) {
    ENTER_CONTEXT;
    return all().execs.remove(exec) ? driver::kSuccess : driver::kInvalidValue;
}
