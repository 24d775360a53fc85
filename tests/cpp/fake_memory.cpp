#include "fake_memory.h"

#include <c10/core/alignment.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <map>
#include <new>
#include <set>
#include <string>
#include <vector>

namespace ts_infer::testing {

std::atomic<bool> pinned_memory_is_used_up{false};

namespace {

using c10::CachingAllocator::Stat;
using c10::CachingAllocator::StatArray;
using c10::CachingDeviceAllocator::DeviceStats;

constexpr c10::MempoolId_t kNoPool{0, 0};
constexpr std::size_t kRound = 512;  // every block is a multiple of it

Stat& sum(StatArray& stats) { return stats[0]; }

char* poisoned_memory(std::size_t size) {
  auto* const memory = static_cast<char*>(::operator new(size, std::align_val_t(c10::gAlignment)));
  std::memset(memory, kPoison, size);
  return memory;
}

/// By one call, which the sanitizers check as one access.
bool is_poison(const char* memory, std::size_t size) {
  if (size == 0) return true;
  return static_cast<unsigned char>(memory[0]) == static_cast<unsigned char>(kPoison) &&
         std::memcmp(memory, memory + 1, size - 1) == 0;
}

std::string in_mib(std::size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

/// A part of a segment, which is what was taken from the device at once.
struct Block {
  c10::DeviceIndex device;
  char* memory;
  std::size_t size;
  char* segment;
  c10::MempoolId_t pool;  // of a graph; {0, 0}: everybody's
  Worker* owner;
  bool free;
  std::size_t requested;
  std::set<Worker*> users;  // other streams than the owner's
  std::size_t unfinished;   // users that have not got to the point where it was freed
};

struct Device {
  std::size_t limit = std::size_t{4} << 30;
  DeviceStats stats;
  std::map<char*, Block> blocks;
};

void free_device_block(void* context);

class FakeDeviceAllocator final : public c10::DeviceAllocator {
 public:
  c10::DataPtr allocate(std::size_t requested) override {
    const c10::DeviceIndex index = current_device_index();
    const c10::Device device(kFake, index);
    if (requested == 0) return {nullptr, device};
    Worker& worker = current_worker(device);
    const std::lock_guard<std::mutex> lock(mutex_);
    Device& of = devices_.at(static_cast<std::size_t>(index));
    const std::size_t size = (requested + kRound - 1) / kRound * kRound;
    const c10::MempoolId_t pool = Capture::current() ? Capture::current()->pool() : kNoPool;
    Block* block = smallest_free(of, worker, pool, size);
    if (!block) block = &new_segment(index, worker, pool, size);
    if (block->size > size) {
      const auto rest = block->memory + size;
      of.blocks.emplace(
          rest,
          Block{
              index, rest, block->size - size, block->segment, pool, block->owner, true, 0, {}, 0});
      block->size = size;
    }
    block->free = false;
    block->requested = requested;
    sum(of.stats.allocation).increase(1);
    sum(of.stats.active).increase(1);
    sum(of.stats.allocated_bytes).increase(size);
    sum(of.stats.active_bytes).increase(size);
    sum(of.stats.requested_bytes).increase(requested);
    return {block->memory, block, &free_device_block, device};
  }

  void free(Block& block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    DeviceStats& stats = stats_of(block.device);
    sum(stats.allocation).decrease(1);
    sum(stats.allocated_bytes).decrease(block.size);
    sum(stats.requested_bytes).decrease(block.requested);
    block.unfinished = block.users.size();
    if (block.users.empty()) return give_back(block);
    for (Worker* user : block.users) {
      user->enqueue_housekeeping([this, &block] {
        const std::lock_guard<std::mutex> finished(mutex_);
        if (--block.unfinished == 0) give_back(block);
      });
    }
  }

  void record_use_of(Block& block, Worker& worker) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (&worker != block.owner) block.users.insert(&worker);
  }

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    const c10::Device device(kFake, current_device_index());
    current_worker(device).enqueue_work([=] { std::memcpy(to, from, count); });
  }

  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t /*pool*/) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Device& device : devices_) release_segments(device);
  }
  void recordStream(const c10::DataPtr& data, c10::Stream stream) override {
    record_use(data, worker_of(stream));
  }
  DeviceStats getDeviceStats(c10::DeviceIndex index) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    return stats_of(index);
  }
  void resetAccumulatedStats(c10::DeviceIndex index) override {
    each_stat(index, [](Stat& stat) { stat.reset_accumulated(); });
  }
  void resetPeakStats(c10::DeviceIndex index) override {
    each_stat(index, [](Stat& stat) { stat.reset_peak(); });
  }
  std::pair<std::size_t, std::size_t> getMemoryInfo(c10::DeviceIndex index) override {
    const std::lock_guard<std::mutex> lock(mutex_);
    const Device& device = devices_.at(static_cast<std::size_t>(index));
    const std::size_t used = static_cast<std::size_t>(device.stats.reserved_bytes[0].current);
    return {device.limit - std::min(used, device.limit), device.limit};
  }

  std::size_t limit(c10::DeviceIndex index) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return devices_.at(static_cast<std::size_t>(index)).limit;
  }
  void set_limit(c10::DeviceIndex index, std::size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    devices_.at(static_cast<std::size_t>(index)).limit = bytes;
  }

  void release_pool(c10::MempoolId_t pool) {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (Device& device : devices_) {
      for (auto& [memory, block] : device.blocks) {
        if (block.pool == pool) block.pool = kNoPool;
      }
    }
  }

  bool free_memory_is_poison() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::all_of(devices_.begin(), devices_.end(), [](const Device& device) {
      return std::all_of(device.blocks.begin(), device.blocks.end(), [](const auto& entry) {
        return !entry.second.free || is_poison(entry.second.memory, entry.second.size);
      });
    });
  }

 private:
  DeviceStats& stats_of(c10::DeviceIndex index) {
    return devices_.at(static_cast<std::size_t>(index)).stats;
  }

  template <typename Visit>
  void each_stat(c10::DeviceIndex index, const Visit& visit) {
    const std::lock_guard<std::mutex> lock(mutex_);
    DeviceStats& stats = stats_of(index);
    for (StatArray* array :
         {&stats.allocation, &stats.segment, &stats.active, &stats.allocated_bytes,
          &stats.reserved_bytes, &stats.active_bytes, &stats.requested_bytes}) {
      visit(sum(*array));
    }
  }

  static Block* smallest_free(Device& device, const Worker& worker, c10::MempoolId_t pool,
                              std::size_t size) {
    Block* best = nullptr;
    for (auto& [memory, block] : device.blocks) {
      if (block.free && block.owner == &worker && block.pool == pool && block.size >= size &&
          (!best || block.size < best->size)) {
        best = &block;
      }
    }
    return best;
  }

  Block& new_segment(c10::DeviceIndex index, Worker& worker, c10::MempoolId_t pool,
                     std::size_t size) {
    Device& device = devices_.at(static_cast<std::size_t>(index));
    const auto left = [&] {
      const auto used = static_cast<std::size_t>(sum(device.stats.reserved_bytes).current);
      return device.limit - std::min(used, device.limit);
    };
    if (size > left()) {
      ++device.stats.num_alloc_retries;
      release_segments(device);
    }
    if (size > left()) {
      ++device.stats.num_ooms;
      TORCH_CHECK_WITH(OutOfMemoryError, false, "fake device out of memory. Tried to allocate ",
                       in_mib(size), ". Device ", static_cast<int>(index),
                       " has a total capacity of ", in_mib(device.limit), " of which ",
                       in_mib(left()), " is free.");
    }
    ++device.stats.num_device_alloc;
    sum(device.stats.segment).increase(1);
    sum(device.stats.reserved_bytes).increase(size);
    char* const memory = poisoned_memory(size);
    const Block block{index, memory, size, memory, pool, &worker, true, 0, {}, 0};
    return device.blocks.emplace(memory, block).first->second;
  }

  /// Gives wholly free segments back to the device. A late reader must still read poison, so the
  /// host's memory is kept.
  void release_segments(Device& device) {
    for (auto it = device.blocks.begin(); it != device.blocks.end();) {
      const auto next = std::next(it);
      const Block& block = it->second;
      const bool whole = block.free && block.pool == kNoPool && block.memory == block.segment &&
                         (next == device.blocks.end() || next->second.segment != block.segment);
      if (whole) {
        ++device.stats.num_device_free;
        sum(device.stats.segment).decrease(1);
        sum(device.stats.reserved_bytes).decrease(block.size);
        released_.push_back(block.memory);
        device.blocks.erase(it);
      }
      it = next;
    }
  }

  void give_back(Block& block) {
    Device& device = devices_.at(static_cast<std::size_t>(block.device));
    block.owner->enqueue_housekeeping(
        [memory = block.memory, size = block.size] { std::memset(memory, kPoison, size); });
    sum(device.stats.active).decrease(1);
    sum(device.stats.active_bytes).decrease(block.size);
    block.free = true;
    block.users.clear();
    const auto it = device.blocks.find(block.memory);
    const auto next = std::next(it);
    if (next != device.blocks.end()) join(device, it, next);
    if (it != device.blocks.begin()) join(device, std::prev(it), it);
  }

  using Position = std::map<char*, Block>::iterator;
  static void join(Device& device, Position first, Position second) {
    if (!first->second.free || !second->second.free) return;
    if (first->second.segment != second->second.segment) return;
    first->second.size += second->second.size;
    device.blocks.erase(second);
  }

  std::mutex mutex_;
  std::array<Device, kDevices> devices_;
  std::vector<char*> released_;  // reachable for ever
};

