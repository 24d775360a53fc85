#include "device/host_cache.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

namespace ts_infer {
namespace {

constexpr std::size_t kLarge = 64 * 1024;
constexpr std::size_t kMostWaste = 4;

}  // namespace

/// The buffers of one cache. Lives until the cache and all of its buffers are gone.
class HostCache::Pool : public BufferSource {
 public:
  explicit Pool(c10::Allocator& base) : BufferSource(kLarge), base_(base) {}

  /// A kept buffer, else a new one.
  std::pair<void*, std::size_t> take(std::size_t size) override {
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

  void give_back(void* buffer, std::size_t size) override {
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

HostCache::Use::Use(const HostCache* cache) : use_(cache ? cache->pool_.get() : nullptr) {}

}  // namespace ts_infer
