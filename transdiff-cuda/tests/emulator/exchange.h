// Sums and copies between processes of one machine, through POSIX shared memory: what NCCL's operations consist of.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

namespace exchange {

constexpr unsigned kRanks = 16;

// Name in all messages, and in the shared memory.
enum Kind : uint32_t { kAllReduce, kReduceScatter, kReduce, kAllGather, kBroadcast, kSendReceive };

// Bytes that a rank sends to another, or receives from it.
struct Part {
    uintptr_t address;
    uint64_t bytes;
};

// An operation. `count` is the number of elements that a rank receives, and for kAllGather of those that it sends.
struct Task {
    Kind kind;
    int32_t type;          // of gemm.h, or kBytes
    uint32_t root;
    uint64_t count;
    uintptr_t send, receive;
    // Of kSendReceive, which all ranks execute together: the parts of each rank, instead of the fields above.
    Part to[kRanks], from[kRanks];
};

// A type besides those of gemm.h: bytes, which are copied only.
constexpr int32_t kBytes = -1;

std::string describe(const Task& task);
size_t bytes_of(int32_t type);
// Number of elements that a rank sends and receives.
uint64_t sent(const Task& task, unsigned ranks, unsigned rank);
uint64_t received(const Task& task, unsigned ranks, unsigned rank);

struct Segment;

// The processes of a communicator.
class Group {
public:
    Group(const std::string& name, unsigned ranks, unsigned rank);
    Group(const Group&) = delete;
    ~Group();

    // Publishes that this rank, on `device`, has come. Returns the reason if that is not possible.
    std::string join(int device);
    // Returns whether all ranks have come.
    bool complete() const;
    // The reason why the ranks cannot communicate, once all have come.
    std::string conflict() const;
    // Executes a task with all ranks, or returns the reason. Empty if `aborted` before its end, too.
    std::string run(const Task& task, const std::atomic<bool>& aborted);

private:
    bool barrier(const std::atomic<bool>& aborted);
    std::string difference(const Task& task) const;
    bool reduce(uintptr_t send, uintptr_t receive, uint64_t count, int32_t type, const std::atomic<bool>& aborted);
    bool broadcast(uintptr_t send, uintptr_t receive, uint64_t count, int32_t type, unsigned root,
                   const std::atomic<bool>& aborted);
    void send_and_receive(const Task& task, const std::atomic<bool>& aborted);

    std::string name_;
    Segment* segment_ = nullptr;
    unsigned ranks_, rank_;
};

}  // namespace exchange
