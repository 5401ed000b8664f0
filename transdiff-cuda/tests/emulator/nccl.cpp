// The part of NCCL that the backend uses: communicators of processes of one machine (exchange.h), whose operations are
// executed in the order of a stream while the host goes on.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <utility>

#include "driver.h"
#include "exchange.h"
#include "gemm.h"
#include "host_thread.h"

namespace {

using exchange::Task;

enum Result : unsigned {
    kOk = 0,
    kUnhandledCuda = 1,
    kSystem = 2,
    kInternal = 3,
    kInvalidArgument = 4,
    kInvalidUsage = 5,
    kRemote = 6,
    kInProgress = 7,
};

constexpr int kVersion = 22703;
constexpr int kUint8 = 1, kFloat32 = 7, kBfloat16 = 9, kSum = 0;

struct UniqueId {
    char name[128];
};

// ncclConfig_t of NCCL 2.14.
struct Config {
    size_t size;
    unsigned magic, version;
    int blocking;
};

struct Submission {
    Task task;
    driver::StreamHandle stream;
};

// A call of a communicator that does not block is in progress until its status has been queried twice, at least.
enum class State { joining, launching, launched, finalizing, idle };

struct Communicator {
    Communicator(const std::string& name, unsigned ranks_of_group, unsigned rank_in_group)
        : group(name, ranks_of_group, rank_in_group), ranks(ranks_of_group), rank(rank_in_group) {}

