#include "device/host_cache.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace ts_infer {

/// The buffers of one cache. Lives until the cache and all of its buffers are gone.
class HostCache::Pool {
 public:
  explicit Pool(c10::Allocator& base) : base_(base) {}

  /// A kept buffer of `size` bytes or more, else a new one; its true size comes back too.
  std::pair<void*, std::size_t> take(std::size_t size) {
    std::vector<void*> evicted;
    std::unique_lock<std::mutex> lock(mutex_);
    const auto kept = kept_.lower_bound(size);
    if (kept != kept_.end()) {
      const auto [found, buffer] = *kept;
      kept_.erase(kept);
      kept_bytes_ -= found;
      use(found);
      return {buffer, found};
    }
    const std::size_t rounded = rounded_up(size);
    use(rounded);
    while (!kept_.empty() && used_bytes_ + kept_bytes_ > peak_bytes_) {
      evicted.push_back(kept_.begin()->second);
      kept_bytes_ -= kept_.begin()->first;
      kept_.erase(kept_.begin());
    }
    lock.unlock();
    for (void* buffer : evicted) base_.raw_deallocate(buffer);
    try {
      return {allocate(rounded), rounded};
    } catch (...) {
      lock.lock();
      used_bytes_ -= rounded;
      throw;
    }
  }

  void give_back(void* buffer, std::size_t size) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      used_bytes_ -= size;
      if (!closed_) {
        kept_.emplace(size, buffer);
        kept_bytes_ += size;
        return;
      }
    }
    base_.raw_deallocate(buffer);
  }

  /// Keeps nothing from now on.
  void close() { release_kept(/*for_good=*/true); }

  std::size_t peak_bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return peak_bytes_;
  }

 private:
  /// Up to an eighth more, so that sizes that grow little by little find what was kept. Pages that
  /// are not touched cost nothing.
  static std::size_t rounded_up(std::size_t size) {
    std::size_t step = 4096;
    while (step * 16 <= size) step *= 2;
    return (size + step - 1) / step * step;
  }

  void* allocate(std::size_t size) {
    try {
      return base_.raw_allocate(size);
    } catch (const std::exception&) {
      release_kept(/*for_good=*/false);  // it may be what is missing
      return base_.raw_allocate(size);
    }
  }

  void release_kept(bool for_good) {
    std::multimap<std::size_t, void*> kept;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      closed_ = closed_ || for_good;
      kept.swap(kept_);
      kept_bytes_ = 0;
    }
    for (const auto& [size, buffer] : kept) base_.raw_deallocate(buffer);
  }

  void use(std::size_t size) {
    used_bytes_ += size;
    peak_bytes_ = std::max(peak_bytes_, used_bytes_);
  }

  c10::Allocator& base_;
  std::mutex mutex_;
  std::multimap<std::size_t, void*> kept_;
  std::size_t kept_bytes_ = 0;
  std::size_t used_bytes_ = 0;
  std::size_t peak_bytes_ = 0;
  bool closed_ = false;
};

namespace {

constexpr std::size_t kLarge = 64 * 1024;
constexpr std::size_t kMostWaste = 4;

thread_local const std::shared_ptr<HostCache::Pool>* current = nullptr;

/// In front of the allocator that was there before. oneDNN's tensors call raw_allocate, which has
/// torch's `data == context`; so what a buffer belongs to is looked up by its address.
class FrontAllocator final : public c10::Allocator {
 public:
  explicit FrontAllocator(c10::Allocator& base) : base_(base) {}

  c10::DataPtr allocate(std::size_t size) override {
    if (!current || size < kLarge) return base_.allocate(size);
    const std::shared_ptr<HostCache::Pool> pool = *current;
    const auto [buffer, true_size] = pool->take(size);
    try {
      const std::lock_guard<std::mutex> lock(mutex_);
      owners_.emplace(buffer, Owner{pool, true_size});
    } catch (...) {
      pool->give_back(buffer, true_size);
      throw;
    }
    return {buffer, buffer, &FrontAllocator::free, c10::Device(c10::kCPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &FrontAllocator::free; }

  void copy_data(void* to, const void* from, std::size_t count) const override {
    base_.copy_data(to, from, count);
  }

  /// nullptr where a host's allocator with a higher priority stays in front.
  static FrontAllocator* instance() {
    static FrontAllocator* const installed = [] {
      c10::Allocator* const base = c10::GetCPUAllocator();
      // raw_allocate() needs what every torch CPU allocator has.
      if (!base || !base->raw_deleter()) return static_cast<FrontAllocator*>(nullptr);
      front = new FrontAllocator(*base);  // never destroyed: buffers may outlive everything
      c10::SetCPUAllocator(front);
      return c10::GetCPUAllocator() == front ? front : nullptr;
    }();
    return installed;
  }

  c10::Allocator& base() { return base_; }

  /// The true size of a buffer of a cache; 0 for any other.
  std::size_t true_size(const void* buffer) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = owners_.find(const_cast<void*>(buffer));
    return found == owners_.end() ? 0 : found->second.size;
  }

 private:
  struct Owner {
    std::shared_ptr<HostCache::Pool> pool;
    std::size_t size;
  };

  static void free(void* buffer) {
    Owner owner{nullptr, 0};
    {
      const std::lock_guard<std::mutex> lock(front->mutex_);
      if (const auto found = front->owners_.find(buffer); found != front->owners_.end()) {
        owner = std::move(found->second);
        front->owners_.erase(found);
      }
    }
    if (owner.pool) {
      owner.pool->give_back(buffer, owner.size);
    } else {
      front->base_.raw_deallocate(buffer);  // of raw_allocate(), passed on
    }
  }

  static inline FrontAllocator* front = nullptr;

  c10::Allocator& base_;
  std::mutex mutex_;
  std::unordered_map<void*, Owner> owners_;
};

}  // namespace

HostCache::HostCache() {
  if (FrontAllocator* const front = FrontAllocator::instance()) {
    pool_ = std::make_shared<Pool>(front->base());
  }
}

HostCache::~HostCache() {
  if (pool_) pool_->close();
}

bool HostCache::is_active() const { return pool_ != nullptr; }

std::size_t HostCache::peak_bytes() const { return pool_ ? pool_->peak_bytes() : 0; }

bool HostCache::wastes(const void* buffer, std::size_t size) const {
  return pool_ && size >= kLarge &&
         FrontAllocator::instance()->true_size(buffer) > kMostWaste * size;
}

HostCache::Use::Use(const HostCache* cache) : previous_(current) {
  current = cache && cache->pool_ ? &cache->pool_ : nullptr;
}

HostCache::Use::~Use() {
  current = static_cast<const std::shared_ptr<HostCache::Pool>*>(previous_);
}

}  // namespace ts_infer
