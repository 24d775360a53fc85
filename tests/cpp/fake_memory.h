#pragma once

#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>

#include "fake_worker.h"

namespace ts_infer::testing {

/// The memory of the fake devices: caching and in the order of streams, as CUDA's is.
///
/// A block goes back to the stream that it was allocated on, to be split and used there again at
/// once; first, in that stream's order, it is poisoned. Where its use on other streams was
/// recorded, it goes back when they are done with what they have by the time it is freed. What is
/// taken from a device is exactly what is asked for, rounded, so that no call hides in the room of
/// another.
c10::DeviceAllocator& device_allocator();

/// What a device has. An allocation that finds no room frees what is cached and tries again.
void set_memory_limit(c10::DeviceIndex device, std::size_t bytes);
std::size_t memory_limit(c10::DeviceIndex device);

/// Memory of the pool, which only captures allocate from, is everybody's again. A block goes back
/// to it when it is freed, while a capture or not.
void release_pool(c10::MempoolId_t pool);

/// Notes that the stream uses the memory.
void record_use(const c10::DataPtr& data, Worker& worker);

/// Pinned memory, cached. It is poisoned and free as soon as it is released, or when the streams
/// recorded with record_event() are done; a copy records nothing, unlike CUDA's.
at::HostAllocator& host_allocator();
bool is_pinned(const void* memory);

/// Whether there is any pinned memory left.
extern std::atomic<bool> pinned_memory_is_used_up;

/// Whether all that is free is poison still, once the streams are done.
bool free_memory_is_poison();

}  // namespace ts_infer::testing
