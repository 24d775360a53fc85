#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <string>

namespace ts_infer {

/// What torch's allocator has of a device's memory, in bytes. It serves the whole process.
struct DeviceMemory {
  std::int64_t allocated = 0;       ///< In use.
  std::int64_t peak_allocated = 0;  ///< The most so far; never reset here, as hosts read it too.
  std::int64_t reserved = 0;        ///< Taken from the device: in use, or kept to be used again.
  std::int64_t device_allocations = 0;  ///< How often memory was taken from the device.
  std::int64_t free = 0;   ///< What the device has left; it and `total` are 0 where not known.
  std::int64_t total = 0;  ///< What the device has.
};

/// Nothing on the host, and where a backend's allocator keeps no statistics.
std::optional<DeviceMemory> device_memory(c10::Device device);

/// "; the device has … bytes, … of them free; …": how a message about its memory ends. "" where
/// nothing is known.
std::string memory_text(c10::Device device);

}  // namespace ts_infer