    exchange::Group group;
    unsigned ranks, rank;
    bool blocking = true;
    State state = State::joining;
    std::vector<Submission> launches;
    std::atomic<unsigned> async{kOk};
    std::atomic<unsigned> outstanding{0};
    std::atomic<bool> aborted{false};
};

using Shared = std::shared_ptr<Communicator>;

// Never destroyed: operations may be in progress when the program ends.
driver::Handles<Shared>& communicators() {
    static auto& instance = *new driver::Handles<Shared>;
    return instance;
}

std::mutex last_error_mutex;
std::string last_error;

// Operations so far, of all communicators of the process.
std::atomic<uint64_t> operations{0};

// Operations between ncclGroupStart and ncclGroupEnd.
struct GroupCall {
    int depth = 0;
    unsigned error = kOk;
    std::vector<std::pair<Shared, Submission>> submissions;
};

HOST_THREAD GroupCall* group_call = nullptr;

unsigned refuse(unsigned result, const std::string& reason) {
    {
        const std::lock_guard<std::mutex> lock(last_error_mutex);
        last_error = reason;
    }
    return driver::failure(result, "NCCL: " + reason);
}

Shared find(void* handle) {
    Shared* found = communicators().find(handle);
    return found == nullptr ? nullptr : *found;
}

void stay_until_aborted(const Communicator& communicator) {
    while (!communicator.aborted) usleep(100);
}

// EMULATED_NCCL_ASYNC_ERROR=N:CODE lets the operation N of the process, counted from 1, fail with CODE while it is executed.
unsigned injected(uint64_t operation) {
    const char* value = std::getenv("EMULATED_NCCL_ASYNC_ERROR");
    unsigned long long which = 0;
    unsigned code = kOk;
    if (value == nullptr) return kOk;
    if (std::sscanf(value, "%llu:%u", &which, &code) != 2) std::abort();
    return which == operation ? code : unsigned{kOk};
}

void execute(Communicator& communicator, const Task& task, uint64_t operation) {
    if (communicator.aborted) return;
    if (communicator.async == kOk) {
        if (const unsigned code = injected(operation)) {
            refuse(code, "injected error of operation " + std::to_string(operation));
            communicator.async = code;
        } else {
            const std::string reason = communicator.group.run(task, communicator.aborted);
            if (reason.empty()) return;
            refuse(kInvalidUsage, "different operations: " + reason);
            communicator.async = kInvalidUsage;
        }
    }
    // As a kernel that waits for its peers.
    stay_until_aborted(communicator);
}

unsigned launch(const Shared& communicator, const Submission& submission) {
    const uint64_t operation = ++operations;
    ++communicator->outstanding;
    const unsigned code = driver::enqueue(submission.stream, [communicator, task = submission.task, operation] {
        execute(*communicator, task, operation);
        --communicator->outstanding;
        return unsigned{driver::kSuccess};
    });
    if (code == driver::kSuccess) return kOk;
    --communicator->outstanding;
    return refuse(kUnhandledCuda, "CUDA error " + std::to_string(code) + " of the stream");
}

// Starts the operations of a group: at once, or when the status is queried.
unsigned start(const Shared& communicator, const Submission& submission) {
    if (communicator->blocking) return launch(communicator, submission);
    communicator->launches.push_back(submission);
    communicator->state = State::launching;
    return kInProgress;
}

unsigned check(const Communicator& communicator, const Task& task) {
    if (communicator.state != State::idle && communicator.state != State::launching) {
        return refuse(kInvalidUsage, "an operation of a communicator that is not ready");
    }
    if (task.root >= communicator.ranks) return refuse(kInvalidArgument, "there is no such root");
    const size_t bytes = exchange::bytes_of(task.type);
    const uint64_t sent = exchange::sent(task, communicator.ranks, communicator.rank);
    const uint64_t received = exchange::received(task, communicator.ranks, communicator.rank);
    if (!driver::on_device(task.send, sent * bytes) || !driver::on_device(task.receive, received * bytes)) {
        return refuse(kInvalidArgument, "a buffer is not all in memory of the device");
    }
    return kOk;
}

// The communicator of an operation, if it can have one now.
unsigned find_for_operation(void* handle, Shared& communicator) {
    communicator = find(handle);
    if (communicator == nullptr) return refuse(kInvalidArgument, "there is no such communicator");
    if (driver::context_error()) return refuse(kUnhandledCuda, "the thread has no usable context");
    return kOk;
}

// Adds a part of ncclSend or ncclRecv to the exchange of its group.
unsigned add_part(bool sends, uintptr_t address, uint64_t count, int type, int peer, void* handle,
                  driver::StreamHandle stream) {
    Shared communicator;
    if (const unsigned code = find_for_operation(handle, communicator)) return code;
    if (group_call == nullptr) return refuse(kInvalidUsage, "ncclSend or ncclRecv outside a group, which no caller of this library needs");
    if (type != kUint8) return refuse(kInvalidArgument, "expected u8");
    if (peer < 0 || unsigned(peer) >= communicator->ranks) return refuse(kInvalidArgument, "there is no such peer");
    if (!driver::on_device(address, count)) return refuse(kInvalidArgument, "a buffer is not all in memory of the device");
    if (communicator->state != State::idle) return refuse(kInvalidUsage, "an earlier call is in progress");
    auto& submissions = group_call->submissions;
    const auto same = [&](const auto& other) {
        return other.first == communicator && other.second.task.kind == exchange::kSendReceive;
    };
    auto found = std::find_if(submissions.begin(), submissions.end(), same);
    if (found == submissions.end()) {
        Task task{};
        task.kind = exchange::kSendReceive;
        task.type = exchange::kBytes;
        found = submissions.insert(found, {communicator, Submission{task, stream}});
    }
    Task& task = found->second.task;
    exchange::Part& part = (sends ? task.to : task.from)[peer];
    if (part.address != 0) return refuse(kInvalidUsage, "two parts for one peer");
    part = {address, count};
    return kOk;
}

// As add_part; an error is one of the group, too.
unsigned submit_part(bool sends, uintptr_t address, uint64_t count, int type, int peer, void* handle,
                     driver::StreamHandle stream) {
    const unsigned result = add_part(sends, address, count, type, peer, handle, stream);
    if (group_call != nullptr && result != kOk) group_call->error = result;
    return result;
}

unsigned submit(exchange::Kind kind, const void* send, void* receive, uint64_t count, int type, int op, int root,
                void* handle, driver::StreamHandle stream) {
    Shared communicator;
    if (const unsigned code = find_for_operation(handle, communicator)) return code;
    const bool bytes = type == kUint8 && kind == exchange::kBroadcast;
    if (!bytes && type != kFloat32 && type != kBfloat16) return refuse(kInvalidArgument, "expected f32 or bf16");
    if (op != kSum) return refuse(kInvalidArgument, "expected a sum");
    if (group_call == nullptr && communicator->state == State::launching) {
        return refuse(kInvalidUsage, "an earlier call is in progress");
    }
    const int32_t element = bytes ? exchange::kBytes : type == kFloat32 ? int32_t{gemm::kF32} : int32_t{gemm::kBf16};
    const Task task{kind, element, static_cast<uint32_t>(root), count, reinterpret_cast<uintptr_t>(send),
                    reinterpret_cast<uintptr_t>(receive), {}, {}};
    const unsigned result = check(*communicator, task);
    if (group_call == nullptr) return result == kOk && count > 0 ? start(communicator, {task, stream}) : result;
    if (result != kOk) group_call->error = result;
    else if (count > 0) group_call->submissions.emplace_back(communicator, Submission{task, stream});
    return result;
}

// Makes progress with the call of a communicator that does not block; returns its status.
unsigned progress(const Shared& communicator) {
    Communicator& c = *communicator;
    if (c.async != kOk) return c.async;
    switch (c.state) {
        case State::joining: {
            if (!c.group.complete()) return kInProgress;
            const std::string conflict = c.group.conflict();
            if (!conflict.empty()) return c.async = refuse(kInvalidUsage, conflict);
            c.state = State::idle;
            return kOk;
        }
        case State::launching:
            c.state = State::launched;
            return kInProgress;
        case State::launched:
            for (const Submission& submission : c.launches) {
                if (const unsigned code = launch(communicator, submission)) c.async = code;
            }
            c.launches.clear();
            c.state = State::idle;
            return c.async;
        case State::finalizing: return c.outstanding > 0 ? kInProgress : kOk;
        case State::idle: return kOk;
    }
    return kInternal;
}

unsigned initialize(void** handle, int ranks, const UniqueId& id, int rank, bool blocking) {
    *handle = nullptr;
    if (driver::context_error()) return refuse(kUnhandledCuda, "the thread has no usable context");
    if (ranks < 1 || ranks > int{exchange::kRanks} || rank < 0 || rank >= ranks) {
        return refuse(kInvalidArgument, "rank " + std::to_string(rank) + " of " + std::to_string(ranks));
    }
    const std::string name(id.name, strnlen(id.name, sizeof id.name));
    if (name.rfind("/emulated-nccl-", 0) != 0) return refuse(kInvalidArgument, "the unique id is not of this library");
    auto communicator = std::make_shared<Communicator>(name, unsigned(ranks), unsigned(rank));
    communicator->blocking = blocking;
    const std::string failed = communicator->group.join(driver::ordinal());
    if (!failed.empty()) return refuse(kSystem, failed);
    *handle = communicators().add(std::make_unique<Shared>(communicator));
    unsigned status = kInProgress;
    while (blocking && (status = progress(communicator)) == kInProgress) usleep(100);
    return status;
}

}  // namespace

