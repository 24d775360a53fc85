#pragma once

#include <cstddef>
#include <memory>

#include "device/front_allocator.h"

namespace ts_infer {

/// Large host buffers of a model's calls, kept from one call to the next. A large buffer that goes
/// back to the system is unmapped, and the next one is mapped and cleared again page by page at its
/// first touch: thousands of page faults a call.
///
/// Serves large buffers on threads where a Use is alive, through the FrontAllocator. A buffer may
/// be freed on any thread, and after the cache. What is used and kept together is never more than
/// has been used at once.
class HostCache {
 public:
  HostCache();

  /// Gives back what is kept; buffers in use go back to torch's allocator when they are freed.
  ~HostCache();
  HostCache(const HostCache&) = delete;
  HostCache& operator=(const HostCache&) = delete;

  /// Whether the allocator could be installed: not where the host has one of a higher priority.
  bool is_active() const;

  /// The most bytes that were in use at once.
  std::size_t peak_bytes() const;

  /// Whether `size` bytes lie in a buffer of a cache that is several times larger. Within a call
  /// that is welcome, since sizes change from call to call; an output would hold it.
  bool wastes(const void* buffer, std::size_t size) const;

  /// Allocations on this thread take part as long as it lives. nullptr: they do not.
  class Use {
   public:
    explicit Use(const HostCache* cache);

   private:
    FrontAllocator::Use use_;
  };

  class Pool;

 private:
  std::shared_ptr<Pool> pool_;
};

}  // namespace ts_infer
