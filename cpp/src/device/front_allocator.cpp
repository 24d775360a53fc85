#include "device/front_allocator.h"

#include <c10/core/CPUAllocator.h>

namespace ts_infer {
namespace {

thread_local BufferSource* source_of_thread = nullptr;
FrontAllocator* front = nullptr;  // never destroyed

}  // namespace

FrontAllocator* FrontAllocator::instance() {
  static FrontAllocator* const installed = [] {
    c10::Allocator* const base = c10::GetCPUAllocator();
    // raw_allocate() needs what every torch CPU allocator has.
    if (!base || !base->raw_deleter()) return static_cast<FrontAllocator*>(nullptr);
    front = new FrontAllocator(*base);
    c10::SetCPUAllocator(front);
    return c10::GetCPUAllocator() == front ? front : nullptr;
  }();
  return installed;
}

c10::DataPtr FrontAllocator::allocate(std::size_t size) {
  if (!source_of_thread || size < source_of_thread->smallest) return base_.allocate(size);
  const std::shared_ptr<BufferSource> source = source_of_thread->shared_from_this();
  const auto [buffer, true_size] = source->take(size);
  if (!buffer) return base_.allocate(size);
  try {
    const std::lock_guard<std::mutex> lock(mutex_);
    owners_.emplace(buffer, Owner{source, true_size});
  } catch (...) {
    source->give_back(buffer, true_size);
    throw;
  }
  return {buffer, buffer, &FrontAllocator::free, c10::Device(c10::kCPU)};
}

std::size_t FrontAllocator::true_size(const void* buffer) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = owners_.find(const_cast<void*>(buffer));
  return found == owners_.end() ? 0 : found->second.size;
}

void FrontAllocator::free(void* buffer) {
  Owner owner{nullptr, 0};
  {
    const std::lock_guard<std::mutex> lock(front->mutex_);
    if (const auto found = front->owners_.find(buffer); found != front->owners_.end()) {
      owner = std::move(found->second);
      front->owners_.erase(found);
    }
  }
  if (owner.source) {
    owner.source->give_back(buffer, owner.size);
  } else {
    front->base_.raw_deallocate(buffer);  // of raw_allocate(), passed on
  }
}

FrontAllocator::Use::Use(BufferSource* source) : previous_(source_of_thread) {
  source_of_thread = source;
}

FrontAllocator::Use::~Use() { source_of_thread = previous_; }

}  // namespace ts_infer