API const char* ncclGetErrorString(unsigned result) {
    switch (result) {
        case kOk: return "no error";
        case kUnhandledCuda: return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
        case kSystem: return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
        case kInternal: return "internal error - please report this issue to the NCCL developers";
        case kInvalidArgument: return "invalid argument (run with NCCL_DEBUG=WARN for details)";
        case kInvalidUsage: return "invalid usage (run with NCCL_DEBUG=WARN for details)";
        case kRemote: return "remote process exited or there was a network error";
        case kInProgress: return "NCCL operation in progress";
        default: return "unknown result code";
    }
}

API const char* ncclGetLastError(void*) {
    static char text[1024];
    const std::lock_guard<std::mutex> lock(last_error_mutex);
    std::snprintf(text, sizeof text, "%s", last_error.c_str());
    return text;
}

API unsigned ncclGetVersion(int* version) {
    ENTER;
    *version = static_cast<int>(driver::setting("EMULATED_NCCL_VERSION", kVersion));
    return kOk;
}

API unsigned ncclGetUniqueId(UniqueId* id) {
    ENTER;
    std::memset(id, 0, sizeof *id);
    // The same in all processes that are given the same address.
    if (const char* address = std::getenv("NCCL_COMM_ID")) {
        std::string name = address;
        const size_t port = name.rfind(':');
        if (port == std::string::npos || port == 0 || port + 1 == name.size()) {
            return refuse(kInvalidArgument, "Invalid NCCL_COMM_ID, please use format: <ipv4>:<port> or [<ipv6>]:<port> or "
                                            "<hostname>:<port>");
        }
        std::replace(name.begin(), name.end(), '/', '_');
        std::snprintf(id->name, sizeof id->name, "/emulated-nccl-%s", name.c_str());
        return kOk;
    }
    std::random_device random;
    std::snprintf(id->name, sizeof id->name, "/emulated-nccl-%d-%08x%08x", getpid(), random(), random());
    return kOk;
}

