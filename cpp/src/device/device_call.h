#pragma once

#include <ATen/core/ivalue.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/StreamGuard.h>

#include <optional>
#include <vector>

#include "ts_infer/timing.h"

namespace ts_infer {

/// One call's stay on an accelerator: which stream it runs on, the copies to the device and back,
/// and the events that time them.
///
/// Host inputs: the calling thread's own stream, through pinned memory, and finish() waits once, so
/// what failed on the device is thrown there, by the call that enqueued it. Device inputs: the
/// caller's stream (its current one, or the one given), nothing is waited for. A stateful model
/// has one stream for all its calls, which keeps them and the state's memory in order; the caller's
/// stream and that one then wait for each other, on the device.
class DeviceCall {
 public:
  DeviceCall(c10::Device device, bool host_inputs, void* host_stream,
             std::optional<c10::Stream> models_stream);

  /// After an error: waits as finish() does, so that no copy is left that uses the host's memory.
  ~DeviceCall();
  DeviceCall(const DeviceCall&) = delete;
  DeviceCall& operator=(const DeviceCall&) = delete;

  /// The inputs on the device, and from here on the thread's current stream is this call's.
  void to_device(std::vector<c10::IValue>& stack);

  /// Marks the end of the model's own work.
  void computed();

  /// A copy of `tensor` on the host (valid after finish()), or into `destination`.
  at::Tensor to_host(const at::Tensor& tensor);
  void copy_into(const at::Tensor& source, const at::Tensor& destination);

  /// Makes outputs that stay on the device safe for the caller's stream.
  void keep_on_device(const at::Tensor& tensor);

  /// Waits where something on the host was read or written, and fills in the times.
  void finish(Timing& timing);

 private:
  c10::Device device_;
  bool host_inputs_;
  c10::Stream callers_stream_;
  c10::StreamGuard guard_;
  bool must_wait_;
  bool finished_ = false;
  std::vector<at::Tensor> held_;  // host memory that copies read or write until the wait
  std::optional<c10::Event> events_[4];

  void record(int index);
  at::Tensor send(const at::Tensor& tensor);
  bool is_apart() const { return guard_.current_stream() != callers_stream_; }

  /// Keeps the memory of `tensor`, once freed, from being reused before what `stream` has by then.
  void keep_for(const at::Tensor& tensor, c10::Stream stream) const;
};

}  // namespace ts_infer
