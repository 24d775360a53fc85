#include "device/memory.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>
#include <c10/util/StringUtil.h>

namespace ts_infer {
namespace {

const c10::CachingAllocator::Stat& sum(const c10::CachingAllocator::StatArray& stats) {
  return stats[static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
}

}  // namespace

std::optional<DeviceMemory> device_memory(c10::Device device) {
  if (device.is_cpu()) return std::nullopt;
  c10::DeviceAllocator* allocator = nullptr;
  DeviceMemory memory;
  try {
    allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(device.type()));
    if (!allocator || !allocator->initialized()) return std::nullopt;
    const auto stats = allocator->getDeviceStats(device.index());
    memory.allocated = sum(stats.allocated_bytes).current;
    memory.peak_allocated = sum(stats.allocated_bytes).peak;
    memory.reserved = sum(stats.reserved_bytes).current;
    memory.device_allocations =
        stats.num_device_alloc > 0 ? stats.num_device_alloc : sum(stats.segment).allocated;
  } catch (const c10::Error&) {
    return std::nullopt;
  }
  try {
    const auto [free, total] = allocator->getMemoryInfo(device.index());
    memory.free = static_cast<std::int64_t>(free);
    memory.total = static_cast<std::int64_t>(total);
  } catch (const c10::Error&) {
    // Not told.
  }
  return memory;
}

std::string memory_text(c10::Device device) {
  const std::optional<DeviceMemory> memory = device_memory(device);
  if (!memory) return "";
  return c10::str("; of ", device, " this process holds ", memory->reserved, " bytes, ",
                  memory->allocated, " of them in use (at most ", memory->peak_allocated,
                  " so far); the device has ", memory->total, " bytes, ", memory->free, " free");
}

}  // namespace ts_infer
