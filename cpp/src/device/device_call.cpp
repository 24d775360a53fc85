#include "device/device_call.h"

#include <c10/core/impl/VirtualGuardImpl.h>

#include "device/pinned.h"
#include "device/streams.h"
#include "ivalues.h"

namespace ts_infer {
namespace {

enum EventIndex { kStart, kOnDevice, kComputed, kBack };

c10::Stream callers_stream(c10::Device device, void* host_stream) {
  if (host_stream) {
    // Backends give an external stream the value of its native handle as its id.
    return c10::Stream(c10::Stream::UNSAFE, device,
                       static_cast<c10::StreamId>(reinterpret_cast<std::intptr_t>(host_stream)));
  }
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

/// What `after` gets from here on comes after what `before` has by now. The host does not wait.
void wait_for(c10::Stream before, c10::Stream after) {
  c10::Event event(before.device_type());
  event.record(before);
  event.block(after);
}

}  // namespace

DeviceCall::DeviceCall(c10::Device device, bool host_inputs, void* host_stream,
                       std::optional<c10::Stream> models_stream)
    : device_(device),
      host_inputs_(host_inputs),
      callers_stream_(callers_stream(device, host_inputs ? nullptr : host_stream)),
      guard_(models_stream ? *models_stream
             : host_inputs ? own_stream(device)
                           : callers_stream_),
      must_wait_(host_inputs) {}

DeviceCall::~DeviceCall() {
  if (finished_ || !must_wait_) return;
  try {
    guard_.current_stream().synchronize();
  } catch (const std::exception&) {
    // The call has failed already, and says why.
  }
}

void DeviceCall::record(int index) {
  if (!host_inputs_) return;  // nothing will wait, so no time could be read
  events_[index].emplace(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
  events_[index]->record(guard_.current_stream());
}

void DeviceCall::to_device(std::vector<c10::IValue>& stack) {
  record(kStart);
  if (host_inputs_) {
    for (c10::IValue& value : stack) {
      value = map_tensors(value, [this](const at::Tensor& tensor) { return send(tensor); });
    }
  } else {
    if (is_apart()) wait_for(callers_stream_, guard_.current_stream());
    for (const c10::IValue& value : stack) {
      for_each_leaf(value, [this](const c10::IValue& leaf) {
        if (leaf.isTensor()) keep_for(leaf.toTensor(), guard_.current_stream());
      });
    }
  }
  record(kOnDevice);
}

at::Tensor DeviceCall::send(const at::Tensor& tensor) {
  const at::Tensor source = pinned(tensor);
  held_.push_back(source);
  return source.to(device_, source.scalar_type(), /*non_blocking=*/true);
}

void DeviceCall::computed() { record(kComputed); }

at::Tensor DeviceCall::to_host(const at::Tensor& tensor) {
  const at::Tensor result = empty_pinned_like(tensor);
  held_.push_back(result);  // an error may drop it before the copy is done
  copy_into(tensor, result);
  return result;
}

void DeviceCall::copy_into(const at::Tensor& source, const at::Tensor& destination) {
  if (!destination.is_cpu()) {
    if (host_inputs_) {
      // The caller's stream may still be reading what the buffer held.
      wait_for(callers_stream_, guard_.current_stream());
    } else {
      keep_for(destination, guard_.current_stream());
    }
  }
  destination.copy_(source, /*non_blocking=*/true);
  must_wait_ = must_wait_ || destination.is_cpu();
}

void DeviceCall::keep_on_device(const at::Tensor& tensor) {
  if (is_apart()) keep_for(tensor, callers_stream_);
}

void DeviceCall::keep_for(const at::Tensor& tensor, c10::Stream stream) const {
  if (!tensor.defined() || !tensor.has_storage()) return;
  const c10::impl::VirtualGuardImpl impl(device_.type());
  impl.recordDataPtrOnStream(tensor.storage().data_ptr(), stream);
}

void DeviceCall::finish(Timing& timing) {
  record(kBack);
  finished_ = true;
  if (!must_wait_) {
    if (is_apart()) wait_for(guard_.current_stream(), callers_stream_);
    return;
  }
  guard_.current_stream().synchronize();
  if (host_inputs_) {
    timing.h2d_ms = events_[kStart]->elapsedTime(*events_[kOnDevice]);
    timing.compute_ms = events_[kOnDevice]->elapsedTime(*events_[kComputed]);
    timing.d2h_ms = events_[kComputed]->elapsedTime(*events_[kBack]);
  }
}

}  // namespace ts_infer
