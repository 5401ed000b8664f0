#include "exchange.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "gemm.h"

namespace exchange {

namespace {

constexpr size_t kPart = 1 << 16;    // bytes per rank and exchange
constexpr const char* kNames[] = {"AllReduce", "ReduceScatter", "Reduce", "AllGather", "Broadcast", "SendReceive"};

}  // namespace

// In shared memory, which is zero at first.
struct Segment {
    std::atomic<uint32_t> joined, arrived, generation;
    std::atomic<uint32_t> ranks[kRanks];    // number of ranks that each rank expects
    int32_t device[kRanks];
    Task task[kRanks];
    unsigned char part[kRanks][kPart];
};

std::string describe(const Task& task) {
    if (task.kind == kSendReceive) return kNames[task.kind];
    const std::string type = task.type == gemm::kF32 ? "f32" : task.type == kBytes ? "u8" : "bf16";
    std::string text = std::string(kNames[task.kind]) + " of " + std::to_string(task.count) + " elements of " + type;
    if (task.kind == kReduce || task.kind == kBroadcast) text += ", root " + std::to_string(task.root);
    return text;
}

size_t bytes_of(int32_t type) { return type == kBytes ? 1 : gemm::bytes_of(type); }

uint64_t sent(const Task& task, unsigned ranks, unsigned rank) {
    if (task.kind == kBroadcast) return rank == task.root ? task.count : 0;
    return task.kind == kReduceScatter ? task.count * ranks : task.count;
}

uint64_t received(const Task& task, unsigned ranks, unsigned rank) {
    if (task.kind == kReduce) return rank == task.root ? task.count : 0;
    return task.kind == kAllGather ? task.count * ranks : task.count;
}

Group::Group(const std::string& name, unsigned ranks, unsigned rank) : name_(name), ranks_(ranks), rank_(rank) {}

Group::~Group() {
    // The last rank has removed the name already, unless one never came. Another group may have it by then.
    if (segment_ != nullptr && !complete()) shm_unlink(name_.c_str());
    if (segment_ != nullptr) munmap(segment_, sizeof(Segment));
}

std::string Group::join(int device) {
    const int file = shm_open(name_.c_str(), O_CREAT | O_RDWR, 0600);
    if (file < 0) return "shm_open: " + std::string(std::strerror(errno));
    void* memory = MAP_FAILED;
    if (ftruncate(file, sizeof(Segment)) == 0) {
        memory = mmap(nullptr, sizeof(Segment), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    }
    const int error = errno;
    close(file);
    if (memory == MAP_FAILED) return "shared memory: " + std::string(std::strerror(error));
    segment_ = static_cast<Segment*>(memory);
    segment_->device[rank_] = device;
    if (segment_->ranks[rank_].exchange(ranks_) != 0) return "rank " + std::to_string(rank_) + " exists twice";
    if (segment_->joined.fetch_add(1) + 1 == ranks_) shm_unlink(name_.c_str());
    return "";
}

bool Group::complete() const { return segment_->joined.load() >= ranks_; }

std::string Group::conflict() const {
    for (unsigned i = 0; i < ranks_; ++i) {
        if (segment_->ranks[i] != ranks_) return "ranks expect different numbers of ranks";
        for (unsigned j = 0; j < i; ++j) {
            if (segment_->device[i] != segment_->device[j]) continue;
            return "Duplicate GPU detected : rank " + std::to_string(j) + " and rank " + std::to_string(i);
        }
    }
    return "";
}

bool Group::barrier(const std::atomic<bool>& aborted) {
    const uint32_t generation = segment_->generation.load();
    if (segment_->arrived.fetch_add(1) + 1 == ranks_) {
        segment_->arrived = 0;
        segment_->generation.fetch_add(1);
        return true;
    }
    while (segment_->generation.load() == generation) {
        if (aborted) return false;
        usleep(50);
    }
    return true;
}

std::string Group::difference(const Task& task) const {
    for (unsigned i = 0; i < ranks_; ++i) {
        const Task& other = segment_->task[i];
        if (other.kind == kSendReceive && task.kind == kSendReceive) {
            const uint64_t expected = task.from[i].bytes, sent = other.to[rank_].bytes;
            if (sent == expected) continue;
            return "rank " + std::to_string(rank_) + " receives " + std::to_string(expected) + " bytes; rank " +
                   std::to_string(i) + " sends " + std::to_string(sent);
        }
        const bool equal = other.kind == task.kind && other.type == task.type && other.root == task.root && other.count == task.count;
        if (equal) continue;
        const std::string here = "rank " + std::to_string(rank_) + ": " + describe(task);
        return here + "; rank " + std::to_string(i) + ": " + describe(other);
    }
    return "";
}

// Sums in the order of the ranks; each partial sum has the type of the elements.
bool Group::reduce(uintptr_t send, uintptr_t receive, uint64_t count, int32_t type, const std::atomic<bool>& aborted) {
    const size_t bytes = gemm::bytes_of(type), at_a_time = kPart / bytes;
    for (uint64_t start = 0; start < count; start += at_a_time) {
        const uint64_t n = std::min<uint64_t>(at_a_time, count - start);
        std::memcpy(segment_->part[rank_], reinterpret_cast<void*>(send + start * bytes), n * bytes);
        if (!barrier(aborted)) return false;
        for (uint64_t i = 0; receive != 0 && i < n; ++i) {
            const uintptr_t to = receive + start * bytes;
            const auto term = [&](unsigned rank) {
                return gemm::load(type, reinterpret_cast<uintptr_t>(segment_->part[rank]), static_cast<int64_t>(i));
            };
            gemm::store(type, to, static_cast<int64_t>(i), term(0));
            for (unsigned rank = 1; rank < ranks_; ++rank) {
                const float sum = gemm::load(type, to, static_cast<int64_t>(i)) + term(rank);
                gemm::store(type, to, static_cast<int64_t>(i), sum);
            }
        }
        if (!barrier(aborted)) return false;
    }
    return true;
}

bool Group::broadcast(uintptr_t send, uintptr_t receive, uint64_t count, int32_t type, unsigned root,
                      const std::atomic<bool>& aborted) {
    const uint64_t bytes = count * bytes_of(type);
    for (uint64_t start = 0; start < bytes; start += kPart) {
        const size_t n = static_cast<size_t>(std::min<uint64_t>(kPart, bytes - start));
        if (rank_ == root) std::memcpy(segment_->part[root], reinterpret_cast<void*>(send + start), n);
        if (!barrier(aborted)) return false;
        std::memcpy(reinterpret_cast<void*>(receive + start), segment_->part[root], n);
        if (!barrier(aborted)) return false;
    }
    return true;
}

// The parts of one sender and receiver after the other.
void Group::send_and_receive(const Task& task, const std::atomic<bool>& aborted) {
    for (unsigned sender = 0; sender < ranks_; ++sender) {
        for (unsigned receiver = 0; receiver < ranks_; ++receiver) {
            const uint64_t bytes = segment_->task[sender].to[receiver].bytes;
            for (uint64_t start = 0; start < bytes; start += kPart) {
                const size_t n = static_cast<size_t>(std::min<uint64_t>(kPart, bytes - start));
                if (rank_ == sender) {
                    std::memcpy(segment_->part[sender], reinterpret_cast<void*>(task.to[receiver].address + start), n);
                }
                if (!barrier(aborted)) return;
                if (rank_ == receiver) {
                    std::memcpy(reinterpret_cast<void*>(task.from[sender].address + start), segment_->part[sender], n);
                }
                if (!barrier(aborted)) return;
            }
        }
    }
    // No rank publishes its next task while others read the sizes of this one.
    barrier(aborted);
}

std::string Group::run(const Task& task, const std::atomic<bool>& aborted) {
    segment_->task[rank_] = task;
    if (!barrier(aborted)) return "";
    const std::string different = difference(task);
    if (!barrier(aborted) || !different.empty()) return different;
    const uint64_t bytes = task.count * bytes_of(task.type);
    switch (task.kind) {
        case kSendReceive:
            send_and_receive(task, aborted);
            break;
        case kAllReduce:
            reduce(task.send, task.receive, task.count, task.type, aborted);
            break;
        case kReduce:
            reduce(task.send, rank_ == task.root ? task.receive : 0, task.count, task.type, aborted);
            break;
        case kBroadcast:
            broadcast(task.send, task.receive, task.count, task.type, task.root, aborted);
            break;
        case kReduceScatter:
            for (unsigned rank = 0; rank < ranks_; ++rank) {
                const uintptr_t receive = rank == rank_ ? task.receive : 0;
                if (!reduce(task.send + rank * bytes, receive, task.count, task.type, aborted)) break;
            }
            break;
        case kAllGather:
            for (unsigned rank = 0; rank < ranks_; ++rank) {
                if (!broadcast(task.send, task.receive + rank * bytes, task.count, task.type, rank, aborted)) break;
            }
            break;
    }
    return "";
}

}  // namespace exchange