API unsigned ncclCommInitRankConfig(void** handle, int ranks, UniqueId id, int rank, const Config* config) {
    ENTER;
    if (config == nullptr || config->size < sizeof(Config) || config->magic != 0xcafebeef || config->version < 21400) {
        return refuse(kInvalidArgument, "ncclConfig_t argument not initialized via NCCL_CONFIG_INITIALIZER");
    }
    return initialize(handle, ranks, id, rank, config->blocking != 0);
}

API unsigned ncclCommGetAsyncError(void* handle, unsigned* status) {
    ENTER;
    const Shared communicator = find(handle);
    if (communicator == nullptr) return refuse(kInvalidArgument, "there is no such communicator");
    *status = progress(communicator);
    return kOk;
}

API unsigned ncclCommFinalize(void* handle) {
    ENTER;
    const Shared communicator = find(handle);
    if (communicator == nullptr) return refuse(kInvalidArgument, "there is no such communicator");
    if (communicator->state != State::idle) return refuse(kInvalidUsage, "ncclCommFinalize: an earlier call is in progress");
    communicator->state = State::finalizing;
    return communicator->blocking && communicator->outstanding == 0 ? kOk : kInProgress;
}

API unsigned ncclCommDestroy(void* handle) {
    ENTER;
    const Shared communicator = find(handle);
    if (communicator == nullptr) return refuse(kInvalidArgument, "there is no such communicator");
    if (communicator->outstanding > 0) return refuse(kInvalidUsage, "ncclCommDestroy: an operation is in progress");
    communicators().remove(handle);
    return kOk;
}

API unsigned ncclCommAbort(void* handle) {
    ENTER;
    const Shared communicator = find(handle);
    if (communicator == nullptr) return refuse(kInvalidArgument, "there is no such communicator");
    communicator->aborted = true;
    communicators().remove(handle);
    return kOk;
}

API unsigned ncclGroupStart() {
    ENTER;
    if (group_call == nullptr) group_call = new GroupCall;
    ++group_call->depth;
    return kOk;
}

API unsigned ncclGroupEnd() {
    const unsigned told = driver::enter(__func__);
    if (group_call == nullptr) return refuse(kInvalidUsage, "ncclGroupEnd: not in a group call.");
    if (--group_call->depth > 0) return told;
    const std::unique_ptr<GroupCall> call(std::exchange(group_call, nullptr));
    unsigned result = told == kOk ? call->error : told;
    for (const auto& [communicator, submission] : call->submissions) {
        if (result != kOk && result != kInProgress) break;
        result = start(communicator, submission);
    }
    return result;
}

API unsigned ncclAllReduce(const void* send, void* receive, size_t count, int type, int op, void* communicator,
                           driver::StreamHandle stream) {
    ENTER;
    return submit(exchange::kAllReduce, send, receive, count, type, op, 0, communicator, stream);
}

API unsigned ncclReduceScatter(const void* send, void* receive, size_t count, int type, int op, void* communicator,
                               driver::StreamHandle stream) {
    ENTER;
    return submit(exchange::kReduceScatter, send, receive, count, type, op, 0, communicator, stream);
}

API unsigned ncclReduce(const void* send, void* receive, size_t count, int type, int op, int root, void* communicator,
                        driver::StreamHandle stream) {
    ENTER;
    return submit(exchange::kReduce, send, receive, count, type, op, root, communicator, stream);
}

API unsigned ncclAllGather(const void* send, void* receive, size_t count, int type, void* communicator,
                           driver::StreamHandle stream) {
    ENTER;
    return submit(exchange::kAllGather, send, receive, count, type, kSum, 0, communicator, stream);
}

API unsigned ncclBroadcast(const void* send, void* receive, size_t count, int type, int root, void* communicator,
                           driver::StreamHandle stream) {
    ENTER;
    return submit(exchange::kBroadcast, send, receive, count, type, kSum, root, communicator, stream);
}

API unsigned ncclSend(const void* send, size_t count, int type, int peer, void* communicator, driver::StreamHandle stream) {
    ENTER;
    return submit_part(true, reinterpret_cast<uintptr_t>(send), count, type, peer, communicator, stream);
}

API unsigned ncclRecv(void* receive, size_t count, int type, int peer, void* communicator, driver::StreamHandle stream) {
    ENTER;
    return submit_part(false, reinterpret_cast<uintptr_t>(receive), count, type, peer, communicator, stream);
}
