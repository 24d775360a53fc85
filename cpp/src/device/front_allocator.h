#pragma once

#include <c10/core/Allocator.h>

#include <cstddef>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace ts_infer {

/// Where a thread's large CPU buffers come from while a FrontAllocator::Use is alive. Lives as long
/// as a buffer of it.
class BufferSource : public std::enable_shared_from_this<BufferSource> {
 public:
  /// Is not asked for less than `smallest` bytes.
  explicit BufferSource(std::size_t smallest_size) : smallest(smallest_size) {}
  virtual ~BufferSource() = default;
  BufferSource(const BufferSource&) = delete;
  BufferSource& operator=(const BufferSource&) = delete;

  /// A buffer of `size` bytes or more, and its true size; nullptr: torch's allocator serves.
  virtual std::pair<void*, std::size_t> take(std::size_t size) = 0;

  /// What take() returned, on any thread.
  virtual void give_back(void* buffer, std::size_t size) = 0;

  const std::size_t smallest;
};

/// In front of torch's CPU allocator, for good, since buffers may outlive everything. It passes
/// everything on to the allocator that was there, but what a thread's BufferSource serves. oneDNN's
/// tensors call raw_allocate, which has torch's `data == context`; so what a buffer belongs to is
/// looked up by its address.
class FrontAllocator final : public c10::Allocator {
 public:
  /// Installs it at first. nullptr where a host's allocator with a higher priority stays in front.
  static FrontAllocator* instance();

  c10::DataPtr allocate(std::size_t size) override;
  c10::DeleterFnPtr raw_deleter() const override { return &FrontAllocator::free; }
  void copy_data(void* to, const void* from, std::size_t count) const override {
    base_.copy_data(to, from, count);
  }

  /// The allocator that was there.
  c10::Allocator& base() { return base_; }

  /// The true size of a buffer of a source; 0 for any other.
  std::size_t true_size(const void* buffer);

  /// The source, held by a shared_ptr, of this thread's buffers as long as it lives. nullptr: none.
  class Use {
   public:
    explicit Use(BufferSource* source);
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    BufferSource* previous_;
  };

 private:
  /// A buffer keeps its source.
  struct Owner {
    std::shared_ptr<BufferSource> source;
    std::size_t size;
  };

  explicit FrontAllocator(c10::Allocator& base) : base_(base) {}
  static void free(void* buffer);

  c10::Allocator& base_;
  std::mutex mutex_;
  std::unordered_map<void*, Owner> owners_;
};

}  // namespace ts_infer