FakeDeviceAllocator& the_device_allocator() {
  static auto* const instance = new FakeDeviceAllocator();
  return *instance;
}

void free_device_block(void* context) {
  the_device_allocator().free(*static_cast<Block*>(context));
}

struct HostBlock {
  char* memory;
  std::size_t size;
  bool free;
  std::set<Worker*> users;
  std::size_t unfinished;
};

void free_host_block(void* context);

class FakeHostAllocator final : public at::HostAllocator {
 public:
  c10::DataPtr allocate(std::size_t requested) override {
    if (requested == 0) return {nullptr, c10::kCPU};
    TORCH_CHECK(!pinned_memory_is_used_up, "fake device: no pinned memory is left");
    std::size_t size = kRound;
    while (size < requested) size *= 2;
    const std::lock_guard<std::mutex> lock(mutex_);
    for (auto& [memory, block] : blocks_) {
      if (block.free && block.size == size) {
        block.free = false;
        return {memory, &block, &free_host_block, c10::kCPU};
      }
    }
    ++taken_;
    char* const memory = poisoned_memory(size);
    Block& block = blocks_.emplace(memory, Block{memory, size, false, {}, 0}).first->second;
    return {memory, &block, &free_host_block, c10::kCPU};
  }

  void free(HostBlock& block) {
    const std::lock_guard<std::mutex> lock(mutex_);
    block.unfinished = block.users.size();
    if (block.users.empty()) return give_back(block);
    for (Worker* user : block.users) {
      user->enqueue_housekeeping([this, &block] {
        const std::lock_guard<std::mutex> finished(mutex_);
        if (--block.unfinished == 0) give_back(block);
      });
    }
  }

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    std::memcpy(to, from, count);
  }

  bool record_event(void* /*memory*/, void* context, c10::Stream stream) override {
    if (!context) return false;
    const std::lock_guard<std::mutex> lock(mutex_);
    static_cast<HostBlock*>(context)->users.insert(&worker_of(stream));
    return true;
  }
  void empty_cache() override {}
  at::HostStats get_stats() override {
    const std::lock_guard<std::mutex> lock(mutex_);
    at::HostStats stats;
    stats.num_host_alloc = taken_;
    return stats;
  }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}

  bool owns(const void* memory) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto* const byte = static_cast<const char*>(memory);
    const auto after = blocks_.upper_bound(const_cast<char*>(byte));
    if (after == blocks_.begin()) return false;
    const Block& block = std::prev(after)->second;
    return byte < block.memory + block.size;
  }

  bool free_memory_is_poison() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return std::all_of(blocks_.begin(), blocks_.end(), [](const auto& entry) {
      return !entry.second.free || is_poison(entry.second.memory, entry.second.size);
    });
  }

 private:
  using Block = HostBlock;

  static void give_back(Block& block) {
    std::memset(block.memory, kPoison, block.size);
    block.users.clear();
    block.free = true;
  }

  std::mutex mutex_;
  std::map<char*, Block> blocks_;
  std::int64_t taken_ = 0;
};

FakeHostAllocator& the_host_allocator() {
  static auto* const instance = new FakeHostAllocator();
  return *instance;
}

void free_host_block(void* context) {
  the_host_allocator().free(*static_cast<HostBlock*>(context));
}

}  // namespace

c10::DeviceAllocator& device_allocator() { return the_device_allocator(); }

void set_memory_limit(c10::DeviceIndex device, std::size_t bytes) {
  the_device_allocator().set_limit(device, bytes);
}

std::size_t memory_limit(c10::DeviceIndex device) { return the_device_allocator().limit(device); }

void release_pool(c10::MempoolId_t pool) { the_device_allocator().release_pool(pool); }

void record_use(const c10::DataPtr& data, Worker& worker) {
  if (data.get_deleter() != &free_device_block) return;
  the_device_allocator().record_use_of(*static_cast<Block*>(data.get_context()), worker);
}

at::HostAllocator& host_allocator() { return the_host_allocator(); }

bool is_pinned(const void* memory) { return the_host_allocator().owns(memory); }

bool free_memory_is_poison() {
  return the_device_allocator().free_memory_is_poison() &&
         the_host_allocator().free_memory_is_poison();
}

}  // namespace ts_infer::testing
