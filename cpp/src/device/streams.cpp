#include "device/streams.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

namespace ts_infer {
namespace {

/// The streams that are not lent, the last one given back at the end. Never destroyed: threads and
/// static objects give streams back until the process ends.
struct FreeStreams {
  std::mutex mutex;
  std::vector<c10::Stream> streams;
  std::size_t made = 0;
};

FreeStreams& free_streams() {
  static auto* const instance = new FreeStreams();
  return *instance;
}

c10::Stream stream_of_pool(c10::Device device) {
  const c10::impl::VirtualGuardImpl impl(device.type());
  try {
    return impl.getStreamFromGlobalPool(device);
  } catch (const c10::Error&) {
    return impl.getStream(device);
  }
}

c10::Stream take(c10::Device device) {
  FreeStreams& free = free_streams();
  const std::lock_guard<std::mutex> lock(free.mutex);
  for (std::size_t i = free.streams.size(); i-- > 0;) {
    const c10::Stream stream = free.streams[i];
    if (stream.device() != device) continue;
    free.streams.erase(free.streams.begin() + static_cast<std::ptrdiff_t>(i));
    return stream;
  }
  free.streams.reserve(++free.made);  // give_back() must not fail
  return stream_of_pool(device);
}

void give_back(c10::Stream stream) noexcept {
  FreeStreams& free = free_streams();
  const std::lock_guard<std::mutex> lock(free.mutex);
  free.streams.push_back(stream);
}

thread_local bool thread_is_ending = false;

struct OwnStreams {
  std::vector<StreamLease> leases;
  ~OwnStreams() { thread_is_ending = true; }

  const StreamLease* find(c10::Device device) const {
    for (const StreamLease& lease : leases) {
      if (lease.stream().device() == device) return &lease;
    }
    return nullptr;
  }
};

OwnStreams& own_streams() {
  thread_local OwnStreams streams;
  return streams;
}

}  // namespace

StreamLease::StreamLease(c10::Device device) : stream_(take(device)) {}

StreamLease::~StreamLease() {
  if (stream_) give_back(*stream_);
}

StreamLease::StreamLease(StreamLease&& other) noexcept
    : stream_(std::exchange(other.stream_, std::nullopt)) {}

StreamLease& StreamLease::operator=(StreamLease&& other) noexcept {
  std::swap(stream_, other.stream_);
  return *this;
}

c10::Stream own_stream(c10::Device device) {
  if (thread_is_ending) return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
  OwnStreams& own = own_streams();
  if (const StreamLease* const lease = own.find(device)) return lease->stream();
  return own.leases.emplace_back(device).stream();
}

OwnStreamScope::OwnStreamScope(c10::Device device) {
  if (device.is_cpu() || thread_is_ending || own_streams().find(device)) return;
  own_stream(device);
  device_ = device;
}

OwnStreamScope::~OwnStreamScope() {
  if (!device_) return;
  std::vector<StreamLease>& leases = own_streams().leases;
  leases.erase(std::find_if(leases.begin(), leases.end(), [&](const StreamLease& lease) {
    return lease.stream().device() == *device_;
  }));
}

}  // namespace ts_infer
