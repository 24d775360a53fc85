#pragma once

#include <c10/core/Device.h>
#include <c10/core/Stream.h>

#include <optional>

namespace ts_infer {

/// A stream of the device's pool, lent to one holder at a time (its current stream where a backend
/// has no pool).
///
/// The stream that came back last is the first to be lent again. Allocators keep the memory that is
/// free for the stream that used it, so what one holder warmed up serves the next.
class StreamLease {
 public:
  explicit StreamLease(c10::Device device);

  /// Work that is still on the stream comes before what the next holder enqueues.
  ~StreamLease();
  StreamLease(StreamLease&& other) noexcept;
  StreamLease& operator=(StreamLease&& other) noexcept;

  c10::Stream stream() const { return *stream_; }

 private:
  std::optional<c10::Stream> stream_;  // nothing once moved from
};

/// The calling thread's own stream of a device, lent to it from its first call until it ends.
c10::Stream own_stream(c10::Device device);

/// Lends the calling thread its own stream of a device for this object's life only. Nothing happens
/// where the thread has one already, nor on the host.
///
/// load() warms up inside of one, so that the first thread that serves gets the same stream.
class OwnStreamScope {
 public:
  explicit OwnStreamScope(c10::Device device);
  ~OwnStreamScope();
  OwnStreamScope(const OwnStreamScope&) = delete;
  OwnStreamScope& operator=(const OwnStreamScope&) = delete;

 private:
  std::optional<c10::Device> device_;  // where there is something to give back
};

}  // namespace ts_infer
